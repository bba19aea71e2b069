"""Reading ahead under a computing thread: order, jumps, failures; slots in use stay as they are."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")

from stepwell.base.errors import WeightStoreDamaged, WeightStoreError
from stepwell.model.streaming import reader as module
from stepwell.model.streaming.files import ALIGNMENT, Arena, BlockFile, aligned
from stepwell.model.streaming.reader import ReadAhead, Stretch

UNITS = 5
SIZE = 4 * ALIGNMENT


class Rig:
    """A file whose unit i is full of bytes i, and a reader of it that can be made to fail."""

    def __init__(self, path: Path, *, units: int = UNITS, patience: float = 20.0) -> None:
        path.write_bytes(b"".join(bytes([i]) * SIZE for i in range(units)))
        self.file = BlockFile(path)
        self.before_read: Callable[[int], None] = lambda unit: None
        read = self.file.read

        def observed(target: memoryview, offset: int) -> None:
            self.before_read(offset // SIZE)
            read(target, offset)

        self.file.read = observed  # type: ignore[method-assign]
        self.checked: list[int] = []
        self.damaged: set[int] = set()
        self.mended_by_reading = False
        stretches = [Stretch(i * SIZE, SIZE, self._check(i)) for i in range(units)]
        self.reader = ReadAhead(self.file, stretches, patience=patience)

    def _check(self, unit: int) -> Callable[[Arena], None]:
        def check(arena: Arena) -> None:
            self.checked.append(unit)
            if unit in self.damaged:
                if self.mended_by_reading:
                    self.damaged.discard(unit)
                raise WeightStoreDamaged("a bit fell over.")

        return check

    def compute(self, place: int, *, seconds: float = 0.0) -> None:
        slot = self.reader.slots[self.reader.enter(place)]
        assert bytes(slot.view[:SIZE]) == bytes([place]) * SIZE
        time.sleep(seconds)
        assert bytes(slot.view[:SIZE]) == bytes([place]) * SIZE, "overwritten while in use"
        self.reader.leave()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PIECE", ALIGNMENT)
    made = []

    def make(**settings) -> Rig:
        made.append(Rig(tmp_path / "units", **settings))
        return made[-1]

    yield make
    for rig in made:
        assert rig.reader.close(5.0)
        rig.file.close()


def test_passes_in_order(rig) -> None:
    it = rig()
    for _ in range(4):
        for place in range(UNITS):
            it.compute(place, seconds=0.001)
    found = it.reader.counters()
    assert found.passes == 4
    assert 4 * UNITS * SIZE <= found.bytes <= (4 * UNITS + 2) * SIZE
    assert found.busy > 0


@pytest.mark.parametrize("units", [1, 2, 3])
def test_few_units(rig, units: int) -> None:
    it = rig(units=units)
    for _ in range(3):
        for place in range(units):
            it.compute(place)


def test_a_pass_may_begin_anew_anywhere(rig) -> None:
    it = rig()
    source = random.Random(5)
    for _ in range(60):
        for place in range(source.randint(1, UNITS)):
            it.compute(place)
        if source.random() < 0.5:
            it.reader.enter(0)  # a unit that raised: it is never left


def test_no_more_is_read_ahead_than_the_slots_hold(rig) -> None:
    it = rig()
    time.sleep(0.2)
    assert it.reader.counters().bytes == 2 * SIZE


def test_a_read_error_fails_the_unit_and_the_next_pass_is_right(rig) -> None:
    it = rig()
    broken = threading.Event()

    def fail(unit: int) -> None:
        if unit == 3 and broken.is_set():
            raise OSError(5, "Input/output error")

    it.before_read = fail
    broken.set()
    for place in range(3):
        it.compute(place)
    with pytest.raises(WeightStoreError, match="Input/output error"):
        it.reader.enter(3)
    broken.clear()
    for _ in range(2):
        for place in range(UNITS):
            it.compute(place)


def test_damage_is_told_apart(rig) -> None:
    it = rig()

    def fail(unit: int) -> None:
        if unit == 4:
            raise WeightStoreDamaged("bits fell over.")

    it.before_read = fail
    for place in range(4):
        it.compute(place)
    with pytest.raises(WeightStoreDamaged):
        it.reader.enter(4)


def test_one_unit_a_pass_is_checked_again_in_turn(rig) -> None:
    it = rig()
    for _ in range(4 * UNITS):
        for place in range(UNITS):
            it.compute(place)
    time.sleep(0.05)  # what is read ahead
    counts = [it.checked.count(unit) for unit in range(UNITS)]
    assert all(4 <= count <= 6 for count in counts), "at first, then once in UNITS passes"
    assert it.reader.counters().checked == len(it.checked) * SIZE


def test_damage_while_running_is_found_and_told_until_it_is_gone(rig) -> None:
    it = rig()
    for place in range(UNITS):
        it.compute(place)
    it.damaged.add(2)
    failed = 0
    for _ in range(2 * UNITS):
        try:
            for place in range(UNITS):
                it.compute(place)
        except WeightStoreDamaged:
            failed += 1
    assert UNITS <= failed <= 2 * UNITS, "checked at each read, once it was found"
    it.damaged.clear()
    for place in range(UNITS):
        it.compute(place)


def test_what_fails_is_read_once_more(rig) -> None:
    it = rig()
    it.damaged |= {1, 3}
    it.mended_by_reading = True
    for _ in range(2):
        for place in range(UNITS):
            it.compute(place)
    assert not it.damaged


def test_a_disk_that_hangs_fails_the_step_in_bounded_time(rig) -> None:
    it = rig(patience=0.2)
    hang, go_on = threading.Event(), threading.Event()

    def wait(unit: int) -> None:
        if unit == 2 and not hang.is_set():
            hang.set()
            go_on.wait(10)

    it.before_read = wait
    it.compute(0)
    it.compute(1)
    with pytest.raises(WeightStoreError, match="no answer"):
        it.reader.enter(2)
    go_on.set()
    for place in range(UNITS):
        it.compute(place)


def test_what_ends_early_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * ALIGNMENT)
    file = BlockFile(path)
    with pytest.raises(OSError, match="ends at"):
        file.read(Arena(aligned(2 * ALIGNMENT)).view, 0)
    file.close()


def test_without_direct_reads(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(bytes(range(256)) * 64)
    file = BlockFile(path, direct=False)
    arena = Arena(ALIGNMENT)
    file.read(arena.view, ALIGNMENT)
    assert not file.direct
    assert bytes(arena.view[:256]) == bytes(range(256))
    file.close()
