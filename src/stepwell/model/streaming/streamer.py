"""Weights in motion: before a unit runs, its tensors are pointed at where its bytes are.

Of each unit a prefix of tensors is resident, the rest arrives in a slot (`plan.py`, `reader.py`).
`enter` waits for the slot and makes the unit's tensors ready (`arrival.py`), `leave` gives the slot
back when the unit has run; hooks on the unit's module call them where it is called as a module. So
whatever the module computes with must take its addresses anew at each call.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stepwell.base.errors import WeightStoreDamaged
from stepwell.base.request import StreamStats
from stepwell.model.streaming.arrival import Arrival, Landed, Pointed, landing_bytes, view_of
from stepwell.model.streaming.embedding import EmbeddingRows
from stepwell.model.streaming.files import Arena, BlockFile
from stepwell.model.streaming.packing import set_up_empty
from stepwell.model.streaming.plan import Residency
from stepwell.model.streaming.reader import PIECE, ReadAhead, Stretch
from stepwell.model.streaming.skeleton import Unit
from stepwell.model.streaming.store import StoredTensor, StoreIndex


@dataclass(frozen=True, slots=True)
class _Moving:
    """A unit with something to do before it runs. `place`: of its read in a pass, None where it has
    none."""

    place: int | None
    arrival: Arrival


class Streamer:
    """Owns the residents, the slots and the reading threads of one model."""

    def __init__(
        self,
        units: Sequence[Unit],
        file: BlockFile,
        index: StoreIndex,
        residency: Residency,
        *,
        rows: EmbeddingRows,
        fixed: int,
    ) -> None:
        """Reads the residents and begins to read ahead; owns `file` and `rows` from then on.
        `fixed`: bytes that stay beside. Raises OSError, WeightStoreDamaged."""
        self._file = file
        self._rows = rows
        self._fixed = fixed
        self._hooks: list[RemovableHandle] = []
        self._moving: dict[nn.Module, _Moving] = {}
        self.residency = residency
        self.speed = 0.0
        """Bytes/s of the last `check_all`; 0 where nothing streams."""
        self.direct = file.direct
        self._residents: list[Arena] = []
        self._reader: ReadAhead | None = None
        self._landing = Arena(landing_bytes(index.units))
        kept = residency.kept
        tensors = []
        for unit, stored, linears in zip(units, index.units, index.linears, strict=True):
            set_up_empty(unit.module, linears)
            tensors.append(_adopt(unit.module, stored))
        arenas = [
            self._load_residents(stored[:k], own[:k])
            for stored, own, k in zip(index.units, tensors, kept, strict=True)
        ]
        moving = [i for i, k in enumerate(kept) if k < len(index.units[i])]
        if moving:
            rests = [index.units[i][kept[i] :] for i in moving]
            self._reader = ReadAhead(file, [_stretch(rest) for rest in rests])
        slots = self._reader.slots if self._reader else []
        for i, (unit, stored) in enumerate(zip(units, index.units, strict=True)):
            place = moving.index(i) if i in moving else None
            if any(row.coding for row in stored):
                landed = Landed(
                    tensors[i], stored, kept=kept[i], resident=arenas[i], slots=slots,
                    landing=self._landing,
                )  # fmt: skip
                self._hook(unit.module, _Moving(place, landed))
            elif place is not None:
                pointed = Pointed(tensors[i][kept[i] :], stored[kept[i] :], slots)
                self._hook(unit.module, _Moving(place, pointed))
        self._places = len(moving)
        self._base = self._now()

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory: residents, slots and what is fixed."""
        slots = sum(slot.size for slot in self._reader.slots) if self._reader else 0
        resident = sum(arena.size for arena in self._residents)
        return self._fixed + self._landing.size + slots + resident

    @property
    def landing_bytes(self) -> int:
        """Of them, what packed layers are unpacked into; 0 where none is packed."""
        return self._landing.size

    def check_all(self) -> None:
        """Read everything that streams once, which verifies it and sets `speed`. Raises
        WeightStoreDamaged, WeightStoreError."""
        before = self.stats()
        for place in range(self._places):
            assert self._reader is not None
            self._reader.enter(place)
            self._reader.leave()
        after = self.stats()
        seconds = after.read_seconds - before.read_seconds
        if seconds:
            self.speed = (after.read_bytes - before.read_bytes) / seconds

    def stats(self) -> StreamStats:
        """Counters since the start or `reset`."""
        now, base = self._now(), self._base
        return StreamStats(
            passes=now.passes - base.passes,
            read_bytes=now.read_bytes - base.read_bytes,
            read_seconds=now.read_seconds - base.read_seconds,
            waited_seconds=now.waited_seconds - base.waited_seconds,
            checked_bytes=now.checked_bytes - base.checked_bytes,
            seconds=now.seconds - base.seconds,
        )

    def reset(self) -> None:
        """Count anew (after warm-up)."""
        self._base = self._now()

    def close(self, timeout: float = 5.0) -> None:
        """Stop reading. The model cannot be run afterwards. Calling it twice is harmless."""
        for hook in self._hooks:
            hook.remove()
        self._rows.close()
        if self._reader is None or self._reader.close(timeout):
            self._file.close()

    def _now(self) -> StreamStats:
        if self._reader is None:
            return StreamStats(0, 0, 0.0, 0.0, time.monotonic(), 0)
        found = self._reader.counters()
        return StreamStats(
            passes=found.passes,
            read_bytes=found.bytes,
            read_seconds=found.busy,
            waited_seconds=found.waited,
            seconds=time.monotonic(),
            checked_bytes=found.checked,
        )

    def _load_residents(
        self, stored: Sequence[StoredTensor], own: Sequence[Tensor]
    ) -> Arena | None:
        if not stored:
            return None
        stretch = _stretch(stored)
        arena = Arena(stretch.size)
        for start in range(0, stretch.size, PIECE):
            end = min(start + PIECE, stretch.size)
            self._file.read(arena.view[start:end], stretch.offset + start)
        stretch.check(arena)
        self._residents.append(arena)
        for tensor, row in zip(own, stored, strict=True):
            if row.coding is None:
                tensor.data = view_of(row, arena, row.offset - stretch.offset)
        return arena

    def enter(self, layer: nn.Module) -> None:
        """Wait for a unit's weights and make its tensors ready. Raises WeightStoreError."""
        moving = self._moving.get(layer)
        if moving is None:
            return
        slot = 0
        if moving.place is not None:
            assert self._reader is not None
            slot = self._reader.enter(moving.place)
        moving.arrival.arrive(slot)
        if not moving.arrival.holds_slot:
            self._give_back(moving)

    def leave(self, layer: nn.Module) -> None:
        """The unit entered last has been computed: its tensors may change."""
        moving = self._moving.get(layer)
        if moving is not None and moving.arrival.holds_slot:
            self._give_back(moving)

    def _give_back(self, moving: _Moving) -> None:
        if moving.place is not None:
            assert self._reader is not None
            self._reader.leave()

    def _hook(self, module: nn.Module, moving: _Moving) -> None:
        self._moving[module] = moving
        self._hooks.append(module.register_forward_pre_hook(lambda m, _args: self.enter(m)))
        self._hooks.append(module.register_forward_hook(lambda m, _args, _out: self.leave(m)))


def _stretch(stored: Sequence[StoredTensor]) -> Stretch:
    first, last = stored[0], stored[-1]

    def check(arena: Arena) -> None:
        for tensor in stored:
            start = tensor.offset - first.offset
            if xxhash.xxh3_64_intdigest(arena.view[start : start + tensor.size]) != tensor.checksum:
                raise WeightStoreDamaged(
                    f"{tensor.name}, read from disk, does not have its checksum.",
                    hint="Check the disk; the file is built again at the next start.",
                )

    return Stretch(first.offset, last.offset + last.padded - first.offset, check)


def _adopt(module: nn.Module, stored: Sequence[StoredTensor]) -> list[Tensor]:
    """Give the module real tensors, of no bytes yet, for what the store holds; in file order."""
    tensors: list[Tensor] = []
    for row in stored:
        owner_name, _, name = row.name.rpartition(".")
        owner = module.get_submodule(owner_name)
        tensor: Tensor = torch.empty(0, dtype=row.torch_dtype)
        if name in owner._parameters:
            tensor = nn.Parameter(tensor, requires_grad=False)
            owner._parameters[name] = tensor
        else:
            owner._buffers[name] = tensor
        tensors.append(tensor)
    return tensors
