"""The smaller parts of a run: ceiling, memory, time to first token, soak."""

from __future__ import annotations

from dataclasses import asdict

from stepwell.base.units import format_bytes, format_seconds
from stepwell.evaluate.arena import Arena
from stepwell.evaluate.ceiling import Ceiling
from stepwell.evaluate.contestants import ContestantFailed
from stepwell.evaluate.options import COLUMNS, Section
from stepwell.evaluate.statistics import median
from stepwell.evaluate.workload import Mix

_MOST_PROMPTS = 2


def ceiling_section(arena: Arena) -> Section:
    """Measured rates, and what they allow this model."""
    ceiling, cost = arena.measure_ceiling(), arena.cost
    length = arena.options.ttft_prompt
    decode, prefill = cost.decode_bound(ceiling), cost.prefill_bound(ceiling, length=length)
    rows = (
        *rate_rows(ceiling),
        ("weights read by each step", format_bytes(cost.decode_bytes)),
        ("so one sequence decodes at most", f"{decode:,.1f} tokens/s"),
        (f"and a prompt of {length} runs at most", f"{prefill:,.0f} tokens/s"),
    )
    figures = {
        "ceiling": ceiling.as_dict(),
        "model_cost": cost.as_dict(),
        "decode_bound_tokens_per_s": decode,
        "prefill_bound_tokens_per_s": prefill,
    }
    return Section("ceiling", "Ceiling: what this machine allows", ("what", "value"), rows, figures)


def rate_rows(ceiling: Ceiling) -> list[tuple[str, str]]:
    """Bandwidth and bf16 by one thread and by all, one row where that is the same; int8."""
    bandwidths = {1: ceiling.bandwidth_one, ceiling.threads: ceiling.bandwidth_all}
    flops = {1: ceiling.flops_one, ceiling.threads: ceiling.flops_all}
    words = {n: f"{n} thread" if n == 1 else f"{n} threads" for n in bandwidths}
    rows = [
        *((f"read bandwidth, {words[n]}", f"{x / 1e9:.1f} GB/s") for n, x in bandwidths.items()),
        *((f"bf16 GEMM, {words[n]}", f"{x / 1e12:.3f} TFLOP/s") for n, x in flops.items()),
    ]
    if ceiling.int8_all is not None:
        rows.append(
            (f"int8 GEMM, {words[ceiling.threads]}", f"{ceiling.int8_all / 1e12:.3f} TOP/s")
        )
    return rows


def memory_section(arena: Arena) -> Section:
    """Waste inside allocated blocks, and allocations once warm."""
    mix = arena.options.mix(vocab_size=arena.vocab_size)
    found = arena.own.ask("memory", mix=asdict(mix))
    waste, steady = found["kv_waste"], found["steady_allocations"]
    rows = (
        ("KV waste: unused / allocated bytes", f"{waste:.2%}", "0 %", "-"),
        (f"allocating steps of {found['steps']}", str(steady), "0", "-"),
        ("page faults a step", f"{found['page_faults_per_step']:.0f}", "0", "-"),
    )
    return Section("memory", "Memory on mixed lengths", COLUMNS, rows, found)


def ttft_section(arena: Arena) -> Section:
    """A long prompt, cold and again."""
    import random

    from stepwell.evaluate.workload import random_tokens

    options, cost = arena.options, arena.cost
    assert arena.ceiling is not None
    source = random.Random(f"ttft/{options.seed}")
    prompts = [
        random_tokens(source, options.ttft_prompt, vocab_size=arena.vocab_size)
        for _ in range(min(options.rounds, _MOST_PROMPTS))
    ]
    bound = cost.prefill_flops(options.ttft_prompt) / arena.ceiling.flops_all
    rows, figures = [], {}
    for name, contestant in {"stepwell": arena.own, **arena.rivals}.items():
        arena.say(f"time to first token: {name}")
        try:
            found = contestant.ask("ttft", prompts=[list(prompt) for prompt in prompts])
        except ContestantFailed as error:
            arena.missing[f"{name} ttft"] = str(error)
            continue
        cold, warm, step = median(found["cold"]), median(found["warm"]), found["decode_step"]
        figures[name] = found | {"speedup": cold / warm, "warm_decode_steps": warm / step}
        rows += [
            (f"{name}, cold", format_seconds(cold), format_seconds(bound), f"{bound / cold:.0%}"),
            (f"{name}, again", format_seconds(warm), f"{warm / step:.2f} decode steps",
             f"{cold / warm:.0f}x"),
        ]  # fmt: skip
    title = f"Time to first token, {options.ttft_prompt}-token prompt"
    return Section("ttft", title, COLUMNS, tuple(rows), figures)


def soak_section(arena: Arena) -> Section:
    """Thousands of short requests; memory must stay flat."""
    options = arena.options
    mix = Mix(prompt=(8, 128), output=(4, 32), vocab_size=arena.vocab_size, seed=options.seed)
    arena.say(f"soak: {options.soak} requests")
    found = arena.own.ask("soak", requests=options.soak, mix=asdict(mix), timeout=3600)
    rows = (
        ("requests", f"{found['requests']} in {format_seconds(found['seconds'])}"),
        ("resident after the first 1 %", format_bytes(found["resident_first"])),
        ("resident at half", format_bytes(found["resident_middle"])),
        ("resident at the end", format_bytes(found["resident_last"])),
        ("slope of the second half", f"{found['resident_slope']:.1f} bytes a request"),
        ("malloc's slope", f"{found['malloc_slope']:.1f} bytes a request"),
    )
    return Section("soak", "Memory over many requests", ("what", "value"), rows, found)
