"""The disk tier against a dict, with flushes, compactions and restarts at any moment."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stepwell.tier.contract import ReadOutcome, WriteOutcome
from tests.tier.disk_helpers import (
    MIB,
    check_books,
    disk_bytes,
    get,
    meta_of,
    open_tier,
    put,
    value_of,
)
from tests.values import key

NAMES = st.integers(0, 300)
CAPACITY = 4 * MIB


class DiskMachine(RuleBasedStateMachine):
    """`held` is what must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp())
        self.tier = open_tier(self.path, capacity=CAPACITY)
        self.held: set[int] = set()

    def teardown(self) -> None:
        self.tier.close()
        shutil.rmtree(self.path)

    @rule(first=NAMES, count=st.integers(1, 25))
    def write(self, first: int, count: int) -> None:
        for name in range(first, first + count):
            outcome = put(self.tier, name)
            assert (outcome is WriteOutcome.PRESENT) == (name in self.held)
            if outcome is WriteOutcome.STORED:
                self.held.add(name)

    @rule(name=NAMES)
    def read(self, name: int) -> None:
        wanted = value_of(name) if name in self.held else ReadOutcome.MISSING
        assert get(self.tier, name) == wanted

    @rule(names=st.lists(NAMES, max_size=20), step=st.integers(2, 7))
    def delete(self, names: list[int], step: int) -> None:
        gone = {*names, *sorted(self.held)[::step]}
        self.tier.delete([key(name) for name in gone])
        self.held -= gone

    @rule()
    def flush(self) -> None:
        self.tier.flush()

    @rule(budget=st.integers(0, MIB))
    def compact(self, budget: int) -> None:
        self.tier.compact(budget)

    @rule()
    def reopen(self) -> None:
        self.tier.close()
        self.tier = open_tier(self.path, capacity=CAPACITY)
        assert self.tier.recovery.dropped == self.tier.recovery.recovered == 0

    @rule()
    def reopen_without_index(self) -> None:
        self.tier.close()
        (self.path / "index.sqlite").unlink()
        self.tier = open_tier(self.path, capacity=CAPACITY)
        back = {n for n in range(330) if self.tier.contains([key(n)])}
        assert back >= self.held  # deleted ones may come back, with their own bytes
        self.held = back

    @rule()
    def scan(self) -> None:
        found = {chunk.key: (chunk.size, chunk.meta) for chunk in self.tier.scan()}
        assert found == {key(n): (len(value_of(n)), meta_of(n)) for n in self.held}

    @invariant()
    def books_are_right(self) -> None:
        check_books(self.tier)
        assert disk_bytes(self.path) <= CAPACITY
        assert self.tier.usage().chunks == len(self.held)
        assert self.tier.usage().corrupt == 0


TestDisk = DiskMachine.TestCase
TestDisk.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
