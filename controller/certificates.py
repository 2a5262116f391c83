"""Certificates of a small authority of LIFL's own: what is due when, and the making of it.

Why: the API server calls the webhook, and the controller an agent, over TLS, and a cluster
has no authority that must be there for that. One key signs three certificates, for nothing
else. All is renewed long before it ends, and what signs is trusted everywhere before it
signs: a successor of the authority is first only trusted, for SETTLE; then it signs; the
predecessor is trusted until SETTLE after the last certificate that it signed was replaced.
To be rid of an authority whose key is known to others, delete all four Secrets.

The decision (:func:`renew`) is pure: what there is and the time in, steps out; each step
leaves a state that works. The only importer of ``cryptography``. It must not read or write
anything; :mod:`controller.cluster_certs` does.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from lifl.dataplane.tls import AGENT_NAME, CONTROLLER_NAME

AUTHORITY_LIFE = datetime.timedelta(days=3650)
LEAF_LIFE = datetime.timedelta(days=90)
BACKDATED = datetime.timedelta(hours=1)
"""By how much certificates begin earlier: clocks of machines differ."""
SETTLE = datetime.timedelta(days=1)
"""In which everybody has read what changed; kubelet takes a minute or two."""
RENEWED_AT = 2 / 3
"""Part of its life after which a certificate is replaced."""

Certificate = x509.Certificate
_UNREADABLE = (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Want:
    """A certificate that somebody needs; ``secret`` names where it is kept."""

    secret: str
    dns: tuple[str, ...]
    server: bool


@dataclass(frozen=True, slots=True)
class Leaf:
    """A certificate in use, and whom its holder trusts (PEM, several)."""

    pair: Pair
    trusted: bytes


@dataclass(frozen=True, slots=True)
class Present:
    """What there is; None where there is nothing. What cannot be read is as if not there."""

    authority: Pair | None = None
    successor: Pair | None = None
    leaves: Mapping[str, Leaf] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Make:
    """Make an authority: there is none that can be used."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make the authority's successor, to be trusted from now on."""


@dataclass(frozen=True, slots=True)
class Promote:
    """Let the successor sign from now on."""


@dataclass(frozen=True, slots=True)
class Issue:
    """Sign a new certificate."""

    want: Want


@dataclass(frozen=True, slots=True)
class Trust:
    """Replace what the holder of a certificate trusts."""

    secret: str


Step = Make | Prepare | Promote | Issue | Trust


def wanted(service: str, namespace: str, also: Sequence[str] = ()) -> tuple[Want, ...]:
    """Return the certificates of a cluster; ``service``, and ``also``, are the webhook's names."""
    full = f"{service}.{namespace}.svc"
    names = (full, f"{full}.cluster.local", service, *also)
    return (
        Want("lifl-webhook-tls", names, server=True),
        Want("lifl-agent-tls", (AGENT_NAME,), server=True),
        Want("lifl-controller-tls", (CONTROLLER_NAME,), server=False),
    )


# -- what is due --------------------------------------------------------------------------


def renew(now: datetime.datetime, present: Present, wants: Sequence[Want]) -> list[Step]:
    """Return what is due; after a step about the authority, look and ask again."""
    authority = _authority(present.authority, now)
    successor = _authority(present.successor, now)
    if authority is None:
        return [Make()] if successor is None else [Promote()]
    if successor is None:
        if _old(authority, now):
            return [Prepare()]
    elif not _trusted_by_all(successor, present) and _age(successor, now) >= SETTLE / 2:
        return [Prepare()]  # it was not told in time: another, whose time begins now
    elif _age(successor, now) >= SETTLE:
        return [Promote()]
    bundle = trusted(now, present, wants)
    believed = certificates(bundle)
    known = _age(authority, now) >= SETTLE and _trusted_by_all(authority, present)
    steps: list[Step] = []
    for want in wants:
        leaf = present.leaves.get(want.secret)
        certificate = None if leaf is None else _usable(leaf.pair, want, now)
        if leaf is None or certificate is None:
            steps.append(Issue(want))
            continue
        signer = next((by for by in believed if _signed(certificate, by)), None)
        if signer is None or (known and signer != authority):
            steps.append(Issue(want))
        elif leaf.trusted != bundle:
            steps.append(Trust(want.secret))
    return steps


def trusted(now: datetime.datetime, present: Present, wants: Sequence[Want]) -> bytes:
    """Return whom everybody is to trust, PEM: who signs, who will, and who did until lately."""
    authority = _authority(present.authority, now)
    successor = _authority(present.successor, now)
    chosen = [c for c in (authority, successor) if c is not None]
    leaves = [present.leaves.get(w.secret) for w in wants]
    if not all(_settled(leaf, authority, now) for leaf in leaves):
        former = {
            c.fingerprint(hashes.SHA256()): c
            for leaf in leaves
            if leaf is not None
            for c in certificates(leaf.trusted)
            if c not in chosen and _alive(c, now) and _is_authority(c)
        }
        chosen += [former[f] for f in sorted(former)]
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in chosen)


