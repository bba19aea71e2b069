"""Items about where context is kept: KV, tiers, thresholds of restores."""

from __future__ import annotations

from datetime import UTC, datetime

from stepwell.base.config import Config
from stepwell.base.units import format_bytes, format_seconds, parse_bytes
from stepwell.doctor.alias import Engine
from stepwell.doctor.checklist.evidence import BenchFile, Evidence, Live, capacity
from stepwell.doctor.checklist.item import Item, Rule, either, first_known
from stepwell.doctor.quantity import Quantity as Q

LENGTHS_SPAN = 4.0
_APART = 1.5
"""Lengths nearer to each other than this count as one."""

MOST_DAYS = 90

KV_PROFILED = Rule(
    "kv_profiled", "KV profiled at several contexts",
    "Passes where the pool's size is reported and prompts of three lengths, the longest four "
    "times the shortest, were served (buckets of the prompt histogram) or probed.",
)  # fmt: skip
TIERS = Rule(
    "tiers_configured", "lower tiers configured and healthy",
    "Passes where the server reports a tier below the device (or the settings name one) and none "
    "is switched off.",
)  # fmt: skip
THRESHOLDS = Rule(
    "thresholds_measured", "thresholds of load against recompute measured",
    "Passes where the server has moved bytes from a tier and begun restores: its rates are fitted "
    "from those. Settings cannot say it.",
)  # fmt: skip
BENCHMARKED = Rule(
    "restore_benchmarked", "transfer against recompute benchmarked",
    "Passes where a result file of `stepwell bench hierarchy`, at most "
    f"{MOST_DAYS} days old, has restores faster than recomputing, or the server's own balance of "
    "restores is positive.",
)  # fmt: skip


def check_memory(evidence: Evidence) -> list[Item]:
    """All items of this module."""
    live, config = evidence.live, evidence.config
    return [
        _kv_profiled(evidence),
        first_known(*either(TIERS, _tiers_live(live), _tiers_config(config))),
        _thresholds(live),
        _benchmarked(evidence),
    ]


def _kv_profiled(evidence: Evidence) -> Item:
    live = evidence.live
    if live is None:
        return KV_PROFILED.unknown("settings do not say what was served", "Give the server's URL.")
    values = live.reading.values
    pool = values.get(Q.KV_POOL_BYTES) or values.get(Q.KV_CAPACITY)
    lengths = _served_lengths(live)
    source = "served"
    if evidence.probe is not None:
        lengths += [float(pair.prompt_tokens) for pair in evidence.probe.pairs]
        source = "served or probed"
    lengths = _distinct(lengths)
    if pool is None:
        return KV_PROFILED.unknown(f"{live.engine.value} does not report the size of its KV pool",
                                   "Compute it: stepwell plan MODEL --device NAME.")  # fmt: skip
    size = format_bytes(pool) if Q.KV_POOL_BYTES in values else f"{pool:,.0f} tokens"
    shown = ", ".join(f"{length:,.0f}" for length in lengths)
    if len(lengths) >= 3 and lengths[-1] >= LENGTHS_SPAN * lengths[0]:
        return KV_PROFILED.passed(
            f"pool of {size}; prompts of up to {shown} tokens were {source}", lengths=len(lengths)
        )
    told = f"prompts of up to {shown} tokens" if lengths else "no prompt"
    return KV_PROFILED.unknown(
        f"pool of {size}; {told} {source} so far: too few lengths to tell",
        "Let it serve (or --probe) short and long prompts.", lengths=len(lengths),
    )  # fmt: skip


def _distinct(lengths: list[float]) -> list[float]:
    kept: list[float] = []
    for length in sorted(lengths):
        if not kept or length >= _APART * kept[-1]:
            kept.append(length)
    return kept


def _served_lengths(live: Live) -> list[float]:
    """Upper bounds of the buckets of the prompt histogram that hold a prompt."""
    histogram = live.reading.histograms.get(Q.PROMPT_LENGTH)
    if histogram is None:
        return []
    before = (0.0, *histogram.counts[:-1])
    pairs = zip(histogram.bounds, histogram.counts, before, strict=True)
    return [bound for bound, count, below in pairs if count > below and bound != float("inf")]


def _tiers_live(live: Live | None) -> Item | None:
    if live is None:
        return None
    tiers = live.reading.tiers
    if tiers:
        sick = [name for name, measures in tiers.items() if measures.get("healthy") == 0]
        if sick:
            return TIERS.failed(
                f"switched off after failures: {', '.join(sick)}",
                "Look at the server's log and at the tier's disk or network.",
            )
        shown = ", ".join(f"{name} {capacity(m)}" for name, m in tiers.items())
        return TIERS.passed(f"the server reports {shown}")
    if live.engine is Engine.STEPWELL:
        return TIERS.failed("the server reports none", "Start it with --host-tier and --disk-tier.")
    size = next((labels.get("kv_offloading_size") for labels, _ in
                 live.page.find("vllm:cache_config_info")), None)  # fmt: skip
    if size not in (None, "None"):
        return TIERS.passed(f"vLLM offloads KV to {size} GiB of host memory")
    if Q.STORED in live.reading.values:
        return TIERS.passed("the server reports KV stored below the device")
    if size == "None":
        return TIERS.failed(
            "vLLM's cache_config_info says kv_offloading_size None, and no connector reports",
            "Set --kv-offloading-size, or a KV connector (Stepwell, LMCache).",
        )
    return TIERS.unknown(
        f"{live.engine.value} reports nothing of tiers", "Look at how it was started."
    )


