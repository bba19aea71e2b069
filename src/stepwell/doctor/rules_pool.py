"""Findings about room on the device: the pool, the context limit, waste inside blocks."""

from __future__ import annotations

from stepwell.doctor.advice import Lever, setting
from stepwell.doctor.case import Case
from stepwell.doctor.finding import Finding, Severity
from stepwell.doctor.quantity import Quantity as Q


def pool_too_small(case: Case) -> Finding | None:
    """Requests are set back, or wait for room in the pool."""
    window, bounds = case.window, case.bounds
    preempted = window.gained(Q.PREEMPTIONS) or 0.0
    running = window.mean(Q.RUNNING) or 0.0
    requests = (window.gained(Q.FINISHED) or 0.0) + running
    set_back = preempted >= bounds.preemptions and preempted >= bounds.preempted_share * requests
    waits = _waits(case) and case.pool_is_full
    if not set_back and not waits:
        return None
    waiting = window.mean(Q.WAITING) or 0.0
    share = case.waiting_share
    if set_back:
        share = max(share, min(0.5, preempted / max(1.0, requests)))
    usage = window.mean(Q.KV_USAGE)
    seen = [f"{preempted:.0f} preemptions in {window.seconds:.0f} s"] if preempted else []
    if waiting:
        seen.append(f"{waiting:.1f} requests wait while {running:.1f} run")
    if usage is not None:
        seen.append(f"the KV pool is {usage:.0%} full")
    wanted = (running + waiting) / running if running else 1.0
    capacity = window.last(Q.KV_CAPACITY)
    target = f", about {capacity * wanted:,.0f} tokens" if capacity and wanted > 1.05 else ""
    engine = case.engine
    return Finding(
        code="pool_too_small",
        title="The KV pool is too small for this load",
        symptom=", ".join(seen) + ".",
        diagnosis="Requests wait for room, not for the processor; those that were set back are "
        "computed again from their first token.",
        action=f"Give the pool more room{target}: {setting(engine, Lever.BIGGER_POOL)}; or make "
        f"KV smaller: {setting(engine, Lever.SMALLER_KV)}; or fewer requests at once: "
        f"{setting(engine, Lever.BATCH)}.",
        evidence=_known(
            preemptions=window.gained(Q.PREEMPTIONS),
            waiting_mean=window.mean(Q.WAITING),
            running_mean=window.mean(Q.RUNNING),
            kv_usage_mean=usage,
            kv_capacity_tokens=capacity,
            next_request_share=case.next_request_share,
        ),
        gain=f"up to {share:.0%} of the requests in the system would run instead of waiting or "
        "being computed again",
        gain_share=share,
        severity=Severity.HIGH,
    )


def oversize_context(case: Case) -> Finding | None:
    """The context limit and the requests do not fit each other."""
    return _refused_as_too_long(case) or _limit_far_above_use(case)


def requests_refused(case: Case) -> Finding | None:
    """Engines that do not say why they refuse: many replies of 400 to 499."""
    if case.window.last(Q.REFUSED_CONTEXT) is not None:
        return None
    bounds, window = case.bounds, case.window
    refused = window.gained(Q.REFUSED) or 0.0
    replies = window.gained(Q.REPLIES) or 0.0
    if refused < bounds.context_refused or refused < bounds.refused_share * replies:
        return None
    limit = case.card.max_model_len
    said = f" The context limit is {limit:,} tokens." if limit else ""
    return Finding(
        code="requests_refused",
        title="Requests are refused",
        symptom=f"{refused:.0f} of {replies:.0f} replies in {window.seconds:.0f} s blame the "
        "request (4xx).",
        diagnosis="This engine does not count why. Too long a prompt is the usual cause (the reply "
        f"says `maximum context length`), then wrong fields and keys.{said}",
        action="Read the text of one such reply. If it is the length: raise "
        f"{setting(case.engine, Lever.CONTEXT_LIMIT)}, or shorten the history on the client.",
        evidence=_known(refused=refused, replies=replies, max_model_len=limit),
        gain=f"{refused / replies:.0%} of the requests would be answered",
        gain_share=refused / replies,
        severity=Severity.HIGH,
    )


