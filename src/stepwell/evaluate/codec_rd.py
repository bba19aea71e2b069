"""Rate and distortion of `kvtc` beside `kvtc-paper` and others, on a model's own cache.

    python -m stepwell.evaluate.codec_rd --out bench/results/codec-rd-house.json

Calibration and measured texts are different files. All bytes are real and decoded again; at each
nominal ratio the paper's codec is measured first and ours is then set to the same error: apart, so
that keys' error equals the paper's and values' error the paper's; joint, so that neither exceeds
it. The first 4 tokens are left out on all sides (they stay exact in service), all others are coded.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.base.config import ModelConfig
from stepwell.codec.kvtc.artifact import storage_report
from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.control import rung_near
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.paper import Order
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.codec.kvtc.train import Gatherer, TrainingOptions, train_calibration
from stepwell.evaluate.codec_measure import (
    CHUNK_TOKENS,
    Energy,
    Point,
    coding_of,
    measure,
    plane_step_at,
)
from stepwell.evaluate.codec_paper import Paper
from stepwell.evaluate.codec_rivals import CacheGenLike, int4_per_head, turned
from stepwell.evaluate.codec_text import TextSets, make_sets
from stepwell.model.load import LoadedModel, find_checkpoint, load_model, read_hf_config
from stepwell.model.record import record
from stepwell.model.rotary import row_layouts

RATIOS = (4, 8, 16, 32, 64)
ROW_TOKENS = SINK_TOKENS + 4 * CHUNK_TOKENS


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    loaded: LoadedModel
    keys: RowLayout
    values: RowLayout
    sets: TextSets
    gathered: Gatherer

    @property
    def split(self) -> int:
        """Features of keys."""
        return self.keys.width

    def train(self, **options: Any) -> Calibration:
        """A calibration of ours."""
        return train_calibration(
            self.gathered,
            weights=bytes(32),
            keys=self.keys,
            values=self.values,
            options=TrainingOptions(**options),
        )

    def chunks(self, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """Chunks [256, width] of these texts' caches, sinks left out."""
        found: list[Tensor] = []
        for tokens in rows:
            recorded = record(self.loaded, tokens, keys=self.keys, values=self.values)
            found += torch.split(recorded.rows[SINK_TOKENS:], CHUNK_TOKENS)
        return found


