"""A model three times as large as the memory it may take: `stepwell bench streaming`.

Stepwell and accelerate's disk offload, each a process under the same enforced memory limit, take
turns within a round; the disk is measured before and after each part with Stepwell's own reads and
nothing computed, and shares are against the best of a round. The checkpoint's page cache is dropped
before either loads: it would otherwise lie in memory that no limit counts.

Beside the checkpoint's weights Stepwell may run low-bit ones (`formats`), which the rival has not.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.evaluate.contestants import Contestant, ContestantFailed, adapters_folder
from stepwell.evaluate.memory_limit import MemoryLimit
from stepwell.evaluate.options import OnProgress, OnSection
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.shapes import house_folder, is_shape, make_checkpoint
from stepwell.evaluate.streaming_report import OWN, RIVAL, streaming_section

_BLOCK = 16  # tokens of a KV block, as by default
_PASSES = 2  # of the weights for one measurement of the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingOptions:
    """`ratio`: bytes of weights over those that the whole process may take. `share`: of the limit,
    for weights; the rival is told the same. `prompt`, `tokens`: read and generated per sequence, of
    ids below `vocabulary`. `formats`: of Stepwell's weights, `checkpoint` first: it is compared."""

    model: str
    rounds: int
    batches: tuple[int, ...] = (1, 32)
    prompt: int = 32
    tokens: int = 16
    vocabulary: int = 32000
    ratio: float = 3.0
    share: float = 0.5
    formats: tuple[str, ...] = ("checkpoint",)
    rival: bool = True
    seed: int = 3
    workdir: Path
    environments: Path


@dataclass(slots=True)
class _Entrant:
    """A process under a limit, and what it said when it had loaded."""

    contestant: Contestant
    limit: MemoryLimit
    loaded: dict[str, Any]


