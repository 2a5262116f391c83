"""Which platform a command speaks to, and with which token.

Why: on the local platform nothing has to be configured; elsewhere a URL and a
token come from options or the environment. A job's key stays in a file that
only its submitter can read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from lifl.auth import mint_platform_token, mint_submitter_token
from lifl.client.http import HttpClient
from lifl.errors import ConfigError
from lifl.naming import check_name
from lifl.platform import running
from lifl.platform.paths import Paths, write_text

P = ParamSpec("P")
R = TypeVar("R")


class Access:
    """A gateway, and the keys of the jobs submitted from here."""

    def __init__(self, gateway: str | None, token: str | None, ingress: str = "") -> None:
        self.paths = Paths.from_env()
        self._token = token
        self._ingress = ingress
        if gateway is None:
            gateway = str(running.need(self.paths)["url"])
        self.url = gateway.rstrip("/")

    def client(self, job: str | None = None) -> HttpClient:
        """Return a client with the best token there is for ``job``.

        That is the one given, else one made from the job's key, else one made
        from the secret of the local platform.
        """
        return HttpClient(self.url, self._token or self._made_token(job), ingress=self._ingress)

    def _made_token(self, job: str | None) -> str | None:
        if job is not None and self._key_file(job).exists():
            return mint_submitter_token(self.key(job), job)
        secret = self.paths.state / "platform.secret"
        if secret.exists():
            return mint_platform_token(bytes.fromhex(self.paths.secret()), "cli")
        return None

    def key(self, job: str) -> bytes:
        """Return the key of a job that was submitted from here; raises ConfigError."""
        path = self._key_file(job)
        if not path.exists():
            raise ConfigError(f"{path} is not there: job {job} was not submitted from here")
        return bytes.fromhex(path.read_text().strip())

    def keep_key(self, job: str, key: str) -> Path:
        """Write a job's key (hex) where only this user can read it; return the file."""
        path = self._key_file(job)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_text(path, key)
        return path

    def _key_file(self, job: str) -> Path:
        return self.paths.home / "keys" / f"{check_name(job, 'job')}.key"


def with_access(command: Callable[Concatenate[Access, P], R]) -> Callable[P, R]:
    """Give a command ``--gateway`` and ``--token`` and hand it what they mean."""

    @click.option(
        "--gateway",
        envvar="LIFL_GATEWAY",
        metavar="URL",
        help="A gateway's URL. [default: the local platform's; LIFL_GATEWAY]",
    )
    @click.option("--token", envvar="LIFL_TOKEN", help="Bearer token. [LIFL_TOKEN]")
    @click.option(
        "--ingress",
        envvar="LIFL_INGRESS",
        metavar="HOST:PORT",
        default="",
        help="Connect here, whatever the gateway's name is. [LIFL_INGRESS]",
    )
    def wrapper(
        gateway: str | None, token: str | None, ingress: str, *args: Any, **kwargs: Any
    ) -> R:
        return command(Access(gateway, token, ingress), *args, **kwargs)

    return update_wrapper(wrapper, command)  # type: ignore[return-value]
