"""What the mover's tests share: orders, buffers, tiers that wait to be told, a clock to turn."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from stepwell.base.hierarchy import (
    Event,
    LoadChunk,
    LookupChunks,
    MoveChunk,
    StoreChunk,
    TierName,
    TransferReport,
)
from stepwell.codec import Codec, CodecSpec, RawCodec, ValueFormat
from stepwell.tier.contract import Buffer, ReadOutcome, WriteOutcome
from stepwell.tier.host import HostTier
from stepwell.tier.mover import Mover
from tests import values
from tests.values import key

LAYOUT = bytes(range(16))
FAR = 1e9
BLOCK = 10_000
BLOCKS = 3
SIZE = BLOCK * BLOCKS
content = partial(values.content, size=SIZE)


def blocks(data: bytes = bytes(SIZE)) -> tuple[bytearray, list[Buffer]]:
    """Memory as the device has it, and the views of its blocks, out of order."""
    memory = bytearray(data)
    view = memoryview(memory)
    step = len(data) // BLOCKS
    return memory, [view[i * step : (i + 1) * step] for i in range(BLOCKS)]


def load(
    number: int,
    name: object,
    tier: TierName = TierName.HOST,
    *,
    deadline: float = FAR,
    size: int = SIZE,
) -> LoadChunk:
    return LoadChunk(
        order_id=number,
        request_id="r",
        index=0,
        key=key(name),
        tier=tier,
        size=size,
        deadline=deadline,
    )


def store(
    number: int, name: object, tier: TierName = TierName.HOST, *, size: int = SIZE
) -> StoreChunk:
    return StoreChunk(order_id=number, key=key(name), tier=tier, size=size, meta=b"m", index=0)


def move(number: int, name: object, source: TierName, target: TierName, size: int) -> MoveChunk:
    return MoveChunk(
        order_id=number,
        key=key(name),
        source=source,
        target=target,
        size=size,
        meta=b"m",
        index=0,
    )


def lookup(
    number: int, names: Iterable[object], tier: TierName, *, deadline: float = FAR
) -> LookupChunks:
    return LookupChunks(order_id=number, tier=tier, keys=tuple(map(key, names)), deadline=deadline)


def host(capacity: int = 4 << 20) -> HostTier:
    return HostTier(capacity=capacity, page_bytes=4096)


def forms_of(
    tiers: Iterable[TierName], *, codec: Codec | None = None, layout: bytes = LAYOUT
) -> dict[TierName, ValueFormat]:
    """The same codec for all tiers."""
    return {name: ValueFormat(codec or RawCodec(), layout=layout) for name in tiers}


def mover(**tiers_and_options: object) -> Mover:
    """mover(host=tier, disk=tier, lanes=..., ...)."""
    tiers = {
        name: tiers_and_options.pop(name.name.lower())
        for name in TierName
        if name.name.lower() in tiers_and_options
    }
    codec = tiers_and_options.pop("codec", RawCodec())
    layout = tiers_and_options.pop("layout", LAYOUT)
    options = {"forms": forms_of(tiers, codec=codec, layout=layout), **tiers_and_options}
    return Mover(tiers, **options)  # type: ignore[arg-type]


def reports(moving: Mover, count: int = 1, timeout: float = 60.0) -> list[Event]:
    """The next events, at least `count` of them that end orders."""
    events: list[Event] = []
    end = time.monotonic() + timeout
    while sum(hasattr(event, "order_id") for event in events) < count:
        assert time.monotonic() < end, f"only {events}"
        moving.wait(0.05)
        events += moving.poll()
    return events


def report(moving: Mover) -> TransferReport:
    (event,) = (e for e in reports(moving) if isinstance(e, TransferReport))
    return event


def put(moving: Mover, name: object, tier: TierName, *, number: int = 900) -> int:
    """Store the content of `name` and return what the tier holds for it."""
    moving.submit(store(number, name, tier), blocks(content(name))[1])
    done = report(moving)
    assert done.failure is None
    return done.size


def until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ZlibCodec:
    """Not an identity, and it waits while its gate is shut."""

    spec = CodecSpec(name="zlib", version=3, lossless=True)

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.decoding = threading.Event()

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> list[Buffer]:
        return [memoryview(zlib.compress(part)) for part in parts]

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        self.decoding.set()
        assert self.open.wait(100)
        for part, target in zip(parts, out, strict=True):
            target[:] = zlib.decompress(part)


class Gate:
    """A tier over the host arena (staged, since the mover does not know it) whose calls wait while
    it is shut. A read waits with its bytes already delivered, a write before it takes any."""

    def __init__(self, inner: HostTier | None = None) -> None:
        self.inner = inner or host()
        self.open = threading.Event()
        self.open.set()
        self.calls: list[tuple[str, bytes]] = []
        self.error: Exception | None = None
        self.only: set[str] | None = None  # calls that the gate and the error are for; None: all
        self.left = 0

    def let_one_by(self) -> None:
        """Who waits goes on; the next one waits."""
        before, self.open = self.open, threading.Event()
        before.set()

    def _pass(self, call: str, key: bytes) -> None:
        self.calls.append((call, key))
        if self.only is not None and call not in self.only:
            return
        if self.error is not None:
            raise self.error
        assert self.open.wait(100)

    def read(self, key: bytes, out: Sequence[Buffer]) -> ReadOutcome:
        self._pass("read", key)
        outcome = self.inner.read(key, out)
        self.left += 1
        return outcome

    def write(self, key: bytes, parts: Sequence[Buffer], *, meta: bytes = b"") -> WriteOutcome:
        self._pass("write", key)
        outcome = self.inner.write(key, parts, meta=meta)
        self.left += 1
        return outcome

    def delete(self, keys: Iterable[bytes]) -> None:
        keys = list(keys)
        self._pass("delete", keys[0])
        self.inner.delete(keys)

    def contains(self, keys: Sequence[bytes]) -> frozenset[bytes]:
        self._pass("contains", keys[0])
        return self.inner.contains(keys)

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


class BatchGate(Gate):
    """A gate whose tier takes several keys at once. `batches`: how many each time."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def read_batch(
        self, keys: Sequence[bytes], outs: Sequence[Sequence[Buffer]]
    ) -> list[ReadOutcome]:
        self.batches.append(len(keys))
        return [self.read(key, out) for key, out in zip(keys, outs, strict=True)]

    def sizes_of(self, keys: Sequence[bytes]) -> list[int | None]:
        return [self.inner.size_of(key) for key in keys]
