"""Copies on a CUDA device: one side stream each way, pinned memory, events.

Has not run on a GPU yet; `tests/gpu/test_tiers_cuda.py` is what it has to pass there.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stepwell.base.errors import HardwareError
from stepwell.base.units import format_bytes
from stepwell.engine.staging.contract import Done


class CudaCopies:
    """`storage`: the pool, uint8 [blocks, bytes of a block], on a CUDA device. Compute is whatever
    the engine's thread launches on its current stream."""

    def __init__(self, storage: Tensor) -> None:
        self._storage = storage
        self._out = _SideStream(storage.device, "store")
        self._in = _SideStream(storage.device, "load")

    def allocate(self, rows: int) -> Tensor:
        """See `Copies`."""
        size = (rows, self._storage.shape[1])
        try:
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:
            raise HardwareError(
                f"{format_bytes(rows * size[1])} of pinned memory for lower tiers cannot be had: "
                f"{error}",
                hint="Lower tiers.chunk_blocks, or free host memory.",
            ) from error

    def mark(self) -> object:
        """See `Copies`."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._storage.device))
        return event

    def to_host(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        """See `Copies`."""
        pairs = [(self._storage[block], row) for block, row in zip(blocks, rows, strict=True)]
        self._out.start(pairs, after=after, done=done)

    def to_device(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        """See `Copies`."""
        pairs = [(row, self._storage[block]) for block, row in zip(blocks, rows, strict=True)]
        self._in.start(pairs, after=after, done=done)

    def close(self, timeout: float) -> bool:
        """See `Copies`."""
        end = time.monotonic() + timeout
        whole = [side.close(max(0.0, end - time.monotonic())) for side in (self._out, self._in)]
        return all(whole)


class _SideStream:
    """A stream, and a thread that sleeps until each of its copies is complete."""

    def __init__(self, device: torch.device, name: str) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._under_way: queue.SimpleQueue[tuple[torch.cuda.Event, Done] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(
            target=self._await_events, name=f"stepwell-copies-{name}", daemon=True
        )
        self._thread.start()

    def start(self, pairs: Sequence[tuple[Tensor, Tensor]], *, after: Any, done: Done) -> None:
        """Launch copies of (source, target) pairs; never blocks."""
        try:
            with torch.cuda.stream(self._stream):
                self._stream.wait_event(after)
                for source, target in pairs:
                    target.copy_(source, non_blocking=True)
                # Blocking: who waits for it sleeps instead of spinning.
                event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                event.record(self._stream)
        except RuntimeError as error:
            # Some of the copies may have been launched: their memory is theirs until they end.
            with contextlib.suppress(RuntimeError):
                self._stream.synchronize()
            done(error)
            return
        self._under_way.put((event, done))

    def close(self, timeout: float) -> bool:
        """Let the thread end behind what is under way; whether it did."""
        self._under_way.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _await_events(self) -> None:
        while (item := self._under_way.get()) is not None:
            event, done = item
            try:
                event.synchronize()
            except RuntimeError as error:
                done(error)
            else:
                done(None)
