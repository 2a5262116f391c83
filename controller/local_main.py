"""The controller of a local platform.

It must not decide anything: the loop does.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace

from controller.agents import Agents, LocalDirectory
from controller.coordinator import Coordinator
from controller.loads import Loads
from controller.loop import Loop
from controller.settings import ControllerSettings
from controller.view import NodeView
from lifl.platform.local import LocalPlatform
from lifl.platform.paths import Paths
from lifl.platform.signals import StopSignals

log = logging.getLogger("lifl.controller")


def run() -> None:
    """Reconcile until a signal asks to stop."""
    settings = ControllerSettings.from_env()
    platform = LocalPlatform(
        Paths(settings.home),
        dataplane=settings.dataplane,
        coordinator_url=settings.coordinator_url,
    )
    if platform.shared_user:
        log.warning("jobs are not isolated from each other: %s", platform.shared_user)
    policies = settings.policies
    loads = Loads(alpha=policies.alpha, period=policies.estimate_seconds)
    agents = Agents(LocalDirectory(settings.run_dir), loads)
    with StopSignals() as signals:
        coordinator = Coordinator(settings.coordinator_url, settings.platform_secret, signals.wake)
        coordinator.start()
        try:
            Loop(coordinator, agents, platform, policies, known=sharing_processors).run(signals)
        finally:
            coordinator.close()
            agents.close()


def sharing_processors(views: list[NodeView]) -> list[NodeView]:
    """Share this machine's processors evenly among the nodes, which all are on it."""
    each = len(os.sched_getaffinity(0)) / max(1, len(views))
    return [replace(view, processors=each) for view in views]
