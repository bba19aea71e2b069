"""Memory of the pool is zero, comes when it is touched, and keeps what was written."""

from __future__ import annotations

import sys

import pytest

torch = pytest.importorskip("torch")

from stepwell.hardware.account import resident_of  # noqa: E402
from stepwell.model.pool_memory import touch, zeroed  # noqa: E402

SIZE = (5 << 20) + 24  # neither whole huge pages nor whole pages


def test_zeros_that_can_be_written() -> None:
    memory = zeroed(SIZE)
    assert memory.dtype == torch.uint8
    assert memory.shape == (SIZE,)
    assert not memory.any()
    memory.view(torch.bfloat16).fill_(1)
    assert memory.view(torch.bfloat16).eq(1).all()


def test_nothing_is_something() -> None:
    assert zeroed(0).shape == (0,)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's page tables")
def test_pages_come_when_touched() -> None:
    memory = zeroed(SIZE)
    range_of = (memory.data_ptr(), SIZE)
    assert resident_of([range_of]) < SIZE // 2
    memory[SIZE // 2] = 7
    touch(memory)
    assert resident_of([range_of]) == SIZE
    assert memory[SIZE // 2] == 7
    assert memory.sum() == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's page tables")
def test_pages_come_from_a_system_that_cannot_fetch_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepwell.model.pool_memory._POPULATE_WRITE", 12345)  # refused
    memory = zeroed(SIZE)
    memory[3] = 5
    touch(memory)
    assert resident_of([(memory.data_ptr(), SIZE)]) == SIZE
    assert memory.sum() == 5


def test_memory_outlives_what_made_it() -> None:
    part = zeroed(SIZE)[100:200].view(torch.int32)
    part.fill_(3)
    assert part.sum() == 75
