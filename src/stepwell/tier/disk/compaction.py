"""Getting dead space back: live frames of the deadest segments are copied, then the files go.

A copy keeps its sequence, so age survives; its header is made anew, bound to the new place. The
caller holds the commit lock, so that one compaction runs at a time and no commit in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stepwell.tier.disk.books import Location, Row, unpack_location
from stepwell.tier.disk.options import INDEX_SLACK
from stepwell.tier.disk.segment import Segment, place_of
from stepwell.tier.frame import HEADER_BYTES, FrameFault, check_body, pack_header, parse_header

if TYPE_CHECKING:
    from stepwell.tier.disk.store import DiskTier

_MOST_ALIVE = 0.8
"""To make room for a write, segments with a larger live share are left alone: copying them costs
more than it frees, and the brain is better told FULL, so that it evicts more."""


def make_room(tier: DiskTier, size: int) -> None:
    """Compact until a frame of `size` bytes fits or nothing worth it is left. Raises OSError."""
    tier.commit()
    while not _fits(tier, size):
        victim = _deadest(tier, most_alive=_MOST_ALIVE)
        if victim is None:
            return
        _empty(tier, victim, budget=victim.live)
        tier.commit()
        if victim.live:  # something in it could not be moved
            return


def compact_segments(tier: DiskTier, *, budget: int) -> None:
    """Empty segments, deadest first, while live bytes within `budget` remain to be copied."""
    tier.commit()
    while budget > 0:
        victim = _deadest(tier, most_alive=1.0)
        if victim is None:
            return
        before = victim.live
        _empty(tier, victim, budget=budget)
        tier.commit()
        budget -= before - victim.live
        if victim.live:
            return


def _fits(tier: DiskTier, size: int) -> bool:
    with tier.lock:
        return tier.space.fits(size)


def _deadest(tier: DiskTier, *, most_alive: float) -> Segment | None:
    """The segment with the smallest live share, if there is room for what lives in it."""
    books = tier.books
    with tier.lock:
        candidates = [
            s
            for s in books.segments.values()
            if s.dead and not s.in_flight and s.live <= most_alive * s.tail
        ]
        if not candidates:
            return None
        victim = min(candidates, key=lambda s: s.live / s.tail)
        room = tier.options.capacity - INDEX_SLACK - tier.space.used()
        free = tier.medium.free_bytes(tier.directory) - tier.options.free_floor
        if victim.live > min(room, free):
            return None
        if books.active is victim:
            books.active = None
        return victim


def _empty(tier: DiskTier, victim: Segment, *, budget: int) -> None:
    """Copy live frames elsewhere, in the order in which they lie, up to `budget` bytes."""
    with tier.lock:
        everything = list(tier.books.where.items())
    frames = []
    for key, packed in everything:
        at = unpack_location(packed)
        if at.segment == victim.number:
            frames.append((at.offset, key, at))
    for _, key, at in sorted(frames):
        if at.footprint > budget:
            return
        budget -= at.footprint
        _move(tier, key, at)


def _move(tier: DiskTier, key: bytes, at: Location) -> None:
    """Copy one frame, verified on the way; a bad one is quarantined instead."""
    frame = bytearray(at.end - at.offset)
    try:
        with tier.files.using(at.segment) as fd:
            got = tier.medium.read(fd, [frame], at.offset)
    except FileNotFoundError:
        got = 0
    view = memoryview(frame)
    header = parse_header(view[:got], place=place_of(at.segment, at.offset))
    body = HEADER_BYTES + at.meta_size
    if isinstance(header, FrameFault):
        fault: FrameFault | None = header
    else:
        fault = check_body(header, key=key, meta=view[HEADER_BYTES:body], parts=[view[body:]])
    if fault is not None or isinstance(header, FrameFault):
        tier.quarantine(key, at, reason=fault.value if fault else "header")
        return
    with tier.lock:
        segment, offset = tier.space.take(at.footprint)
    try:
        moved = pack_header(header, place=place_of(segment.number, offset))
        with tier.files.using(segment.number) as fd:
            tier.medium.write(fd, [moved, view[HEADER_BYTES:]], offset)
    except BaseException:
        with tier.lock:
            tier.space.give_back(segment, offset, at.footprint)
        raise
    target = at._replace(segment=segment.number, offset=offset)
    with tier.lock:
        if tier.books.find(key) == at:
            tier.books.add(Row(key, target, bytes(view[HEADER_BYTES:body])))
        else:  # deleted meanwhile
            segment.in_flight.discard(offset)
