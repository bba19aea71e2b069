"""What /metrics shows of knowledge: `stepwell_knowledge_*`. No tenant and no person is named."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from stepwell.server.histogram import Histogram
from stepwell.server.knowledge.weave import Course
from stepwell.server.knowledge.wish import Mode

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_P = "stepwell_knowledge_"


class KnowledgeCounts(Collector):
    """Fed from the tenants' threads and from the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._courses: Counter[str] = Counter()
        self._feedback: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._releases: Counter[str] = Counter()
        self._entries = 0
        self._seconds = Histogram(_SECONDS)
        self._waiting: dict[str, int] = {}

    def gave(self, mode: Mode, entries: int) -> None:
        """A request had this many entries in its context, or in shadow mode would have had."""
        with self._lock:
            self._requests[mode.value] += 1
            self._entries += entries if mode is Mode.ON else 0

    def retrieved(self, seconds: float) -> None:
        """Finding and rendering took this long."""
        with self._lock:
            self._seconds.observe(seconds)

    def course(self, course: Course) -> None:
        """How a conversation went on."""
        with self._lock:
            self._courses[course.value] += 1

    def feedback(self, verdict: str) -> None:
        """A verdict on a reply."""
        with self._lock:
            self._feedback[verdict] += 1

    def failed(self, code: str) -> None:
        """A request for knowledge ended with this error code."""
        with self._lock:
            self._failures[code] += 1

    def released(self, what: str) -> None:
        """`released`, `blocked` or `rolled_back`."""
        with self._lock:
            self._releases[what] += 1

    def waiting(self, tenant: str, candidates: int) -> None:
        """A tenant's candidates that wait for a decision."""
        with self._lock:
            self._waiting[tenant] = candidates

    def collect(self) -> Iterator[Metric]:
        """For the page."""
        with self._lock:
            yield _by(
                "requests", "mode", self._requests, "Requests that asked for knowledge, by mode."
            )
            yield _by(
                "conversations",
                "course",
                self._courses,
                "Requests by how their conversation's context went on: repeated, or started over.",
            )
            yield _by("feedback", "verdict", self._feedback, "Verdicts on replies.")
            yield _by("failures", "code", self._failures, "Error replies about knowledge.")
            yield _by("releases", "what", self._releases, "Releases made, blocked, rolled back.")
            given = CounterMetricFamily(f"{_P}entries_given", "Entries in requests' contexts.")
            given.add_metric([], self._entries)
            yield given
            seconds = HistogramMetricFamily(
                f"{_P}retrieval_seconds", "Finding and rendering a request's context."
            )
            seconds.add_metric([], self._seconds.cumulative(), self._seconds.sum)
            yield seconds
            text = (
                "Candidates that wait for a decision, of tenants that were asked since the start."
            )
            waiting = GaugeMetricFamily(f"{_P}candidates_waiting", text)
            waiting.add_metric([], sum(self._waiting.values()))
            yield waiting


def _by(name: str, label: str, counts: Counter[str], text: str) -> Metric:
    family = CounterMetricFamily(f"{_P}{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
