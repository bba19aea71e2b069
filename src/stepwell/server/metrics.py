"""What /metrics shows: vLLM's names where the meaning is vLLM's, `stepwell_` for the rest.

Counters and gauges are read from the engine at scrape time; histograms are fed from deltas on
the event loop (one clock reading per engine step), so nothing here needs a lock.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stepwell import __version__
from stepwell.base.account import MemoryAccount
from stepwell.base.request import Delta, EngineStats, GenerationRequest, Timings
from stepwell.server.health_metrics import PromptPieces, health_metrics
from stepwell.server.histogram import Histogram
from stepwell.server.memory_metrics import memory_metrics
from stepwell.server.stream_metrics import stream_metrics
from stepwell.server.tier_metrics import TierPage

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
    640.0,
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)
_CHOICES = (1, 2, 5, 10, 20, 50, 100)

HISTOGRAMS: dict[str, tuple[tuple[float, ...], str]] = {
    "time_to_first_token_seconds": (_SECONDS, "From arrival to the first token."),
    "inter_token_latency_seconds": (_SECONDS, "Between two steps of one choice."),
    "request_time_per_output_token_seconds": (_SECONDS, "Mean after the first token."),
    "e2e_request_latency_seconds": (_SECONDS, "From arrival to the end."),
    "request_queue_time_seconds": (_SECONDS, "From arrival to the first step."),
    "request_prefill_time_seconds": (_SECONDS, "From the first step to the first token."),
    "request_decode_time_seconds": (_SECONDS, "From the first token to the end."),
    "request_inference_time_seconds": (_SECONDS, "From the first step to the end."),
    "request_prompt_tokens": (_TOKENS, "Prompt tokens of a finished choice."),
    "request_generation_tokens": (_TOKENS, "Output tokens of a finished choice."),
    "request_params_n": (_CHOICES, "Choices asked for."),
    "request_params_max_tokens": (_TOKENS, "max_tokens asked for."),
    "request_num_preemptions": ((0, 1, 2, 5, 10), "Preemptions of a finished choice."),
}


class Metrics:
    """Everything counted by the server itself."""

    def __init__(
        self,
        *,
        model_name: str,
        cache_config: dict[str, str] | None = None,
        knowledge: Collector | None = None,
    ) -> None:
        """`knowledge`: its own counts, where the server keeps knowledge bases."""
        self.knowledge = knowledge
        self.model_name = model_name
        self.cache_config = cache_config or {}
        self.histograms = {name: Histogram(bounds) for name, (bounds, _) in HISTOGRAMS.items()}
        self.cached_prompt_tokens = 0
        self.replies: Counter[tuple[str, int]] = Counter()
        self.refusals: Counter[str] = Counter()
        self.prompt_pieces = PromptPieces()
        self._last_token: dict[tuple[str, int], float] = {}
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def admitted(self, requests: Sequence[GenerationRequest]) -> None:
        """Requests that the engine took."""
        for request in requests:
            self.prompt_pieces.add(request.prompt_token_ids, tenant=request.tenant)
            self.histograms["request_params_n"].observe(request.sampling.n)
            if request.sampling.max_tokens is not None:
                self.histograms["request_params_max_tokens"].observe(request.sampling.max_tokens)

    def step(self, deltas: Sequence[Delta], *, now: float) -> None:
        """Deltas of one engine step, which ended at `now` on the monotonic clock."""
        last_token = self._last_token
        between = self.histograms["inter_token_latency_seconds"]
        for delta in deltas:
            key = (delta.request_id, delta.index)
            if delta.token_ids:
                before = last_token.get(key)
                if before is not None:
                    between.observe(now - before)
                last_token[key] = now
            if delta.finish_reason is not None:
                last_token.pop(key, None)
                self._finished(delta)

    def replied(self, route: str, status: int) -> None:
        """One HTTP reply."""
        self.replies[route, status] += 1

    def refused(self, code: str) -> None:
        """One reply that was an error."""
        self.refusals[code] += 1

    def silence(self, now: float) -> float:
        """Seconds since the last token of the choice that waits longest for its next one."""
        return now - min(self._last_token.values(), default=now)

    def render(
        self,
        stats: EngineStats,
        *,
        stats_age: float = 0.0,
        account: MemoryAccount | None = None,
    ) -> bytes:
        """The page in Prometheus' text format. `stats_age`: seconds since the engine gave them."""
        registry = CollectorRegistry()
        registry.register(_Page(self, stats, stats_age, account))
        return generate_latest(registry) + generate_latest(self._process)

    def _finished(self, delta: Delta) -> None:
        observe = self._observe
        if delta.usage is not None:
            observe("request_prompt_tokens", delta.usage.prompt_tokens)
            observe("request_generation_tokens", delta.usage.completion_tokens)
            self.cached_prompt_tokens += delta.usage.cached_tokens
        if delta.timings is not None:
            output = delta.usage.completion_tokens if delta.usage is not None else 0
            self._timings(delta.timings, output_tokens=output)

    def _timings(self, timings: Timings, *, output_tokens: int) -> None:
        observe, end = self._observe, timings.finished
        observe("e2e_request_latency_seconds", end - timings.arrival)
        observe("request_num_preemptions", timings.preemptions)
        if timings.scheduled is None:
            return
        observe("request_queue_time_seconds", timings.scheduled - timings.arrival)
        observe("request_inference_time_seconds", end - timings.scheduled)
        if timings.first_token is None:
            return
        observe("time_to_first_token_seconds", timings.first_token - timings.arrival)
        observe("request_prefill_time_seconds", timings.first_token - timings.scheduled)
        observe("request_decode_time_seconds", end - timings.first_token)
        if output_tokens > 1:
            each = (end - timings.first_token) / (output_tokens - 1)
            observe("request_time_per_output_token_seconds", each)

    def _observe(self, name: str, value: float) -> None:
        self.histograms[name].observe(value)


