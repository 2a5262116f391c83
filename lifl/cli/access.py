"""Which platform a command speaks to, and with which token.

Why: on the local platform nothing has to be configured; elsewhere a URL and a
token come from options or the environment, or the platform's secret does, of
which the token is made. A job's key stays in a file that only its submitter can
read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import update_wrapper
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click

from lifl.auth import MIN_KEY_BYTES, mint_platform_token, mint_submitter_token
from lifl.client.http import HttpClient
from lifl.errors import ConfigError
from lifl.naming import check_name
from lifl.platform import running
from lifl.platform.paths import Paths, write_text
from lifl.settings import secret

P = ParamSpec("P")
R = TypeVar("R")


class Access:
    """A gateway, and the keys of the jobs submitted from here.

    ``key`` (hex) is that of the one job a command is about, in place of a kept one. With it
    a gateway is only needed where one is spoken to.
    """

    def __init__(
        self, gateway: str | None, token: str | None, ingress: str = "", key: str | None = None
    ) -> None:
        self.paths = Paths.from_env()
        self._token = token
        self._ingress = ingress
        self._key = None if key is None else _key(key)
        self._gateway = gateway
        if key is None:
            self._gateway = self.url

    @property
    def url(self) -> str:
        """Return the gateway's URL; raises NotRunning if none was named and no platform runs."""
        return (self._gateway or str(running.need(self.paths)["url"])).rstrip("/")

    def client(self, job: str | None = None) -> HttpClient:
        """Return a client with the best token there is for ``job``.

        That is the one given, else one made from the job's key, else one made
        from the platform's secret: LIFL_PLATFORM_SECRET, or that of the local one.
        Raises ConfigError if that is no key.
        """
        return HttpClient(self.url, self._token or self._made_token(job), ingress=self._ingress)

    def as_client(self, token: str) -> HttpClient:
        """Return a client that shows ``token``, a job's client's."""
        return HttpClient(self.url, token, ingress=self._ingress, connections=1)

    def _made_token(self, job: str | None) -> str | None:
        if job is not None and (self._key is not None or self._key_file(job).exists()):
            return mint_submitter_token(self.key(job), job)
        key = secret(os.environ, "LIFL_PLATFORM_SECRET")
        if not key and (self.paths.state / "platform.secret").exists():
            key = bytes.fromhex(self.paths.secret())
        return mint_platform_token(key, "cli") if key else None

    def key(self, job: str) -> bytes:
        """Return the key given, or that of a job submitted from here; raises ConfigError."""
        if self._key is not None:
            return self._key
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

    def forget_key(self, job: str) -> None:
        """Remove the key of a job that is gone."""
        self._key_file(job).unlink(missing_ok=True)

    def _key_file(self, job: str) -> Path:
        return self.paths.home / "keys" / f"{check_name(job, 'job')}.key"


def _key(raw: str) -> bytes:
    try:
        key = bytes.fromhex(raw.strip())
    except ValueError:
        key = b""
    if len(key) < MIN_KEY_BYTES:
        raise ConfigError(f"the key is not a job's key: use {2 * MIN_KEY_BYTES} hex digits")
    return key


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
        gateway: str | None,
        token: str | None,
        ingress: str,
        *args: Any,
        key: str | None = None,
        **kwargs: Any,
    ) -> R:
        return command(Access(gateway, token, ingress, key), *args, **kwargs)

    return update_wrapper(wrapper, command)  # type: ignore[return-value]


key_option = click.option(
    "--key",
    envvar="LIFL_JOB_KEY",
    metavar="HEX",
    help="The job's key, if the job was not submitted from here. [LIFL_JOB_KEY]",
)
"""For commands about one job; above :func:`with_access`."""
