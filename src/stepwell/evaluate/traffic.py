"""Over HTTP: what the server costs beside the offline engine, and how it bears real arrivals."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from stepwell.base.units import format_seconds
from stepwell.evaluate.arena import Arena
from stepwell.evaluate.arrival import Arrival, schedule
from stepwell.evaluate.contestants import ContestantFailed
from stepwell.evaluate.loadgen import LoadGenerator
from stepwell.evaluate.options import COLUMNS, UNTIL, Section
from stepwell.evaluate.statistics import median, median_ratio
from stepwell.evaluate.trace import TraceOptions, read_trace
from stepwell.evaluate.workload import Mix, Workload

_FEWEST = 16  # requests of a load, however little time is left


def http_section(arena: Arena) -> Section:
    """The same requests through the offline engine and through the server, in turn."""
    options = arena.options
    server = arena.start_server()
    generator = LoadGenerator(server.url, server.name)
    mix = options.mix(vocab_size=arena.vocab_size)
    _warm_server(generator, mix)
    offline, http, client = [], [], []
    last = 0.0
    for turn in range(options.rounds):
        if turn and not arena.time_for(last, until=UNTIL["http"]):
            break
        begin = time.monotonic()
        work = mix.draw(turn=1000 + turn)
        arena.say(f"HTTP against offline, round {turn + 1} of {options.rounds}")
        offline.append(arena.own.ask("run", requests=work.as_dicts())["seconds"])
        load = generator.run_closed(work, concurrency=options.concurrency)
        _refuse_failures(load.summary(options.slo))
        http.append(load.seconds)
        client.append(load.client_seconds / load.seconds)
        last = time.monotonic() - begin
    overhead = median_ratio(http, offline) - 1
    tokens = mix.draw().output_tokens
    rows = (
        ("offline", f"{tokens / median(offline):,.1f} output tokens/s", "-", "-"),
        (f"over HTTP, {options.concurrency} at a time",
         f"{tokens / median(http):,.1f} output tokens/s", "offline",
         f"{median_ratio(offline, http):.1%}"),
        ("HTTP costs", f"{overhead:+.1%}", "0 %", "-"),
        ("of which the client takes up to", f"{median(client):.1%} of a core", "-", "-"),
    )  # fmt: skip
    figures = {
        "overhead": overhead,
        "offline_s": offline,
        "http_s": http,
        "client_cpu_share": median(client),
    }
    return Section("http", "HTTP against the offline engine", COLUMNS, rows, figures)


def load_section(arena: Arena, *, offline_rate: float) -> Section:
    """Arrivals as options say, timed from when each request was due.

    `offline_rate`: requests a second of the offline engine, for the default rate.
    """
    options = arena.options
    if options.url:
        url, model = options.url, options.model
    else:
        server = arena.start_server()
        url, model = server.url, server.name
    done = [0]
    work = load_workload(arena, offline_rate=offline_rate)

    def count() -> None:
        done[0] += 1
        arena.say(f"load: {done[0]} of {len(work.requests)} requests")

    generator = LoadGenerator(url, model, api_key=options.api_key, on_finished=count)
    if options.arrival is Arrival.CLOSED:
        load = generator.run_closed(work, concurrency=options.concurrency)
    else:
        load = generator.run_open(work)
    figures = load.summary(options.slo) | {"arrival": options.arrival.value}
    figures["workload"] = work.as_dict()
    figures["records_ttft_s"] = [round(r.ttft, 6) for r in load.records if not r.error]
    return Section("load", _load_title(figures, work), ("what", "mean", "p50", "p90", "p99",
                   "worst"), _load_rows(figures), figures, _load_notes(figures))  # fmt: skip


def load_workload(arena: Arena, *, offline_rate: float) -> Workload:
    """The requests of the load section, with their times."""
    options = arena.options
    vocab = arena.vocab_size if arena.loaded else 4096
    if options.arrival is Arrival.TRACE:
        assert options.trace is not None, "checked by the caller"
        return read_trace(
            options.trace,
            TraceOptions(
                limit=options.load_requests,
                length_scale=options.length_scale,
                time_scale=options.time_scale,
                max_length=_max_length(arena),
                vocab_size=vocab,
            ),
        )
    rate = options.rate or 0.6 * offline_rate
    count = options.load_requests
    while rate and count > _FEWEST and not arena.time_for(1.5 * count / rate, until=UNTIL["load"]):
        count -= 1
    mix = Mix(count=count, prompt=options.prompt, output=options.output,
              vocab_size=vocab, seed=options.seed)  # fmt: skip
    return schedule(
        mix.draw(turn=2000), kind=options.arrival, rate=rate,
        burstiness=options.burstiness, seed=options.seed,
    )  # fmt: skip


def _warm_server(generator: LoadGenerator, mix: Mix) -> None:
    work = mix.draw(turn=998)
    few = Workload("warm", work.requests[:4])
    generator.run_closed(few, concurrency=4)


def _refuse_failures(summary: Mapping[str, Any]) -> None:
    if summary["failed"]:
        raise ContestantFailed(f"{summary['failed']} requests failed: {summary['errors']}")


def _max_length(arena: Arena) -> int:
    if "stepwell" not in arena.loaded:
        return 4096
    facts = arena.loaded["stepwell"]
    return int(min(facts["max_model_len"], facts["pool_tokens"]))


def _load_title(figures: Mapping[str, Any], work: Workload) -> str:
    count, seconds = figures["requests"], figures["seconds"]
    rate = f"{count / seconds:.1f} requests/s"
    return f"Load: {figures['arrival']} arrivals, {count} requests of {work.name}, {rate}"


def _load_rows(figures: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
    names = {
        "ttft_s": "time to first token, from due",
        "itl_s": "between tokens",
        "e2e_s": "end to end, from due",
    }
    return tuple(
        (text, *(format_seconds(figures[key][q]) for q in ("mean", "p50", "p90", "p99", "worst")))
        for key, text in names.items()
    )


def _load_notes(figures: Mapping[str, Any]) -> tuple[str, ...]:
    slo = figures["slo"]
    return (
        f"{figures['output_tokens_per_s']:,.1f} output tokens/s, {figures['failed']} failed, "
        f"{figures['cached_tokens']:,} of {figures['prompt_tokens']:,} prompt tokens cached",
        f"goodput {figures['goodput_requests_per_s']:.2f} requests/s "
        f"({figures['goodput_share']:.0%} of requests) within TTFT "
        f"{format_seconds(slo['ttft_s'])} and {format_seconds(slo['itl_s'])} a token",
        f"the client sent at most {format_seconds(figures['send_lag_p99_s'])} late (p99) and took "
        f"{figures['client_cpu_share']:.0%} of a core",
    )
