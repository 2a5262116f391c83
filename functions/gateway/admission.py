"""One upload's standing with the coordinator: whether it may come, and whether it counts.

Why: the coordinator is the one authority on duplicates and closed rounds. An upload that
is over in a moment is claimed and counted by one question at its end; one that takes
longer, or that may be refused, is claimed by itself before, so that the round
knows of it and it can be stopped early.

It must not touch the pool, nor a byte of the body.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import gevent

from functions.gateway.confirm import Confirmation
from functions.gateway.later import Later
from functions.gateway.problems import Refused
from lifl.client.ahead import Asker
from lifl.client.http import HttpClient, HttpError
from lifl.errors import LiflError, Unavailable
from lifl.naming import HEADER_CLAIM

CLAIM_SECONDS = 0.25
"""An upload that takes longer is claimed by itself."""


class Coordinator(NamedTuple):
    """The two ways to speak to the coordinator."""

    general: HttpClient
    asker: Asker


@dataclass(frozen=True, slots=True)
class Receipt:
    """What the client is told: the claim's number, and whether it was here before."""

    serial: int
    duplicate: bool


class Admission:
    """See the module. ``asked`` is what a claim says, ``assignment`` the attempt it is for."""

    def __init__(
        self, coordinator: Coordinator, asked: dict[str, Any], assignment: int, boot: str
    ) -> None:
        self._coordinator = coordinator.general
        self._asker = coordinator.asker
        self._asked = asked
        self._assignment = assignment
        self._boot = boot
        self._claim: Later[dict[str, Any]] | None = None
        self._question: Confirmation | None = None

    def claim(self) -> None:
        """Ask, once, whether the update may come; the answer is for :meth:`granted`."""
        if self._claim is None:
            if self._question is not None:
                self._question.give_up()  # it would claim as well
                self._question = None
            self._claim = Later(
                lambda: self._coordinator.json("POST", "/internal/v1/claims", self._asked)
            )

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """Claim if what is done within takes long."""
        claiming = gevent.spawn_later(CLAIM_SECONDS, self.claim)
        try:
            yield
        finally:
            claiming.kill(block=False)

    def check(self) -> None:
        """Raise the claim's refusal, if there is one by now."""
        if self._claim is not None and self._claim.failed:
            self._claim.get()

    def granted(self) -> dict[str, Any] | None:
        """Return the accepted update of which this one is a duplicate, if a claim found one.

        Waits for the claim if one was asked for.

        Raises
        ------
        HttpError
            if it is refused.
        Unavailable
            if it was granted for another attempt of the round than the slot is for.
        """
        if self._claim is None:
            return None
        granted = self._claim.get()
        if granted.get("duplicate"):
            return granted
        if granted["assignment"] != self._assignment:
            self.withdraw()
            raise _began_anew()
        return None

    def begin(self) -> None:
        """Send the question whether it counts ahead, if it is known which that is."""
        if self._claim is None or self._claim.ended:
            self._ask().begin()

    def count(self, end: dict[str, Any]) -> Receipt:
        """Have the update counted, however long that takes; ``end`` is its place and digest.

        Returns
        -------
        The receipt; if it is a duplicate's, the object must be thrown away.

        Raises
        ------
        LiflError
            if it does not count: the object must be thrown away.
        """
        try:
            answer = self._ask().ask(end)
        except HttpError as e:
            if e.code == "wrong-assignment":
                raise _began_anew() from None
            raise
        if answer.status == HTTPStatus.NO_CONTENT:
            return Receipt(int(answer.headers[HEADER_CLAIM]), duplicate=False)
        return same(json.loads(answer.data), end["digest"])

    def withdraw(self) -> None:
        """Give a claim back once it is known; failing that, the client's next one replaces it."""
        claim = self._claim
        if claim is None:
            return

        def withdraw() -> None:
            with contextlib.suppress(LiflError):
                granted = claim.get()
                if not granted.get("duplicate"):
                    job = quote(self._asked["job"])
                    path = f"/internal/v1/claims/{granted['claim']}?job={job}"
                    self._coordinator.json("DELETE", path)

        gevent.spawn(withdraw)

    def _ask(self) -> Confirmation:
        if self._question is None:
            if self._claim is None:
                path = "/internal/v1/updates"
                known = self._asked | {"assignment": self._assignment, "boot": self._boot}
            else:
                path = f"/internal/v1/claims/{self._claim.get()['claim']}/sealed"
                known = {name: self._asked[name] for name in ("job", "node")}
                known["boot"] = self._boot
            self._question = Confirmation(self._asker, path, known)
        return self._question


def same(counted: dict[str, Any], digest: str) -> Receipt:
    """Compare an upload with the one that counted; raises Refused 409 if it is another."""
    if counted.get("digest") not in (None, digest):
        raise Refused(
            409,
            "duplicate-differs",
            "this client's update of the round was accepted, and this is another one",
        )
    return Receipt(int(counted["claim"]), duplicate=True)


def _began_anew() -> Unavailable:
    return Unavailable("the round began anew; send the update again")
