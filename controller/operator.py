"""The operator of FederatedJobs: kopf calls, :mod:`controller.submission` does.

Why: kopf watches the objects, keeps a finalizer at them, calls a handler until it has
succeeded and remembers in an annotation that it has; a restarted operator goes on from
there. It runs in a thread with an event loop of its own and logs in as the controller's
own client does. It is the one importer of kopf. It must not decide anything.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import kopf

from controller.clients.api import Cluster
from controller.clients.kinds import FEDERATED_JOB
from controller.cluster.federatedjob import GROUP, PLURAL, SENDING, VERSION, Custom, Step
from controller.jobsteps import GivesUp, Waits
from controller.jobwriter import StatusWriter
from controller.submission import Submission
from lifl.errors import LiflError, PermanentError, TemporaryError

log = logging.getLogger("lifl.operator")

IDENTITY: Any = "lifl-controller"
"""Else kopf makes one of the user's name, and a pod's user has none. (Its type is not public.)"""
FINALIZER = f"{GROUP}/federatedjob"
WORKERS = 8
"""Handlers that run side by side."""
ODD_SECONDS = 20.0
"""When a step is tried again that was refused in a way that may pass, such as a missing right."""
LONGEST_SECONDS = 30.0
AGAIN_SECONDS = 2.0
REQUEST_SECONDS = 30.0
STOP_SECONDS = 20.0
CLOSING_SECONDS = 0.3
"""For the ends of TLS connections, which the loop must still hear."""


class Operator:
    """Serves FederatedJobs until :meth:`stop`, in ``namespaces``, or in all if there are none."""

    def __init__(
        self,
        cluster: Cluster,
        submission: Submission,
        writer: StatusWriter,
        *,
        namespaces: Sequence[str] = (),
    ) -> None:
        self._cluster = cluster
        self._submission = submission
        self._writer = writer
        self._namespaces = tuple(namespaces)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="operator", daemon=True)

    def start(self) -> None:
        """Begin to watch and to serve."""
        _log_as_ours()
        self._thread.start()

    def wait(self, timeout: float) -> bool:
        """Return whether it has begun to serve, after ``timeout`` seconds at most."""
        return self._ready.wait(timeout)

    @property
    def alive(self) -> bool:
        """Whether it serves, or tries to."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End it; a handler that runs is waited for a moment."""
        self._ended.set()
        with self._lock:
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    # -- running kopf ----------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                if self._known():
                    asyncio.run(self._serve())
            except Exception:
                log.exception("the operator failed; it starts again")
            self._ended.wait(AGAIN_SECONDS)

    def _known(self) -> bool:
        """Whether the API server knows FederatedJobs: kopf may miss that it learns of them."""
        try:
            known = self._cluster.serves(FEDERATED_JOB)
            said = "" if known else f"waiting for the definition {PLURAL}.{GROUP}"
        except LiflError as e:
            known, said = False, str(e)
        if said and said != self._said:
            log.warning("FederatedJobs are not served yet: %s", said)
        self._said = said
        return known

    async def _serve(self) -> None:
        stop = asyncio.Event()
        with self._lock:
            self._loop, self._stop = asyncio.get_running_loop(), stop
            if self._ended.is_set():
                stop.set()
        ready = asyncio.Event()
        watched = asyncio.create_task(self._note_ready(ready))
        executor = ThreadPoolExecutor(WORKERS, "operator")
        try:
            await kopf.operator(
                registry=self._registry(),
                settings=_settings(executor),
                standalone=True,
                identity=IDENTITY,
                clusterwide=not self._namespaces,
                namespaces=self._namespaces,
                stop_flag=stop,
                ready_flag=ready,
            )
        finally:
            with self._lock:
                self._loop = self._stop = None
            watched.cancel()
            executor.shutdown(wait=False, cancel_futures=True)
            await asyncio.sleep(CLOSING_SECONDS)

    async def _note_ready(self, ready: asyncio.Event) -> None:
        await ready.wait()
        self._ready.set()

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        what: Any = (GROUP, VERSION, PLURAL)
        kopf.on.login(registry=registry, retries=1)(self._login)
        kopf.on.event(*what, registry=registry, id="seen")(self._seen)
        kopf.on.create(*what, registry=registry, id="submit")(self._submit)
        kopf.on.resume(*what, registry=registry, id="submit")(self._submit)
        kopf.on.delete(*what, registry=registry, id="withdraw")(self._withdraw)
        return registry

    def _login(self, **_: Any) -> kopf.ConnectionInfo:
        """Return the login of the controller's client; kopf asks again when it is refused."""
        login = self._cluster.login()
        scheme, _space, token = login.authorization.partition(" ")
        return kopf.ConnectionInfo(
            server=login.server,
            ca_path=login.ca or None,
            certificate_path=login.certificate or None,
            private_key_path=login.key or None,
            scheme=scheme or None,
            token=token or None,
            insecure=not login.verify,
        )

    # -- handlers --------------------------------------------------------------------

    def _seen(self, body: kopf.Body, type: str | None, **_: Any) -> None:
        custom = Custom.parse(body)
        if type == "DELETED":
            self._writer.forget(custom.uid)
        elif "deletionTimestamp" in body["metadata"]:
            self._writer.leaving(custom.uid)
        else:
            self._writer.seen(custom)

    def _submit(self, body: kopf.Body, retry: int, **_: Any) -> None:
        custom = Custom.parse(body)
        self._step("submitted", custom, retry)
        self._step("model", custom, retry)

    def _withdraw(self, body: kopf.Body, retry: int, **_: Any) -> None:
        custom = Custom.parse(body)
        self._writer.leaving(custom.uid)
        try:
            self._submission.withdraw(custom)
        except LiflError as e:
            raise _again(e, retry) from e

    def _step(self, which: str, custom: Custom, retry: int) -> None:
        """Do one step and tell how far it came."""
        do = self._submission.submit if which == "submitted" else self._submission.send_model
        if which == "model" and self._submission.will_send(custom):
            self._writer.stepped(custom, model=SENDING)
        try:
            step = do(custom)
        except (Waits, GivesUp) as e:
            self._tell(which, custom, e.step)
            raise _again(e, retry) from e
        except LiflError as e:
            self._tell(which, custom, Step(False, "ApiServer", str(e)))
            raise _again(e, retry) from e
        self._tell(which, custom, step)

    def _tell(self, which: str, custom: Custom, step: Step) -> None:
        if which == "submitted":
            self._writer.stepped(custom, submitted=step)
        else:
            self._writer.stepped(custom, model=step)


