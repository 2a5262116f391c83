"""One controller process of a cluster: what every replica runs, and the leader besides.

Why: the webhook must answer in every replica and from the start, or no function could be
made; everything else must be done by one. A leader that loses its lease exits: Kubernetes
starts it again as a candidate. It must not decide anything.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time

from prometheus_client import CollectorRegistry

from controller.autoscaler_metrics import AutoscalerMetrics
from controller.clients.api import Cluster
from controller.cluster_certs import ClusterCertificates
from controller.cluster_settings import ClusterSettings
from controller.jobwriter import StatusWriter
from controller.leader import Leader
from controller.leadership import Leadership
from controller.loop_metrics import LoopMetrics, ReplicaMetrics
from controller.operator import Operator
from controller.pages import PageServer
from controller.scheduler_metrics import SchedulerMetrics
from controller.submission import Submission
from controller.webhook import Webhook
from controller.webhook_metrics import WebhookMetrics
from lifl.pages import Pages
from lifl.platform.signals import StopSignals

log = logging.getLogger("lifl.controller")

LOST_LEASE = 75
"""Exit status of a leader that lost its lease (EX_TEMPFAIL)."""


class Replica:
    """One process; :meth:`run` returns when a signal asked it to stop."""

    def __init__(self, settings: ClusterSettings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster
        self._leads = threading.Event()
        self._ending = threading.Event()
        self._registry = CollectorRegistry()
        self._scheduling = SchedulerMetrics(self._registry)
        self._scaling = AutoscalerMetrics(self._registry)
        self._looking = LoopMetrics(self._registry)

    def run(self) -> None:
        """Serve the webhook; when it leads, do everything else too."""
        settings = self._settings
        with contextlib.ExitStack() as ending, StopSignals() as signals:
            leadership = Leadership(
                self._cluster,
                settings.namespace,
                settings.identity,
                on_started=lambda: self._started(signals),
                on_lost=_exit,
            )
            metrics = ReplicaMetrics(self._registry, lambda: leadership.leading)
            certificates = ClusterCertificates(
                self._cluster,
                settings.namespace,
                names=settings.webhook_names,
                leading=lambda: leadership.leading,
                on_look=metrics.certificate,
            )
            webhook = Webhook(
                (settings.host, settings.webhook_port),
                certificates.webhook_context,
                WebhookMetrics(self._registry),
            )
            pages = PageServer(
                (settings.host, settings.metrics_port),
                Pages(
                    self._registry,
                    not_ready=lambda: (
                        "it is ending" if self._ending.is_set() else webhook.trouble()
                    ),
                ),
            )
            ending.callback(pages.close)
            certificates.start()
            ending.callback(certificates.stop)
            webhook.start()
            ending.callback(webhook.stop)
            ending.callback(self._drain)
            leadership.start()
            ending.callback(leadership.stop)
            log.info("candidate %s; the webhook is at port %d", settings.identity, webhook.port)
            while not signals.stop_asked and not self._leads.is_set():
                signals.wait(3600.0)
            if not signals.stop_asked:
                self._lead(leadership, certificates, signals)

    def _drain(self) -> None:
        """Answer the webhook on until everybody knows that this process is ending."""
        self._ending.set()
        time.sleep(self._settings.drain)  # nobody tells when the last endpoint was withdrawn

    def _started(self, signals: StopSignals) -> None:
        self._leads.set()
        signals.wake()

    def _lead(
        self, leadership: Leadership, certificates: ClusterCertificates, signals: StopSignals
    ) -> None:
        settings = self._settings
        leader = Leader(
            self._cluster,
            settings,
            certificates.credentials,
            metrics=(self._scheduling, self._scaling, self._looking),
            leading=lambda: leadership.leading,
            on_change=signals.wake,
        )
        submission = Submission(
            self._cluster,
            settings.coordinator_url,
            settings.platform_secret,
            gateway=settings.gateway_url,
        )
        writer = StatusWriter(self._cluster, submission)
        leader.tell(writer.told)
        try:
            leader.run(signals, writer, Operator(self._cluster, submission, writer))
        finally:
            submission.close()


def _exit() -> None:
    """End at once: what is under way may not be finished by who leads no more."""
    log.critical("not the leader any more: the process ends")
    logging.shutdown()
    os._exit(LOST_LEASE)
