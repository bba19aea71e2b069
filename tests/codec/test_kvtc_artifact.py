"""The calibration file: back and forth, and hostile ones."""

from __future__ import annotations

import dataclasses
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from stepwell.codec.kvtc.artifact import (
    dump_calibration,
    load_calibration,
    read_calibration,
    save_calibration,
    storage_report,
)
from stepwell.codec.kvtc.container import VERSION, ArtifactError, read_sections, write_sections
from stepwell.codec.kvtc.matrix import Precision
from tests.codec.kvtc_shapes import WEIGHTS, calibration, rows

PACKED: frozenset[str] = frozenset()


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("precision", list(Precision))
def test_a_loaded_calibration_codes_the_same(
    joint: bool, precision: Precision, tmp_path: Path
) -> None:
    before = calibration(joint=joint, precision=precision)
    path = tmp_path / "a.kvtc"
    size = save_calibration(before, path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.kvtc"] and path.stat().st_size == size
    after = read_calibration(path, weights=WEIGHTS)
    assert dump_calibration(after) == dump_calibration(before)
    chunk, rungs = rows(64, seed=70), [1] * len(before.planes)
    data = before.encode_rows(chunk, rungs=rungs)
    assert after.encode_rows(chunk, rungs=rungs) == data
    assert torch.equal(after.decode_rows(data, tokens=64), before.decode_rows(data, tokens=64))
    assert after.keys == before.keys and after.values == before.values


def test_other_weights_are_refused() -> None:
    data = dump_calibration(calibration(joint=True))
    with pytest.raises(ArtifactError, match="other weights"):
        load_calibration(data, weights=bytes(32))
    load_calibration(data, weights=WEIGHTS)


def test_files_of_another_version_are_refused_with_what_to_do() -> None:
    data = bytearray(dump_calibration(calibration(joint=True)))
    struct.pack_into("<H", data, 8, VERSION - 1)
    with pytest.raises(ArtifactError, match=r"older version.*stepwell calibrate"):
        load_calibration(bytes(data))
    struct.pack_into("<H", data, 8, VERSION + 1)
    with pytest.raises(ArtifactError, match="newer version"):
        load_calibration(bytes(data))


def test_storage_is_told() -> None:
    report = storage_report(calibration(joint=True, precision=Precision.CODED))
    assert report["total"] == report["transforms"] + report["ladders_and_rest"]
    assert report["ladders_and_rest"] > 0 and report["transforms"] > 0


def test_every_changed_byte_is_refused() -> None:
    data = dump_calibration(calibration(joint=True))
    rng = np.random.default_rng(3)
    places = {*range(64), *rng.integers(0, len(data), 400).tolist(), len(data) - 1}
    for place in sorted(places):
        wrong = bytearray(data)
        wrong[place] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(ArtifactError):
            load_calibration(bytes(wrong), weights=WEIGHTS)
    for end in (0, 7, 60, 200, len(data) // 2, len(data) - 1):
        with pytest.raises(ArtifactError):
            load_calibration(data[:end], weights=WEIGHTS)
    with pytest.raises(ArtifactError):
        load_calibration(data + b"\0", weights=WEIGHTS)


def changed(name: str, change: Any, precision: Precision = Precision.FLOAT16) -> bytes:
    """An artifact with right checksums and one section that `change` made of the old one."""
    weights, arrays = read_sections(dump_calibration(calibration(joint=True, precision=precision)))
    if name == "meta":
        meta = json.loads(arrays["meta"].tobytes())
        change(meta)
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    else:
        arrays[name] = change(arrays[name].copy())
    return write_sections(arrays, weights=weights, packed=PACKED)


def put(array: Any, index: Any, value: Any) -> Any:
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.mean", lambda a: put(a, 3, np.nan)),
        ("0.mean", lambda a: a[:-1]),
        ("0.mean", lambda a: a.astype(np.float16)),
        ("0.variances", lambda a: a[::-1].copy()),
        ("0.variances", lambda a: -a),
        ("0.g0.codes", lambda a: a * 0),
        ("0.g0.codes", lambda a: a[:, :-1]),
        ("0.g0.codes", lambda a: np.zeros((0, 0), np.float16)),
        ("0.g0.columns", lambda a: a * 0),
        ("0.root0", lambda a: a * 0),
        ("0.root1", lambda a: a[0]),
        ("0.frequencies", lambda a: put(a, (0, 255), 0)),
        ("0.frequencies", lambda a: a + np.uint16(1)),
        ("0.offsets", lambda a: put(a, (0, 0), 500)),
        ("0.contexts", lambda a: put(a, 0, 999)),
        ("0.coded", lambda a: put(a, 0, 4_000_000_000)),
        ("0.coded", lambda a: a * 0),
        ("meta", lambda m: m.pop("keys")),
        ("meta", lambda m: m.update(keys=7)),
        ("meta", lambda m: m.update(planes=[])),
        ("meta", lambda m: m["planes"].append(m["planes"][0])),
        ("meta", lambda m: m["keys"][0].update(heads=-1)),
        ("meta", lambda m: m["keys"][0].update(heads=1e9)),
        ("meta", lambda m: m["keys"][0]["rotary"].update(scaling=0)),
        ("meta", lambda m: m["keys"][0]["rotary"].update(inv_freq=[1.0] * 99)),
        ("meta", lambda m: m["planes"][0].update(energy=0)),
        ("meta", lambda m: m["planes"][0].update(start=5)),
        ("meta", lambda m: m["planes"][0].update(metric=[1])),
        ("meta", lambda m: m["planes"][0]["groups"][0].update(precision="pickle")),
        ("meta", lambda m: m["planes"][0]["ladder"][0].update(step=1e30)),
        ("meta", lambda m: m["planes"][0]["ladder"][0].update(coded=10**9)),
        ("meta", lambda m: m["planes"][0]["ladder"][0].update(contexts=True)),
        ("meta", lambda m: m["planes"][0].update(ladder=[])),
        ("meta", lambda m: m["planes"][0].update(ladder="x")),
    ],
)
def test_wrong_contents_with_right_checksums_are_refused(name: str, change: Any) -> None:
    with pytest.raises(ArtifactError):
        load_calibration(changed(name, change))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps", lambda a: put(a, 0, np.inf)),
        ("steps", lambda a: put(a, 0, -a[0])),
        ("steps", lambda a: a * np.float32(2)),
        ("steps", lambda a: np.arange(1, len(a) + 1, dtype=np.float32) / 30),
        ("streams", lambda a: a[:-1]),
        ("streams", lambda a: a[:3]),
        ("streams", lambda a: np.append(a, np.uint8(0))),
        ("streams", lambda a: put(a, 0, 255)),
        ("escapes", lambda a: np.append(a, np.uint8(1))),
        ("tables", lambda a: a[:-1]),
        ("tables", lambda a: put(a, (0, 255), 0)),
        ("columns", lambda a: a[::-1].copy()),
    ],
)
def test_wrong_coded_matrices_are_refused(name: str, change: Any) -> None:
    with pytest.raises(ArtifactError):
        load_calibration(changed(f"0.g0.{name}", change, Precision.CODED))


