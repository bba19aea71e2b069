"""The file that weights are streamed from.

    block 0      magic, version, place, size and checksum of the index: written last
    regions      one for each unit: its tensors one after the other, each from a block boundary on
    embedding    the input embedding's rows, row-major, where it is read by rows
    index        JSON: identity, units, and for each tensor its name, dtype, shape, place, checksum

Matrices in bfloat16 may be in 12 bits a number (`kernels/exponents`): blocks, positions, values,
one after the other. A unit is one contiguous read, and so is any suffix of its tensors. The file is
built under another name and renamed when every byte is on the disk, so a killed build leaves
nothing that is taken for a store. `identity` names the weights, precision and layout; another one
means another file.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor

from stepwell.base.errors import WeightStoreDamaged
from stepwell.kernels.exponents import BLOCK, pack
from stepwell.kernels.exponents.base import U16
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.streaming.files import ALIGNMENT, Arena, BlockFile, aligned
from stepwell.model.streaming.packing import StoredLinear

VERSION = 3
_MAGIC = b"STEPWELLSTREAMED"
_HEADER = struct.Struct("<16sIQQQ")  # magic, version, index offset, index bytes, index checksum


@dataclass(frozen=True, slots=True)
class Coding:
    """How numbers were packed: the exponent of code 0, and how many numbers are kept aside."""

    low: int
    aside: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor: `offset` in the file, `size` there without padding, both in bytes. `coding`: None
    where its bytes are as they are computed with."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    checksum: int
    coding: Coding | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of it unpacked."""
        return math.prod(self.shape) * self.torch_dtype.itemsize

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch names it."""
        return getattr(torch, self.dtype)

    @property
    def padded(self) -> int:
        """Bytes up to where the next tensor begins."""
        return aligned(self.size)


@dataclass(frozen=True, slots=True)
class StoreIndex:
    """What is where. `units[i]`: the tensors of unit i in file order, `linears[i]` its packed
    layers."""

    identity: str
    units: tuple[tuple[StoredTensor, ...], ...]
    linears: tuple[tuple[StoredLinear, ...], ...]
    embedding: StoredTensor

    @property
    def sizes(self) -> list[list[int]]:
        """Bytes of each unit's tensors in memory, padding included: for `choose_residents`."""
        return [[tensor.padded for tensor in unit] for unit in self.units]


