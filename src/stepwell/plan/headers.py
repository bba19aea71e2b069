"""The headers of safetensors files: names, shapes and sizes of tensors, without reading weights.

A file begins with the header's length (8 bytes, little endian) and the header, which is JSON.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.errors import CheckpointNotFound
from stepwell.plan.architecture import ModelSpec

_LARGEST_HEADER = 100 << 20  # as the safetensors library


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. `nbytes` as stored."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def numbers(self) -> int:
        """Elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Name -> tensor of one file. Raises CheckpointNotFound for what is no safetensors file."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LARGEST_HEADER:
                raise ValueError("its header is too large")
            header: dict[str, Any] = json.loads(file.read(length))
        return {
            name: StoredTensor(
                str(entry["dtype"]),
                tuple(entry["shape"]),
                entry["data_offsets"][1] - entry["data_offsets"][0],
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise CheckpointNotFound(f"{path} is no safetensors file: {error}.") from error


def attach(spec: ModelSpec, weights: Path) -> ModelSpec:
    """The same with `stored_bytes` as the headers of a folder, a file or an index state them.
    Unchanged where the folder has no safetensors files."""
    files = _files(weights)
    if not files:
        return spec
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        tensors |= read_header(file)
    stored = sum(tensor.nbytes for tensor in tensors.values())
    return dataclasses.replace(spec, stored_bytes=stored)


def _files(weights: Path) -> list[Path]:
    if weights.is_dir():
        return sorted(weights.glob("*.safetensors"))
    if weights.suffix == ".safetensors":
        return [weights]
    try:
        names = set(json.loads(weights.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointNotFound(f"{weights} is no safetensors index: {error}.") from error
    missing = sorted(name for name in names if not (weights.parent / name).is_file())
    if missing:
        raise CheckpointNotFound(f"{weights.parent} lacks {', '.join(missing[:3])}.")
    return sorted(weights.parent / name for name in names)
