"""torch's memory snapshot (`torch.cuda.memory._dump_snapshot`), read without torch.

A segment is one piece taken from the device; the allocator cuts it into blocks. Units: bytes.
Fields that differ between releases of torch are read under each of their names; others are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.oom.plain_pickle import UnreadableSnapshot

DEFAULT_POOL = (0, 0)
ACTIVE = "active_allocated"
_WAITING = ("active_awaiting_free", "active_pending_free")


@dataclass(frozen=True, slots=True)
class Frame:
    """One call of a stack."""

    filename: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.filename.rsplit('/', 1)[-1]}:{self.line} {self.name}"


Stack = tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Block:
    """`requested`: before rounding up to `size`. `frames`: innermost first, empty where no
    history was recorded. `tag`: what the program said it was doing."""

    size: int
    requested: int
    state: str
    frames: Stack = ()
    tag: str = ""

    @property
    def is_active(self) -> bool:
        """Held by a tensor."""
        return self.state == ACTIVE

    @property
    def is_waiting(self) -> bool:
        """Freed, and another stream has not finished with it."""
        return self.state in _WAITING


@dataclass(frozen=True, slots=True)
class Segment:
    """`pool` other than DEFAULT_POOL: private, as those of CUDA graphs."""

    device: int
    size: int
    stream: int
    pool: tuple[int, int]
    blocks: tuple[Block, ...]

    @property
    def is_private(self) -> bool:
        """Whether only its pool's owner can use what is free in it."""
        return self.pool != DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class OomEvent:
    """A request that failed. `free`: what the device had left then; None: not recorded."""

    device: int
    size: int
    free: int | None
    frames: Stack


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All devices. `events`: how many the history holds. `ooms`: oldest first."""

    segments: tuple[Segment, ...]
    ooms: tuple[OomEvent, ...]
    events: int


def parse_snapshot(value: Any) -> Snapshot:
    """From the unpickled (or JSON) value. Raises UnreadableSnapshot."""
    if isinstance(value, Mapping) and "segments" in value:
        segments, traces = value["segments"], value.get("device_traces") or []
    else:
        segments, traces = value, []  # torch.cuda.memory_snapshot() gives the list alone
    try:
        parsed = tuple(_segment(_mapping(item)) for item in _list(segments))
        ooms = tuple(event for at, trace in enumerate(_list(traces)) for event in _ooms(at, trace))
        return Snapshot(parsed, ooms, sum(len(_list(trace)) for trace in traces))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UnreadableSnapshot(
            f"not a memory snapshot of torch: {type(error).__name__} {error}.",
            hint="Write one with torch.cuda.memory._dump_snapshot(path).",
        ) from error


def _segment(item: Mapping[str, Any]) -> Segment:
    pool = item.get("segment_pool_id") or DEFAULT_POOL
    if len(pool) != 2:
        raise ValueError("a pool id has two parts")
    return Segment(
        device=_size(item.get("device", 0)),
        size=_size(item["total_size"]),
        stream=int(item.get("stream", 0)),
        pool=(int(pool[0]), int(pool[1])),
        blocks=tuple(_block(_mapping(block)) for block in _list(item["blocks"])),
    )


def _block(item: Mapping[str, Any]) -> Block:
    size = _size(item["size"])
    requested, frames = item.get("requested_size"), item.get("frames")
    history = item.get("history")  # before torch 2.1
    if frames is None and history:
        newest = _mapping(_list(history)[0])
        frames, requested = newest.get("frames"), newest.get("real_size", requested)
    return Block(
        size=size,
        requested=size if requested is None else _size(requested),
        state=str(item["state"]),
        frames=_frames(frames),
        tag=str(item.get("user_metadata") or ""),
    )


def _ooms(device: int, trace: Any) -> Iterator[OomEvent]:
    for entry in _list(trace):
        item = _mapping(entry)
        if item.get("action") == "oom":
            free = item.get("device_free")
            yield OomEvent(
                device=device,
                size=_size(item["size"]),
                free=None if free is None else _size(free),
                frames=_frames(item.get("frames")),
            )


def _frames(value: Any) -> Stack:
    found = []
    for entry in _list(value or []):
        item = _mapping(entry)
        name, line = str(item.get("name", "")), int(item.get("line", 0))
        found.append(Frame(str(item.get("filename", "")), line, name))
    return tuple(found)


def _size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.40} is no number of bytes")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"a {type(value).__name__} where a dictionary belongs")
    return value


def _list(value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"a {type(value).__name__} where a list belongs")
    return value