class StoreWriter:
    """Builds a store beside its final place. Each unit is on the disk when its call returns, and
    its pages are dropped: memory never holds more of the file than one unit."""

    def __init__(self, path: Path, *, identity: str, coded: bool) -> None:
        """`coded`: matrices in bfloat16 are kept in 12 bits. Raises OSError."""
        self._path = path
        self._coded = coded
        self._identity = identity
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._fd = os.open(self._partial, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
        self._end = ALIGNMENT
        self._units: list[tuple[StoredTensor, ...]] = []
        self._linears: list[tuple[StoredLinear, ...]] = []
        self._embedding: StoredTensor | None = None

    def add_unit(
        self, tensors: Iterable[tuple[str, Tensor]], linears: Iterable[StoredLinear]
    ) -> None:
        """The next unit. Raises OSError."""
        rows = tuple(linears)
        panels = {f"{row.name}.panels" for row in rows if row.format == WeightFormat.BFLOAT16}
        self._units.append(tuple(self._add_packed(n, t, panels=n in panels) for n, t in tensors))
        self._linears.append(rows)
        self._flush()

    def add_embedding(self, weight: Tensor) -> None:
        """The input embedding [vocabulary, width], once. Raises OSError."""
        self._embedding = self._add("embedding", weight)
        self._flush()

    def finish(self) -> None:
        """Write index and header, and give the file its name. Raises OSError."""
        assert self._embedding is not None
        index = StoreIndex(
            self._identity, tuple(self._units), tuple(self._linears), self._embedding
        )
        text = json.dumps(asdict(index)).encode()
        os.pwrite(self._fd, text, self._end)
        os.ftruncate(self._fd, aligned(self._end + len(text)))
        self._flush()
        checksum = xxhash.xxh3_64_intdigest(text)
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, VERSION, self._end, len(text), checksum), 0)
        self._flush()
        os.close(self._fd)
        self._fd = -1
        os.replace(self._partial, self._path)
        _sync_folder(self._path.parent)

    def abandon(self) -> None:
        """Leave nothing behind; harmless after `finish`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._partial.unlink(missing_ok=True)

    def _add_packed(self, name: str, tensor: Tensor, *, panels: bool) -> StoredTensor:
        """In 12 bits a number where that is wanted and takes less."""
        matrix = panels or (tensor.dtype == torch.bfloat16 and tensor.dim() > 1)
        if not (self._coded and matrix) or tensor.nbytes % (2 * BLOCK):
            return self._add(name, tensor)
        packed = pack(bits_of(tensor))
        if packed is None:
            return self._add(name, tensor)
        parts: list[Any] = [packed.blocks, packed.positions, packed.values]
        coding = Coding(packed.low, len(packed.positions))
        return replace(self._write(name, tensor, [memoryview(p) for p in parts]), coding=coding)

    def _add(self, name: str, tensor: Tensor) -> StoredTensor:
        plain = tensor.detach().contiguous()
        view: Any = memoryview(plain.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
        return self._write(name, tensor, [view])

    def _write(self, name: str, tensor: Tensor, parts: Sequence[memoryview]) -> StoredTensor:
        offset, size, checksum = self._end, 0, xxhash.xxh3_64()
        for part in parts:
            view = part.cast("B")
            checksum.update(view)
            written = 0
            while written < len(view):
                written += os.pwrite(self._fd, view[written:], offset + size + written)
            size += len(view)
        self._end = offset + aligned(size)
        os.ftruncate(self._fd, self._end)
        return StoredTensor(
            name=name,
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            offset=offset,
            size=size,
            checksum=checksum.intdigest(),
        )

    def _flush(self) -> None:
        os.fdatasync(self._fd)
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_index(file: BlockFile, *, identity: str) -> StoreIndex:
    """Raises WeightStoreDamaged for anything but a whole store of this identity, and OSError."""
    try:
        return _parse(file, identity)
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise WeightStoreDamaged(f"{file.path.name}: {error}.") from error


def _parse(file: BlockFile, identity: str) -> StoreIndex:
    if file.size < ALIGNMENT:
        raise ValueError("it is too short")
    block = Arena(ALIGNMENT)
    file.read(block.view, 0)
    magic, version, offset, size, checksum = _HEADER.unpack(block.view[: _HEADER.size])
    if magic != _MAGIC or version != VERSION:
        raise ValueError("it has no header of this version")
    if offset % ALIGNMENT or offset + aligned(size) != file.size:
        raise ValueError(f"it has {file.size} bytes and should have {offset + aligned(size)}")
    area = Arena(size)
    file.read(area.view, offset)
    text = bytes(area.view[:size])
    if xxhash.xxh3_64_intdigest(text) != checksum:
        raise ValueError("its index does not have its checksum")
    table: dict[str, Any] = json.loads(text)
    if table["identity"] != identity:
        raise ValueError("it holds other weights")
    units = tuple(tuple(_tensor(row) for row in unit) for unit in table["units"])
    linears = tuple(tuple(StoredLinear(**row) for row in unit) for unit in table["linears"])
    return StoreIndex(identity, units, linears, _tensor(table["embedding"]))


def _tensor(row: dict[str, Any]) -> StoredTensor:
    coding = None if row["coding"] is None else Coding(**row["coding"])
    return StoredTensor(**(row | {"shape": tuple(row["shape"]), "coding": coding}))


def bits_of(tensor: Tensor) -> U16:
    """The numbers of a contiguous tensor, or of the bytes of bfloat16, as uint16 [n]."""
    flat = tensor.detach().contiguous().view(-1)
    found: U16 = flat.view(torch.int16).numpy().view(np.uint16)
    return found


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
