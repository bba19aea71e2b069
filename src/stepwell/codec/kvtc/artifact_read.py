"""The arrays and descriptions of an artifact as objects, refusing what does not fit together."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.kvtc.allocation import MAX_CONTEXTS, Rung
from stepwell.codec.kvtc.calibration import Plane
from stepwell.codec.kvtc.cells import OFFSETS
from stepwell.codec.kvtc.container import Array, ArtifactError
from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.levels import SYMBOLS, LevelTables
from stepwell.codec.kvtc.matrix import Precision, StoredMatrix
from stepwell.codec.kvtc.matrix_code import PackedLevels, unpack_levels
from stepwell.codec.kvtc.metric import Metric
from stepwell.codec.kvtc.quantizer import QuantizerModel
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.kvtc.transform import Basis, BasisGroup

MAX_WIDTH = 1 << 20
MAX_LAYERS = 1 << 12
MAX_RUNGS = 255
_WORST_CONDITION = 1e6

_CODE_TYPES = {
    Precision.FLOAT32: np.float32,
    Precision.FLOAT16: np.float16,
}
_ROWS_AT_ONCE = 1024
_NORMS = 0.7, 1.3  # rounding a matrix in few bits lengthens its columns a little


def read_row_layout(entries: Any) -> RowLayout:
    """A layout from its description."""
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_LAYERS:
        raise ArtifactError("a layout is a list of layers")
    parts = []
    for entry in entries:
        heads, dim = _whole(entry["heads"], 1, MAX_WIDTH), _whole(entry["dim"], 1, MAX_WIDTH)
        rotary = _read_rotary(entry["rotary"]) if "rotary" in entry else None
        if rotary is not None and rotary.rotary_dim > dim:
            raise ArtifactError("a rotary embedding is wider than its head")
        parts.append(LayerPart(heads=heads, dim=dim, rotary=rotary))
    layout = RowLayout(tuple(parts))
    if layout.width > MAX_WIDTH:
        raise ArtifactError("rows are too wide")
    return layout


def read_plane(entry: Any, prefix: str, arrays: dict[str, Array]) -> Plane:
    """A plane from its description and the arrays whose names begin with `prefix`."""
    start, stop = _whole(entry["start"], 0, MAX_WIDTH), _whole(entry["stop"], 1, MAX_WIDTH)
    if stop <= start:
        raise ArtifactError("a plane without features")
    basis = _read_basis(entry, prefix, arrays, width=stop - start)
    return Plane(
        start=start,
        stop=stop,
        basis=basis,
        ladder=_read_ladder(entry["ladder"], prefix, arrays, rank=basis.rank),
        energy=_positive(entry["energy"]),
        price=_number(entry["price"], 0.0, 100.0),
    )


def _read_basis(entry: Any, prefix: str, arrays: dict[str, Array], *, width: int) -> Basis:
    variances = arrays[prefix + "variances"]
    rank = len(_shaped(variances, np.float32, (None,)))
    if not 0 < rank <= width or (np.diff(variances) > 0).any() or (variances < 0).any():
        raise ArtifactError("variances do not descend")
    groups, edge = [], 0
    for number, description in enumerate(entry["groups"]):
        group = _read_group(description, f"{prefix}g{number}.", arrays)
        if group.start != edge:
            raise ArtifactError("groups do not follow one another")
        edge = group.stop
        groups.append(group)
    if edge != width:
        raise ArtifactError("groups do not cover the features")
    columns = torch.cat([group.columns for group in groups]).sort().values
    if not torch.equal(columns, torch.arange(rank)):
        raise ArtifactError("each coefficient belongs to one group")
    return Basis(
        mean=_tensor(_shaped(arrays[prefix + "mean"], np.float32, (width,))),
        groups=tuple(groups),
        variances=_tensor(variances),
        total=_positive(entry["total"]),
        metric=_read_metric(entry["metric"], prefix, arrays, width=width),
    )


def _read_group(entry: Any, name: str, arrays: dict[str, Array]) -> BasisGroup:
    width = _whole(entry["width"], 1, MAX_WIDTH)
    columns = _shaped(arrays[name + "columns"], np.uint32, (None,))
    if len(columns) > width or (np.diff(columns.astype(np.int64)) <= 0).any():
        raise ArtifactError("a group's coefficients do not ascend, or exceed its features")
    precision = Precision(entry["precision"])
    matrix = _read_matrix(precision, name, arrays, shape=(width, len(columns)))
    squares = torch.zeros(len(columns))
    for start in range(0, width, _ROWS_AT_ONCE):
        squares += matrix.codes[start : start + _ROWS_AT_ONCE].float().square().sum(0)
    norms = squares.sqrt() * matrix.scales
    if not bool(((norms > _NORMS[0]) & (norms < _NORMS[1])).all()):
        raise ArtifactError("directions are not unit vectors")
    return BasisGroup(
        start=_whole(entry["start"], 0, MAX_WIDTH),
        matrix=matrix,
        columns=torch.from_numpy(columns.astype(np.int64)),
    )


def _read_matrix(
    precision: Precision, name: str, arrays: dict[str, Array], *, shape: tuple[int, int]
) -> StoredMatrix:
    if precision is not Precision.CODED:
        codes = _shaped(arrays[name + "codes"], _CODE_TYPES[precision], shape)
        return StoredMatrix(precision, _tensor(codes), torch.ones(shape[1]))
    steps = _shaped(arrays[name + "steps"], np.float32, (shape[1],))
    packed = PackedLevels(
        streams=_shaped(arrays[name + "streams"], np.uint8, (None,)).tobytes(),
        escapes=_shaped(arrays[name + "escapes"], np.uint8, (None,)).tobytes(),
        frequencies=_shaped(arrays[name + "tables"], np.uint16, (None, SYMBOLS)),
    )
    levels = unpack_levels(packed, steps, rows=shape[0])
    return StoredMatrix(precision, torch.from_numpy(levels), _tensor(steps))


def _read_metric(
    widths: Any, prefix: str, arrays: dict[str, Array], *, width: int
) -> Metric | None:
    if widths is None:
        return None
    runs = tuple(_whole(run, 1, MAX_WIDTH) for run in widths)
    if sum(runs) != width:
        raise ArtifactError("a metric does not cover the features")
    roots = []
    for number in range(len(runs)):
        root = _shaped(arrays[f"{prefix}root{number}"], np.float32, (None, None))
        if root.shape[0] != root.shape[1] or not np.linalg.cond(root) < _WORST_CONDITION:
            raise ArtifactError("a metric's root is not square or not invertible")
        roots.append(_tensor(root))
    return Metric(tuple(roots), runs)


def _read_ladder(
    entries: Any, prefix: str, arrays: dict[str, Array], *, rank: int
) -> tuple[Rung, ...]:
    if not isinstance(entries, list) or not 0 < len(entries) <= MAX_RUNGS:
        raise ArtifactError("a ladder has 1 to 255 rungs")
    coded_counts = [_whole(entry["coded"], 1, rank) for entry in entries]
    context_counts = [_whole(entry["contexts"], 1, MAX_CONTEXTS) for entry in entries]
    coded_total, context_total = sum(coded_counts), sum(context_counts)
    shape = (context_total, SYMBOLS)
    frequencies = _shaped(arrays[prefix + "frequencies"], np.uint16, shape)
    offsets = _shaped(arrays[prefix + "offsets"], np.int16, (context_total, OFFSETS))
    contexts = _shaped(arrays[prefix + "contexts"], np.uint16, (coded_total,))
    coded = _shaped(arrays[prefix + "coded"], np.uint32, (coded_total,)).astype(np.int64)
    if (abs(offsets.astype(np.int64)) > 128).any():
        raise ArtifactError("a reconstruction offset is beyond half a step")
    found, first, row = [], 0, 0
    for entry, count, tables in zip(entries, coded_counts, context_counts, strict=True):
        part, rows = slice(first, first + count), slice(row, row + tables)
        model = QuantizerModel(
            contexts=contexts[part].copy(),
            tables=LevelTables(frequencies[rows]),
            offsets=offsets[rows].astype(np.float32) / np.float32(256),
        )
        found.append(_checked_rung(entry, coded[part], model, rank=rank))
        first, row = first + count, row + tables
    if any(a.step >= b.step for a, b in itertools.pairwise(found)):
        raise ArtifactError("steps do not ascend")
    return tuple(found)


def _checked_rung(entry: Any, coded: Array, model: QuantizerModel, *, rank: int) -> Rung:
    if (np.diff(coded) <= 0).any() or coded[-1] >= rank:
        raise ArtifactError("coded coefficients do not ascend within the rank")
    if int(model.contexts.max()) >= model.tables.contexts:
        raise ArtifactError("a context without a table")
    return Rung(
        step=_positive(entry["step"]),
        coded=coded,
        model=model,
        bits=_number(entry["bits"], 0.0, 1e12),
        error=_number(entry["error"], 0.0, 1e30),
    )


def _read_rotary(entry: Any) -> Rotary:
    frequencies = entry["inv_freq"]
    if not isinstance(frequencies, list) or len(frequencies) > MAX_WIDTH:
        raise ArtifactError("rotary frequencies are a list")
    return Rotary(
        inv_freq=tuple(_number(value, 0.0, 1e6) for value in frequencies),
        scaling=_positive(entry["scaling"]),
        interleaved=bool(entry["interleaved"]),
    )


def _shaped(array: Array, dtype: Any, shape: tuple[int | None, ...]) -> Array:
    """The array, if it has this type, this shape (None: any length) and only finite numbers."""
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ArtifactError("an array has another type or shape than its use")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArtifactError("numbers that are not finite")
    return array


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array.copy())


def _whole(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ArtifactError(f"a number out of its range: {value!r:.40}")
    return value


def _number(value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high or not math.isfinite(value):
        raise ArtifactError(f"a number out of its range: {value!r:.40}")
    return float(value)


def _positive(value: Any) -> float:
    found = _number(value, 0.0, 1e30)
    if not found > 0:
        raise ArtifactError("a number that must be positive is not")
    return found
