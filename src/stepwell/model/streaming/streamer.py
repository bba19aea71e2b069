"""Weights in motion: before a unit runs, its tensors are pointed at where its bytes are.

Of each unit a prefix of tensors is resident, the rest arrives in a slot (`plan.py`, `reader.py`).
`enter` waits for the slot and re-points `.data` of each streamed parameter and buffer, `leave`
gives the slot back when the module has run; hooks on the unit's module call them where it is called
as a module. So whatever the module computes with must take its addresses anew at each call.
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
from stepwell.model.streaming.embedding import EmbeddingRows
from stepwell.model.streaming.files import Arena, BlockFile
from stepwell.model.streaming.packing import set_up_empty
from stepwell.model.streaming.plan import SLOTS, Residency
from stepwell.model.streaming.reader import PIECE, ReadAhead, Stretch
from stepwell.model.streaming.skeleton import Unit
from stepwell.model.streaming.store import StoredTensor, StoreIndex


@dataclass(frozen=True, slots=True)
class _Moving:
    """A unit that streams: its place in a pass, its tensors, and what they are in each slot."""

    place: int
    own: list[Tensor]
    views: list[list[Tensor]]


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
        tensors = []
        for unit, stored, linears in zip(units, index.units, index.linears, strict=True):
            set_up_empty(unit.module, linears)
            tensors.append(_adopt(unit.module, stored))
        for stored, own, kept in zip(index.units, tensors, residency.kept, strict=True):
            self._load_residents(stored[:kept], own[:kept])
        moving = [i for i, kept in enumerate(residency.kept) if kept < len(index.units[i])]
        if moving:
            rests = [index.units[i][residency.kept[i] :] for i in moving]
            self._reader = ReadAhead(file, [_stretch(rest) for rest in rests])
            for place, i in enumerate(moving):
                own = tensors[i][residency.kept[i] :]
                self._hook(units[i].module, place, own, rests[place])
        self._places = len(moving)
        self._base = self._now()

    @property
    def nbytes(self) -> int:
        """Bytes of all weights in memory: residents, slots and what is fixed."""
        slots = sum(slot.size for slot in self._reader.slots) if self._reader else 0
        return self._fixed + slots + sum(arena.size for arena in self._residents)

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

    def _load_residents(self, stored: Sequence[StoredTensor], own: Sequence[Tensor]) -> None:
        if not stored:
            return
        stretch = _stretch(stored)
        arena = Arena(stretch.size)
        for start in range(0, stretch.size, PIECE):
            end = min(start + PIECE, stretch.size)
            self._file.read(arena.view[start:end], stretch.offset + start)
        stretch.check(arena)
        self._residents.append(arena)
        _point(own, _views(stored, arena))

    def enter(self, layer: nn.Module) -> None:
        """Wait for a unit's weights and point its tensors at them. Raises WeightStoreError."""
        moving = self._moving.get(layer)
        if moving is not None:
            assert self._reader is not None
            _point(moving.own, moving.views[self._reader.enter(moving.place)])

    def leave(self, layer: nn.Module) -> None:
        """The unit entered last has been computed: what its tensors point at may change."""
        if layer in self._moving:
            assert self._reader is not None
            self._reader.leave()

    def _hook(
        self, module: nn.Module, place: int, own: list[Tensor], stored: Sequence[StoredTensor]
    ) -> None:
        assert self._reader is not None
        moving = _Moving(place, own, [_views(stored, slot) for slot in self._reader.slots])
        _point(own, moving.views[place % SLOTS])
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


def _views(stored: Sequence[StoredTensor], arena: Arena) -> list[Tensor]:
    """The tensors as they lie in an arena that was filled from the first one on."""
    first = stored[0].offset
    return [arena.tensor(s.offset - first, s.torch_dtype, s.shape) for s in stored]


def _point(tensors: Sequence[Tensor], views: Sequence[Tensor]) -> None:
    for tensor, view in zip(tensors, views, strict=True):
        tensor.data = view


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
