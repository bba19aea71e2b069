"""Stepwell's own errors about memory. It checks sizes before it allocates: all are of the start."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.advice import lack_steps
from stepwell.doctor.oom.reader import Reader, Sighting
from stepwell.doctor.oom.words import SIZE, Explanation, Holder, Phase, Step, parse_size

_CODES = "pool_does_not_fit|weights_budget_too_small|hardware_error"
_LINE = re.compile(rf"\[?(?:{_CODES})\]?: (?P<told>[^\n]+)")
_POOL = re.compile(rf"a pool of {SIZE} exceeds the {SIZE} that are left")
_BLOCK = re.compile(rf"the pool has no room for one block of {SIZE}")
_HOST = re.compile(rf"tiers\.host is {SIZE}, but {SIZE} of memory are left")
_PINNED = re.compile(rf"{SIZE} of pinned memory for lower tiers cannot be had")
_BUDGET = re.compile(rf"model\.weights_budget is {SIZE}, but streaming this model takes {SIZE}")
_STREAM = re.compile(rf"{SIZE} of memory are free, and streaming takes {SIZE}")
_SAFE_SHARE = 0.9


def _explain(sight: Sighting) -> Explanation | None:
    """None for errors of these codes that are not about memory."""
    told = sight.group("told")
    for pattern, make in _KINDS:
        match = pattern.search(told)
        if match is not None:
            return make(sight, *map(parse_size, match.groups()))
    return None


def _pool(sight: Sighting, asked: int, left: int) -> Explanation:
    most = int(left * _SAFE_SHARE)
    first = Step(
        f"Set cache.pool (--pool) to {format_bytes(most)} or less, or leave it to auto.",
        f"{format_bytes(asked - most)} less; blocks hold as many tokens less",
    )
    return _made(
        sight, "pool", f"a KV pool of {format_bytes(asked)} exceeds what is left", (first,),
        asked=asked, free=left, why="Weights and step buffers are counted first; the rest is left "
        "for the pool, and cache.pool asks for more.",
    )  # fmt: skip


def _block(sight: Sighting, size: int) -> Explanation:
    first = Step(
        "Raise cache.pool, or use a smaller model, KV in int8, or fewer bits for weights.",
        f"one block takes {format_bytes(size)}, one sequence several",
    )
    return _made(
        sight, "block", "not one block fits into the pool", (first,), asked=size,
        why="Nearly nothing is left beside the weights, or cache.pool is set too low.",
    )  # fmt: skip


def _host(sight: Sighting, asked: int, left: int) -> Explanation:
    most = int(left * _SAFE_SHARE)
    steps = (
        Step(f"Set tiers.host to {format_bytes(most)} or less.", "the host arena then fits"),
        Step("Keep idle context on disk instead (tiers.disk).", "costs no host memory"),
        Step("On a CPU lower cache.pool: pool and arena share the memory.", "as much more is left"),
    )
    return _made(
        sight, "host", f"a host tier of {format_bytes(asked)} exceeds the memory", steps,
        asked=asked, free=left, why="The arena is one allocation at the start, so that it can "
        "never take more later.",
    )  # fmt: skip


def _pinned(sight: Sighting, asked: int) -> Explanation:
    steps = (
        Step("Lower tiers.chunk_blocks.", "staging memory shrinks in proportion"),
        Step("Check `ulimit -l` and free host memory.", "pinned memory cannot be swapped"),
    )
    return _made(
        sight, "pinned", f"{format_bytes(asked)} of pinned memory were refused", steps,
        asked=asked, why="Transfers between device and tiers go through pinned host memory.",
    )  # fmt: skip


def _budget(sight: Sighting, given: int, least: int) -> Explanation:
    steps = (
        Step(
            f"Set model.weights_budget to {format_bytes(least)} or more.", "streaming then starts"
        ),
        Step("Lower scheduler.max_step_tokens.", "less is needed beside two layers"),
    )
    return _made(
        sight, "budget", "the budget is less than streaming needs", steps, asked=least, free=given,
        why="While one layer is computed the next is read: two layers at least, and what stays in "
        "memory for the whole time.",
    )  # fmt: skip


def _stream(sight: Sighting, free: int, least: int) -> Explanation:
    steps = (
        Step(f"Free {format_bytes(max(0, least - free))} of memory.", "streaming then starts"),
        Step("Lower scheduler.max_step_tokens or model.max_model_len.", "less is needed"),
    )
    return _made(
        sight, "stream", "even streaming does not fit into what is free", steps, asked=least,
        free=free, why="Other processes hold the rest, or the model's layers are too large.",
    )  # fmt: skip


_KINDS = ((_POOL, _pool), (_BLOCK, _block), (_HOST, _host), (_PINNED, _pinned),
          (_BUDGET, _budget), (_STREAM, _stream))  # fmt: skip


def _made(
    sight: Sighting, kind: str, title: str, steps: tuple[Step, ...], *, why: str,
    asked: int | None = None, free: int | None = None,
) -> Explanation:  # fmt: skip
    usual = lack_steps("stepwell", Phase.UNKNOWN, sight.facts)[1:] if kind == "pool" else ()
    told = "weights, buffers, other processes"
    return Explanation(
        kind=f"stepwell_{kind}",
        source="Stepwell, start",
        title=title,
        why=why,
        steps=(*steps, *usual),
        text=sight.text,
        phase=Phase.LOADING if kind in ("budget", "stream") else Phase.KV_CACHE,
        requested=asked,
        free=free,
        holders=(
            Holder(told, None, "see `stepwell plan` and `stepwell serve --explain`"),
            *(() if free is None or kind == "budget" else (Holder("left", free),)),
        ),
    )


READERS = (Reader("stepwell", _CODES, _LINE, _explain, span=1),)
