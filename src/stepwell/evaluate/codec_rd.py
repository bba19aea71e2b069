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
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.codec.kvtc.artifact import storage_report
from stepwell.codec.kvtc.calibration import Plane
from stepwell.codec.kvtc.control import choice_for_ratio, rung_near
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.evaluate.codec_attention import attention_error, make_metrics, output_weights
from stepwell.evaluate.codec_contest import (
    Clock,
    Contestants,
    joint_at,
    ratio_row,
    train_contestants,
    train_variants,
)
from stepwell.evaluate.codec_measure import CHUNK_TOKENS, Energy, Point
from stepwell.evaluate.codec_prepare import ROW_TOKENS, Bench, note, prepare
from stepwell.evaluate.codec_rivals import CacheGenLike, int4_per_head, turned
from stepwell.model.record import Recording, record

RATIOS = (4, 8, 16, 32, 64)
METRIC_FLOOR = 0.05


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


def weighted(bench: Bench, trained: Contestants, *, texts: int) -> list[dict[str, Any]]:
    """Plain error against the query and output metrics at equal bytes: the mean over layers of the
    attention output's error share."""
    sets, keys, values = bench.sets, bench.keys, bench.values

    def recorded(tokens: Sequence[int]) -> Recording:
        return record(bench.loaded, tokens, keys=keys, values=values)

    queries = [recorded(tokens) for tokens in sets.calibration[:8]]
    key_metric, value_metric, value_weight = make_metrics(
        bench.loaded, queries, keys=keys, values=values, floor=METRIC_FLOOR
    )
    metric = bench.train(
        joint=True, key_metric=key_metric, value_metric=value_metric, value_weight=value_weight
    )
    note(f"metric: values weigh {value_weight:.3f}")
    weights, found = output_weights(bench.loaded), []
    measured = [recorded(tokens) for tokens in sets.held_out[:texts]]
    for ratio in RATIOS:
        row: dict[str, Any] = {"ratio": ratio}
        for name, calibration in (("plain", trained.joint), ("metric", metric)):
            plane = calibration.planes[0]
            if name == "plain":
                rung, step = choice_for_ratio(plane, ratio)
            else:  # as many bytes as the plain one took
                rung, step = _choice_for_bytes(plane, measured, row["plain"]["bytes_per_token"])
            errors, size = [], 0
            for recording in measured:
                rows = recording.rows.clone()
                for chunk in torch.split(rows[SINK_TOKENS:], CHUNK_TOKENS):
                    data = calibration.encode_rows(chunk, rungs=[rung], steps=[step])
                    size += len(data)
                    chunk[:] = calibration.decode_rows(data, tokens=len(chunk))
                errors.append(
                    attention_error(
                        bench.loaded, recording, rows, keys=keys, values=values, weights=weights
                    )
                )
            by_layer = torch.tensor(errors).mean(0)
            tokens = len(measured) * (ROW_TOKENS - SINK_TOKENS)
            row[name] = {
                "bytes_per_token": round(size / tokens, 3),
                "attention_output_error": round(float(by_layer.mean()), 6),
                "by_layer": [round(e, 6) for e in by_layer.tolist()],
            }
        note(f"metric {ratio}x: {row}")
        found.append(row)
    return found


def _choice_for_bytes(
    plane: Plane, recordings: Sequence[Recording], wanted: float
) -> tuple[int, float]:
    """Rung and step at which the recordings' chunks take this many bytes a token."""
    chunks = [c for r in recordings for c in torch.split(r.rows[SINK_TOKENS:], CHUNK_TOKENS)]
    coefficients = [plane.basis.forward(chunk) for chunk in chunks]
    low, high = math.log(plane.ladder[0].step / 4), math.log(plane.ladder[-1].step)
    for _ in range(9):
        step = math.exp((low + high) / 2)
        rung = rung_near(plane, step)
        size = sum(len(plane.coder.encode(c, rung=rung, step=step)) for c in coefficients)
        few = size / sum(map(len, chunks)) <= wanted
        low, high = (low, math.log(step)) if few else (math.log(step), high)
    return rung_near(plane, math.exp(high)), math.exp(high)


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


def run(
    model: str,
    *,
    rows: tuple[int, int, int],
    seed: int,
    variants: bool,
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The contest, or the variants of its parts and the metrics; the document for JSON. `save`
    gets it after each part, as far as it is."""
    clock, began = Clock(), time.perf_counter()
    bench = clock.timed("statistics", lambda: prepare(model, rows=rows, seed=seed))
    trained = train_contestants(bench, clock)
    others = train_variants(bench, clock) if variants else None
    document = _head(bench, rows) | {"model": model, "seconds": clock.seconds}
    mean = bench.gathered.moments.mean().to(torch.float32)
    for name in ("held_out",) if variants else ("held_out", "held_out_recall"):
        texts = getattr(bench.sets, name)
        chunks = bench.chunks(texts)
        energy = Energy.of(torch.cat(chunks), mean=mean, split=bench.split)
        note(f"{name}: {sum(map(len, chunks))} tokens")
        document[name] = {"ratios": []}
        for ratio in RATIOS if name == "held_out" else RATIOS[1:4]:
            row = ratio_row(trained, chunks, energy, ratio, variants=others)
            document[name]["ratios"].append(row)
            save(document)
        if name == "held_out" and not variants:
            document["storage"] = storage(bench, trained, document[name]["ratios"])
            document[name]["simple"] = simple_rivals(bench, trained, texts, energy)
            save(document)
    if variants:
        document["metric"] = weighted(bench, trained, texts=min(4, rows[1]))
    clock.seconds["all"] = round(time.perf_counter() - began, 1)
    return document


def _head(bench: Bench, rows: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "machine": {"cpu": platform.processor(), "torch": torch.__version__},
        "tokens": {
            "calibration": bench.gathered.moments.count,
            "rows": dict(zip(("calibration", "held_out", "recall"), rows, strict=True)),
            "row_tokens": ROW_TOKENS,
            "chunk_tokens": CHUNK_TOKENS,
        },
        "uncompressed_bytes_per_token": 2 * (bench.keys.width + bench.values.width),
        "features": {"keys": bench.keys.width, "values": bench.values.width},
    }


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
    parser.add_argument("--rows", type=int, nargs=3, default=(64, 10, 4))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--variants", action="store_true", help="instead: other coders, transforms and metrics"
    )
    options = parser.parse_args(arguments)

    def save(document: dict[str, Any]) -> None:
        if options.out:
            options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    document = run(
        options.model,
        rows=tuple(options.rows),
        seed=options.seed,
        variants=options.variants,
        save=save,
    )
    save(document)
    print(json.dumps(summary(document)))


if __name__ == "__main__":
    main()
