"""The controller of a Kubernetes cluster.

It must not decide anything: its parts do.
"""

from __future__ import annotations

from controller.clients.api import Cluster
from controller.cluster_settings import ClusterSettings
from controller.replica import Replica


def run() -> None:
    """Serve until a signal asks to stop.

    Raises
    ------
    ConfigError
        if a setting is wrong or there is no cluster to speak to.
    """
    settings = ClusterSettings.from_env()
    cluster = Cluster.connect()
    try:
        Replica(settings, cluster).run()
    finally:
        cluster.close()
