"""Certificates that come late, are replaced, and are found wrong."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lifl.dataplane.tls import Certificates, agent_context, controller_context, dns_names
from lifl.errors import Unavailable


def test_names_are_those_of_the_san(new_authority: Callable[[], Any]) -> None:
    said = {
        "subject": ((("commonName", "lifl-controller"),),),
        "subjectAltName": (("DNS", "LIFL-Agent"), ("IP Address", "1.2.3.4"), ("DNS", "x")),
    }
    assert dns_names(said) == {"lifl-agent", "x"}
    assert dns_names({}) == dns_names(None) == frozenset()


@pytest.mark.parametrize("make", [agent_context, controller_context])
def test_nothing_old_is_spoken_and_nobody_is_let_off(
    make: Callable[[Path], ssl.SSLContext], new_authority: Callable[[], Any], tmp_path: Path
) -> None:
    context = make(new_authority().write(tmp_path, "lifl-agent"))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_files_may_come_late_one_by_one(
    new_authority: Callable[[], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ready = new_authority().write(tmp_path / "ready", "lifl-agent")
    directory = tmp_path / "tls"
    certificates = Certificates(directory, agent_context)
    for name in ("tls.key", "ca.crt", "tls.crt"):
        for _ in range(2):
            with pytest.raises(Unavailable, match="not complete yet"):
                certificates.context()
        directory.mkdir(exist_ok=True)
        (directory / name).write_bytes((ready / name).read_bytes())
    context = certificates.context()
    assert certificates.context() is context
    assert len(caplog.records) == 3  # what was wrong is said once


def test_replaced_files_are_used_and_unfit_ones_are_not(
    new_authority: Callable[[], Any], tmp_path: Path
) -> None:
    authority = new_authority()
    certificates = Certificates(tmp_path, agent_context)
    authority.write(tmp_path, "lifl-agent")
    first = certificates.context()
    key = (tmp_path / "tls.key").read_bytes()
    authority.write(tmp_path, "lifl-agent")
    second = certificates.context()
    assert second is not first
    (tmp_path / "tls.key").write_bytes(key)  # that of the first certificate
    assert certificates.context() is second
    (tmp_path / "tls.key").unlink()
    assert certificates.context() is second
    authority.write(tmp_path, "lifl-agent")
    assert certificates.context() not in {first, second}


def test_files_behind_a_link_are_replaced_as_kubernetes_does(
    new_authority: Callable[[], Any], tmp_path: Path
) -> None:
    authority = new_authority()
    mount = tmp_path / "mount"
    mount.mkdir()
    for generation in ("..1", "..2"):
        authority.write(mount / generation, "lifl-agent")
    (mount / "..data").symlink_to("..1")
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (mount / name).symlink_to(f"..data/{name}")
    certificates = Certificates(mount, agent_context)
    first = certificates.context()
    (mount / "..new").symlink_to("..2")
    (mount / "..new").replace(mount / "..data")
    assert certificates.context() is not first


def test_an_encrypted_key_is_not_asked_about_on_the_terminal(
    new_authority: Callable[[], Any], tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization as pem

    new_authority().write(tmp_path, "lifl-agent")
    key = pem.load_pem_private_key((tmp_path / "tls.key").read_bytes(), None)
    secret = pem.BestAvailableEncryption(b"word")
    raw = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, secret)
    (tmp_path / "tls.key").write_bytes(raw)
    with pytest.raises(Unavailable):
        Certificates(tmp_path, agent_context).context()
