"""Findings about the flow of requests: stalls, stuck ones, queues, errors, restarts."""

from __future__ import annotations

from stepwell.base.units import format_seconds
from stepwell.doctor.advice import Lever, setting
from stepwell.doctor.alias import Engine
from stepwell.doctor.case import Case
from stepwell.doctor.finding import Finding, Severity
from stepwell.doctor.quantity import Quantity as Q

_UNKNOWN_FIRST_TOKEN = 10.0
_ESSENTIAL = (Q.RUNNING, Q.WAITING, Q.PROMPT_TOKENS, Q.GENERATION_TOKENS, Q.KV_USAGE, Q.TTFT)
_COUNTS_AT_THE_END = (Engine.TGI, Engine.LMCACHE)
"""Whose token counters move only when a request ends (or that have none)."""


def engine_stalled(case: Case) -> Finding | None:
    """Nothing is computed although requests run."""
    window, bounds = case.window, case.bounds
    age = window.peak(Q.STATS_AGE) or 0.0
    still = window.seconds if _stands_still(case) else 0.0
    silent = max(age, still)
    if silent < bounds.stalled_seconds and window.missed < 2:
        return None
    running = window.last(Q.RUNNING) or 0.0
    if window.missed >= 2:
        seen = f"{window.missed} of {window.missed + len(window.readings)} looks got no page"
    else:
        seen = f"{running:.0f} requests run, and no token was computed for {silent:.0f} s"
    return Finding(
        code="engine_stalled",
        title="The engine stands still",
        symptom=f"{seen}.",
        diagnosis="A forward pass hangs (a device that stopped answering, a collective that waits "
        "for a dead rank, a process that is stopped), or one step takes longer than the window.",
        action=f"Look at {setting(case.engine, Lever.LOG)} and at the device; take a stack of the "
        "engine's process (py-spy dump); restart it if it does not go on.",
        evidence={"running": running, "silent_seconds": silent, "missed_looks": window.missed},
        gain="all running and waiting requests",
        gain_share=1.0,
        severity=Severity.HIGH,
    )


def stuck_request(case: Case) -> Finding | None:
    """One request has had no token for long, while others go on."""
    window, bounds = case.window, case.bounds
    silence = window.last(Q.LONGEST_SILENCE) or 0.0
    if engine_stalled(case) is not None:
        return None
    between = case.mean(Q.ITL) or 0.0
    first = window.whole(Q.TTFT)
    slowest = first.quantile(0.99) if first is not None and first.count > 0 else None
    limit = max(
        bounds.silence_seconds,
        bounds.silence_intervals * between,
        bounds.silence_first_tokens * (slowest or _UNKNOWN_FIRST_TOKEN),
    )
    if silence < limit:
        return None
    running = window.last(Q.RUNNING) or 0.0
    rate = window.rate(Q.GENERATION_TOKENS) or 0.0
    return Finding(
        code="stuck_request",
        title="A request is stuck",
        symptom=f"A started request has had no token for {silence:.0f} s; {running:.0f} run and "
        f"make {rate:.0f} tokens/s together.",
        diagnosis="It is starved (preempted again and again, or waiting for a load or a grammar "
        f"that does not come): others get a token every {format_seconds(between)}.",
        action="Find it in the server's log by its age and abort it (close its connection); set "
        "a request timeout (server.request_timeout).",
        evidence={
            "longest_silence_seconds": silence,
            "limit_seconds": limit,
            "oldest_running_seconds": window.last(Q.OLDEST_RUNNING) or 0.0,
            "inter_token_seconds_mean": between,
            "running": running,
        },
        gain="one request, and the room that it holds",
        gain_share=1.0 / max(1.0, running),
        severity=Severity.HIGH,
    )


def overload(case: Case) -> Finding | None:
    """More requests come than are finished, and not for want of room in the pool."""
    window, bounds = case.window, case.bounds
    refused = window.gained(Q.REFUSED_QUEUE) or 0.0
    if case.pool_is_full and not refused:
        return None
    waiting, running = window.mean(Q.WAITING) or 0.0, window.mean(Q.RUNNING) or 0.0
    growth = _growth(window.series(Q.WAITING))
    long = (
        len(window.readings) >= bounds.least_readings
        and window.share_of_readings(Q.WAITING, above=0.0) >= 0.8
        and (waiting >= bounds.overload_ratio * max(1.0, running)
             or growth >= bounds.queue_growth)
    )  # fmt: skip
    if not long and not refused:
        return None
    share = max(case.waiting_share, 0.05 if refused else 0.0)
    prefill = case.prefill_share
    bound = ""
    if prefill is not None:
        bound = f" {prefill:.0%} of the computing time is prefill."
    turned = f"; {refused:.0f} were refused because too many wait" if refused else ""
    return Finding(
        code="overload",
        title="More requests come than can be served",
        symptom=f"{waiting:.1f} requests wait while {running:.1f} run, and the queue grew by "
        f"{growth:.1f} in {window.seconds:.0f} s{turned}.",
        diagnosis=f"The processor is the limit, not the KV pool.{bound}",
        action=f"More replicas, or a larger batch ({setting(case.engine, Lever.BATCH)}) if the "
        "time between tokens allows it; turn requests away earlier by a limit on the queue.",
        evidence={
            "waiting_mean": waiting,
            "running_mean": running,
            "queue_growth": growth,
            "refused_queue_full": refused,
            "kv_usage_mean": window.mean(Q.KV_USAGE) or 0.0,
        },
        gain=f"{share:.0%} of the requests in the system now wait",
        gain_share=share,
        severity=Severity.HIGH,
    )