def run_streaming_bench(
    options: StreamingOptions,
    *,
    on_section: OnSection,
    say: OnProgress,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure; figures, and a one-line summary under `summary`. `earlier`: a result whose rounds
    come before these. Raises ContestantFailed where Stepwell fails; a rival that does is left out
    with its reason under `missing`."""
    say("making the checkpoint")
    folder = _checkpoint(options)
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    limit = int(weights / options.ratio)
    samples: list[dict[str, Any]] = list(earlier["samples"]) if earlier else []
    first = 1 + max((sample["round"] for sample in samples), default=-1)
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        entrants = _enter_all(options, folder, limit, stack, missing, say)
        for number in range(first, first + options.rounds):
            samples += _read(entrants, number, say)
            for batch in options.batches:
                for name, entrant in entrants.items():
                    say(f"round {number + 1}: {name}: batch {batch}")
                    found = entrant.contestant.ask("run", **_work(options, batch, number))
                    samples.append(_sample(name, number, batch, found))
                samples += _read(entrants, number, say)
        peaks = dict(earlier["peak_bytes"]) if earlier else {}
        for name, entrant in entrants.items():
            peaks[name] = max(peaks.get(name) or 0, entrant.limit.peak() or 0) or None
        how = next(iter(entrants.values())).limit.how.value
        loaded = {name: entrant.loaded for name, entrant in entrants.items()}
    section = streaming_section(samples, weights=weights, limit=limit, how=how, peaks=peaks)
    on_section(section)
    return {
        "weights_bytes": weights,
        "limit_bytes": limit,
        "limit_by": how,
        "loaded": loaded,
        "peak_bytes": peaks,
        "samples": samples,
        "missing": missing,
        "summary": section.figures,
    }


def _checkpoint(options: StreamingOptions) -> Path:
    if not is_shape(options.model):
        return Path(options.model).expanduser()
    workdir = options.workdir.expanduser()
    return make_checkpoint(options.model, workdir=workdir, tokenizer=house_folder())


def _enter_all(
    options: StreamingOptions,
    folder: Path,
    limit: int,
    stack: ExitStack,
    missing: dict[str, str],
    say: OnProgress,
) -> dict[str, _Entrant]:
    """All processes, loaded and waiting for their turns."""
    budget = int(limit * options.share)
    longest = options.prompt + options.tokens
    found = {}
    for weights in options.formats:
        name = OWN if weights == "checkpoint" else f"{OWN} {weights}"
        say(f"{name}: loading under {format_bytes(limit)}")
        settings = {
            "model.weights_budget": str(budget),
            "model.max_model_len": longest,
            "model.weights": weights,
            "cache.pool": str(_pool_bytes(options, folder)),
            "cache.prefix_caching": False,
            "scheduler.max_sequences": max(options.batches),
        }
        drop_page_cache(folder)
        command = (sys.executable, "-m", "stepwell.evaluate.streaming_worker")
        found[name] = _enter(name, command, limit, options, stack, {})
        found[name].loaded = found[name].contestant.ask(
            "load", model=str(folder), settings=settings
        )
    if options.rival:
        say(f"{RIVAL}: loading under {format_bytes(limit)}")
        drop_page_cache(folder)
        try:
            entrant = _enter(RIVAL, _rival_command(), limit, options, stack, _rival_path(options))
            entrant.loaded = entrant.contestant.ask("load", model=str(folder), memory=budget)
            found[RIVAL] = entrant
        except ContestantFailed as error:
            missing[RIVAL] = str(error)
    return found


def _pool_bytes(options: StreamingOptions, folder: Path) -> int:
    """KV of the largest batch: what the rival's cache grows to."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, dim = config["num_key_value_heads"], config["head_dim"]
    size = 4 if config.get("dtype") == "float32" else 2
    blocks = max(options.batches) * (-(-(options.prompt + options.tokens) // _BLOCK) + 1)
    return blocks * _BLOCK * 2 * config["num_hidden_layers"] * heads * dim * size


def _enter(
    name: str,
    command: Sequence[str],
    limit: int,
    options: StreamingOptions,
    stack: ExitStack,
    environment: dict[str, str],
) -> _Entrant:
    held = stack.enter_context(MemoryLimit.make(limit))
    contestant = Contestant(
        name=name,
        command=held.command(command),
        log=options.workdir.expanduser() / "logs" / f"streaming-{name.replace(' ', '-')}.log",
        environment=environment,
    )
    return _Entrant(stack.enter_context(contestant), held, {})


def _rival_command() -> tuple[str, ...]:
    folder = adapters_folder("accelerate-disk")
    return (sys.executable, "-P", str(folder / "accelerate_disk.py"))


def _rival_path(options: StreamingOptions) -> dict[str, str]:
    """accelerate beside Stepwell's own environment, in which it would change how models load."""
    folder = options.environments.expanduser() / "accelerate"
    found = sorted(folder.glob("lib/python*/site-packages/accelerate"))
    if not found:
        raise ContestantFailed(
            f"{RIVAL}: not installed.", hint=f"bench/rivals/setup.sh accelerate {folder.parent}"
        )
    package = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join((str(package), str(found[0].parent)))
    return {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}


def _read(entrants: Mapping[str, _Entrant], number: int, say: OnProgress) -> list[dict[str, Any]]:
    """The disk's speed, before and after each part."""
    samples = []
    for name, entrant in entrants.items():
        if name != RIVAL:
            say(f"round {number + 1}: {name}: reading alone")
            found = entrant.contestant.ask("read", passes=_PASSES)
            samples.append({"round": number, "engine": name, "part": "read", **found})
    return samples


def _work(options: StreamingOptions, batch: int, number: int) -> dict[str, Any]:
    """The same prompts for everyone in a round."""
    source = random.Random(options.seed + 1000 * number + batch)
    most = options.vocabulary
    prompts = [[source.randrange(most) for _ in range(options.prompt)] for _ in range(batch)]
    return {"prompts": prompts, "max_tokens": options.tokens}


def _sample(name: str, number: int, batch: int, found: dict[str, Any]) -> dict[str, Any]:
    count = sum(map(len, found.pop("tokens")))
    figures = {"tokens": count, "tokens_per_second": count / found["seconds"]}
    return {"round": number, "engine": name, "part": f"batch {batch}", **found, **figures}
