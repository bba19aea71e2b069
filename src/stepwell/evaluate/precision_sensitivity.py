"""`stepwell evaluate sensitivity`: which layers to keep in higher precision, within some bytes.

    each unit alone in low bits -> its KL  ->  units by KL a byte, until the budget is spent

A unit's KL is what quantizing it and nothing else does to the predictions on calibration text. The
sum over units need not be the KL of all together, so the recipe is measured as a whole, and is
empty where it does not help.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.calibrate import OnProgress
from stepwell.evaluate.codec_text import library_texts
from stepwell.evaluate.precision_arms import open_plain, simulated
from stepwell.evaluate.precision_text import Passage, Reference, TextResult, compare
from stepwell.evaluate.precision_units import (
    Linear,
    Unit,
    linear_layers,
    make_units,
    share_of_bfloat16,
)
from stepwell.evaluate.quality_cache import Caches
from stepwell.evaluate.quality_model import Subject, encode_texts, held_out_tokens
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.model.weight_recipe import Recipe, checkpoint_hash

BUDGETS = {WeightFormat.INT8: 0.53, WeightFormat.INT4: 0.285, WeightFormat.NF4: 0.285}
"""Most bytes of linear layers and head, over those in bfloat16."""
HIGHER = {
    WeightFormat.INT8: WeightFormat.BFLOAT16,
    WeightFormat.INT4: WeightFormat.INT8,
    WeightFormat.NF4: WeightFormat.INT8,
}
"""What a unit that hurts is kept in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityOptions:
    """`budget`: share of the bytes in bfloat16, None for the format's own. `tokens` of text in
    pieces of `length`; `units`: most measurements."""

    model: str
    format: WeightFormat
    budget: float | None = None
    tokens: int = 2048
    length: int = 512
    units: int = 64
    text: tuple[Path, ...] = ()
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class UnitFindings:
    """`kl`: nats that quantizing this unit alone causes; `extra`: bytes that keeping it costs."""

    unit: Unit
    kl: float
    extra: int


def evaluate_sensitivity(
    options: SensitivityOptions, *, on_progress: OnProgress
) -> tuple[Recipe, dict[str, Any]]:
    """The recipe and the document for JSON. Raises ConfigError and ModelError."""
    if options.format not in BUDGETS:
        valid = ", ".join(BUDGETS)
        raise ConfigError(
            f"{options.format} loses nothing: no layer is to be kept from it.",
            hint=f"Valid: {valid}.",
            param="weights",
        )
    began = time.perf_counter()
    on_progress("loading the model", 0, 1)
    subject = open_plain(options.model, device=options.device)
    layers = linear_layers(subject.loaded.model)
    format, higher = options.format, HIGHER[options.format]
    bench = _Bench(subject, options)
    found = []
    units = make_units(layers, at_most=options.units)
    for done, unit in enumerate(units):
        on_progress(f"{format}, one unit at a time", done, len(units))
        kl = bench.kl({linear: format for linear in unit.members})
        found.append(UnitFindings(unit, kl, unit.nbytes(higher) - unit.nbytes(format)))
    budget = BUDGETS[format] if options.budget is None else options.budget
    kept = choose(found, room=_room(layers, format, budget))
    exceptions = {linear.name: higher for one in kept for linear in one.unit.members}
    on_progress("all together", 0, 1)
    plain = bench.kl(dict.fromkeys(layers, format))
    mixed = bench.kl({linear: exceptions.get(linear.name, format) for linear in layers})
    if mixed >= plain:
        kept, exceptions, mixed = [], {}, plain
    measured: dict[str, Any] = {
        "kl_plain": _short(plain),
        "kl_mean": _short(mixed),
        "share_plain": round(share_of_bfloat16(layers, format), 5),
        "share": round(share_of_bfloat16(layers, format, exceptions), 5),
        "budget": budget,
        "positions": bench.positions,
    }
    recipe = Recipe(checkpoint_hash(subject.folder), format, exceptions, measured)
    document = {
        "model": options.model,
        "format": str(format),
        "higher": str(higher),
        "measured": measured,
        "kept": [one.unit.name for one in kept],
        "exceptions": {name: str(value) for name, value in sorted(exceptions.items())},
        "units": [_row(one, kept) for one in found],
        "seconds": round(time.perf_counter() - began, 1),
    }
    return recipe, document


def choose(found: Sequence[UnitFindings], *, room: int) -> list[UnitFindings]:
    """Units to keep in higher precision: by KL a byte, each that still fits into `room` bytes."""
    kept = []
    for one in sorted(found, key=lambda one: one.kl / max(1, one.extra), reverse=True):
        if 0 < one.extra <= room and one.kl > 0:
            kept.append(one)
            room -= one.extra
    return kept


def _room(layers: Sequence[Linear], format: WeightFormat, budget: float) -> int:
    share = share_of_bfloat16(layers, format)
    if budget < share:
        raise ConfigError(
            f"{format} alone takes {share:.2%} of the bfloat16 bytes, more than {budget:.2%}.",
            hint=f"Give --budget {100 * share + 0.05:.1f} or more.",
            param="budget",
        )
    whole = sum(linear.nbytes(WeightFormat.BFLOAT16) for linear in layers)
    return int((budget - share) * whole)


class _Bench:
    """The text, and what the unquantized model predicts on it."""

    def __init__(self, subject: Subject, options: SensitivityOptions) -> None:
        self._passages = _passages(subject, options)
        self._caches = Caches(subject.loaded, sequences=1, tokens=options.length)
        self._reference = Reference()
        for passage in self._passages:
            self._reference.add(self._caches, passage)

    @property
    def positions(self) -> int:
        """Predictions compared."""
        return sum(len(losses) for losses in self._reference.found.loss)

    def kl(self, formats: dict[Linear, WeightFormat]) -> float:
        """Mean KL, in nats, with these layers in these formats."""
        found = TextResult()
        with simulated(formats):
            for passage, kept in zip(self._passages, self._reference.kept, strict=True):
                compare(self._caches, passage, kept, found)
        return found.kl_mean


def _passages(subject: Subject, options: SensitivityOptions) -> list[Passage]:
    """Text that the evaluation does not use, in pieces: each is predicted from its first token."""
    if options.length > subject.longest:
        raise ConfigError(
            f"{options.model} takes {subject.longest} tokens.",
            hint=f"Give --length {subject.longest} or less.",
            param="length",
        )
    if options.text:
        tokens = held_out_tokens(subject, options.text, enough=options.tokens)
    else:
        tokens = encode_texts(subject, library_texts()[0][::2], enough=options.tokens)
    step = options.length - len(subject.opening)
    cut = [tokens[at : at + step] for at in range(0, min(len(tokens), options.tokens), step)]
    found = [Passage([], [*subject.opening, *piece]) for piece in cut if len(piece) >= step // 2]
    if not found or step < 2:
        raise ConfigError(
            f"{len(tokens)} tokens of text are too little.", hint="Give more --text.", param="text"
        )
    return found


def _row(one: UnitFindings, kept: Sequence[UnitFindings]) -> dict[str, Any]:
    return {
        "unit": one.unit.name,
        "layers": len(one.unit.members),
        "kl": _short(one.kl),
        "extra_bytes": one.extra,
        "kept": one in kept,
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")