class _Page(Collector):
    """One scrape: the engine's numbers of a moment beside the server's own."""

    def __init__(
        self,
        metrics: Metrics,
        stats: EngineStats,
        stats_age: float,
        account: MemoryAccount | None,
    ) -> None:
        self._metrics = metrics
        self._account = account
        self._stats = stats
        self._stats_age = stats_age
        self._labels = {"model_name": metrics.model_name, "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield from self._bytes()
        yield from TierPage(self._stats, self._labels).collect()
        yield from stream_metrics(self._stats.streaming, self._labels)
        yield from memory_metrics(self._account, self._labels)
        silence = self._metrics.silence(time.monotonic())
        yield from health_metrics(
            self._stats, self._metrics.prompt_pieces, self._labels,
            silence=silence, stats_age=self._stats_age,
        )  # fmt: skip
        yield from self._http()
        if self._metrics.knowledge is not None:
            yield from self._metrics.knowledge.collect()

    def _gauges(self) -> Iterable[Metric]:
        stats = self._stats
        usage = stats.blocks_used / stats.blocks_total if stats.blocks_total else 0.0
        yield self._gauge("vllm:num_requests_running", "Sequences in the batch.", stats.running)
        yield self._gauge("vllm:num_requests_waiting", "Sequences not started.", stats.waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "Used share of the KV blocks, 0 to 1.", usage)
        info = GaugeMetricFamily(
            "vllm:cache_config_info",
            "Settings of the KV cache.",
            labels=[*self._labels, *self._metrics.cache_config],
        )
        info.add_metric([*self._labels.values(), *self._metrics.cache_config.values()], 1.0)
        yield info

    def _counters(self) -> Iterable[Metric]:
        stats = self._stats
        rows = (
            ("num_preemptions", "Sequences set back to waiting.", stats.preemptions),
            ("prefix_cache_queries", "Prompt tokens looked up.", stats.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found.", stats.prefix_hits),
            ("prompt_tokens", "Prompt tokens processed.", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated.", stats.generation_tokens),
            (
                "prompt_tokens_cached",
                "Prompt tokens of finished choices taken from the cache.",
                self._metrics.cached_prompt_tokens,
            ),
        )
        for name, text, value in rows:
            family = CounterMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), value)
            yield family
        success = CounterMetricFamily(
            "vllm:request_success", "Finished choices.", labels=[*self._labels, "finished_reason"]
        )
        for reason in ("stop", "length", "abort", "error"):
            count = stats.finished.get(reason, 0)
            success.add_metric([*self._labels.values(), reason], count)
        yield success

    def _histograms(self) -> Iterable[Metric]:
        for name, (_, text) in HISTOGRAMS.items():
            histogram = self._metrics.histograms[name]
            family = HistogramMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
            family.add_metric(list(self._labels.values()), histogram.cumulative(), histogram.sum)
            yield family

    def _bytes(self) -> Iterable[Metric]:
        stats, memory = self._stats, self._stats.memory
        rows = (
            ("weights_bytes", "Weights on the device.", memory.weights),
            ("kv_pool_bytes", "Size of the KV pool.", memory.pool),
            ("kv_used_bytes", "Blocks that running sequences hold.", memory.used),
            ("kv_cached_bytes", "Blocks that only the prefix cache holds.", memory.cached),
            ("kv_waste_bytes", "Slots in used blocks that hold no token.", memory.waste),
            ("kv_free_bytes", "Blocks that hold nothing.", memory.free),
            ("workspace_bytes", "Step buffers.", memory.workspace),
            ("kv_packed_bytes", "Coded fronts of rolling sequences.", memory.packed),
            ("kv_blocks_total", "Blocks of the pool.", stats.blocks_total),
            ("kv_blocks_used", "Blocks that running sequences hold.", stats.blocks_used),
            ("kv_blocks_cached", "Blocks that only the prefix cache holds.", stats.blocks_cached),
            ("kv_waste_ratio_mean", "Mean of waste / used over steps.", stats.waste_ratio_mean),
        )
        for name, text, value in rows:
            yield self._gauge(f"stepwell_{name}", text, value)
        build = GaugeMetricFamily("stepwell_build_info", "Version.", labels=["version"])
        build.add_metric([__version__], 1.0)
        yield build
        steps = CounterMetricFamily("stepwell_steps", "Forward passes.", labels=list(self._labels))
        steps.add_metric(list(self._labels.values()), stats.steps)
        yield steps

    def _http(self) -> Iterable[Metric]:
        replies = CounterMetricFamily(
            "stepwell_http_replies", "HTTP replies.", labels=["route", "status"]
        )
        for (route, status), count in self._metrics.replies.items():
            replies.add_metric([route, str(status)], count)
        yield replies
        errors = CounterMetricFamily("stepwell_errors", "Error replies.", labels=["code"])
        for code, count in self._metrics.refusals.items():
            errors.add_metric([code], count)
        yield errors

    def _gauge(self, name: str, text: str, value: float) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family