def prefill_bound(case: Case) -> Finding | None:
    """Requests queue behind prompts that are being computed."""
    window, bounds = case.window, case.bounds
    prefill = case.prefill_share
    times, waits = window.recent(Q.PREFILL_TIME), window.recent(Q.QUEUE_TIME)
    if prefill is None or prefill < bounds.prefill_share or times is None or waits is None:
        return None
    if times.count < bounds.least_requests / 2 or case.pool_is_full:
        return None
    waiting = window.mean(Q.WAITING) or 0.0
    queue = waits.total / max(1e-9, times.total)
    if waiting < 1.0 or queue < bounds.queue_wait:
        return None
    hits = case.share(Q.PREFIX_HITS, Q.PREFIX_QUERIES, least=bounds.least_prompt_tokens)
    share = min(1.0, queue / (1.0 + queue))
    return Finding(
        code="prefill_bound",
        title="Requests queue behind prompts",
        symptom=f"Prefill is {prefill:.0%} of the computing time; requests wait "
        f"{format_seconds(waits.mean or 0.0)} before {format_seconds(times.mean or 0.0)} of "
        "prefill.",
        diagnosis="The processor is busy with prompts, so each new one waits for those before it."
        + (f" {hits.value:.0%} of the prompt tokens were reused." if hits else ""),
        action="Reuse more of the prompts (constant text first, a tier for idle sessions), send "
        "shorter ones, or add replicas; a larger "
        f"{setting(case.engine, Lever.PREFILL_BUDGET)} if tokens between may come later.",
        evidence={
            "prefill_time_share": prefill,
            "queue_seconds_mean": waits.mean or 0.0,
            "prefill_seconds_mean": times.mean or 0.0,
            "waiting_mean": waiting,
        },
        gain=f"up to {share:.0%} of the time to the first token",
        gain_share=share,
    )


def errors(case: Case) -> Finding | None:
    """Requests fail through the server's fault."""
    window, bounds = case.window, case.bounds
    failed = max(window.gained(Q.FAILED) or 0.0, window.gained(Q.BROKEN) or 0.0)
    ended = (window.gained(Q.FINISHED) or 0.0) + (window.gained(Q.BROKEN) or 0.0)
    share = failed / max(failed, ended) if failed else 0.0
    if failed < bounds.errors or share < bounds.error_share:
        return None
    return Finding(
        code="errors",
        title="Requests fail",
        symptom=f"{failed:.0f} requests ({share:.1%}) failed in {window.seconds:.0f} s.",
        diagnosis="The server answers with errors of its own (5xx), or ends requests with one.",
        action=f"Look at {setting(case.engine, Lever.LOG)} for the first of them.",
        evidence={"failed": failed, "ended": ended},
        gain=f"{share:.0%} of the requests would be answered",
        gain_share=share,
        severity=Severity.HIGH,
    )


def restarted(case: Case) -> Finding | None:
    """The server came back during the window."""
    count = case.window.restarts
    if not count:
        return None
    return Finding(
        code="restarted",
        title="The server restarted while it was watched",
        symptom=f"{count} restart{'s' if count > 1 else ''}: counters began anew.",
        diagnosis="Its process ended (out of memory, a crash, a failed health check) or was "
        "replaced. All cached context on the device is lost with it.",
        action="See why the process ended: `stepwell doctor oom LOG` explains a log's last words.",
        evidence={"restarts": count},
        gain="all requests that ran at that moment",
        gain_share=1.0,
        severity=Severity.HIGH,
    )


def metrics_missing(case: Case) -> Finding | None:
    """What every engine should tell and this one does not."""
    window = case.window
    missing = [q for q in _ESSENTIAL if q in window.unknown()]
    if case.engine is Engine.LMCACHE:
        missing = []  # a cache, not an engine: none of them is its own
    broken = window.readings[-1].broken_lines
    if not missing and not broken:
        return None
    names = ", ".join(q.meaning for q in missing)
    seen = [f"not reported: {names}"] if missing else []
    if broken:
        seen.append(f"{broken} lines of the page cannot be read")
    return Finding(
        code="metrics_missing",
        title="The page does not say everything",
        symptom="; ".join(seen) + ".",
        diagnosis="What needs these numbers is left out of this report, not guessed.",
        action="Use a newer version of the engine, or switch its metrics on.",
        evidence={"missing": ", ".join(q.label for q in missing), "broken_lines": broken},
        gain="",
        severity=Severity.LOW,
    )


def _stands_still(case: Case) -> bool:
    """Requests ran in every reading of a window that is long enough, and no counter moved."""
    window = case.window
    if case.engine in _COUNTS_AT_THE_END or window.seconds < case.bounds.stalled_seconds:
        return False
    running = window.series(Q.RUNNING)
    if len(running) < case.bounds.least_readings or min(running) < 1:
        return False
    moved = [window.gained(q) for q in (Q.GENERATION_TOKENS, Q.PROMPT_TOKENS, Q.FINISHED)]
    return moved[0] is not None and not any(moved)


def _growth(values: list[float]) -> float:
    """Mean of the last third less that of the first."""
    third = len(values) // 3
    if not third:
        return 0.0
    return (sum(values[-third:]) - sum(values[:third])) / third
