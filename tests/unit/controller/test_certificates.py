"""What is due when, over years; and certificates that TLS libraries agree with."""

from __future__ import annotations

import datetime
import functools
import random
import socket
import ssl
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controller.certificates import (
    AUTHORITY_LIFE,
    BACKDATED,
    LEAF_LIFE,
    SETTLE,
    Issue,
    Leaf,
    Make,
    Pair,
    Prepare,
    Present,
    Promote,
    Trust,
    Want,
    issue,
    make_authority,
    renew,
    trusted,
    wanted,
)

DAY = datetime.timedelta(days=1)
HOUR = datetime.timedelta(hours=1)
NOW = datetime.datetime(2026, 11, 3, 12, tzinfo=datetime.UTC)
WANTS = wanted("lifl-webhook", "lifl-system")


class Store:
    """What Secrets hold, and steps done to it as the controller does them."""

    def __init__(self, now: datetime.datetime = NOW) -> None:
        self.now = now
        self.present = Present()
        self.done: list[object] = []

    def due(self) -> list[object]:
        return renew(self.now, self.present, WANTS)

    def one(self, step: object) -> None:
        self.done.append(step)
        present, now = self.present, self.now
        match step:
            case Make():
                self.present = replace(present, authority=make_authority(now), successor=None)
            case Prepare():
                self.present = replace(present, successor=make_authority(now))
            case Promote():
                self.present = replace(present, authority=present.successor, successor=None)
            case Issue(want):
                pair = issue(now, present.authority, want)
                leaf = Leaf(pair, trusted(now, present, WANTS))
                self.present = replace(present, leaves={**present.leaves, want.secret: leaf})
            case Trust(name):
                leaf = Leaf(present.leaves[name].pair, trusted(now, present, WANTS))
                self.present = replace(present, leaves={**present.leaves, name: leaf})

    def tend(self) -> None:
        """Do what is due until nothing is."""
        for _ in range(10):
            steps = self.due()
            if not steps:
                return
            for step in steps:
                self.one(step)
        raise AssertionError(f"it does not come to rest: {steps}")


@pytest.fixture
def store() -> Store:
    made = Store()
    made.tend()
    made.done.clear()
    return made


