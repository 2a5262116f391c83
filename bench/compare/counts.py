"""What an audit found: counts of a group, and the table that is made of them.

Why: counts are taken by a kernel and read by people; between the two stand only these sums. What
happens within a process (memcpy, making and reading a format) no kernel sees. It is carried
beside the counted as what it is: found by reading the code. This module must not count.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

LARGE_BYTES = 4096
"""A send or receive of so much is taken for one that moves payload (``bpf/audit.c``)."""
BY_HAND = "by reading the code"


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted; None where this kernel cannot tell (``Audit.missing`` says why).

    ``inet_*`` and ``unix_*`` are bytes copied between processes and sockets, by family (UDP is
    inet too), in ``sends`` and ``receives`` system-call-sized pieces; ``large_*`` are those bytes
    again that moved in pieces of at least ``LARGE_BYTES``. ``spliced`` bytes reached a socket by
    sendfile or splice without such a copy. ``other_*`` are bytes read and written on files and
    pipes. ``packets_*`` are packets of the group's sockets as they leave and enter the IP layer
    (loopback's are both), with their bytes, headers included; bare acknowledgements go in but
    need not go out, the kernel does not ask for all of them. ``softirqs_*`` ran while a process
    of the group was current, ``machine_softirqs_*`` anywhere, ksoftirqd included; ``interrupts``
    are devices', timers left out. ``redirects`` are messages that the group's sk_msg programs
    sent on (or refused). ``page_faults`` are those of user space.
    """

    syscalls: int | None = None
    switches_voluntary: int | None = None
    switches_involuntary: int | None = None
    inet_sent: int | None = None
    inet_received: int | None = None
    unix_sent: int | None = None
    unix_received: int | None = None
    sends: int | None = None
    receives: int | None = None
    large_sent: int | None = None
    large_received: int | None = None
    spliced: int | None = None
    other_written: int | None = None
    other_read: int | None = None
    packets_out: int | None = None
    packets_in: int | None = None
    packet_bytes_out: int | None = None
    packet_bytes_in: int | None = None
    softirqs_rx: int | None = None
    softirqs_tx: int | None = None
    machine_softirqs_rx: int | None = None
    machine_softirqs_tx: int | None = None
    interrupts: int | None = None
    redirects: int | None = None
    page_faults: int | None = None

    @property
    def switches(self) -> int | None:
        """All context switches."""
        return _sum(self.switches_voluntary, self.switches_involuntary)

    @property
    def softirqs(self) -> int | None:
        """Network softirqs while a process of the group was current."""
        return _sum(self.softirqs_rx, self.softirqs_tx)

    def since(self, before: Counts) -> Counts:
        """Return what was counted after ``before``."""
        names = [f.name for f in fields(self)]
        return Counts(**{n: _less(getattr(self, n), getattr(before, n)) for n in names})

    def copies_out(self, payload: int) -> float | None:
        """Return how often ``payload`` bytes were copied from processes into sockets."""
        return None if self.large_sent is None else self.large_sent / payload

    def copies_in(self, payload: int) -> float | None:
        """Return how often ``payload`` bytes were copied from sockets into processes."""
        return None if self.large_received is None else self.large_received / payload

    def passes_out(self, payload: int) -> float | None:
        """Return how often ``payload`` bytes went down through the IP layer."""
        return None if self.packet_bytes_out is None else self.packet_bytes_out / payload

    def passes_in(self, payload: int) -> float | None:
        """Return how often ``payload`` bytes came up through the IP layer."""
        return None if self.packet_bytes_in is None else self.packet_bytes_in / payload


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b


def _less(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a - b


@dataclass(frozen=True, slots=True)
class ByHand:
    """What one hop of one payload costs within processes, found by reading the code.

    In payloads (2 memcpys: the payload's bytes are moved twice); ``where`` says what was read.
    """

    memcpys: float
    serialisations: float
    deserialisations: float
    where: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the audit table; None: not measured, or nothing the code tells."""

    what: str
    per_update: float | None
    per_hop: float | None
    by_hand_per_hop: float | None = None


def table(
    counts: Counts, *, payload: int, updates: int, hops: int, by_hand: ByHand | None = None
) -> list[Row]:
    """Return the audit of a period with so many updates of ``payload`` bytes, and hops of them.

    A hop is one hand-over of one payload from one function to the next (a client's upload is
    one). Measured columns are by eBPF, ``by_hand_per_hop`` is ``BY_HAND``.

    Raises
    ------
    ValueError
        without an update, a hop or a payload.
    """
    if min(payload, updates, hops) < 1:
        raise ValueError("an audit is of at least one update, one hop and one byte")
    measured = {
        "payload copies, process to socket": counts.copies_out(payload),
        "payload copies, socket to process": counts.copies_in(payload),
        "protocol passes of the payload, down": counts.passes_out(payload),
        "protocol passes of the payload, up": counts.passes_in(payload),
        "context switches": counts.switches,
        "system calls": counts.syscalls,
        "network softirqs": counts.softirqs,
        "device interrupts": counts.interrupts,
        "descriptors redirected in the kernel": counts.redirects,
        "page faults": counts.page_faults,
        "MB written to files and pipes": _mega(counts.other_written),
        "MB read from files and pipes": _mega(counts.other_read),
    }
    rows = [Row(what, _over(n, updates), _over(n, hops)) for what, n in measured.items()]
    if by_hand is not None:
        rows += [
            Row("payload copies within processes", None, None, by_hand.memcpys),
            Row("serialisations", None, None, by_hand.serialisations),
            Row("deserialisations", None, None, by_hand.deserialisations),
        ]
    return rows


def _over(n: float | None, of: int) -> float | None:
    return None if n is None else n / of


def _mega(n: int | None) -> float | None:
    return None if n is None else n / 1e6