def prepare(model: str, *, rows: tuple[int, int, int], seed: int) -> Bench:
    """Load the model and run the calibration texts through it."""
    folder = find_checkpoint(model)
    config = ModelConfig(path=model)
    loaded = load_model(
        config, folder, read_hf_config(folder), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    keys, values = row_layouts(loaded)
    assert loaded.tokenizer is not None
    sets = make_sets(loaded.tokenizer.encode, first=1, length=ROW_TOKENS, rows=rows, seed=seed)
    gathered = Gatherer.of(width=keys.width + values.width)
    for tokens in sets.calibration:
        recorded = record(loaded, tokens, keys=keys, values=values)
        gathered.add(recorded.rows[SINK_TOKENS:])
    return Bench(loaded, keys, values, sets, gathered)


def apart_at(
    calibration: Calibration, chunks: Sequence[Tensor], energy: Energy, goal: Point
) -> tuple[Point, list[float]]:
    """Keys and values apart, each at the goal's error: the point, and bytes a token of each."""
    goals = (goal.key_error * energy.keys, goal.value_error * energy.values)
    steps = []
    for plane, limit in zip(calibration.planes, goals, strict=True):
        steps.append(plane_step_at(plane, chunks, limit=_over(limit)))
    point = measure(chunks, coding_of(calibration, steps), energy)
    tokens, sizes = sum(map(len, chunks)), []
    for plane, step in zip(calibration.planes, steps, strict=True):
        rung, size = rung_near(plane, step), 0
        for chunk in chunks:
            coefficients = plane.basis.forward(chunk[:, plane.start : plane.stop])
            size += 4 + len(plane.coder.encode(coefficients, rung=rung, step=step))
        sizes.append(size / tokens)
    return point, sizes


def _over(most: float) -> Callable[[Tensor], float]:
    return lambda error: float(error.sum()) / most


def joint_at(
    calibration: Calibration, chunks: Sequence[Tensor], energy: Energy, goal: Point, *, each: bool
) -> Point:
    """Keys and values together. `each`: neither error above the goal's; else their sum is not."""

    def limit(error: Tensor) -> float:
        keys, values, both = energy.shares(error)
        if not each:
            return both / goal.total_error
        return max(keys / goal.key_error, values / goal.value_error)

    step = plane_step_at(calibration.planes[0], chunks, limit=limit)
    return measure(chunks, coding_of(calibration, [step]), energy)


@dataclass(frozen=True)
class Contestants:
    """Everything that is trained once."""

    paper: Paper
    paper_by_layer: Paper
    apart: Calibration
    apart_by_layer: Calibration
    apart_two_groups: Calibration
    joint: Calibration


def train_all(bench: Bench) -> tuple[Contestants, dict[str, float]]:
    """The contestants, and the seconds that each took."""
    seconds: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        made = make()
        seconds[name] = round(time.perf_counter() - began, 2)
        note(f"trained {name} in {seconds[name]} s")
        return made

    layers = len(bench.keys.parts)
    arguments = (bench.gathered, bench.keys, bench.values)
    plain = {"joint": False, "precision": Precision.FLOAT16}
    return Contestants(
        paper=timed("paper", lambda: Paper.train(*arguments)),
        paper_by_layer=timed("paper_by_layer", lambda: Paper.train(*arguments, group_layers=1)),
        apart=timed("apart", lambda: bench.train(**plain)),
        apart_by_layer=timed("apart_by_layer", lambda: bench.train(**plain, group_layers=1)),
        apart_two_groups=timed(
            "apart_two_groups", lambda: bench.train(**plain, group_layers=-(-layers // 2))
        ),
        joint=timed("joint", lambda: bench.train(joint=True, precision=Precision.INT8)),
    ), seconds


def ratio_row(
    trained: Contestants, chunks: Sequence[Tensor], energy: Energy, ratio: int
) -> dict[str, Any]:
    """All contestants at one nominal ratio."""
    tries = [
        (*trained.paper.point(chunks, energy, ratio=ratio, order=order), order) for order in Order
    ]
    goal, key_bytes, value_bytes, order = min(tries, key=lambda found: found[0].bytes)
    apart, (our_keys, our_values) = apart_at(trained.apart, chunks, energy, goal)
    joint = joint_at(trained.joint, chunks, energy, goal, each=True)
    total = joint_at(trained.joint, chunks, energy, goal, each=False)
    row: dict[str, Any] = {
        "nominal_ratio": ratio,
        "paper": goal.as_dict()
        | {"key_bytes": round(key_bytes, 3), "value_bytes": round(value_bytes, 3)}
        | {"order": order.value, "plans": trained.paper.describe(ratio)},
        "paper_bytes_by_order": {o.value: round(p.bytes, 3) for p, _, _, o in tries},
        "kvtc_apart": apart.as_dict()
        | {"key_bytes": round(our_keys, 3), "value_bytes": round(our_values, 3)},
        "kvtc_joint_each_error": joint.as_dict(),
        "kvtc_joint_total_error": total.as_dict(),
        "paper_over_kvtc": {
            "keys_apart": round(key_bytes / our_keys, 3),
            "values_apart": round(value_bytes / our_values, 3),
            "both_apart": round(goal.bytes / apart.bytes, 3),
            "both_joint": round(goal.bytes / joint.bytes, 3),
            "both_joint_total_error": round(goal.bytes / total.bytes, 3),
        },
        "variants": _variants(trained, chunks, energy, ratio=ratio, goal=goal, order=order),
    }
    note(f"{ratio}x: {row['paper_over_kvtc']}")
    return row


def _variants(
    trained: Contestants,
    chunks: Sequence[Tensor],
    energy: Energy,
    *,
    ratio: int,
    goal: Point,
    order: Order,
) -> dict[str, Any]:
    """Other coders and transforms: bytes a token at the paper's error unless they say another."""
    found: dict[str, Any] = {}
    for name, deflate in _compressors().items():
        point = trained.paper.point(chunks, energy, ratio=ratio, order=order, deflate=deflate)[0]
        found[f"paper_{name}"] = {"bytes_per_token": round(point.bytes, 3)}
    by_layer = trained.paper_by_layer.point(chunks, energy, ratio=ratio, order=order)[0]
    found["paper_pca_by_layer"] = by_layer.as_dict()
    for name in ("apart_by_layer", "apart_two_groups"):
        point = apart_at(getattr(trained, name), chunks, energy, goal)[0]
        found[f"kvtc_{name}"] = point.as_dict() | {"paper_over": round(goal.bytes / point.bytes, 3)}
    return found


def _compressors() -> dict[str, Callable[[bytes], bytes]]:
    found: dict[str, Callable[[bytes], bytes]] = {"undeflated": bytes}
    try:
        import zstandard
    except ImportError:
        return found
    for level in (3, 19):
        found[f"zstd{level}"] = zstandard.ZstdCompressor(level=level).compress
    return found


def simple_rivals(
    bench: Bench, trained: Contestants, texts: Sequence[Sequence[int]], energy: Energy
) -> dict[str, Any]:
    """int4 a head and CacheGen-like, and what ours takes at their errors."""
    positions = torch.arange(SINK_TOKENS, ROW_TOKENS)
    rows = []
    for tokens in texts:
        rows.append(record(bench.loaded, tokens, keys=bench.keys, values=bench.values).rows)
    chunks = [c for r in rows for c in torch.split(r[SINK_TOKENS:], CHUNK_TOKENS)]
    places = [p for _ in rows for p in torch.split(positions, CHUNK_TOKENS)]
    sample = bench.gathered.sample.rows()
    trainer = torch.arange(len(sample)) % ROW_TOKENS  # any positions: the turn keeps lengths
    layers, split = len(bench.keys.parts), bench.split
    tables = (
        (31,) * -(-layers // 3) + (15,) * (layers - -(-layers // 3)),
        (31,) * -(-layers // 16) + (15,) * (layers - -(-layers // 16)),
    )
    sides = (
        CacheGenLike.train(turned(sample[:, :split], bench.keys, trainer), bench.keys, tables[0]),
        CacheGenLike.train(sample[:, split:], bench.values, tables[1]),
    )

    def int4(number: int, keys: Tensor, values: Tensor) -> tuple[int, Tensor]:
        first, second = int4_per_head(keys, bench.keys), int4_per_head(values, bench.values)
        return first[0] + second[0], torch.cat((first[1], second[1]), 1)

    def cachegen(number: int, keys: Tensor, values: Tensor) -> tuple[int, Tensor]:
        first, second = sides[0].run(keys), sides[1].run(values)
        return first[0] + second[0], torch.cat((first[1], second[1]), 1)

    found = {}
    for name, run in (("int4_per_head_per_token", int4), ("cachegen_like", cachegen)):
        size, error = 0, torch.zeros(sample.shape[1], dtype=torch.float64)
        for number, (chunk, place) in enumerate(zip(chunks, places, strict=True)):
            keys = turned(chunk[:, :split], bench.keys, place)
            coded, back = run(number, keys, chunk[:, split:])
            # The turn keeps lengths: errors add up the same with it on.
            back[:, :split] = bench.keys.gather(
                _layers(back[:, :split], bench.keys), positions=place
            )
            size += coded
            error += (back - chunk).to(torch.float64).square().sum(0)
        point = Point(size / sum(map(len, chunks)), 0.0, *energy.shares(error))
        ours = joint_at(trained.joint, chunks, energy, point, each=True)
        found[name] = point.as_dict() | {
            "kvtc_joint_bytes_per_token": round(ours.bytes, 3),
            "over_kvtc_joint": round(point.bytes / ours.bytes, 3),
        }
        note(f"{name}: {found[name]}")
    return found


def _layers(rows: Tensor, layout: RowLayout) -> list[Tensor]:
    """Turned rows as each layer's [heads, tokens, dim]."""
    flat = RowLayout(tuple(replace(part, rotary=None) for part in layout.parts))
    return flat.scatter(rows, positions=torch.arange(len(rows)))


def storage(bench: Bench, trained: Contestants, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Bytes of transforms and tables, as a share of the model's parameters in 16 bits."""
    model_bytes = 2 * bench.loaded.parameters
    report = {name: storage_report(getattr(trained, name)) for name in ("apart", "joint")}
    paper = {
        f"{row['nominal_ratio']}x": trained.paper.matrix_bytes(row["nominal_ratio"]) for row in rows
    }
    return {
        "model_bytes": model_bytes,
        "paper_matrices": paper,
        "kvtc": report,
        "kvtc_joint_share": round(report["joint"]["total"] / model_bytes, 4),
        "paper_share_4x": round(paper[f"{RATIOS[0]}x"] / model_bytes, 4),
    }


def note(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def run(model: str, *, rows: tuple[int, int, int], seed: int) -> dict[str, Any]:
    """Everything; the document for JSON."""
    began = time.perf_counter()
    bench = prepare(model, rows=rows, seed=seed)
    seconds = {"cache_of_calibration_texts": round(time.perf_counter() - began, 2)}
    trained, training = train_all(bench)
    document: dict[str, Any] = {
        "model": model,
        "machine": {"cpu": platform.processor(), "torch": torch.__version__},
        "tokens": {
            "calibration": bench.gathered.moments.count,
            "rows": dict(zip(("calibration", "held_out", "recall"), rows, strict=True)),
            "row_tokens": ROW_TOKENS,
            "chunk_tokens": CHUNK_TOKENS,
        },
        "uncompressed_bytes_per_token": 2 * (bench.keys.width + bench.values.width),
        "features": {"keys": bench.keys.width, "values": bench.values.width},
        "seconds": seconds | training,
    }
    mean = bench.gathered.moments.mean().to(torch.float32)
    for name in ("held_out", "held_out_recall"):
        texts = getattr(bench.sets, name)
        chunks = bench.chunks(texts)
        energy = Energy.of(torch.cat(chunks), mean=mean, split=bench.split)
        note(f"{name}: {sum(map(len, chunks))} tokens")
        found = [ratio_row(trained, chunks, energy, ratio) for ratio in RATIOS]
        document[name] = {"ratios": found}
        if name == "held_out":
            document[name]["simple"] = simple_rivals(bench, trained, texts, energy)
            document["storage"] = storage(bench, trained, found)
    document["seconds"]["all"] = round(time.perf_counter() - began, 1)
    return document


def summary(document: dict[str, Any]) -> dict[str, Any]:
    """One flat object: what the issue asks for."""
    found = {"model": document["model"]}
    for row in document["held_out"]["ratios"]:
        gains = row["paper_over_kvtc"]
        found[f"bytes_vs_kvtc_paper_{row['nominal_ratio']}x"] = gains["both_joint"]
        found[f"bytes_vs_kvtc_paper_{row['nominal_ratio']}x_apart"] = gains["both_apart"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser(description="Rate and distortion of the KVTC codecs.")
    parser.add_argument("--model", default="house")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rows", type=int, nargs=3, default=(64, 16, 8))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    document = run(options.model, rows=tuple(options.rows), seed=options.seed)
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary(document)))


if __name__ == "__main__":
    main()
