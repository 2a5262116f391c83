"""Descriptors: what is packed is read; anything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.errors import ConfigError, WireError
from lifl.naming import check_client, check_name, check_node
from lifl.wire import DESCRIPTOR_BYTES, Descriptor, Opcode, pages_of, unpack_many

U32 = st.integers(0, 2**32 - 1)
DESCRIPTORS = st.builds(Descriptor, st.sampled_from(Opcode), st.integers(0, 65535), U32, U32, U32)


@given(st.lists(DESCRIPTORS))
def test_what_is_packed_is_read(descriptors: list[Descriptor]) -> None:
    raw = b"".join(d.pack() for d in descriptors)
    assert len(raw) == DESCRIPTOR_BYTES * len(descriptors)
    assert unpack_many(raw) == descriptors


@given(st.binary(max_size=40))
def test_arbitrary_bytes_never_raise_anything_else(raw: bytes) -> None:
    try:
        assert all(d.pack() for d in unpack_many(raw))
    except WireError as e:
        assert str(e)


def test_other_versions_and_opcodes_are_refused() -> None:
    good = Descriptor(Opcode.OBJECT, 1, 2, 3, 4).pack()
    for raw in (b"\x02" + good[1:], good[:1] + b"\x63" + good[2:], good[:-1]):
        with pytest.raises(WireError):
            Descriptor.unpack(raw)


def test_pages_round_up() -> None:
    assert [pages_of(n) for n in (0, 1, 4096, 4097)] == [0, 1, 1, 2]


@pytest.mark.parametrize("name", ["digits", "a", "a-1"])
def test_names_are_dns_labels(name: str) -> None:
    assert check_name(name, "job") == name


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a" * 64, "a_b", "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(Exception, match="DNS label"):
        check_name(name, "job")


@pytest.mark.parametrize(
    "name", ["node-0", "a", "ip-10-0-0-1.ec2.internal", "1.2.3.4", "a" * 200, ".".join("a" * 127)]
)
def test_node_names_are_dns_subdomains(name: str) -> None:
    assert check_node(name, "node") == name


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "a.", ".a", "a..b", "A.b", "a.-b", "a-.b", "a_b", "../x", "a/b", "a\n", "a.b\n"],
        *[".".join("a" * 128), "a" * 254],
    ],
)
def test_other_node_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"LIFL_NODE .* is not a node's name"):
        check_node(name, "LIFL_NODE")


@given(st.text("ab-.", max_size=300))
def test_a_node_name_is_made_of_labels(name: str) -> None:
    labels = name.split(".")
    good = len(name) <= 253 and all(p and p[0] != "-" != p[-1] for p in labels)
    try:
        assert check_node(name, "node") == name
    except ConfigError:
        assert not good
    else:
        assert good


def test_client_names() -> None:
    assert check_client("Phone:7.a@b_c-d") == "Phone:7.a@b_c-d"
    with pytest.raises(Exception, match="not usable"):
        check_client("a b")
