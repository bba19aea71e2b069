"""Calibrating a model for `kvtc`: texts through the model, what its cache looks like, one file.

The texts stream through: no matrix of all rows is kept, only moments and a sample. Every eighth
piece is held out; what the report says about errors and bytes was measured on those, with real
bytes that were decoded again. Refuses models whose keys cannot be turned back (see
`model/rotary.py`). Does not own: the codec's mathematics (`codec/kvtc`), serving.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.base.config import ModelConfig
from stepwell.base.errors import ConfigError
from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.gather import Gatherer, SketchGatherer, gatherer
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.statistics import SINK_TOKENS
from stepwell.codec.kvtc.train import TrainingOptions, runs_of, train_calibration
from stepwell.codec.kvtc.unseen import told_by
from stepwell.evaluate.codec_text import library_texts
from stepwell.hardware.machine import read_machine
from stepwell.model.identity import weights_hash
from stepwell.model.load import LoadedModel, find_checkpoint, load_model, read_hf_config
from stepwell.model.record import record
from stepwell.model.rotary import row_layouts

RATIOS = (4, 8, 16, 32, 64)
CHUNK_TOKENS = 256
_HELD_OUT = 8  # every so many-th piece
_TOLD = 4096  # held-out tokens that tell the ladders what unseen text costs
_SHIFT = 1.25
"""A text whose error or bytes exceed what calibration expects by this factor is of another domain:
between texts of one kind the factor was seen to stay below 1.1 (house model)."""

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """`texts`: UTF-8 files or folders of them; empty: Python's standard library. `tokens`: how many
    to use; `length`: tokens of a piece, each seen from position 0. `statistics_bytes`: room for
    moments or sketches of them, default a third of the memory that is free."""

    model: str
    texts: tuple[Path, ...] = ()
    tokens: int = 65_536
    length: int = 1024 + SINK_TOKENS
    training: TrainingOptions = field(default_factory=TrainingOptions)
    statistics_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One rung. Ratio: 16-bit bytes over coded ones. Errors: shares of the cache's energy."""

    nominal: int
    expected_ratio: float
    expected_error: float
    measured_ratio: float
    measured_error: float

    @property
    def shift(self) -> float:
        """By which factor the text is harder than what the model was calibrated on."""
        return max(
            self.measured_error / self.expected_error, self.expected_ratio / self.measured_ratio
        )


@dataclass(frozen=True, slots=True)
class Source:
    """A model ready to be listened to."""

    loaded: LoadedModel
    keys: RowLayout
    values: RowLayout
    weights: bytes

    def rows(self, tokens: Sequence[int]) -> Tensor:
        """Keys and values [tokens - sinks, width] of one text."""
        recording = record(self.loaded, tokens, keys=self.keys, values=self.values)
        return recording.rows[SINK_TOKENS:]


def open_source(model: str) -> Source:
    """Load a model on the CPU. Raises CheckpointNotFound, UnsupportedArchitecture, ConfigError."""
    folder = find_checkpoint(model)
    config = ModelConfig(path=model)
    hf_config = read_hf_config(folder)
    loaded = load_model(config, folder, hf_config, dtype=torch.bfloat16, device=torch.device("cpu"))
    if loaded.tokenizer is None:
        raise ConfigError("calibration needs the model's tokenizer.", param="model")
    keys, values = row_layouts(loaded)
    return Source(loaded, keys, values, weights_hash(folder))


def calibrate(
    source: Source, options: CalibrationOptions, *, on_progress: OnProgress
) -> tuple[Calibration, dict[str, Any]]:
    """The calibration, and a report: tokens, seconds, rates. Raises ConfigError for too little
    text."""
    began = time.perf_counter()
    pieces = _pieces(source, options)
    held_out = pieces[_HELD_OUT - 1 :: _HELD_OUT]
    used = [piece for number, piece in enumerate(pieces) if (number + 1) % _HELD_OUT]
    if not held_out:
        raise _too_little(sum(map(len, pieces)), options)
    gathered = _gatherer(source, options)
    for done, piece in enumerate(used):
        on_progress("texts through the model", done, len(used))
        gathered.add(source.rows(piece))
    seconds = {"texts_s": time.perf_counter() - began}
    on_progress("directions and ladders", 0, 1)
    calibration = train_calibration(
        gathered,
        weights=source.weights,
        keys=source.keys,
        values=source.values,
        options=options.training,
    )
    chunks = _chunks(source, held_out, on_progress)
    told, rest = _halves(chunks)
    calibration = told_by(calibration, torch.cat(told)[:_TOLD])
    seconds["training_s"] = time.perf_counter() - began - seconds["texts_s"]
    rates = measure_rates(calibration, rest)
    report = {
        "tokens": gathered.count,
        "statistics": _described(gathered),
        "held_out_tokens": sum(map(len, held_out)) - SINK_TOKENS * len(held_out),
        "seconds": seconds | {"all_s": time.perf_counter() - began},
        "rates": [_as_dict(rate) for rate in rates],
    }
    return calibration, report


