"""What /metrics shows of the process's memory (docs/memory-account.md); nothing where the system
cannot tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from stepwell.base.account import MemoryAccount


def memory_metrics(account: MemoryAccount | None, labels: Mapping[str, str]) -> Iterator[Metric]:
    """The parts add up to the resident bytes, `unaccounted` among them."""
    if account is None:
        return
    names, values = list(labels), list(labels.values())
    parts = GaugeMetricFamily(
        "stepwell_memory_bytes", "Resident bytes by what holds them.", labels=[*names, "part"]
    )
    committed = GaugeMetricFamily(
        "stepwell_memory_committed_bytes",
        "Bytes allocated, touched or not, by what holds them.",
        labels=[*names, "part"],
    )
    for line in account.held:
        parts.add_metric([*values, line.part], line.resident)
        committed.add_metric([*values, line.part], line.committed)
    parts.add_metric([*values, "unaccounted"], account.unaccounted)
    total = GaugeMetricFamily(
        "stepwell_memory_resident_bytes",
        "Resident bytes of the process, as the operating system counts them.",
        labels=names,
    )
    total.add_metric(values, account.system)
    yield from (parts, committed, total)
