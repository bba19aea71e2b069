"""What the operating system says of this process, held against memory made here."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from stepwell.hardware.account import (
    grown,
    growth,
    proportional_bytes,
    read_process_memory,
    resident_of,
)

_PAGE = mmap.PAGESIZE
_MIB = 1 << 20

if read_process_memory() is None:
    pytest.skip("needs Linux with glibc", allow_module_level=True)


def _address(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_memory_that_nobody_touched_is_not_resident() -> None:
    memory = mmap.mmap(-1, 64 * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = _address(memory)
    assert resident_of([(start, 64 * _PAGE)]) == 0
    for page in (0, 1, 40):
        memory[page * _PAGE] = 1
    assert resident_of([(start, 64 * _PAGE)]) == 3 * _PAGE


def test_edges_and_overlaps_count_once() -> None:
    memory = mmap.mmap(-1, 4 * _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:] = bytes([1]) * len(memory)
    start = _address(memory)
    assert resident_of([(start + 10, 100)]) == 100
    assert resident_of([(start + 10, 100), (start + 50, 100)]) == 140
    assert resident_of([(start + _PAGE - 10, 20)]) == 20
    assert resident_of([]) == 0


def test_a_stage_counts_what_it_added() -> None:
    part = "test stage"
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # malloc might hand out what it has already
    fresh = mmap.mmap(-1, 40 * _MIB, flags=private)
    with grown(part), grown("inner"):
        for at in range(0, 40 * _MIB, mmap.PAGESIZE):
            fresh[at] = 1
    assert 36 * _MIB < growth()[part] < 48 * _MIB
    assert "inner" not in growth()
    fresh.close()


def test_a_stage_that_raises_does_not_hide_later_ones() -> None:
    with pytest.raises(ValueError, match="stage"), grown("broken"):
        raise ValueError("stage")
    assert "broken" not in growth()
    with grown("after"):
        pass
    assert "after" in growth()


def test_parts_lie_inside_the_whole() -> None:
    found, proportional = read_process_memory(), proportional_bytes()
    assert found is not None
    assert 0 < found.held < found.resident
    assert 0 < found.shared < found.resident
    if proportional is not None:
        assert proportional < found.resident * 1.05
