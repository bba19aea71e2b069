"""`stepwell bench speed`: decoding, prompts, mixed requests and starting, as shares of what the
machine allows and beside rivals with the same precision.

Contestants are processes that take turns within a round (A B A B); the machine's ceiling is
measured before and after each part of each round (of decoding, each contestant), and a share is
against the better of the two; of Stepwell's own decoding, against what reading gave between its
pieces (beside_reading.py).
Ratios pair what the same round measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.arena import find_model
from stepwell.evaluate.ceiling import Ceiling
from stepwell.evaluate.contestants import ContestantFailed
from stepwell.evaluate.options import OnProgress, OnSection
from stepwell.evaluate.quiet import wait_until_quiet
from stepwell.evaluate.speed_bounds import share_of_bound
from stepwell.evaluate.speed_field import Field
from stepwell.evaluate.speed_options import PLAIN, Part, SpeedOptions, Variant
from stepwell.evaluate.speed_parts import Asked, measure, warm_up
from stepwell.evaluate.speed_start import measure_start
from stepwell.evaluate.speed_summary import (
    Sample,
    ceiling_section,
    part_section,
    start_section,
    summarize,
)
from stepwell.evaluate.statistics import without_nan

_SHARES = (1.0, 0.5, 0.25, 0.125)
"""Of the mixed requests' lengths, of which a quick run takes the largest that there is time for."""
_BY_BANDWIDTH = frozenset({Part.DECODE, Part.LONG})
_MARGIN = 1.3
"""Of the seconds that mixed requests should take, so that the last contestant has its turn."""
_BATCH_STEP = 2.5
"""Decode steps that one step of a full batch takes, about; to plan with, nothing is judged by it.
"""


