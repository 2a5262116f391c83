"""The project's exceptions.

Why: callers decide by class whether to try again, so there are two meanings
only, and every message says what was wrong, where, and what to do.

    LiflError
    ├── TemporaryError(retry_after)   the same call may succeed later
    │   ├── PoolFull                  no free slot for ingest
    │   ├── PoolBusy                  the table's lock could not be had in time
    │   ├── NotDelivered(reason)      no route, or the destination is gone
    │   └── Unavailable               a part of the platform does not answer
    └── PermanentError                trying again changes nothing
        ├── WireError                 bytes that are no descriptor
        ├── StaleObject               the slot has moved on: not sealed, or another generation
        ├── AlreadyTaken              somebody else took the object
        ├── Fenced                    this process lost its lease; what it holds is void
        ├── PoolDamaged               the slot table holds what no honest function writes
        ├── UpdateError(status, ...)  a client's update is unusable: says what and where
        ├── ConfigError               a job file, setting or plan is wrong
        └── RegistrationError         the agent refused this function

It must not import anything from the project.
"""

from __future__ import annotations


class LiflError(Exception):
    """Root of the tree."""


class TemporaryError(LiflError):
    """The same call may succeed later.

    ``retry_after`` is in seconds.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PoolFull(TemporaryError):
    """No free slot in the pool."""


class PoolBusy(TemporaryError):
    """The slot table's lock could not be had in time."""


class NotDelivered(TemporaryError):
    """A descriptor could not be delivered; the sender still owns the object.

    ``reason`` is a :class:`lifl.wire.DropReason` number, 0 when the kernel
    does not tell the sender (it counts the reason in its drop map).
    """

    def __init__(self, message: str, *, reason: int = 0) -> None:
        super().__init__(message, retry_after=0.05)
        self.reason = reason


class Unavailable(TemporaryError):
    """A part of the platform does not answer."""


class PermanentError(LiflError):
    """Trying again changes nothing."""


class WireError(PermanentError):
    """Bytes that are no descriptor."""


class StaleObject(PermanentError):
    """The slot moved on: another generation, or not sealed."""


class AlreadyTaken(PermanentError):
    """Somebody else took the object."""


class Fenced(PermanentError):
    """The caller lost its lease; what it holds is void."""


class PoolDamaged(PermanentError):
    """A slot table holds what no honest function writes; the pool is lost, its job's others not."""


class UpdateError(PermanentError):
    """A client's update is unusable.

    ``status`` is the HTTP status a gateway answers with, ``code`` a short
    stable word for programs (``"wrong-shape"``), ``detail`` a sentence for
    people and ``where`` the tensor, header or byte it speaks of.
    """

    def __init__(self, status: int, code: str, detail: str, *, where: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.where = where


class ConfigError(PermanentError):
    """A job file, a setting or a plan is wrong."""


class RegistrationError(PermanentError):
    """The agent refused this function."""
