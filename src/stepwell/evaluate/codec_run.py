"""How small, how right and how fast codecs are: `stepwell bench codec`.

Calibration and measured texts are different files. All bytes are real and decoded again; at each
nominal ratio the paper's codec is measured first and ours is then set to the same error: apart, so
that keys' error equals the paper's and values' error the paper's; joint, so that neither exceeds
it. The first 4 tokens are left out on all sides (they stay exact in service), all others are coded.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.codec.kvtc.gather import SAMPLE
from stepwell.evaluate.ceiling import measure_ceiling
from stepwell.evaluate.codec_bench import PIECES, casts, load_sample
from stepwell.evaluate.codec_bench import run as run_pieces
from stepwell.evaluate.codec_contest import (
    Clock,
    Contestants,
    Say,
    ratio_row,
    train_contestants,
    train_variants,
)
from stepwell.evaluate.codec_measure import CHUNK_TOKENS, Energy
from stepwell.evaluate.codec_prepare import ROW_TOKENS, Bench, prepare
from stepwell.evaluate.codec_rd import simple_rivals, storage, weighted
from stepwell.evaluate.codec_shapes import H200, KvShape, bounds, run_shape
from stepwell.evaluate.codec_text import library_texts

ACCELERATOR_BATCH = 8192  # tokens that an accelerator would transform at once


class Part(enum.Enum):
    """What can be measured alone."""

    PIECES = "pieces"  # lossless, entropy coder, casts
    CONTEST = "contest"  # kvtc against kvtc-paper and simple rivals
    VARIANTS = "variants"  # other coders and transforms, attention's metric
    SHAPES = "shapes"  # kvtc's speed and memory at Llama-3.1-8B's shape, synthetic rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured. `rows`: texts of 1,028 tokens for calibration, measuring, recall.
    `sample`: calibration tokens that ladders are trained on; `paper_sample`: that the paper's plans
    are made from. `rungs` of our ladders. `rounds` of the pieces. `whole`: also keys and values
    apart, simple rivals, casts."""

    ratios: tuple[int, ...] = (4, 8, 16, 32, 64)
    rows: tuple[int, int, int] = (64, 10, 4)
    sample: int = SAMPLE
    paper_sample: int = 2_048
    rungs: int = 20
    rounds: int = 15
    whole: bool = True