def test_a_matrix_far_larger_than_its_bytes_is_refused() -> None:
    def widen(meta: Any) -> None:
        for side in ("keys", "values"):
            meta[side][0]["heads"] = 60_000
        meta["planes"][0]["stop"] = 2 * 8 * (60_000 + 2)
        meta["planes"][0]["groups"][0]["width"] = meta["planes"][0]["stop"]

    with pytest.raises(ArtifactError, match="larger than its bytes"):
        load_calibration(changed("meta", widen, Precision.CODED))


def test_mutated_sections_with_right_checksums_never_crash() -> None:
    """What is still accepted decodes chunks or refuses them: no other way out."""
    weights, arrays = read_sections(dump_calibration(calibration(joint=True)))
    rng = np.random.default_rng(5)
    names = sorted(arrays)
    chunk = calibration(joint=True).encode_rows(rows(8, seed=71), rungs=[2])
    for _ in range(300):
        name = names[int(rng.integers(len(names)))]
        raw = bytearray(arrays[name].tobytes())
        for _ in range(int(rng.integers(1, 4))):
            raw[int(rng.integers(len(raw)))] = int(rng.integers(256))
        mutated = np.frombuffer(bytes(raw), arrays[name].dtype).reshape(arrays[name].shape)
        data = write_sections({**arrays, name: mutated}, weights=weights, packed=PACKED)
        try:
            found = load_calibration(data)
            found.decode_rows(chunk, tokens=8)
        except ValueError:  # ArtifactError and what refuses chunks are both
            continue


def test_a_packed_bomb_is_refused() -> None:
    data = bytearray(
        write_sections(
            {"meta": np.zeros(100, np.uint8)}, weights=WEIGHTS, packed=frozenset({"meta"})
        )
    )
    struct.pack_into("<Q", data, 56 + 32, 1 << 40)  # the first dimension
    struct.pack_into("<Q", data, 56 + 88, xxhash.xxh3_64_intdigest(bytes(data[: 56 + 88])))
    with pytest.raises(ArtifactError):
        read_sections(bytes(data))


def test_planes_must_cover_the_rows() -> None:
    whole = calibration(joint=False)
    with pytest.raises(ValueError, match="cover"):
        dataclasses.replace(whole, planes=whole.planes[:1])