def _halves(chunks: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Chunks to tell the ladders with, and others to check what they were told."""
    return (chunks[0::2], chunks[1::2]) if len(chunks) > 1 else (chunks, chunks)


def _gatherer(source: Source, options: CalibrationOptions) -> Gatherer | SketchGatherer:
    memory = options.statistics_bytes
    if memory is None:
        memory = read_machine().memory_available // 3
    runs = runs_of(source.keys, source.values, options.training)
    return gatherer(widths=runs, memory=memory)


def _described(gathered: Gatherer | SketchGatherer) -> str:
    if isinstance(gathered, Gatherer):
        return "exact moments"
    return f"sketches of {gathered.rank} directions: moments would not fit into memory"


def check(
    source: Source,
    calibration: Calibration,
    options: CalibrationOptions,
    *,
    on_progress: OnProgress,
) -> list[Rate]:
    """How the calibration does on these texts. Raises ConfigError for too little text."""
    pieces = _pieces(source, options)
    return measure_rates(calibration, _chunks(source, pieces, on_progress))


def shifted(rates: Sequence[Rate]) -> bool:
    """Whether these rates tell of texts unlike those of the calibration."""
    return max(rate.shift for rate in rates) > _SHIFT


def measure_rates(calibration: Calibration, chunks: Sequence[Tensor]) -> list[Rate]:
    """Real bytes and errors of these chunks [tokens, width], at the rung nearest to each ratio."""
    return [_rate(calibration, chunks, nominal) for nominal in RATIOS]


def _rate(calibration: Calibration, chunks: Sequence[Tensor], nominal: int) -> Rate:
    planes, width = calibration.planes, calibration.width
    wanted = 16.0 * width / nominal
    rungs = []
    for plane in planes:
        bits = wanted * (plane.stop - plane.start) / width
        near = [abs(math.log(max(1e-9, plane.bits_of(r)) / bits)) for r in range(len(plane.ladder))]
        rungs.append(near.index(min(near)))
    size, error = 0, 0.0
    for chunk in chunks:
        data = calibration.encode_rows(chunk, rungs=rungs)
        size += len(data)
        error += _error(calibration, chunk, calibration.decode_rows(data, tokens=len(chunk)))
    tokens = sum(map(len, chunks))
    energy = sum(plane.energy for plane in planes)
    expected = sum(plane.ladder[rung].error for plane, rung in zip(planes, rungs, strict=True))
    bits = sum(plane.bits_of(rung) for plane, rung in zip(planes, rungs, strict=True))
    return Rate(
        nominal=nominal,
        expected_ratio=16.0 * width / bits,
        expected_error=expected / energy,
        measured_ratio=2.0 * width * tokens / size,
        measured_error=error / (tokens * energy),
    )


def _error(calibration: Calibration, chunk: Tensor, back: Tensor) -> float:
    """Summed squared error in the geometry of each plane's basis."""
    total = 0.0
    for plane in calibration.planes:
        difference = (back - chunk)[:, plane.start : plane.stop]
        if plane.basis.metric is not None:
            difference = plane.basis.metric.weigh(difference)
        total += float(difference.to(torch.float64).square().sum())
    return total


def _chunks(
    source: Source, pieces: Sequence[Sequence[int]], on_progress: OnProgress
) -> list[Tensor]:
    found: list[Tensor] = []
    for done, piece in enumerate(pieces):
        on_progress("measuring", done, len(pieces))
        found += torch.split(source.rows(piece), CHUNK_TOKENS)
    return found


def _pieces(source: Source, options: CalibrationOptions) -> list[list[int]]:
    """Token ids in pieces of `length`, each opened as the tokenizer opens a text."""
    tokenizer = source.loaded.tokenizer
    assert tokenizer is not None
    opening = tokenizer.encode("")
    step = options.length - len(opening)
    tokens: list[int] = []
    for text in _texts(options.texts):
        tokens += tokenizer.encode(text, special_tokens=False)
        if len(tokens) >= options.tokens:
            break
    least = min(step, 4 * SINK_TOKENS)
    cut = [tokens[at : at + step] for at in range(0, min(len(tokens), options.tokens), step)]
    pieces = [[*opening, *piece] for piece in cut if len(piece) >= least]
    if not pieces:
        raise _too_little(len(tokens), options)
    return pieces


def _too_little(tokens: int, options: CalibrationOptions) -> ConfigError:
    return ConfigError(
        f"{tokens} tokens of text are too little to calibrate with.",
        hint=f"Give at least {_HELD_OUT * options.length}; 65,536 are better.",
        param="text",
    )


def _texts(paths: Sequence[Path]) -> Iterator[str]:
    if not paths:
        seen, _ = library_texts()
        yield from seen[::2]  # spread over the library's packages
        return
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            try:
                yield file.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise ConfigError(f"cannot read {file}: {error.strerror}.", param="text") from None


def _as_dict(rate: Rate) -> dict[str, float]:
    return {
        "nominal": rate.nominal,
        "expected_ratio": round(rate.expected_ratio, 3),
        "expected_error": round(rate.expected_error, 6),
        "measured_ratio": round(rate.measured_ratio, 3),
        "measured_error": round(rate.measured_error, 6),
        "shift": round(rate.shift, 3),
    }
