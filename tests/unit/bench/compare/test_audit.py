"""Counts and the table made of them; and what an audit needs."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from bench.compare import audit
from bench.compare.audit import Audit
from bench.compare.counts import ByHand, Counts, table
from lifl.errors import ConfigError


class NoPlace:
    unified: Path | None = None

    def pids(self) -> set[int]:
        return set()


def test_what_came_after_is_the_difference_and_unknown_stays_unknown() -> None:
    before = Counts(syscalls=5, sends=2)
    after = Counts(syscalls=12, sends=2, receives=9)
    spent = after.since(before)
    assert spent.syscalls == 7
    assert spent.sends == 0
    assert spent.receives is None
    assert spent.page_faults is None


def test_switches_are_of_both_kinds() -> None:
    assert Counts(switches_voluntary=3, switches_involuntary=4).switches == 7
    assert Counts(switches_voluntary=3).switches is None


def test_copies_and_passes_are_in_payloads() -> None:
    counts = Counts(
        large_sent=300, large_received=200, packet_bytes_out=150, packet_bytes_in=50, sends=9
    )
    assert counts.copies_out(100) == 3
    assert counts.copies_in(100) == 2
    assert counts.passes_out(100) == 1.5
    assert counts.passes_in(100) == 0.5
    assert Counts().copies_out(100) is None
    assert Counts().copies_in(100) is None
    assert Counts().passes_out(100) is None
    assert Counts().passes_in(100) is None


def test_the_table_divides_by_updates_and_hops_and_keeps_by_hand_apart() -> None:
    counts = Counts(syscalls=80, large_sent=800, other_written=4_000_000)
    hand = ByHand(memcpys=2, serialisations=1, deserialisations=3, where="x.py")
    rows = {r.what: r for r in table(counts, payload=100, updates=4, hops=8, by_hand=hand)}
    assert (rows["system calls"].per_update, rows["system calls"].per_hop) == (20, 10)
    copies = rows["payload copies, process to socket"]
    assert (copies.per_update, copies.per_hop, copies.by_hand_per_hop) == (2, 1, None)
    assert rows["MB written to files and pipes"].per_update == 1
    assert rows["page faults"].per_hop is None
    assert rows["payload copies within processes"].by_hand_per_hop == 2
    assert rows["payload copies within processes"].per_hop is None
    assert rows["serialisations"].by_hand_per_hop == 1
    assert rows["deserialisations"].by_hand_per_hop == 3
    assert "serialisations" not in {r.what for r in table(counts, payload=100, updates=4, hops=8)}


@pytest.mark.parametrize(("payload", "updates", "hops"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_an_audit_of_nothing_is_refused(payload: int, updates: int, hops: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        table(Counts(), payload=payload, updates=updates, hops=hops)


def test_without_a_control_group_it_says_so() -> None:
    with pytest.raises(ConfigError, match="version 2"), Audit(NoPlace()):
        pytest.fail("there is nothing to count by")


def test_counts_are_there_only_while_it_is_entered() -> None:
    with pytest.raises(RuntimeError, match="while it is entered"):
        Audit(NoPlace()).counts()


def test_what_the_kernel_lacks_is_missing_by_name_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "exceptions" / "page_fault_user").mkdir(parents=True)
    monkeypatch.setattr(audit, "_EVENTS", (tmp_path,))
    flags, missing = audit._kernel()
    assert flags == ["-DHAVE_FAULTS"]
    assert "6.3" in missing["inet_sent"]
    assert "page_faults" not in missing
    assert set(missing) < {f.name for f in fields(Counts)}
