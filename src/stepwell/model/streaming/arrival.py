"""From bytes that have come in to tensors that a unit computes with.

Tensors whose bytes are computed with as they are get pointed at them (`Pointed`): the slot is
theirs until the unit has run. A unit with packed tensors has them unpacked into an arena that all
units share (`Landed`), and what else it streams is copied there: its slot is free before it runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from stepwell.kernels.exponents import BLOCK, Packed, unpack_version
from stepwell.kernels.exponents.base import BLOCK_BYTES, U16
from stepwell.model.streaming.files import Arena, aligned
from stepwell.model.streaming.store import StoredTensor, bits_of


class Arrival(Protocol):
    """What happens to a unit's tensors before it runs."""

    @property
    def holds_slot(self) -> bool:
        """Whether the slot has to stay as it is while the unit runs."""
        ...

    def arrive(self, slot: int) -> None:
        """Make the tensors ready from this slot; any number where nothing streams."""
        ...


class Pointed:
    """`own[i]` is what `stored[i]` says, in each of the slots."""

    holds_slot = True

    def __init__(
        self, own: Sequence[Tensor], stored: Sequence[StoredTensor], slots: Sequence[Arena]
    ) -> None:
        self._own = own
        self._views = [
            [view_of(s, slot, s.offset - stored[0].offset) for s in stored] for slot in slots
        ]
        self.arrive(0)

    def arrive(self, slot: int) -> None:
        """See `Arrival`."""
        for tensor, view in zip(self._own, self._views[slot], strict=True):
            tensor.data = view


class Landed:
    """`kept` tensors of the unit are in `resident`, the others in the slots."""

    holds_slot = False

    def __init__(
        self,
        own: Sequence[Tensor],
        stored: Sequence[StoredTensor],
        *,
        kept: int,
        resident: Arena | None,
        slots: Sequence[Arena],
        landing: Arena,
    ) -> None:
        self._unpack = unpack_version().unpack
        self._packed: list[tuple[list[Packed], U16]] = []
        self._plain: list[tuple[list[Tensor], Tensor]] = []
        end = 0
        for number, (tensor, row) in enumerate(zip(own, stored, strict=True)):
            stays = number < kept
            if stays and row.coding is None:
                continue
            arenas = [resident] if stays and resident is not None else slots
            first = stored[0 if stays else kept].offset
            tensor.data = view_of(row, landing, end)
            end += aligned(row.nbytes)
            if row.coding is None:
                self._plain.append(([view_of(row, a, row.offset - first) for a in arenas], tensor))
            else:
                found = [_packed_of(row, arena, row.offset - first) for arena in arenas]
                self._packed.append((found, bits_of(tensor)))

    def arrive(self, slot: int) -> None:
        """See `Arrival`."""
        for views, tensor in self._plain:
            tensor.copy_(views[slot % len(views)])
        for sources, bits in self._packed:
            self._unpack(sources[slot % len(sources)], bits)


def landing_bytes(units: Sequence[Sequence[StoredTensor]]) -> int:
    """Of the arena that units with packed tensors share: as if all of each came from disk."""
    coded = [unit for unit in units if any(row.coding for row in unit)]
    return max((sum(aligned(row.nbytes) for row in unit) for unit in coded), default=0)


def view_of(row: StoredTensor, arena: Arena, offset: int) -> Tensor:
    """The tensor, unpacked, as it lies in an arena."""
    return arena.tensor(offset, row.torch_dtype, row.shape)


def _packed_of(row: StoredTensor, arena: Arena, offset: int) -> Packed:
    """Views of the three parts."""
    assert row.coding is not None
    raw = arena.bytes[offset : offset + row.size].numpy()
    blocks = math.prod(row.shape) * row.torch_dtype.itemsize // (2 * BLOCK)
    positions = blocks * BLOCK_BYTES
    values = positions + 4 * row.coding.aside
    return Packed(
        low=row.coding.low,
        blocks=raw[:positions].reshape(blocks, BLOCK_BYTES),
        positions=raw[positions:values].view("<u4"),
        values=raw[values:].view("<u2"),
    )