def loaded(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


def believes(bundle: bytes, pair: Pair) -> bool:
    """Whether a holder of ``bundle`` takes the certificate for good."""
    return _believes(bundle, pair.certificate)


@functools.lru_cache(10_000)
def _believes(bundle: bytes, certificate: bytes) -> bool:
    for authority in x509.load_pem_x509_certificates(bundle):
        try:
            x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def test_from_nothing_everything_is_made_and_that_is_all():
    store = Store()
    assert store.due() == [Make()]
    store.tend()
    assert store.done == [Make(), *(Issue(w) for w in WANTS)]
    assert store.due() == []


def test_names_and_uses(store):
    names = {}
    for want in WANTS:
        certificate = loaded(store.present.leaves[want.secret].pair)
        extensions = certificate.extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        names[want.secret] = found.get_values_for_type(x509.DNSName), [u._name for u in uses]
        assert certificate.not_valid_after_utc - NOW == LEAF_LIFE
        assert NOW - certificate.not_valid_before_utc == BACKDATED
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert names == {
        "lifl-webhook-tls": (
            [
                "lifl-webhook.lifl-system.svc",
                "lifl-webhook.lifl-system.svc.cluster.local",
                "lifl-webhook",
            ],
            ["serverAuth"],
        ),
        "lifl-agent-tls": (["lifl-agent"], ["serverAuth"]),
        "lifl-controller-tls": (["lifl-controller"], ["clientAuth"]),
    }
    authority = loaded(store.present.authority)
    assert authority.not_valid_after_utc - NOW == AUTHORITY_LIFE
    assert isinstance(authority.public_key().curve, ec.SECP256R1)


def test_certificates_are_renewed_at_two_thirds_of_their_life(store):
    store.now = NOW + LEAF_LIFE * 2 / 3 - 2 * HOUR
    assert store.due() == []
    store.now += 2 * HOUR
    assert store.due() == [Issue(w) for w in WANTS]


def mangled(store: Store, how: str) -> Leaf:
    want = WANTS[1]
    leaf = store.present.leaves[want.secret]
    other = issue(NOW, make_authority(NOW), want)
    return {
        "garbage": Leaf(Pair(b"garbage", b"garbage"), leaf.trusted),
        "empty": Leaf(Pair(b"", b""), b""),
        "another key": Leaf(Pair(leaf.pair.certificate, other.key), leaf.trusted),
        "signed by a stranger": Leaf(other, leaf.trusted),
        "other names": Leaf(
            issue(NOW, store.present.authority, Want("", ("somebody",), server=True)), leaf.trusted
        ),
        "other use": Leaf(
            issue(NOW, store.present.authority, replace(want, server=False)), leaf.trusted
        ),
        "expired": Leaf(issue(NOW - 2 * LEAF_LIFE, store.present.authority, want), leaf.trusted),
        "authority's own": Leaf(store.present.authority, leaf.trusted),
        "locked key": Leaf(Pair(leaf.pair.certificate, locked(leaf.pair.key)), leaf.trusted),
    }[how]


def locked(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )


@pytest.mark.parametrize(
    "how",
    [
        "garbage",
        "empty",
        "another key",
        "signed by a stranger",
        "other names",
        "other use",
        "expired",
        "authority's own",
        "locked key",
    ],
)
def test_what_cannot_be_used_is_made_anew(store, how):
    leaf = mangled(store, how)
    store.present = replace(store.present, leaves={**store.present.leaves, WANTS[1].secret: leaf})
    assert store.due() == [Issue(WANTS[1])]
    store.tend()
    assert store.due() == []


def test_a_holder_that_trusts_something_else_is_told(store):
    leaf = store.present.leaves["lifl-agent-tls"]
    leaves = store.present.leaves | {"lifl-agent-tls": replace(leaf, trusted=b"")}
    store.present = replace(store.present, leaves=leaves)
    assert store.due() == [Trust("lifl-agent-tls")]


@pytest.mark.parametrize("bad", [None, Pair(b"x", b"y")])
def test_without_its_authority_everything_moves_to_a_new_one(store, bad):
    """Somebody deleted lifl-ca. Certificates stay until everybody trusts the new authority."""
    before = store.present
    store.now = NOW + 5 * DAY
    store.present = replace(before, authority=bad)
    store.tend()
    assert store.done == [Make(), *(Trust(w.secret) for w in WANTS)]
    for want in WANTS:
        leaf = store.present.leaves[want.secret]
        assert leaf.pair == before.leaves[want.secret].pair
        assert believes(leaf.trusted, leaf.pair)
        assert store.present.authority.certificate in leaf.trusted
    store.now += SETTLE + HOUR
    store.tend()
    assert store.done[4:] == [Issue(w) for w in WANTS]
    store.now += SETTLE + HOUR
    store.tend()
    assert {leaf.trusted for leaf in store.present.leaves.values()} == {
        store.present.authority.certificate
    }


def test_an_expired_authority_gives_way_to_its_successor_at_once(store):
    store.now = NOW + AUTHORITY_LIFE + DAY
    store.present = replace(store.present, successor=make_authority(store.now))
    assert store.due() == [Promote()]
    store.present = replace(store.present, successor=None)
    assert store.due() == [Make()]


def test_a_successor_that_was_not_told_in_time_is_replaced_and_not_promoted(store):
    """The controller died between making it and telling, for two days."""
    store.now = NOW + AUTHORITY_LIFE * 2 / 3
    assert store.due() == [Prepare()]
    store.one(Prepare())
    store.now += 2 * DAY
    assert store.due() == [Prepare()]
    store.tend()
    store.now += SETTLE - HOUR
    store.tend()
    assert Promote() not in store.done
    store.now += 2 * HOUR
    store.tend()
    assert Promote() in store.done


class World:
    """Holders that read their Secret up to half a day late, and an API server that is told."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.held = dict(store.present.leaves)
        self.read = dict.fromkeys(self.held, store.now)

    def step(self, gap: datetime.timedelta) -> None:
        store = self.store
        store.now += gap
        for name in self.held:  # before the leader, who may have been away, looks
            if store.now - self.read[name] > DAY / 2:
                self._read(name)
        store.tend()
        self.check()
        for name in self.held:
            if self.random.random() < 0.3:
                self._read(name)
        self.check()

    def _read(self, name: str) -> None:
        self.held[name], self.read[name] = self.store.present.leaves[name], self.store.now

    def check(self) -> None:
        bundle = trusted(self.store.now, self.store.present, WANTS)
        for name, leaf in self.held.items():
            assert loaded(leaf.pair).not_valid_after_utc > self.store.now
            assert believes(bundle, leaf.pair), "the API server"
            for other in self.held.values():
                assert believes(other.trusted, leaf.pair), (name, self.store.now)


def test_everybody_believes_everybody_for_years(store):
    world = World(store, 7)
    while store.now < NOW + datetime.timedelta(days=8 * 365):
        world.step(world.random.randrange(1, 240) * HOUR)
    assert store.done.count(Promote()) == 1
    assert store.done.count(Make()) == 0
    assert sum(isinstance(s, Issue) for s in store.done) > 3 * 8 * 365 // 90
    assert len(x509.load_pem_x509_certificates(trusted(store.now, store.present, WANTS))) == 1


@pytest.mark.parametrize("seed", range(8))
def test_everybody_believes_everybody_while_the_authority_changes(seed):
    store = Store(NOW)
    store.present = replace(store.present, authority=make_authority(NOW))
    store.now = NOW + AUTHORITY_LIFE * 2 / 3 - DAY
    store.tend()
    world = World(store, seed)
    for _ in range(40):
        world.step(world.random.randrange(1, 13) * HOUR)
    assert store.done.count(Promote()) == 1
    assert len(x509.load_pem_x509_certificates(trusted(store.now, store.present, WANTS))) == 1


# -- as TLS sees them -------------------------------------------------------------------


def context(path: Path, leaf: Leaf, purpose: int) -> ssl.SSLContext:
    (path / "crt").write_bytes(leaf.pair.certificate)
    (path / "key").write_bytes(leaf.pair.key)
    made = ssl.SSLContext(purpose)
    made.load_cert_chain(path / "crt", path / "key")
    made.load_verify_locations(cadata=leaf.trusted.decode())
    made.verify_mode = ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    return made


def test_both_sides_shake_hands(store, tmp_path):
    leaves = store.present.leaves
    server = context(tmp_path, leaves["lifl-agent-tls"], ssl.PROTOCOL_TLS_SERVER)
    client = context(tmp_path, leaves["lifl-controller-tls"], ssl.PROTOCOL_TLS_CLIENT)
    seen: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as raw, server.wrap_socket(raw, server_side=True) as tls:
                seen.append(tls.getpeercert()["subjectAltName"])
                tls.sendall(b"hello")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listener.getsockname()) as raw,
            client.wrap_socket(raw, server_hostname="lifl-agent") as tls,
        ):
            assert tls.recv(5) == b"hello"
        thread.join()
    assert seen == [(("DNS", "lifl-controller"),)]


def test_keys_are_not_shown():
    pair = make_authority(NOW)
    assert "PRIVATE" not in repr(Present(authority=pair))
