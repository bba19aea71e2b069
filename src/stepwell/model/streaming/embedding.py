"""The input embedding from disk: only the rows that a step's tokens name.

A step needs one row for each different token, some kilobytes each, so keeping the table in memory
would spend on it what saves far more reading as resident layers.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from stepwell.base.errors import WeightStoreDamaged, WeightStoreError
from stepwell.model.streaming.files import ALIGNMENT, Arena, BlockFile, aligned
from stepwell.model.streaming.reader import PIECE
from stepwell.model.streaming.store import StoredTensor

_READERS = 8
_BATCH = 64  # rows gathered at a time: what bounds the buffer


def gather_bytes(row: int) -> int:
    """Of the buffer that rows of so many bytes pass through."""
    return _BATCH * (aligned(row) + ALIGNMENT)


class EmbeddingRows:
    """Stands before an `nn.Embedding`: its weight becomes the rows of this call, and the ids become
    their places in it. Works for subclasses that scale what they look up."""

    def __init__(self, module: nn.Embedding, file: BlockFile, stored: StoredTensor) -> None:
        self._file = file
        self._stored = stored
        self._width = stored.shape[1]
        self._row = self._width * stored.torch_dtype.itemsize
        self._span = aligned(self._row) + ALIGNMENT
        self._buffer = Arena(gather_bytes(self._row))
        self._pool = ThreadPoolExecutor(_READERS, thread_name_prefix="embedding")
        self.rows_read = 0
        module.padding_idx = None  # of training only, and checked against the shrunken weight
        module.weight = nn.Parameter(torch.empty(0, dtype=stored.torch_dtype), requires_grad=False)
        self._weight = module.weight
        self._hook = module.register_forward_pre_hook(self._before)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.size

    def check(self) -> None:
        """Compare the whole table with its checksum. Raises WeightStoreDamaged, OSError."""
        stored, piece = self._stored, Arena(min(PIECE, self._stored.padded))
        checksum = xxhash.xxh3_64()
        for start in range(0, stored.size, piece.size):
            part = piece.view[: min(piece.size, stored.padded - start)]
            self._file.read(part, stored.offset + start)
            checksum.update(part[: stored.size - start])
        if checksum.intdigest() != stored.checksum:
            raise WeightStoreDamaged(f"{stored.name} does not have its checksum.")

    def _before(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        unique, places = torch.unique(args[0], return_inverse=True)
        self._weight.data = self.gather(unique.tolist())
        return (places,)

    def gather(self, ids: list[int]) -> Tensor:
        """Rows [len(ids), width]. Raises WeightStoreError when one cannot be read."""
        out = torch.empty(len(ids), self._width, dtype=self._stored.torch_dtype)
        raw = out.view(torch.uint8).view(len(ids), self._row)
        try:
            for first in range(0, len(ids), _BATCH):
                part = ids[first : first + _BATCH]
                starts = list(self._pool.map(self._read, range(len(part)), part))
                for place, start in enumerate(starts):
                    raw[first + place] = self._buffer.bytes[start : start + self._row]
        except OSError as error:
            raise WeightStoreError(
                f"embedding rows could not be read from {self._file.path.name}: {error}.",
                hint="Check the disk; the file is built again when it is deleted.",
            ) from error
        self.rows_read += len(ids)
        return out

    def _read(self, place: int, row: int) -> int:
        """Read the blocks around a row into its place of the buffer; where the row begins there."""
        begin = self._stored.offset + row * self._row
        block = begin // ALIGNMENT * ALIGNMENT
        size = aligned(begin + self._row - block)
        base = place * self._span
        self._file.read(self._buffer.view[base : base + size], block)
        return base + begin - block

    def close(self) -> None:
        """No call may be under way. Calling it twice is harmless."""
        self._hook.remove()
        self._pool.shutdown()
