"""What /metrics shows of weights that are read again in every step; nothing where all stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, Metric

from stepwell.base.request import StreamStats


def stream_metrics(stats: StreamStats | None, labels: Mapping[str, str]) -> Iterator[Metric]:
    """Counters: their rates are bytes per step, the disk's speed, and the share of waiting."""
    if stats is None:
        return
    rows = (
        ("passes", "Passes over the layers.", stats.passes),
        ("read_bytes", "Bytes of weights read from disk.", stats.read_bytes),
        ("checked_bytes", "Of them, compared with their checksums.", stats.checked_bytes),
        ("read_seconds", "Time with such a read under way.", stats.read_seconds),
        ("waited_seconds", "Time that computing stood still for one.", stats.waited_seconds),
    )
    for name, text, value in rows:
        family = CounterMetricFamily(f"stepwell_weights_{name}", text, labels=list(labels))
        family.add_metric(list(labels.values()), value)
        yield family
