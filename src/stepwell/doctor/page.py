"""A metrics page in Prometheus' text format, read line by line: one broken line costs one line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Histogram:
    """`bounds`: upper bounds, ascending, the last may be infinite. `counts`: how many values were
    at most that (cumulative). `total`: sum of the values."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]
    total: float

    @property
    def count(self) -> float:
        """How many values."""
        return self.counts[-1] if self.counts else 0.0

    @property
    def mean(self) -> float | None:
        """None without values."""
        return self.total / self.count if self.count > 0 else None

    def quantile(self, share: float) -> float | None:
        """Linear within its bucket, as PromQL's histogram_quantile; beyond the last finite bound:
        that bound. None without values."""
        if self.count <= 0:
            return None
        rank, below, lower = share * self.count, 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                if math.isinf(bound):
                    return lower
                return lower + (bound - lower) * (rank - below) / (count - below)
            below, lower = count, bound
        return lower

    def largest(self) -> float | None:
        """Upper bound of the highest bucket that holds a value; infinite if above all bounds."""
        if self.count <= 0:
            return None
        return next(b for b, c in zip(self.bounds, self.counts, strict=True) if c >= self.count)

    def since(self, before: Histogram | None) -> Histogram:
        """What came after `before`; all of this one after a restart or with other bounds."""
        if before is None or before.bounds != self.bounds or before.count > self.count:
            return self
        counts = tuple(a - b for a, b in zip(self.counts, before.counts, strict=True))
        return Histogram(self.bounds, counts, self.total - before.total)


@dataclass(frozen=True, slots=True)
class Page:
    """`samples`: by name without `_total`, in the page's order. `broken`: lines that could not be
    read."""

    samples: Mapping[str, tuple[tuple[Labels, float], ...]] = field(default_factory=dict)
    broken: int = 0

    def __contains__(self, name: str) -> bool:
        return name in self.samples

    def has_prefix(self, prefix: str) -> bool:
        """Whether any name begins so."""
        return any(name.startswith(prefix) for name in self.samples)

    def find(self, name: str, where: Labels | None = None) -> list[tuple[Labels, float]]:
        """Samples of a name whose labels contain `where`; a value that ends with `*` is a prefix.
        Values that are no numbers are left out."""
        return [
            (labels, value)
            for labels, value in self.samples.get(name, ())
            if not math.isnan(value) and _matches(labels, where or {})
        ]

    def histogram(self, name: str, where: Labels | None = None) -> Histogram | None:
        """All label sets of a histogram in one; None where there is none."""
        sums: dict[float, float] = {}
        for labels, value in self.find(f"{name}_bucket", where):
            if "le" in labels:
                bound = _number(labels["le"])
                sums[bound] = sums.get(bound, 0.0) + value
        if not sums:
            return None
        total = sum(value for _, value in self.find(f"{name}_sum", where))
        bounds = tuple(sorted(sums))
        return Histogram(bounds, tuple(sums[bound] for bound in bounds), total)


def read_page(text: str) -> Page:
    """The page of a text. Comments are skipped, lines that cannot be read are counted. Of several
    ranks that serve one replica together and report the same, the first is read."""
    samples: dict[str, list[tuple[Labels, float]]] = {}
    broken = 0
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            for name, labels, value in _samples(line):
                if not _is_first_rank(labels):
                    continue
                samples.setdefault(name.removesuffix("_total"), []).append((labels, value))
        except (ValueError, IndexError, KeyError):
            broken += 1
    return Page({name: tuple(rows) for name, rows in samples.items()}, broken)


def _samples(line: str) -> Iterator[tuple[str, Labels, float]]:
    """Without a TYPE line before it the parser leaves a sample's name as it is."""
    for family in text_string_to_metric_families(line):
        for sample in family.samples:
            yield sample.name, sample.labels, float(sample.value)


def _is_first_rank(labels: Labels) -> bool:
    return labels.get("tp_rank", "0") == "0" and labels.get("pp_rank", "0") == "0"


def _matches(labels: Labels, where: Labels) -> bool:
    for key, wanted in where.items():
        have = labels.get(key)
        if have is None:
            return False
        if wanted.endswith("*"):
            if not have.startswith(wanted[:-1]):
                return False
        elif have != wanted:
            return False
    return True


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf
