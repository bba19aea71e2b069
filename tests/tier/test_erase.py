"""Erasing leaves no bytes where deleting does, and what is left can be read after a restart."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stepwell.tier.contract import WriteOutcome
from stepwell.tier.disk import DiskOptions, DiskTier
from stepwell.tier.host import HostTier
from tests.values import content, key, read, write

PAGE = 4096


def pieces(name: object, size: int) -> list[bytes]:
    """Bytes of a value that are found wherever some of it is left."""
    data = content(name, size)
    return [data[at : at + 32] for at in range(0, size - 32, 1024)]


def left_in(data: bytes, name: object, size: int) -> int:
    return sum(piece in data for piece in pieces(name, size))


def test_pages_of_the_arena_are_overwritten_whenever_they_were_given_back() -> None:
    tier = HostTier(capacity=64 * PAGE, page_bytes=PAGE)
    for name in ("early", "late", "stays"):
        assert write(tier, name, 5 * PAGE + 100) is WriteOutcome.STORED
    tier.delete([key("early")])
    arena = bytes(tier._arena)
    assert left_in(arena, "early", 5 * PAGE) > 10
    tier.erase([key("late")])
    arena = bytes(tier._arena)
    assert not left_in(arena, "early", 5 * PAGE + 100)
    assert not left_in(arena, "late", 5 * PAGE + 100)
    assert read(tier, "stays", 5 * PAGE + 100) == content("stays", 5 * PAGE + 100)


def test_the_rest_of_a_page_that_is_used_again_holds_nothing_old() -> None:
    tier = HostTier(capacity=4 * PAGE, page_bytes=PAGE)
    write(tier, "old", 4 * PAGE)
    tier.delete([key("old")])
    for name in range(4):
        write(tier, name, 10)
    tier.erase([])
    assert not left_in(bytes(tier._arena), "old", 4 * PAGE)


def test_what_is_being_read_is_overwritten_when_its_reader_is_done() -> None:
    tier = HostTier(capacity=16 * PAGE, page_bytes=PAGE)
    write(tier, "read", 3 * PAGE)
    entry = tier._entries[key("read")]
    entry.readers += 1
    tier.erase([key("read")])
    assert left_in(bytes(tier._arena), "read", 3 * PAGE)
    tier._leave(entry)
    assert not left_in(bytes(tier._arena), "read", 3 * PAGE)
    assert tier.usage().used == 0


@pytest.mark.parametrize("index", ["kept", "lost"])
def test_dead_frames_are_overwritten_and_the_rest_survives_a_restart(
    tmp_path: Path, index: str
) -> None:
    options = DiskOptions(capacity=64 << 20, free_floor=0)
    tier = DiskTier(tmp_path, options=options)
    sizes = {n: random.Random(n).randrange(2000, 60_000) for n in range(30)}
    for n, size in sizes.items():
        assert write(tier, n, size) is WriteOutcome.STORED
    deleted, erased = set(range(0, 30, 5)), set(range(1, 30, 5))
    tier.delete([key(n) for n in deleted])
    tier.flush()
    tier.erase([key(n) for n in erased])
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    for n in deleted | erased:
        assert not left_in(data, n, sizes[n])
    assert write(tier, 1, sizes[1]) is WriteOutcome.STORED, "what was erased may come again"
    tier.close()
    if index == "lost":
        for path in tmp_path.glob("index.sqlite*"):
            path.unlink()
    again = DiskTier(tmp_path, options=options)
    for n in sizes.keys() - deleted - (erased - {1}):
        assert read(again, n, sizes[n]) == content(n, sizes[n])
    assert not again.contains([key(n) for n in deleted | (erased - {1})])
    assert again.usage().quarantined == 0
    again.close()


def test_a_segment_that_holds_nothing_else_goes(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, options=DiskOptions(capacity=64 << 20, free_floor=0))
    write(tier, "only", 50_000)
    tier.erase([key("only")])
    assert not list(tmp_path.glob("segment-*.stw"))
    tier.close()
