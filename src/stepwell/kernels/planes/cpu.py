"""Planes on the CPU: the calls into compiled code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell.kernels.native import team
from stepwell.kernels.native.arrays import address_of
from stepwell.kernels.planes import cpu_kernel as compiled
from stepwell.kernels.planes.base import U8, Buffer, Kind, Planes


def split(parts: Sequence[Buffer], planes: Planes) -> None:
    """See `base.PlanesVersion`."""
    _walk(parts, planes, splits=True)


def merge(planes: Planes, parts: Sequence[Buffer]) -> None:
    """See `base.PlanesVersion`."""
    if any(part.readonly for part in parts):
        raise ValueError("parts to fill are writable")
    _walk(parts, planes, splits=False)


def count(symbols: U8, segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """See `base.PlanesVersion`."""
    sizes = np.ascontiguousarray(segments, np.int64)
    assert sizes.sum() > 0 and len(symbols) % int(sizes.sum()) == 0, "whole rounds of segments"
    tables = np.zeros((len(sizes), 4, 256), np.uint32)
    sums = np.empty((len(sizes), 256), np.int64)
    fields = [0] * compiled.FIELDS
    fields[compiled.NUMBER] = len(sizes)
    fields[compiled.SYMBOLS] = address_of(symbols)
    fields[compiled.COUNT] = len(symbols)
    fields[compiled.SEGMENTS] = address_of(sizes)
    fields[compiled.TABLES] = address_of(tables)
    fields[compiled.SUMS] = address_of(sums)
    team.run(compiled.counting_kernel(), torch.tensor(fields, dtype=torch.int64), tasks=1)
    return sums


def _walk(parts: Sequence[Buffer], planes: Planes, *, splits: bool) -> None:
    views = [np.frombuffer(part, np.uint8) for part in parts]  # kept alive during the call
    size = planes.kind.itemsize
    assert sum(len(view) for view in views) == len(planes.symbols) * size, "parts and planes agree"
    pairs = np.array([(address_of(view), len(view) // size) for view in views], np.int64)
    low = address_of(planes.rest)
    fields = [0] * compiled.FIELDS
    fields[compiled.PARTS] = address_of(pairs)
    fields[compiled.NUMBER] = len(views)
    fields[compiled.SYMBOLS] = address_of(planes.symbols)
    fields[compiled.LOW] = low
    fields[compiled.HIGH] = low + (2 * len(planes.symbols) if planes.kind is Kind.FLOAT32 else 0)
    kernel = compiled.walking_kernel(int(planes.kind), splits)
    team.run(kernel, torch.tensor(fields, dtype=torch.int64), tasks=1)