FULL = Scale()
QUICK = Scale(
    ratios=(8, 16, 32), rows=(16, 2, 0), sample=3_000, paper_sample=512, rungs=12, rounds=5,
    whole=False,
)  # fmt: skip
QUICK_LEAVES_OUT = (
    "4x and 64x; keys and values apart; int4, CacheGen-like, zstd and other variants; casts; "
    "recall texts; 48 of 64 calibration texts, 8 of 10 measured ones, 8 of 20 rungs, three "
    "quarters of the rows that the paper's plans are made from"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecOptions:
    """`folder`: the checkpoint."""

    folder: Path
    parts: tuple[Part, ...] = (Part.PIECES, Part.CONTEST, Part.VARIANTS)
    scale: Scale = FULL
    seed: int = 1


class _Run:
    """What the parts share, made when first asked for."""

    def __init__(self, options: CodecOptions, say: Say) -> None:
        self.options, self.clock = options, Clock(say)

    @cached_property
    def bench(self) -> Bench:
        scale, model = self.options.scale, str(self.options.folder)
        return self.clock.timed(
            "statistics",
            lambda: prepare(model, rows=scale.rows, seed=self.options.seed, sample=scale.sample),
        )

    @cached_property
    def trained(self) -> Contestants:
        scale = self.options.scale
        return train_contestants(
            self.bench,
            self.clock,
            least_ratio=min(scale.ratios),
            paper_sample=scale.paper_sample,
            rungs=scale.rungs,
            apart=scale.whole,
        )

    def chunks(self, texts: Sequence[Sequence[int]]) -> tuple[list[Tensor], Energy]:
        """Chunks of these texts' caches, and their energy."""
        mean = self.bench.gathered.moments.mean().to(torch.float32)
        chunks = self.bench.chunks(texts)
        return chunks, Energy.of(torch.cat(chunks), mean=mean, split=self.bench.split)


def run_codec_bench(options: CodecOptions, *, say: Say) -> dict[str, Any]:
    """All figures by name. Raises OSError, StepwellError, ValueError."""
    say("ceiling")
    result: dict[str, Any] = {"ceiling": asdict(measure_ceiling(quick=True))}
    shared = _Run(options, say)
    run = {
        Part.PIECES: _pieces,
        Part.CONTEST: _contest,
        Part.VARIANTS: _variants,
        Part.SHAPES: _shapes,
    }
    for part in options.parts:
        result |= run[part](shared)
    return result


def _pieces(run: _Run) -> dict[str, Any]:
    scale = run.options.scale
    run.clock.say("lossless and entropy coding")
    sample = load_sample(run.options.folder, "\n".join(library_texts()[1]))
    pieces = PIECES if scale.whole else [piece for piece in PIECES if piece is not casts]
    found = run_pieces(sample, rounds=scale.rounds, pieces=pieces)
    return {name: float(f"{value:.5g}") for name, value in found.items()}


def _contest(run: _Run) -> dict[str, Any]:
    scale, bench, trained = run.options.scale, run.bench, run.trained
    seconds = run.clock.seconds
    found: dict[str, Any] = {
        "calibration_s": round(seconds["statistics"] + seconds["joint"], 2),
        "calibration_tokens": bench.gathered.moments.count,
        "contest": _described(bench, scale),
    }
    chunks, energy = run.chunks(bench.sets.held_out)
    rows = _rows(run, chunks, energy, scale.ratios, "held-out text")
    contest = found["contest"]
    contest["held_out"] = rows
    for row in rows:
        gains, name = row["paper_over_kvtc"], f"bytes_vs_kvtc_paper_{row['nominal_ratio']}x"
        found[name] = gains["both_joint"]
        if "both_apart" in gains:
            found[f"{name}_apart"] = gains["both_apart"]
    contest["storage"] = storage(bench, trained, rows)
    if scale.whole:
        run.clock.say("int4 and CacheGen-like")
        contest["simple"] = simple_rivals(bench, trained, bench.sets.held_out, energy)
        chunks, energy = run.chunks(bench.sets.held_out_recall)
        contest["held_out_recall"] = _rows(run, chunks, energy, scale.ratios[1:4], "recall")
    contest["seconds"] = dict(seconds)
    return found


def _rows(
    run: _Run, chunks: Sequence[Tensor], energy: Energy, ratios: Sequence[int], what: str
) -> list[dict[str, Any]]:
    found = []
    for ratio in ratios:
        run.clock.say(f"{what}: the paper's error at {ratio}x")
        found.append(ratio_row(run.trained, chunks, energy, ratio, variants=None))
    return found


def _variants(run: _Run) -> dict[str, Any]:
    scale, bench, trained = run.options.scale, run.bench, run.trained
    others = train_variants(bench, run.clock)
    chunks, energy = run.chunks(bench.sets.held_out)
    rows = []
    for ratio in scale.ratios:
        run.clock.say(f"variants: the paper's error at {ratio}x")
        rows.append(ratio_row(trained, chunks, energy, ratio, variants=others))
    metric = weighted(
        bench, trained, texts=min(4, scale.rows[1]), ratios=scale.ratios, say=run.clock.say
    )
    described = _described(bench, scale) | {"seconds": dict(run.clock.seconds)}
    return {"variants": described | {"held_out": rows, "metric": metric}}


def _shapes(run: _Run) -> dict[str, Any]:
    """All layers in one transform, and two groups of layers."""
    found, bound = [], []
    for groups in (1, 2):
        shape = KvShape(groups=groups)
        found.append(run_shape(shape, say=run.clock.say))
        limits = bounds(shape, H200, tokens=ACCELERATOR_BATCH)
        bound.append({"groups": groups, "tokens": ACCELERATOR_BATCH} | limits)
    return {"shapes": found, "accelerator": asdict(H200) | {"bounds": bound}}


def _described(bench: Bench, scale: Scale) -> dict[str, Any]:
    return {
        "tokens": {
            "calibration": bench.gathered.moments.count,
            "ladder_sample": len(bench.gathered.sample.rows()),
            "paper_sample": scale.paper_sample,
            "rows": dict(zip(("calibration", "held_out", "recall"), scale.rows, strict=True)),
            "row_tokens": ROW_TOKENS,
            "chunk_tokens": CHUNK_TOKENS,
        },
        "rungs": scale.rungs,
        "uncompressed_bytes_per_token": 2 * (bench.keys.width + bench.values.width),
        "features": {"keys": bench.keys.width, "values": bench.values.width},
    }