def _again(error: LiflError, retry: int) -> Exception:
    """Return how to tell kopf of an error: never again, or when."""
    if isinstance(error, GivesUp):
        return kopf.PermanentError(str(error))
    pause = ODD_SECONDS
    if isinstance(error, TemporaryError) and not isinstance(error, PermanentError):
        pause = min(max(error.retry_after, 0.5) * 1.5 ** min(retry, 8), LONGEST_SECONDS)
    return kopf.TemporaryError(str(error), delay=pause)


def _settings(executor: ThreadPoolExecutor) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # it would need rights on all definitions and namespaces
    settings.process.ultimate_exiting_timeout = None  # it would kill the whole controller
    settings.execution.executor = executor
    settings.networking.request_timeout = REQUEST_SECONDS
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP, v1=False)
    # Handlers look at the whole object anyway; a copy of a large spec has no room in an annotation.
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=GROUP, key="handled", v1=False, ignored_fields=["spec", "metadata"]
    )
    return settings


class _AsOurs(logging.Handler):
    """Hands kopf's log records to the operator's own logger."""

    def emit(self, record: logging.LogRecord) -> None:
        if "OS signals are ignored" not in record.msg:  # they are the main thread's, on purpose
            log.handle(record)


def _log_as_ours() -> None:
    theirs = logging.getLogger("kopf")
    if not any(isinstance(h, _AsOurs) for h in theirs.handlers):
        theirs.addHandler(_AsOurs())
    theirs.propagate = False
    theirs.setLevel(logging.WARNING)
