"""Run the controller of a local platform: ``python -m controller``."""

from __future__ import annotations

import logging

from controller.agents import Agents, LocalDirectory
from controller.coordinator import Coordinator
from controller.loop import Loop
from controller.settings import ControllerSettings
from lifl import crash
from lifl.platform.local import LocalPlatform
from lifl.platform.paths import Paths
from lifl.platform.signals import StopSignals

log = logging.getLogger("lifl.controller")


def main() -> None:
    """Reconcile until SIGTERM; aggregators outlive the controller."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    settings = ControllerSettings.from_env()
    crash.arm()
    platform = LocalPlatform(
        Paths(settings.home),
        dataplane=settings.dataplane,
        coordinator_url=settings.coordinator_url,
    )
    if platform.shared_user:
        log.warning("jobs are not isolated from each other: %s", platform.shared_user)
    agents = Agents(LocalDirectory(settings.run_dir))
    with StopSignals() as signals:
        coordinator = Coordinator(settings.coordinator_url, settings.platform_secret, signals.wake)
        try:
            Loop(coordinator, agents, platform, settings.policies).run(signals)
        finally:
            coordinator.close()
            agents.close()


if __name__ == "__main__":
    main()
