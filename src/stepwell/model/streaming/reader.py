"""Reading ahead: a few threads fill a ring of slots in the order in which units are computed.

Reads are numbered. Read n is of unit `order[n % len(order)]` into slot `n % SLOTS`, and may begin
when what was read into that slot before has been computed from. A read is cut into pieces which the
threads take in turn, so that several are under way and the disk is kept busy across the end of one
read and the beginning of the next.

The computing thread calls `enter` and `leave`. It may start a pass anew in the middle (a step that
failed is repeated): the numbering then jumps forward to the next read of the unit asked for, and a
slot is not filled again before the last piece of its previous read has come in.

The first read of each unit is checked, then one unit in each pass, in turn, and one that failed is
checked at each read until it has passed. What fails is read once more before it counts as damage:
bits may have turned over on the way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepwell.base.errors import WeightStoreDamaged, WeightStoreError
from stepwell.model.streaming.files import Arena, BlockFile
from stepwell.model.streaming.plan import SLOTS

PIECE = 8 << 20
"""Bytes of one read call: a multiple of the block size."""
THREADS = 4
"""Read calls under way. They wait in the kernel and take no core."""
_PATIENCE = 60.0  # seconds until a read that does not return fails its step


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is read for a unit: bytes of the file. `check` is given the slot after some reads; it
    raises WeightStoreDamaged."""

    offset: int
    size: int
    check: Callable[[Arena], None]


@dataclass(slots=True)
class ReadCounters:
    """Since the start. `checked`: bytes compared with their checksums; `busy`: seconds with at
    least one read under way; `waited`: seconds that computing stood still for one; `passes`:
    begun."""

    bytes: int = 0
    checked: int = 0
    busy: float = 0.0
    waited: float = 0.0
    passes: int = 0


class ReadAhead:
    """Owns the slots and the threads. Uses, but does not own, the file."""

    def __init__(
        self, file: BlockFile, stretches: Sequence[Stretch], *, patience: float = _PATIENCE
    ) -> None:
        """`stretches` in the order of a pass; at least one."""
        self._file = file
        self._stretches = list(stretches)
        self._patience = patience
        self.slots = [Arena(max(s.size for s in stretches)) for _ in range(SLOTS)]
        self._changed = threading.Condition()
        self._next = 0  # the read whose pieces are being handed out
        self._piece = 0  # bytes of it that have been
        self._done = 0  # reads below it have been computed from, or given up
        self._under_way = [0] * SLOTS  # pieces per slot
        self._holds = [-1] * SLOTS  # the read that was last begun into each slot
        self._left = [0] * SLOTS  # bytes of it that have not come in
        self._failed: dict[int, Exception] = {}
        self._unchecked = set(range(len(self._stretches)))
        self._busy_since = 0.0
        self._closed = False
        self._counters = ReadCounters()
        self._threads = [
            threading.Thread(target=self._work, name=f"weights-{i}", daemon=True)
            for i in range(THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def enter(self, place: int) -> int:
        """Wait for the unit at this place of the order; returns its slot, which stays as it is
        until `leave`. Raises WeightStoreError when it could not be read."""
        with self._changed:
            number = self._seek(place)
            start = time.monotonic()
            whole = self._changed.wait_for(lambda: self._is_settled(number), self._patience)
            now = time.monotonic()
            self._counters.waited += now - start
            self._counters.passes += place == 0
            error = self._failed.pop(number, None)
            if whole and error is None:
                return number % SLOTS
            self._done = number + 1
            self._changed.notify_all()
        if isinstance(error, WeightStoreError):
            raise error
        what = error or f"no answer within {self._patience:g} s"
        raise WeightStoreError(
            f"weights could not be read from {self._file.path.name}: {what}.",
            hint="Check the disk; the file is built again when it is deleted.",
        )

    def leave(self) -> None:
        """The unit that was entered last has been computed: its slot may be filled again."""
        with self._changed:
            self._done += 1
            self._changed.notify_all()

    def counters(self) -> ReadCounters:
        """A copy of this moment."""
        with self._changed:
            now = self._counters
            busy = now.busy + (time.monotonic() - self._busy_since if any(self._under_way) else 0.0)
            return replace(now, busy=busy)

    def close(self, timeout: float) -> bool:
        """Stop the threads; whether all have ended. Only then the file may be closed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _seek(self, place: int) -> int:
        """The number of the next read of this place. Reads that are skipped are given up."""
        number = self._done + (place - self._done) % len(self._stretches)
        if number != self._done:
            self._done = number
            for skipped in [n for n in self._failed if n < number]:
                del self._failed[skipped]
            if self._next < number:
                self._next, self._piece = number, 0
            self._changed.notify_all()
        return number

    def _is_settled(self, number: int) -> bool:
        """Whether the read has failed, or has come in whole and been checked."""
        if number in self._failed:
            return True
        slot = number % SLOTS
        return self._holds[slot] == number and not (self._left[slot] or self._under_way[slot])

    def _work(self) -> None:
        while (piece := self._take()) is not None:
            number, start, size = piece
            stretch, slot = self._of(number), self.slots[number % SLOTS]
            try:
                self._file.read(slot.view[start : start + size], stretch.offset + start)
                if self._arrived(number, size):
                    self._check(number, stretch, slot)
            except Exception as error:  # handed to the computing thread
                self._fail(number, error)
            self._release(number)

    def _take(self) -> tuple[int, int, int] | None:
        """(read, first byte, bytes) of the next piece; None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._may_take())
            if self._closed:
                return None
            number, start = self._next, self._piece
            whole = self._of(number).size
            size = min(PIECE, whole - start)
            slot = number % SLOTS
            if start == 0:
                self._holds[slot], self._left[slot] = number, whole
            if not any(self._under_way):
                self._busy_since = time.monotonic()
            self._under_way[slot] += 1
            self._piece += size
            if self._piece == whole:
                self._next, self._piece = number + 1, 0
            return number, start, size

    def _may_take(self) -> bool:
        free = self._next < self._done + SLOTS
        return free and (self._piece > 0 or not self._under_way[self._next % SLOTS])

    def _arrived(self, number: int, size: int) -> bool:
        """A piece has come in; whether it was the last of its read."""
        with self._changed:
            self._counters.bytes += size
            self._left[number % SLOTS] -= size
            return not self._left[number % SLOTS]

    def _check(self, number: int, stretch: Stretch, slot: Arena) -> None:
        """Compare a unit with its checksums where it is its turn."""
        passes, place = divmod(number, len(self._stretches))
        with self._changed:
            if place not in self._unchecked and place != passes % len(self._stretches):
                return
            self._unchecked.add(place)
        try:
            stretch.check(slot)
        except WeightStoreDamaged:
            self._file.read(slot.view[: stretch.size], stretch.offset)
            stretch.check(slot)
        with self._changed:
            self._unchecked.discard(place)
            self._counters.checked += stretch.size

    def _fail(self, number: int, error: Exception) -> None:
        with self._changed:
            if number >= self._done:
                self._failed.setdefault(number, error)

    def _release(self, number: int) -> None:
        """This thread touches the slot no more."""
        with self._changed:
            self._under_way[number % SLOTS] -= 1
            if not any(self._under_way):
                self._counters.busy += time.monotonic() - self._busy_since
            self._changed.notify_all()

    def _of(self, number: int) -> Stretch:
        return self._stretches[number % len(self._stretches)]
