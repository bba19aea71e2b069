"""Beside the contest: simple rivals, attention's metric, what the artifact takes.

Bytes are real and decoded again; errors are of held-out text (codec_measure.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stepwell.codec.kvtc.artifact import storage_report
from stepwell.codec.kvtc.calibration import Plane
from stepwell.codec.kvtc.control import choice_for_ratio, rung_near
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.evaluate.codec_attention import attention_error, make_metrics, output_weights
from stepwell.evaluate.codec_contest import Contestants, Say, joint_at
from stepwell.evaluate.codec_measure import CHUNK_TOKENS, Energy, Point
from stepwell.evaluate.codec_prepare import ROW_TOKENS, Bench
from stepwell.evaluate.codec_rivals import CacheGenLike, int4_per_head, turned
from stepwell.model.record import Recording, record

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
    return found


def _layers(rows: Tensor, layout: RowLayout) -> list[Tensor]:
    """Turned rows as each layer's [heads, tokens, dim]."""
    flat = RowLayout(tuple(replace(part, rotary=None) for part in layout.parts))
    return flat.scatter(rows, positions=torch.arange(len(rows)))


def weighted(
    bench: Bench, trained: Contestants, *, texts: int, ratios: Sequence[int], say: Say
) -> list[dict[str, Any]]:
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
    weights, found = output_weights(bench.loaded), []
    measured = [recorded(tokens) for tokens in sets.held_out[:texts]]
    for ratio in ratios:
        say(f"attention's metric: {ratio}x")
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
    made = {"apart": trained.apart, "joint": trained.joint}
    report = {name: storage_report(one) for name, one in made.items() if one is not None}
    paper = {
        f"{row['nominal_ratio']}x": trained.paper.matrix_bytes(row["nominal_ratio"]) for row in rows
    }
    return {
        "model_bytes": model_bytes,
        "paper_matrices": paper,
        "kvtc": report,
        "kvtc_joint_share": round(report["joint"]["total"] / model_bytes, 4),
        "paper_share_least_ratio": round(max(paper.values()) / model_bytes, 4),
    }