@dataclass(slots=True)
class _Run:
    """One run on its way. `last`: seconds that a part took the last contestant. `compiling`: what
    the first use on this machine took; the plan does not count it."""

    options: SpeedOptions
    on_section: OnSection
    say: OnProgress
    keep: Callable[[dict[str, Any]], object]
    samples: list[Sample] = field(default_factory=list)
    loaded: dict[str, dict[str, Any]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    compiling: float = 0.0
    started: float = field(default_factory=time.monotonic)
    last: dict[Part, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds of the plan."""
        return self.options.seconds + self.compiling - (time.monotonic() - self.started)


def run_speed_bench(
    options: SpeedOptions,
    *,
    on_section: OnSection,
    say: OnProgress,
    earlier: dict[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], object] = lambda _result: None,
) -> dict[str, Any]:
    """The result, `summary` last in it. `earlier`: a result of the same measurements, to whose
    rounds this run's are added. `keep` gets the result so far whenever there are new figures, so
    that a long run that is cut off has not been for nothing. Raises StepwellError."""
    run = _Run(options, on_section, say, keep, share=options.sizes.lengths)
    if options.rounds < 1:
        raise ConfigError("rounds must be at least 1.", param="rounds")
    _begin_with(run, earlier)
    timed = tuple(part for part in options.parts if part is not Part.START)
    if timed:
        workdir = options.workdir.expanduser()
        workdir.mkdir(parents=True, exist_ok=True)
        folder = find_model(options.model, workdir=workdir, say=say)
        for number, group in enumerate(options.groups()):
            with Field(options, folder, group, say) as contestants:
                run.compiling += contestants.compile_seconds
                ceiling = contestants.measure_ceiling()
                if number == 0:
                    on_section(ceiling_section(ceiling, contestants.cost))
                _run_group(run, contestants, timed, ceiling)
    start = run.before.get("start")
    if Part.START in options.parts:
        start = measure_start(rounds=options.rounds, say=say)
        on_section(start_section(start))
    _show(run)
    return _result(run, start)


def _begin_with(run: _Run, earlier: dict[str, Any] | None) -> None:
    if earlier is None:
        return
    before = {"model": earlier["summary"]["model"], "sizes": earlier["sizes"]}
    for name, now in (("model", run.options.model), ("sizes", asdict(run.options.sizes))):
        if before[name] != now:
            raise ConfigError(f"the earlier result has another {name}.", param="add")
    if any(_is_held_otherwise(sample) for sample in earlier["samples"]):
        raise ConfigError(
            "the earlier result has shares of decoding by another definition.", param="add",
            hint="Write a new one.",
        )  # fmt: skip
    run.samples = [Sample(**sample) for sample in earlier["samples"]]
    run.loaded = dict(earlier["loaded"])
    run.missing = dict(earlier["missing"])
    run.before = earlier


def _is_held_otherwise(sample: Mapping[str, Any]) -> bool:
    """Whether its share of decoding is not of what reading gave between its pieces."""
    decodes = Part(sample["part"]) in _BY_BANDWIDTH
    return decodes and sample["share"] is not None and "pieces" not in sample["figures"]


def _run_group(run: _Run, contestants: Field, parts: tuple[Part, ...], ceiling: Ceiling) -> None:
    """All rounds. `ceiling`: as it is before them."""
    run.loaded |= contestants.loaded
    for label in contestants.loaded:
        run.missing.pop(label, None)
    first = max((sample.round for sample in run.samples), default=-1) + 1
    asked = Asked(
        sizes=run.options.sizes, vocab_size=contestants.vocab_size, seed=run.options.seed,
        turn=997_000 + first, share=run.share or _SHARES[-1],
    )  # fmt: skip
    for variant, contestant in list(contestants.contestants.items()):
        run.say(f"warming up {variant.label}")
        try:
            warm_up(contestant, asked, batch=Part.BATCH in parts)
        except ContestantFailed as error:
            run.missing[f"{variant.label} warm-up"] = error.message
    for turn in range(first, first + run.options.rounds):
        for part in parts:
            ceiling = _run_part(run, contestants, part, replace(asked, turn=turn), ceiling)
    run.missing |= contestants.missing


def _run_part(run: _Run, contestants: Field, part: Part, asked: Asked, before: Ceiling) -> Ceiling:
    """Everyone once. Returns the ceiling after it, which of decoding is measured after each: the
    bandwidth of a shared machine changes within seconds."""
    if part is Part.BATCH:
        run.share = run.share or _affordable(run, contestants)
        asked = replace(asked, share=run.share)
    found: dict[Variant, dict[str, Any]] = {}
    for variant in list(contestants.contestants):
        figures = _one_turn(run, contestants, part, variant, asked)
        if figures is None:
            continue
        found[variant] = figures
        if part in _BY_BANDWIDTH:
            before = _keep(run, contestants, part, found, asked, before)
            found = {}
    return _keep(run, contestants, part, found, asked, before) if found else before


def _one_turn(
    run: _Run, contestants: Field, part: Part, variant: Variant, asked: Asked
) -> dict[str, Any] | None:
    """One contestant's figures; None where it cannot, with the reason in `missing`."""
    name = f"{variant.label} {part.value}"
    if run.options.leaves_out(variant, part):
        run.missing[name] = "left out of --quick"
        return None
    if run.left < run.last.get(part, run.last.get(Part.DECODE, 0.0)):
        run.missing[name] = "no time was left for it"
        return None
    run.say(f"round {asked.turn + 1}, {part.value}: {variant.label}")
    if not wait_until_quiet(most=run.options.patience):
        run.say("something else is computing beside it")
    start = time.monotonic()
    try:
        figures = measure(part, contestants.contestants[variant], asked, own=variant.own)
    except ContestantFailed as error:
        run.missing[name] = error.message
        return None
    run.missing.pop(name, None)
    run.last[part] = time.monotonic() - start
    return figures


def _keep(
    run: _Run, contestants: Field, part: Part, found: Mapping[Variant, dict[str, Any]],
    asked: Asked, before: Ceiling,
) -> Ceiling:  # fmt: skip
    """Figures become samples, held against the better of the ceilings before and after them."""
    after = contestants.measure_ceiling()
    beside = before.best(after)
    for variant, figures in found.items():
        share = share_of_bound(
            part, figures, loaded=contestants.loaded[variant.label],
            cost=contestants.cost, ceiling=beside, asked=asked,
        )  # fmt: skip
        run.samples.append(
            Sample(asked.turn, part.value, variant.label, figures, share, beside.as_dict())
        )
    run.keep(_result(run, run.before.get("start")))
    return after


def _affordable(run: _Run, contestants: Field) -> float:
    """The share of the mixed requests' lengths that there is time for, by the reference's rates
    in the parts before."""
    rates = {s.part: s.figures["tokens_per_s"] for s in run.samples if s.variant == PLAIN.label}
    if not {Part.DECODE.value, Part.PREFILL.value} <= set(rates):
        return _SHARES[-1]
    runners = sum(
        not run.options.leaves_out(variant, Part.BATCH) for variant in contestants.contestants
    )
    for share in _SHARES:
        work = run.options.sizes.mix(share, vocab_size=contestants.vocab_size).draw()
        steps = max(request.max_tokens for request in work.requests)
        seconds = work.prompt_tokens / rates[Part.PREFILL.value]
        seconds += _BATCH_STEP * steps / rates[Part.DECODE.value]
        if seconds * runners * _MARGIN <= run.left:
            return share
    return _SHARES[-1]


def _show(run: _Run) -> None:
    order = list(dict.fromkeys(sample.variant for sample in run.samples))
    for part in dict.fromkeys(Part(sample.part) for sample in run.samples):
        run.on_section(part_section(part, run.samples, run.loaded, order))


def _result(run: _Run, start: dict[str, Any] | None) -> dict[str, Any]:
    seconds = time.monotonic() - run.started + run.before.get("seconds", 0.0)
    summary = summarize(run.samples, run.loaded, start)
    return without_nan({
        "sizes": asdict(run.options.sizes),
        "seed": run.options.seed,
        "seconds": round(seconds, 1),
        "loaded": run.loaded,
        "missing": run.missing,
        "samples": [asdict(sample) for sample in run.samples],
        "start": start,
        "summary": {"bench": "speed", "model": run.options.model, "quick": run.options.quick,
                    "seconds": round(seconds, 1),
                    "compile_first_use_s": round(run.compiling, 1)} | summary,
    })  # fmt: skip
