"""Throughput: everyone runs the same requests, in turn, and the ratio is what counts."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.evaluate.arena import Arena
from stepwell.evaluate.ceiling import Ceiling
from stepwell.evaluate.contestants import Contestant, ContestantFailed
from stepwell.evaluate.options import UNTIL, Section
from stepwell.evaluate.statistics import Spread, median_ratio
from stepwell.evaluate.workload import Mix, Workload

STATIC = "transformers-static"
_STATIC_ROWS = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One variant that takes turns: a contestant, and how it is to run."""

    label: str
    contestant: Contestant
    arguments: Mapping[str, Any]


def throughput_section(arena: Arena) -> Section:
    """The same requests by everyone, in turn."""
    entries = [Entry("stepwell", arena.own, {})]
    for name, contestant in arena.rivals.items():
        if name == STATIC:
            for batch in arena.options.batches:
                entries.append(Entry(f"{name}@{batch}", contestant, {"batch": batch}))
        else:
            entries.append(Entry(name, contestant, {}))
    mix = arena.options.mix(vocab_size=arena.vocab_size)
    return _race(arena, entries, mix, name="throughput", title="Throughput, A B A B")


def budget_section(arena: Arena) -> Section:
    """The KV bytes that two rows of a static batch reserve, given to either.

    A static batch reserves for each row the longest prompt plus the longest output, or, where it
    cannot know them beforehand, the context that it promises (`static_reserve`). The paged pool
    gets as many bytes.
    """
    mix = arena.options.mix(vocab_size=arena.vocab_size)
    row = arena.options.static_reserve or mix.draw().longest
    tokens = _STATIC_ROWS * row
    entries = [Entry("stepwell", arena.start_budgeted(tokens), {})]
    if STATIC in arena.rivals:
        label = f"{STATIC}@{_STATIC_ROWS}"
        entries.append(Entry(label, arena.rivals[STATIC], {"batch": _STATIC_ROWS}))
    size = format_bytes(tokens * arena.cost.kv_bytes)
    title = f"Throughput with KV memory for {_STATIC_ROWS} static rows of {row} tokens ({size})"
    section = _race(arena, entries, mix, name="budget", title=title)
    section.figures.update(kv_tokens=tokens, row_tokens=row)
    return section


def _race(arena: Arena, entries: list[Entry], mix: Mix, *, name: str, title: str) -> Section:
    """Everyone runs the mix once a round; tokens a second, and Stepwell's ratio to each."""
    rates: dict[str, list[float]] = {entry.label: [] for entry in entries}
    for entry in entries:
        arena.say(f"{name}: warming up {entry.label}")
        entry.contestant.ask("run", requests=mix.draw(turn=99).as_dicts()[:2], **entry.arguments)
    last = 0.0
    for turn in range(arena.options.rounds):
        if turn and not arena.time_for(last, until=UNTIL[name]):
            break
        begin = time.monotonic()
        work = mix.draw(turn=turn)
        for entry in list(entries):
            arena.say(f"{name}: round {turn + 1} of {arena.options.rounds}: {entry.label}")
            try:
                found = entry.contestant.ask("run", requests=work.as_dicts(), **entry.arguments)
                if not found["complete"]:
                    raise ContestantFailed(f"{entry.label}: an output has the wrong length.")
            except ContestantFailed as error:
                arena.missing[f"{entry.label} {name}"] = str(error)
                entries.remove(entry)
                rates.pop(entry.label)
                continue
            rates[entry.label].append(found["output_tokens"] / found["seconds"])
        last = time.monotonic() - begin
    # Beside what it is to bound: the machine may have been slower when the run began.
    ceiling = arena.measure_ceiling()
    return _race_result(arena, rates, mix.draw(), ceiling, name=name, title=title)


def _race_result(
    arena: Arena, rates: dict[str, list[float]], work: Workload, ceiling: Ceiling, *, name: str,
    title: str,
) -> Section:  # fmt: skip
    bound = work.output_tokens / arena.cost.mix_seconds(ceiling, work)
    rows: list[tuple[str, ...]] = []
    figures: dict[str, dict[str, Any]] = {}
    for label, values in rates.items():
        spread = Spread.of(values)
        ratio = median_ratio(rates["stepwell"], values)
        rows.append((
            label,
            f"{spread.median:,.1f} ({spread.low:,.1f} to {spread.high:,.1f})",
            f"{bound:,.0f}",
            f"{spread.median / bound:.0%}",
            "-" if label == "stepwell" else f"{ratio:.2f}x",
        ))  # fmt: skip
        figures[label] = spread.as_dict() | {"values": values, "stepwell_ratio": ratio}
    statics = [float(f["stepwell_ratio"]) for label, f in figures.items() if STATIC in label]
    result: dict[str, Any] = {
        "workload": work.as_dict(),
        "bound_output_tokens_per_s": bound,
        "output_tokens_per_s": figures,
        # against the static batch size that did best
        "speedup_vs_static": min(statics) if statics else math.nan,
    }
    columns = ("output tokens/s", "median (range)", "ceiling", "share", "Stepwell is")
    return Section(name, title, columns, tuple(rows), result)