def certificates(pem: bytes) -> list[Certificate]:
    """Return the certificates in a PEM text; none if it is unreadable."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def ends(pair: Pair) -> float | None:
    """Return when a pair's certificate ends, in seconds since 1970; None if it is unreadable."""
    found = certificates(pair.certificate)
    return found[0].not_valid_after_utc.timestamp() if found else None


def _settled(leaf: Leaf | None, authority: Certificate | None, now: datetime.datetime) -> bool:
    """Say whether nobody can hold an older certificate in this one's place, signed by another."""
    found = [] if leaf is None else certificates(leaf.pair.certificate)
    return bool(
        found and authority and _signed(found[0], authority) and _age(found[0], now) >= SETTLE
    )


def _trusted_by_all(authority: Certificate, present: Present) -> bool:
    return all(authority in certificates(leaf.trusted) for leaf in present.leaves.values())


def _age(certificate: Certificate, now: datetime.datetime) -> datetime.timedelta:
    return now - (certificate.not_valid_before_utc + BACKDATED)


def _alive(certificate: Certificate, now: datetime.datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


def _old(certificate: Certificate, now: datetime.datetime) -> bool:
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return now >= begin + (end - begin) * RENEWED_AT


def _is_authority(certificate: Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except _UNREADABLE:
        return False


def _signed(certificate: Certificate, by: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _authority(pair: Pair | None, now: datetime.datetime) -> Certificate | None:
    """Return the certificate of an authority that can sign now."""
    found = None if pair is None else _matching(pair)
    return found if found and _is_authority(found) and _alive(found, now) else None


def _usable(pair: Pair, want: Want, now: datetime.datetime) -> Certificate | None:
    """Return a certificate that is what is wanted, and need not be renewed yet."""
    found = _matching(pair)
    if found is None or not _alive(found, now) or _old(found, now):
        return None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except _UNREADABLE:
        return None
    good = tuple(names.get_values_for_type(x509.DNSName)) == want.dns and _usage(want) in usage
    return found if good else None


def _matching(pair: Pair) -> Certificate | None:
    """Return the certificate if it can be read and the key is its own."""
    try:
        key = serialization.load_pem_private_key(pair.key, None)
        found = x509.load_pem_x509_certificate(pair.certificate)
        return found if key.public_key() == found.public_key() else None
    except (ValueError, TypeError):
        return None


# -- the making ---------------------------------------------------------------------------


def make_authority(now: datetime.datetime) -> Pair:
    """Return a new authority. Each has a name of its own, so that chains are told apart."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"lifl authority {now:%Y-%m-%d} {secrets.token_hex(4)}")
    life = (now - BACKDATED, now + AUTHORITY_LIFE)
    builder = _builder((name, key.public_key()), (name, key.public_key()), life)
    signs = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    return _pair(builder.add_extension(signs, critical=True).sign(key, hashes.SHA256()), key)


def issue(now: datetime.datetime, authority: Pair, want: Want) -> Pair:
    """Return a new certificate; raises ValueError or TypeError if the authority is unusable."""
    signer = x509.load_pem_x509_certificate(authority.certificate)
    signing = serialization.load_pem_private_key(authority.key, None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not of an elliptic curve")
    key = ec.generate_private_key(ec.SECP256R1())
    life = (now - BACKDATED, min(now + LEAF_LIFE, signer.not_valid_after_utc))
    subject = (_name(want.dns[-1]), key.public_key())
    builder = _builder(subject, (signer.subject, signing.public_key()), life)
    uses = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    names = x509.SubjectAlternativeName([x509.DNSName(n) for n in want.dns])
    builder = (
        builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(uses, critical=True)
        .add_extension(x509.ExtendedKeyUsage([_usage(want)]), critical=False)
        .add_extension(names, critical=False)
    )
    return _pair(builder.sign(signing, hashes.SHA256()), key)


def _usage(want: Want) -> x509.ObjectIdentifier:
    return ExtendedKeyUsageOID.SERVER_AUTH if want.server else ExtendedKeyUsageOID.CLIENT_AUTH


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: tuple[x509.Name, ec.EllipticCurvePublicKey],
    issuer: tuple[x509.Name, ec.EllipticCurvePublicKey],
    life: tuple[datetime.datetime, datetime.datetime],
) -> x509.CertificateBuilder:
    ours = x509.SubjectKeyIdentifier.from_public_key(subject[1])
    theirs = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1])
    return (
        x509.CertificateBuilder(issuer[0], subject[0], subject[1], x509.random_serial_number())
        .not_valid_before(life[0])
        .not_valid_after(life[1])
        .add_extension(ours, critical=False)
        .add_extension(theirs, critical=False)
    )


def _pair(certificate: Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
