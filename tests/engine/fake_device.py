"""A device on the CPU that behaves as an accelerator may: compute lags behind what it was told to
do, copies are carried out late and end in odd order, or fail, or never end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepwell.engine.staging import Done


@dataclass(eq=False)
class _Copy:
    """`pairs`: (source, target) rows."""

    pairs: list[tuple[np.ndarray, np.ndarray]]
    after: int
    done: Done
    load: bool


class FakeDevice:
    """`storage`: its blocks, uint8 [blocks, bytes]. Copies happen just before they end, which is
    the latest that they may. Is its own `Copies`."""

    def __init__(
        self, storage: Tensor, *, seed: int = 0, delay: float = 0.0, fails: float = 0.0
    ) -> None:
        """`delay`: most seconds of a copy, and of a thing that compute does. `fails`: of copies."""
        self.storage = storage
        self.fails = fails
        self.copies = self
        self.copied = 0
        self.go = threading.Event()  # while clear, no copy ends
        self.go.set()
        self._delay = delay
        self._random = random.Random(seed)
        self._lock = threading.Condition()
        self._pending: list[_Copy] = []
        self._compute: list[Callable[[], None]] = []
        self._computed = 0
        self._closing = False
        self._copier = threading.Thread(target=self._copy_all, daemon=True)
        self._copier.start()

    # -- what compute does -------------------------------------------------------------------

    def write(self, block: int, data: bytes) -> None:
        """Compute is told to write a block; it will, some time."""
        self._tell(lambda: self._fill(block, data))

    def read(self, block: int) -> bytes:
        """The block when compute has done all that it was told."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._computed == len(self._compute), 30)
            return self.storage[block].numpy().tobytes()

    @property
    def waiting(self) -> int:
        """Copies that have not ended."""
        with self._lock:
            return len(self._pending)

    def _fill(self, block: int, data: bytes) -> None:
        self.storage[block].numpy()[:] = np.frombuffer(data, np.uint8)

    def _tell(self, what: Callable[[], None]) -> None:
        with self._lock:
            if not self._compute:
                threading.Thread(target=self._compute_all, daemon=True).start()
            self._compute.append(what)
            self._lock.notify_all()

    # -- Copies --------------------------------------------------------------------------------

    def allocate(self, rows: int) -> Tensor:
        return torch.zeros((rows, self.storage.shape[1]), dtype=torch.uint8)

    def mark(self) -> object:
        with self._lock:
            return len(self._compute)

    def to_host(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        pairs = [
            (self.storage[b].numpy(), row.numpy()) for b, row in zip(blocks, rows, strict=True)
        ]
        self._start(pairs, after, done, load=False)

    def to_device(self, blocks: Sequence[int], rows: Tensor, *, after: object, done: Done) -> None:
        pairs = [
            (row.numpy(), self.storage[b].numpy()) for b, row in zip(blocks, rows, strict=True)
        ]
        self._start(pairs, after, done, load=True)

    def close(self, timeout: float) -> bool:
        with self._lock:
            self._closing = True
            self._lock.notify_all()
        self._copier.join(timeout)
        return not self._copier.is_alive()

    def _start(
        self, pairs: list[tuple[np.ndarray, np.ndarray]], after: object, done: Done, *, load: bool
    ) -> None:
        assert isinstance(after, int)
        with self._lock:
            assert not self._closing
            self._pending.append(_Copy(pairs, after, done, load))
            self._lock.notify_all()

    # -- threads -------------------------------------------------------------------------------

    def _compute_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._computed < len(self._compute))
                what = self._compute[self._computed]
            time.sleep(self._random.uniform(0, self._delay))
            with self._lock:
                what()
                self._computed += 1
                self._lock.notify_all()

    def _copy_all(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._closing or self._ready())
                if not self._pending:
                    return
                copy = self._random.choice(self._ready() or self._pending)
            time.sleep(self._random.uniform(0, self._delay))
            self.go.wait()
            with self._lock:
                if copy.after > self._computed:
                    continue
                error = self._carry_out(copy)
                self._pending.remove(copy)
            copy.done(error)

    def _ready(self) -> list[_Copy]:
        return [copy for copy in self._pending if copy.after <= self._computed]

    def _carry_out(self, copy: _Copy) -> Exception | None:
        fails = self._random.random() < self.fails
        for source, target in copy.pairs[: 1 if fails else None]:
            target[:] = source
        self.copied += 1
        return RuntimeError("the device says no") if fails else None
