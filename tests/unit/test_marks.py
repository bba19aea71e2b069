"""Where marked tokens begin in chains, and what happens when there are too many to remember."""

from __future__ import annotations

from stepwell.base.prefix import Mark
from stepwell.cache.marks import MarkIndex, Roots

KEYS = [f"key {i}".encode() for i in range(7)]


def mark(*labels: str, start: int) -> Mark:
    return Mark(labels=labels, start=start)


def index(most: int = 1000) -> MarkIndex:
    made = MarkIndex(most=most)
    made.chunk_blocks = 2
    return made


def test_the_block_and_the_chunk_of_the_first_marked_token() -> None:
    marks = index()
    marks.note("t", [mark("a", start=35), mark("b", start=16)], KEYS, block_size=16)
    assert marks.roots("t", ["a"]) == Roots(frozenset({KEYS[2]}), frozenset({KEYS[3]}))
    assert marks.roots("t", ["b"]) == Roots(frozenset({KEYS[1]}), frozenset({KEYS[1]}))
    assert marks.roots("t", ["a", "b"]).blocks == {KEYS[1], KEYS[2]}
    assert marks.roots("other", ["a"]) == marks.roots("t", ["c"]) == Roots()


def test_a_chunk_that_is_not_whole_was_never_stored_and_a_block_never_found() -> None:
    marks = index()
    marks.note("t", [mark("a", start=6 * 16), mark("b", start=7 * 16)], KEYS, block_size=16)
    assert marks.roots("t", ["a"]) == Roots(frozenset({KEYS[6]}), frozenset())
    assert marks.roots("t", ["b"]) == Roots()


def test_too_many_notes_lose_the_tenant_and_nobody_else() -> None:
    marks = index(most=10)
    marks.note("small", [mark("a", start=0)], KEYS, block_size=16)
    for number in range(20):
        own = [f"{number} {i}".encode() for i in range(4)]
        marks.note("big", [mark(f"label {number}", start=0)], own, block_size=16)
    assert marks.roots("big", ["label 0"]).everything
    assert not marks.roots("small", ["a"]).everything
    marks.forgotten("big", ["label 0"])
    assert marks.roots("big", ["label 1"]) == Roots(), "all of it was dropped: a new beginning"


def test_what_is_forgotten_is_not_noted_any_more() -> None:
    marks = index()
    marks.note("t", [mark("a", "b", start=0)], KEYS, block_size=16)
    marks.forgotten("t", ["a"])
    assert marks.roots("t", ["a"]) == Roots()
    assert marks.roots("t", ["b"]).blocks == {KEYS[0]}
