"""Items about serving: health, metrics, hit rates, reuse, limits, keys, versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from urllib.parse import urlsplit

from stepwell.base.config import Config
from stepwell.base.units import format_seconds
from stepwell.doctor.alias import Engine
from stepwell.doctor.checklist.evidence import Evidence, Live, is_loopback
from stepwell.doctor.checklist.item import Item, Rule, first_known
from stepwell.doctor.checklist.probe import ProbeResult
from stepwell.doctor.quantity import Quantity as Q

SCRAPED_EVERY = 120.0
REUSE_SPEEDUP = 1.3

HEALTH = Rule("health", "the server takes requests", "Passes where /health answers 200.")
METRICS = Rule(
    "metrics_reachable", "metrics reachable",
    "Passes where /metrics is a page of an engine that is known.",
)  # fmt: skip
MONITORED = Rule(
    "hit_rates_monitored", "hit rates reported and scraped",
    "Passes where the page has prefix hits and lookups, and it was read at least every "
    f"{SCRAPED_EVERY:.0f} s on average since the start (our own look not counted).",
)  # fmt: skip
CACHING = Rule(
    "prefix_caching", "equal prefixes are reused",
    "Passes where the server says that prefix caching is on, or hits were counted.",
)  # fmt: skip
REUSE = Rule(
    "ttft_reuse", "time to first token tested with and without reuse",
    "Needs --probe: new prompts, each sent twice. Passes where the second reuses tokens and its "
    f"first token comes {REUSE_SPEEDUP:g} times as soon at the longest length.",
)  # fmt: skip
LIMITS = Rule(
    "limits", "limits on queue, time and tokens",
    "Passes where the settings bound waiting requests, time and body, or a probe that can never "
    "fit is refused.",
)  # fmt: skip
KEYS = Rule(
    "keys", "no one gets in without a key from outside",
    "Passes where the server listens on loopback only, or refuses /v1/models without a key.",
)  # fmt: skip
VERSIONS = Rule(
    "versions", "versions known",
    "Passes where the server says its version, or the packages of this environment are known.",
)  # fmt: skip
_PACKAGES = ("stepwell", "torch", "transformers")


def check_service(evidence: Evidence) -> list[Item]:
    """All items of this module."""
    live, config = evidence.live, evidence.config
    return [
        _health(live),
        _metrics(live),
        _monitored(live),
        first_known(_caching_live(live), _caching_config(config)),
        _reuse(evidence.probe, live),
        first_known(_limits_probe(evidence.probe, live), _limits_config(config)),
        first_known(_keys_live(live), _keys_config(config)),
        _versions(live),
    ]


def _health(live: Live | None) -> Item:
    if live is None:
        return HEALTH.unknown("no server was given", "Give its URL.")
    if live.health == 200:
        return HEALTH.passed("/health answers 200")
    told = "does not answer" if live.health is None else f"answers {live.health}"
    return HEALTH.failed(f"/health {told}", "Look at the server's log.")


def _metrics(live: Live | None) -> Item:
    if live is None:
        return METRICS.unknown("no server was given", "Give its URL.")
    return METRICS.passed(
        f"{len(live.page.samples)} names, {live.engine.value}", names=len(live.page.samples)
    )


def _monitored(live: Live | None) -> Item:
    if live is None:
        return MONITORED.unknown("no server was given", "Give its URL.")
    values = live.reading.values
    if Q.PREFIX_HITS not in values and Q.HIT_RATE not in values:
        return MONITORED.failed(
            f"the page of {live.engine.value} has no hit rate",
            "Turn its cache metrics on, or use an engine that reports them.",
        )
    replies = live.page.find("stepwell_http_replies", {"route": "/metrics"})
    uptime = live.uptime
    if live.engine is not Engine.STEPWELL or uptime is None:
        return MONITORED.unknown(
            "hit rates are on the page; it does not say who reads it",
            "Look at the targets of your Prometheus.",
        )
    others = max(0.0, sum(value for _, value in replies) - 1)
    told = f"read {others:,.0f} times in {format_seconds(uptime)} before this look"
    if uptime < 2 * SCRAPED_EVERY:
        return MONITORED.unknown(f"{told}: too early to tell", "Look again in some minutes.")
    if others >= uptime / SCRAPED_EVERY:
        return MONITORED.passed(f"hit rates are on the page, {told}", scrapes=others)
    return MONITORED.failed(
        f"hit rates are on the page, {told}", "Have Prometheus scrape /metrics.", scrapes=others
    )


def _caching_live(live: Live | None) -> Item:
    if live is None:
        return CACHING.unknown("no server was given", "Give its URL.")
    values = live.reading.values
    state = values.get(Q.PREFIX_CACHING)
    hits, looked = values.get(Q.PREFIX_HITS, 0.0), values.get(Q.PREFIX_QUERIES, 0.0)
    rate = f"; {hits:,.0f} of {looked:,.0f} prompt tokens were found" if looked else ""
    if state == 0:
        return CACHING.failed(
            "the server says that it is off", "Set cache.prefix_caching (--enable-prefix-caching)."
        )
    if state is not None or hits > 0:
        return CACHING.passed(f"on{rate}", hits=hits, queries=looked)
    return CACHING.unknown(f"{live.engine.value} does not say{rate}", "Use --probe.")


def _caching_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    if config.cache.prefix_caching:
        return CACHING.passed("cache.prefix_caching is on")
    return CACHING.failed("cache.prefix_caching is off", "Turn it on.")


def _reuse(probe: ProbeResult | None, live: Live | None) -> Item:
    if probe is None:
        where = "" if live is not None else " and the server's URL"
        return REUSE.unknown("not tested", f"Give --probe{where}: a few short requests.")
    pairs = probe.longest
    first = sum(pair.first for pair in pairs) / len(pairs)
    second = sum(pair.second for pair in pairs) / len(pairs)
    tokens = pairs[0].prompt_tokens
    reused = [pair.reused_tokens for pair in pairs if pair.reused_tokens is not None]
    told = (
        f"{tokens:,} tokens: first token after {format_seconds(first)} when new, "
        f"{format_seconds(second)} when sent again ({probe.speedup:.1f}x)"
    )
    numbers = {"new_seconds": first, "again_seconds": second, "speedup": probe.speedup}
    if reused:
        told += f"; {reused[0]:,} tokens reused"
        numbers["reused_tokens"] = float(reused[0])
    if reused and not any(reused):
        return REUSE.failed(told, "Turn prefix caching on; see stepwell doctor URL.", **numbers)
    if probe.speedup < REUSE_SPEEDUP:
        return REUSE.failed(
            told,
            "Nothing is gained: other requests may have evicted it, or prompts of this length "
            "cost little here. Test again when idle.",
            **numbers,
        )
    return REUSE.passed(told, **numbers)


def _limits_probe(probe: ProbeResult | None, live: Live | None) -> Item:
    if probe is None or probe.refused_too_long is None:
        known = live.card.max_model_len if live is not None else None
        told = f"/v1/models says max_model_len {known:,}" if known else "not tested"
        return LIMITS.unknown(told, "Give --config, or --probe.")
    status = probe.refused_too_long
    if status in (400, 413, 422):
        return LIMITS.passed(f"a request that can never fit is refused with {status}")
    if status == 200:
        return LIMITS.unknown(
            "more tokens than fit were asked for, and the server cut the request silently",
            "Give --config, or look at its settings.",
        )
    return LIMITS.failed(f"a request that can never fit ends with {status}", "It should be 400.")


def _limits_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    server, scheduler = config.server, config.scheduler
    if not server.request_timeout:
        return LIMITS.failed("server.request_timeout is 0: no limit", "Set it, such as 600.")
    rates = f"{server.requests_per_minute or 'no limit of'} requests a minute for a tenant"
    return LIMITS.passed(
        f"{scheduler.max_waiting:,} may wait, {server.request_timeout:g} s each, bodies of "
        f"{server.max_body}; {rates}"
    )


def _keys_live(live: Live | None) -> Item:
    if live is None:
        return KEYS.unknown("no server was given", "Give its URL.")
    if live.keyless in (401, 403):
        return KEYS.passed(f"/v1/models without a key answers {live.keyless}")
    if live.listens and all(map(is_loopback, live.listens)):
        return KEYS.passed(f"listens on {', '.join(live.listens)} only")
    if live.keyless == 200 and (live.listens or not is_loopback(_host(live.root))):
        where = ", ".join(live.listens) or _host(live.root)
        return KEYS.failed(
            f"listens on {where} and answers without a key",
            "Set server.api_keys_file (vLLM, SGLang: --api-key), or put a proxy before it.",
        )
    return KEYS.unknown(
        "answers without a key on loopback; on which addresses it listens cannot be seen",
        "Give --config, or ask from another machine.",
    )


def _host(root: str) -> str:
    return urlsplit(root).hostname or ""


def _keys_config(config: Config | None) -> Item | None:
    if config is None:
        return None
    server = config.server
    if is_loopback(server.host):
        return KEYS.passed(f"server.host is {server.host}")
    if server.api_keys or server.api_keys_file:
        return KEYS.passed(f"server.host is {server.host}, with keys")
    return KEYS.failed(
        f"server.host is {server.host}, without keys: it will not start",
        "Set server.api_keys_file.",
    )


def _versions(live: Live | None) -> Item:
    if live is not None:
        if live.version:
            return VERSIONS.passed(f"the server says {live.version}")
        return VERSIONS.unknown(f"{live.engine.value} does not say", "See how it was installed.")
    found = {name: _installed(name) for name in _PACKAGES}
    shown = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    return VERSIONS.passed(f"installed here: {shown}")


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