def fragmentation(case: Case) -> Finding | None:
    """Blocks in use whose slots hold no token."""
    window, bounds = case.window, case.bounds
    waste, used = window.mean(Q.KV_WASTE_BYTES), window.mean(Q.KV_USED_BYTES)
    pool, usage = window.mean(Q.KV_POOL_BYTES), window.mean(Q.KV_USAGE)
    if not waste or not used or not pool or usage is None:
        return None
    matters = usage >= bounds.waste_usage or case.pool_is_full
    if not matters or waste < bounds.waste_share * used:
        return None
    block = window.last(Q.BLOCK_TOKENS)
    named = f" of {block:.0f} tokens" if block else ""
    return Finding(
        code="fragmentation",
        title="Used blocks are half empty",
        symptom=f"{waste / used:.0%} of the slots in used blocks hold no token.",
        diagnosis=f"Sequences are short beside a block{named}: each wastes half a block on "
        "average.",
        action=f"Use {setting(case.engine, Lever.BLOCK_SIZE)}.",
        evidence=_known(waste_bytes=waste, used_bytes=used, pool_bytes=pool, block_tokens=block),
        gain=f"up to {waste / pool:.0%} of the pool for other requests",
        gain_share=waste / pool,
    )


def _waits(case: Case) -> bool:
    """Whether requests waited (for room, where the engine tells) in enough of the readings."""
    window = case.window
    if len(window.readings) < case.bounds.least_readings:
        return False
    told = window.last(Q.WAITING_CAPACITY) is not None
    asked = Q.WAITING_CAPACITY if told else Q.WAITING
    return window.share_of_readings(asked, above=0.0) >= case.bounds.waiting_readings


def _refused_as_too_long(case: Case) -> Finding | None:
    window, bounds = case.window, case.bounds
    refused = window.gained(Q.REFUSED_CONTEXT) or 0.0
    replies = window.gained(Q.REPLIES) or 0.0
    if refused < bounds.context_refused or refused < bounds.refused_share * replies:
        return None
    limit = case.card.max_model_len
    share = refused / max(refused, replies)
    return Finding(
        code="oversize_context",
        title="Requests are longer than the context limit",
        symptom=f"{refused:.0f} requests in {window.seconds:.0f} s were refused as too long.",
        diagnosis=(f"The limit is {limit:,} tokens: " if limit else "")
        + "prompt and wanted output together exceed it, or exceed the whole KV pool.",
        action=f"Raise {setting(case.engine, Lever.CONTEXT_LIMIT)} if the model and the pool allow "
        f"it ({setting(case.engine, Lever.BIGGER_POOL)}), or shorten the history and max_tokens "
        "on the client.",
        evidence=_known(
            refused=refused,
            replies=replies,
            max_model_len=limit,
            kv_capacity_tokens=window.last(Q.KV_CAPACITY),
        ),
        gain=f"{share:.0%} of the requests would be answered",
        gain_share=share,
        severity=Severity.HIGH,
    )


def _limit_far_above_use(case: Case) -> Finding | None:
    window, bounds = case.window, case.bounds
    limit, capacity = case.card.max_model_len, window.last(Q.KV_CAPACITY)
    prompts, outputs = window.whole(Q.PROMPT_LENGTH), window.whole(Q.OUTPUT_LENGTH)
    if not limit or not capacity or prompts is None or prompts.count < bounds.least_requests:
        return None
    longest = (prompts.largest() or 0.0) + ((outputs.largest() or 0.0) if outputs else 0.0)
    if longest * bounds.context_unused > limit or capacity >= bounds.context_pool * limit:
        return None
    share = min(1.0, limit / capacity)
    wanted = 1 << max(8, int(2 * longest - 1).bit_length())
    return Finding(
        code="oversize_context",
        title="The context limit is far above use, and above what the pool carries",
        symptom=f"The limit is {limit:,} tokens; of {prompts.count:.0f} requests none had more "
        f"than {longest:,.0f}.",
        diagnosis=f"One request at the limit would take {share:.0%} of the pool "
        f"({capacity:,.0f} tokens): a single client can evict and preempt everyone else.",
        action=f"Set {setting(case.engine, Lever.CONTEXT_LIMIT)} to {wanted:,}; raise it when "
        "longer requests come.",
        evidence=_known(
            max_model_len=limit,
            longest_request_tokens=longest,
            requests=prompts.count,
            kv_capacity_tokens=capacity,
        ),
        gain=f"the most that one request can take falls from {share:.0%} to "
        f"{min(1.0, wanted / capacity):.0%} of the pool",
        gain_share=max(0.0, share - min(1.0, wanted / capacity)) / 2,
    )


def _known(**numbers: float | None) -> dict[str, float | str]:
    return {name: value for name, value in numbers.items() if value is not None}
