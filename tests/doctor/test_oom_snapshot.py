"""torch's memory snapshots, read without torch."""

from __future__ import annotations

import io
import json
import os
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.doctor.oom.plain_pickle import UnreadableSnapshot, load_plain
from stepwell.doctor.oom.snapshot import parse_snapshot
from stepwell.doctor.oom.snapshot_sums import sum_devices
from stepwell.doctor.oom.source import Report, read_stream

MIB = 1 << 20


def frame(name: str, filename: str = "/app/vllm/model.py", line: int = 7) -> dict[str, Any]:
    return {"name": name, "filename": filename, "line": line}


def block(size: int, state: str, *, frames: list[Any] | None = None, requested: int = 0) -> dict:
    return {
        "size": size,
        "requested_size": requested or size,
        "address": 0,
        "state": state,
        "frames": frames or [],
    }


def segment(*blocks: dict, pool: tuple[int, int] = (0, 0), device: int = 0) -> dict[str, Any]:
    """As torch 2.13 writes it."""
    used = sum(b["size"] for b in blocks if b["state"] == "active_allocated")
    return {
        "device": device,
        "address": 0x7F0000000000,
        "total_size": sum(b["size"] for b in blocks),
        "allocated_size": used,
        "active_size": used,
        "requested_size": used,
        "stream": 0,
        "segment_type": "large",
        "segment_pool_id": pool,
        "is_expandable": False,
        "frames": [],
        "blocks": list(blocks),
    }


def fragmented() -> dict[str, Any]:
    """30 MiB free in three pieces of 10; 24 MiB asked for."""
    inner = frame("empty", "/usr/lib/python3.12/site-packages/torch/nn/init.py", 1)
    weights = [inner, frame("create_weights", "/app/linear.py", 88), frame("load_model")]
    pieces = [
        segment(block(40 * MIB, "active_allocated", frames=weights), block(10 * MIB, "inactive"))
        for _ in range(3)
    ]
    graph = segment(block(6 * MIB, "active_allocated"), block(2 * MIB, "inactive"), pool=(0, 1))
    oom = {
        "action": "oom", "size": 24 * MIB, "device_free": 5 * MIB, "stream": 0,
        "frames": [frame("forward", "/app/mlp.py", 12)],
    }  # fmt: skip
    return {"segments": [*pieces, graph], "device_traces": [[{"action": "alloc"}, oom]]}


def read(value: Any, *, as_json: bool = False) -> Report:
    data = json.dumps(value).encode() if as_json else pickle.dumps(value)
    return read_stream(io.BytesIO(data))


@pytest.mark.parametrize("as_json", [False, True])
def test_fragmentation_is_found(as_json: bool) -> None:
    report = read(fragmented(), as_json=as_json)
    found, (sums,) = report.explanation, report.devices
    assert found is not None
    assert found.kind == "snapshot_fragmented"
    assert "expandable_segments" in found.steps[0].change
    assert "mlp.py:12 forward" in found.text
    assert (sums.free, sums.largest_free, sums.private_free) == (30 * MIB, 10 * MIB, 2 * MIB)
    assert sums.fragmentation == pytest.approx(2 / 3)
    assert sums.pinned == 30 * MIB
    assert sums.parts == {"weights": 120 * MIB, "private pools (CUDA graphs)": 6 * MIB}


def test_the_line_that_holds_is_the_programs_own() -> None:
    (sums,) = read(fragmented()).devices
    assert (sums.top[0].where, sums.top[0].blocks) == ("linear.py:88 create_weights", 3)


def test_a_full_device_is_not_called_fragmented() -> None:
    value = fragmented()
    value["device_traces"][0][1]["size"] = 100 * MIB
    found = read(value).explanation
    assert found is not None and found.kind == "snapshot_full"


def test_room_at_the_time_of_the_snapshot_is_said() -> None:
    value = fragmented()
    value["device_traces"][0][1]["size"] = 4 * MIB
    found = read(value).explanation
    assert found is not None and found.kind == "snapshot_later"


def test_without_a_failure_it_says_who_holds_what() -> None:
    found = read(fragmented()["segments"]).explanation
    assert found is not None and found.kind == "snapshot_held"
    assert found.holders[0].name == "weights"


def test_the_failed_device_is_explained() -> None:
    value = fragmented()
    value["segments"].append(segment(block(999 * MIB, "active_allocated"), device=1))
    report = read(value)
    assert report.explanation is not None and report.explanation.device == "GPU 0"
    assert [sums.device for sums in report.devices] == [1, 0]


def test_blocks_of_older_torch_are_read() -> None:
    old = {"size": 512, "state": "active_allocated",
           "history": [{"addr": 1, "real_size": 500, "frames": [frame("f")]}]}  # fmt: skip
    (sums,) = sum_devices(parse_snapshot([segment() | {"total_size": 512, "blocks": [old]}]))
    assert (sums.allocated, sums.rounding, sums.top[0].where) == (512, 12, "model.py:7 f")


class Harm:
    def __reduce__(self) -> Any:
        return os.system, ("false",)


@pytest.mark.parametrize("value", [Harm(), {"segments": [Harm()]}, os.system, {1: Harm}])
def test_a_pickle_that_names_code_is_refused(value: Any) -> None:
    with pytest.raises(UnreadableSnapshot, match="plain values only"):
        load_plain(pickle.dumps(value))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parse_snapshot(load_plain(b"\x80\x04" + data))
    except UnreadableSnapshot:
        pass


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["segments", "blocks", "size", "total_size", "state", "device_traces"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_any_plain_value_is_read_or_refused(value: Any) -> None:
    assert load_plain(pickle.dumps(value)) == value or value != value or "nan" in repr(value)
    try:
        sum_devices(parse_snapshot(value))
    except UnreadableSnapshot:
        pass


STATES = st.sampled_from(["active_allocated", "active_awaiting_free", "inactive"])
BLOCKS = st.lists(st.tuples(st.integers(1, 1 << 40), STATES), max_size=6)


@given(st.lists(st.tuples(BLOCKS, st.booleans()), min_size=1, max_size=6))
def test_sums_account_for_every_byte(parts: list[tuple[list[tuple[int, str]], bool]]) -> None:
    segments = [
        segment(*(block(size, state) for size, state in blocks), pool=(0, int(private)))
        for blocks, private in parts
    ]
    (sums,) = sum_devices(parse_snapshot(load_plain(pickle.dumps({"segments": segments}))))
    total = sum(size for blocks, _ in parts for size, _ in blocks)
    assert sums.reserved == total
    assert sums.allocated + sums.waiting + sums.free + sums.private_free == total
    assert sums.largest_free <= sums.free
    assert sum(sums.parts.values()) == sums.allocated
    assert 0.0 <= sums.fragmentation < 1.0


def test_sums_are_those_of_torchs_own_reader() -> None:
    """The fixture has the structure that torch's reader expects, and both add up alike."""
    pytest.importorskip("torch")
    from torch.cuda._memory_viz import segsum

    value = fragmented()
    (sums,) = read(value).devices
    shown = segsum(value)
    assert f"total_reserved: {sums.reserved / MIB:.1f}MiB" in shown
    assert f"total_allocated: {sums.allocated / MIB:.1f}MiB" in shown
    assert f"total_free: {(sums.free + sums.private_free) / MIB:.1f}MiB" in shown
