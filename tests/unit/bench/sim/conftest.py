"""Costs with round numbers: what is tested is the simulation, not this machine."""

from __future__ import annotations

import pytest

from bench.sim.costs import Aggregator, Client, Costs, Hop, Lifl


@pytest.fixture(scope="session")
def costs() -> Costs:
    return Costs(
        client=Client(1e-10),
        aggregator=Aggregator(start=0.2, start_wait=0.05, sum_per_byte=1e-10),
        lifl=Lifl(
            ingest=1e-3,
            ingest_per_byte=3e-10,
            claim=1e-3,
            handoff=1e-4,
            apply=1e-3,
            round=1e-3,
            commit=5e-3,
            commit_per_byte=1e-10,
            commit_wait=5e-3,
            commit_wait_per_byte=5e-10,
            forward=1e-3,
            forward_per_byte=1e-10,
            accept=1e-3,
            accept_per_byte=3e-10,
        ),
        serverful=Hop(fixed=2e-3, per_byte=9e-10, send_per_byte=5e-10, serial=0.3),
        vanilla=Hop(
            fixed=4e-3, per_byte=3e-9, send_per_byte=0.0, serial=0.3, start=0.4, start_wait=0.1
        ),
    )
