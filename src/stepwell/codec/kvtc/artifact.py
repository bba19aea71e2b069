"""A calibration as one small file, and back, every number checked.

Sections (container.py): `meta`, JSON; and for plane i and group j

    i.mean [p] f32 · i.variances [r] f32 · i.g<j>.columns [r_j] u32
    i.g<j>.codes [w, r_j] f16 or f32; or, where they are levels (matrix_code.py),
    i.g<j>.steps [r_j] f32 · i.g<j>.streams u8 · i.g<j>.escapes u8 · i.g<j>.tables [steps, 256] u16
    i.root<h> f32, where there is a metric
    i.frequencies [sum of contexts, 256] u16 · i.offsets [sum of contexts, 3] i16, 1/256 of a step
    i.contexts [sum of coded] u16 · i.coded [sum of coded] u32
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.codec.kvtc.allocation import Rung
from stepwell.codec.kvtc.artifact_read import read_plane, read_row_layout
from stepwell.codec.kvtc.calibration import Calibration, Plane
from stepwell.codec.kvtc.container import Array, ArtifactError, read_sections, write_sections
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.matrix import Precision, StoredMatrix

MAX_META_BYTES = 1 << 22
MAX_FILE_BYTES = 1 << 36
_HEAVY = (".codes", ".streams", ".escapes", ".mean")  # what deflating would not shrink


def dump_calibration(calibration: Calibration) -> bytes:
    """The file's bytes: the same for the same calibration."""
    arrays: dict[str, Array] = {}
    meta = {
        "keys": _layout_meta(calibration.keys),
        "values": _layout_meta(calibration.values),
        "planes": [
            _write_plane(plane, f"{number}.", arrays)
            for number, plane in enumerate(calibration.planes)
        ],
    }
    text = json.dumps(meta, sort_keys=True, allow_nan=False).encode()
    arrays = {"meta": np.frombuffer(text, np.uint8), **arrays}
    light = frozenset(name for name in arrays if not name.endswith(_HEAVY))
    return write_sections(arrays, weights=calibration.weights, packed=light)


def load_calibration(data: bytes | memoryview, *, weights: bytes | None = None) -> Calibration:
    """The calibration in these bytes. ArtifactError for anything else, and where it belongs to
    other weights than `weights`."""
    found, arrays = read_sections(data)
    if weights is not None and found != weights:
        raise ArtifactError("it was made for other weights")
    try:
        meta = _read_meta(arrays)
        keys, values = (read_row_layout(meta[name]) for name in ("keys", "values"))
        planes = tuple(
            read_plane(entry, f"{number}.", arrays) for number, entry in enumerate(meta["planes"])
        )
        return Calibration(found, keys, values, planes)
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RuntimeError) as error:
        raise ArtifactError(f"its contents do not fit together: {error}") from error


def save_calibration(calibration: Calibration, path: Path) -> int:
    """Write the file whole or not at all; its bytes."""
    data = dump_calibration(calibration)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
    return len(data)


def read_calibration(path: Path, *, weights: bytes | None = None) -> Calibration:
    """The calibration in a file. ArtifactError as in `load_calibration`, OSError as in reading."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ArtifactError("far too large")
    return load_calibration(path.read_bytes(), weights=weights)


def storage_report(calibration: Calibration) -> dict[str, int]:
    """Bytes by what they are for: transforms, ladders (contexts, tables, reconstruction), all."""
    total = len(dump_calibration(calibration))
    transforms = sum(plane.basis.nbytes for plane in calibration.planes)
    return {"transforms": transforms, "ladders_and_rest": total - transforms, "total": total}


def _read_meta(arrays: dict[str, Array]) -> Any:
    raw = arrays["meta"]
    if raw.dtype != np.uint8 or raw.nbytes > MAX_META_BYTES:
        raise ArtifactError("its description is too large")
    try:
        return json.loads(raw.tobytes())
    except (ValueError, RecursionError) as error:
        raise ArtifactError("its description is not JSON") from error


def _layout_meta(layout: RowLayout) -> list[dict[str, Any]]:
    found = []
    for part in layout.parts:
        entry: dict[str, Any] = {"heads": part.heads, "dim": part.dim}
        if part.rotary is not None:
            entry["rotary"] = {
                "inv_freq": list(part.rotary.inv_freq),
                "scaling": part.rotary.scaling,
                "interleaved": part.rotary.interleaved,
            }
        found.append(entry)
    return found


def _write_plane(plane: Plane, prefix: str, arrays: dict[str, Array]) -> dict[str, Any]:
    basis = plane.basis
    arrays[prefix + "mean"] = basis.mean.numpy()
    arrays[prefix + "variances"] = basis.variances.numpy()
    for number, group in enumerate(basis.groups):
        name = f"{prefix}g{number}."
        arrays[name + "columns"] = group.columns.numpy().astype(np.uint32)
        _write_matrix(group.matrix, name, arrays)
    metric = basis.metric
    for number, root in enumerate(() if metric is None else metric.roots):
        arrays[f"{prefix}root{number}"] = root.numpy()
    _write_ladder(plane.ladder, prefix, arrays)
    return {
        "start": plane.start,
        "stop": plane.stop,
        "energy": plane.energy,
        "price": plane.price,
        "total": basis.total,
        "groups": [
            {
                "start": group.start,
                "width": group.stop - group.start,
                "precision": group.matrix.precision.value,
            }
            for group in basis.groups
        ],
        "metric": None if metric is None else list(metric.widths),
        "ladder": [_rung_meta(rung) for rung in plane.ladder],
    }


def _write_matrix(matrix: StoredMatrix, name: str, arrays: dict[str, Array]) -> None:
    if matrix.precision is not Precision.CODED:
        arrays[name + "codes"] = matrix.codes.contiguous().numpy()
        return
    packed = matrix.packed
    arrays[name + "steps"] = matrix.scales.numpy()
    arrays[name + "streams"] = np.frombuffer(packed.streams, np.uint8)
    arrays[name + "escapes"] = np.frombuffer(packed.escapes, np.uint8)
    arrays[name + "tables"] = packed.frequencies


def _write_ladder(ladder: tuple[Rung, ...], prefix: str, arrays: dict[str, Array]) -> None:
    models = [rung.model for rung in ladder]
    offsets = np.concatenate([model.offsets for model in models])
    arrays[prefix + "frequencies"] = np.concatenate([model.tables.frequencies for model in models])
    arrays[prefix + "offsets"] = np.rint(offsets * 256).astype(np.int16)
    arrays[prefix + "contexts"] = np.concatenate([model.contexts for model in models])
    arrays[prefix + "coded"] = np.concatenate([rung.coded for rung in ladder]).astype(np.uint32)


def _rung_meta(rung: Rung) -> dict[str, Any]:
    return {
        "step": rung.step,
        "coded": len(rung.coded),
        "contexts": rung.model.tables.contexts,
        "bits": rung.bits,
        "error": rung.error,
    }