def _tiers_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    tiers = config.tiers
    named = [f"host {tiers.host}"] if parse_bytes(tiers.host) else []
    named += [f"disk {tiers.disk_capacity} in {tiers.disk}"] if tiers.disk else []
    named += ["network"] if tiers.remote else []
    if named:
        return TIERS.passed("the settings name " + ", ".join(named))
    return TIERS.failed("[tiers] names none", "Set tiers.host (4GiB) and tiers.disk (a folder).")


def _thresholds(live: Live | None) -> Item:
    how = "Let sessions return after their context was evicted, then look again."
    if live is None:
        return THRESHOLDS.unknown("settings do not say what was measured", "Give the server's URL.")
    if not live.reading.tiers:
        return THRESHOLDS.unknown("no tier is reported, so there is nothing to weigh", how)
    begun = {labels.get("mode", ""): value for labels, value in live.page.find("stepwell_restore")}
    restores = sum(value for mode, value in begun.items() if mode != "none")
    loaded = sum(tier.get("loaded_bytes", 0.0) for tier in live.reading.tiers.values())
    if restores > 0 and loaded > 0:
        return THRESHOLDS.passed(
            f"{restores:,.0f} restores begun, {format_bytes(loaded)} loaded: rates are fitted from "
            "them", restores=restores, loaded_bytes=loaded,
        )  # fmt: skip
    return THRESHOLDS.unknown("nothing was loaded from a tier yet", how)


def _benchmarked(evidence: Evidence) -> Item:
    own = _own_balance(evidence.live)
    results = evidence.results
    if own is not None:
        return own
    if results is None:
        return BENCHMARKED.unknown(
            "no folder of results was given", "stepwell bench hierarchy, then --results FOLDER."
        )
    files = [(file, _days(file)) for file in results if _speedups(file)]
    models = sorted({str(file.content.get("model")) for file, _ in files})
    files = [pair for pair in files if _is_of(pair[0], evidence.live)]
    if models and not files:
        return BENCHMARKED.unknown(
            f"the results are of Stepwell with {', '.join(models)}, not of what this server serves",
            "Run stepwell bench hierarchy with its model.",
        )
    if not files:
        return BENCHMARKED.failed(
            "no result file of `stepwell bench hierarchy` is in the folder",
            "Run stepwell bench hierarchy on this machine.",
        )
    file, days = min(files, key=lambda pair: pair[1])
    speedups = _speedups(file)
    shown = ", ".join(f"{name} {value:.1f}x" for name, value in speedups.items())
    evidence_text = f"{file.name}, {days:.0f} days old: restoring against recomputing, {shown}"
    if days > MOST_DAYS:
        return BENCHMARKED.failed(evidence_text, "Run it again: machines and models change.")
    if max(speedups.values()) <= 1.0:
        return BENCHMARKED.failed(evidence_text, "Restores do not pay here: leave tiers out.")
    return BENCHMARKED.passed(evidence_text, **speedups)


def _is_of(file: BenchFile, live: Live | None) -> bool:
    """Whether a result says something of what is served there."""
    if live is None:
        return True
    model = str(file.content.get("model", ""))
    return live.engine is Engine.STEPWELL and bool(model) and model in live.card.name.lower()


def _own_balance(live: Live | None) -> Item | None:
    """Of the server's own restores: measured while serving."""
    if live is None:
        return None
    saved = live.reading.values.get(Q.RESTORE_SAVED)
    regret = live.reading.values.get(Q.RESTORE_REGRET) or 0.0
    if not saved and not regret:
        return None
    text = (
        f"the server's restores saved {format_seconds(saved or 0.0)} of computing and cost "
        f"{format_seconds(regret)} too much"
    )
    if (saved or 0.0) > regret:
        return BENCHMARKED.passed(text, saved_seconds=saved or 0.0, regret_seconds=regret)
    return BENCHMARKED.failed(text, "Look at the tiers' rates: stepwell doctor URL.")


def _speedups(file: BenchFile) -> dict[str, float]:
    start = "ttft_speedup_"
    return {
        key.removeprefix(start): float(value)
        for key, value in file.content.items()
        if key.startswith(start) and isinstance(value, int | float)
    }


def _days(file: BenchFile) -> float:
    try:
        date = datetime.fromisoformat(str(file.content.get("date", "")))
    except ValueError:
        return float("inf")
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (datetime.now(UTC) - date).total_seconds() / 86400)
