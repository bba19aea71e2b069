"""A model three times as large as the memory it may take: `stepwell bench streaming`.

Stepwell and accelerate's disk offload, each a process under the same enforced memory limit, take
turns within a round; the disk is measured in each round with Stepwell's own reads and nothing
computed, and shares are against that. Both read weights from a disk whose page cache was dropped:
the checkpoint would otherwise lie in memory that no limit counts.

Beside the same weights in bfloat16, Stepwell may run others (`extra`), which the rival has not.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.units import format_bytes
from stepwell.evaluate.contestants import Contestant, ContestantFailed, adapters_folder
from stepwell.evaluate.memory_limit import MemoryLimit
from stepwell.evaluate.options import OnProgress, OnSection, Section
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.shapes import house_folder, is_shape, make_checkpoint
from stepwell.evaluate.statistics import median

OWN, RIVAL = "stepwell", "accelerate"
_PASSES = 2  # of the weights for one measurement of the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingOptions:
    """`ratio`: bytes of weights over those that the whole process may take. `share`: of the limit,
    for weights; the rival is told the same. `tokens`: generated per sequence. `formats`: of
    Stepwell's weights, `checkpoint` first: the one that is compared."""

    model: str
    rounds: int
    batches: tuple[int, ...] = (1, 32)
    prompt: int = 32
    tokens: int = 16
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
            for name, entrant in entrants.items():
                if name != RIVAL:
                    say(f"round {number + 1}: {name}: reading alone")
                    found = entrant.contestant.ask("read", passes=_PASSES)
                    samples.append({"round": number, "engine": name, "part": "read", **found})
            for batch in options.batches:
                for name, entrant in entrants.items():
                    say(f"round {number + 1}: {name}: batch {batch}")
                    found = entrant.contestant.ask("run", **_work(options, batch, number))
                    samples.append(_sample(name, number, batch, found))
        peaks = dict(earlier["peak_bytes"]) if earlier else {}
        for name, entrant in entrants.items():
            peaks[name] = max(peaks.get(name) or 0, entrant.limit.peak() or 0) or None
        how = next(iter(entrants.values())).limit.how.value
        loaded = {name: entrant.loaded for name, entrant in entrants.items()}
    section = _section(samples, weights=weights, limit=limit, how=how, peaks=peaks)
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
            "cache.block_size": 16,
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


def _work(options: StreamingOptions, batch: int, number: int) -> dict[str, Any]:
    """The same prompts for everyone in a round."""
    source = random.Random(options.seed + 1000 * number + batch)
    prompts = [[source.randrange(300, 30000) for _ in range(options.prompt)] for _ in range(batch)]
    return {"prompts": prompts, "max_tokens": options.tokens}


def _sample(name: str, number: int, batch: int, found: dict[str, Any]) -> dict[str, Any]:
    count = sum(map(len, found.pop("tokens")))
    figures = {"tokens": count, "tokens_per_second": count / found["seconds"]}
    return {"round": number, "engine": name, "part": f"batch {batch}", **found, **figures}


def _section(
    samples: Sequence[dict[str, Any]],
    *,
    weights: int,
    limit: int,
    how: str,
    peaks: dict[str, int | None],
) -> Section:
    names = list(dict.fromkeys(sample["engine"] for sample in samples))
    figures: dict[str, Any] = {
        "weights_bytes": weights,
        "limit_bytes": limit,
        "disk_read_gbps": _disk(samples, OWN) / 1e9,
        "peak_share_of_limit": (peaks[OWN] or 0) / limit,
    }
    rows = []
    for part in dict.fromkeys(s["part"] for s in samples if s["part"] != "read"):
        batch = part.removeprefix("batch ")
        figures[f"disk_share_batch{batch}"] = _share(samples, OWN, part)
        for name in names:
            speed = _median(samples, name, part, lambda s: s["tokens_per_second"])
            figures[f"{name.replace(' ', '_')}_tps_batch{batch}"] = speed
            ratio = _paired(samples, name, part)
            if name != OWN:
                figures[f"ratio_batch{batch}_to_{name.replace(' ', '_')}"] = ratio
            share = "-" if name == RIVAL else f"{_share(samples, name, part):.0%}"
            peak = peaks[name]
            rows.append((
                part, name, f"{speed:.2f}", "-" if name == OWN else f"{ratio:.2f}", share,
                "-" if peak is None else format_bytes(peak),
            ))  # fmt: skip
    title = (
        f"{format_bytes(weights)} of weights, {format_bytes(limit)} of memory ({how}); "
        f"the disk gives {figures['disk_read_gbps']:.2f} GB/s to the same reads"
    )
    columns = ("part", "engine", "tokens/s", "stepwell / it", "of the disk", "peak memory")
    return Section("larger-than-memory", title, columns, tuple(rows), figures)


def _disk(samples: Sequence[dict[str, Any]], name: str) -> float:
    return median([x for s in _of(samples, name, "read") for x in s["bytes_per_second"]])


def _share(samples: Sequence[dict[str, Any]], name: str, part: str) -> float:
    """Bytes read over the time of the whole run, prompts included, against the disk's speed in the
    same round."""
    disk = {s["round"]: median(s["bytes_per_second"]) for s in _of(samples, name, "read")}
    runs = _of(samples, name, part)
    return median([s["read_bytes"] / s["seconds"] / disk[s["round"]] for s in runs])


def _paired(samples: Sequence[dict[str, Any]], name: str, part: str) -> float:
    """Stepwell's tokens/s over another's, paired by round."""
    pairs = zip(_of(samples, OWN, part), _of(samples, name, part), strict=True)
    return median([a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs])


def _median(
    samples: Sequence[dict[str, Any]], name: str, part: str, of: Callable[[dict[str, Any]], float]
) -> float:
    return median([of(sample) for sample in _of(samples, name, part)])


def _of(samples: Sequence[dict[str, Any]], name: str, part: str) -> list[dict[str, Any]]:
    return [s for s in samples if s["engine"] == name and s["part"] == part]
