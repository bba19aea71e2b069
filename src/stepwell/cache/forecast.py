"""When will a chunk be wanted again? Learned online, from nothing but counts.

Every chunk that goes idle gets a *label*: workload class, how often it was used again, turns of its
session, its last idle time, whether it is the end of its chain, length of the chain. For each label
the forecast counts how many chunks went idle and at which idle age (in bands that widen
geometrically) they were used again. Hence

    F[b]    share of chunks that are used again in band b              = returns[b] / reached[b]

where `reached[b]` counts chunks that went idle long enough ago to have lived through band b; those
still younger are not counted yet (right censoring, as in a life table). A label with few counts
leans on its parent, the label less its last feature: F = (returns + K * F_parent) / (reached + K).

The *index* of a chunk of idle age a is what a place in the cache earns by holding it:

    max over horizons h of   P(return within h | idle since a) / E[seconds held until return or h]

which is Gittins' index of a job with that hazard (Gittins, Glazebrook, Weber: Multi-armed Bandit
Allocation Indices, 2011): the cache serves the chunks with the highest rate of reward per
byte-second. Times the seconds saved by a hit it is the value density.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import pairwise

EDGES = (0.0, 1.0, 2.0, *(4.0 * 2.0 ** (i / 2.0) for i in range(31)))
"""Lower ends of the age bands in seconds: half octaves up to 1.5 days."""

_BANDS = len(EDGES)
_WIDTHS = (*(b - a for a, b in pairwise(EDGES)), EDGES[-1])
_STRENGTH = 20.0
_MERGE = 8.0
_FULL = 50_000.0
_PRIOR_RETURN = 0.3
_MAX_LABELS = 4096

Features = tuple[int, ...]


class _Counts:
    """Counts of one label. `waiting[b]`: (since, chunks) that have lived through bands below b."""

    __slots__ = ("reached", "returns", "waiting")

    def __init__(self) -> None:
        self.returns = [0.0] * _BANDS
        self.reached = [0.0] * _BANDS
        self.waiting: list[deque[list[float]] | None] = [None] * _BANDS

    def enter(self, band: int, since: float, chunks: float) -> None:
        """Chunks begin band `band`; those that began it at nearly the same time are merged."""
        queue = self.waiting[band]
        if queue is None:
            queue = self.waiting[band] = deque()
        if queue and since - queue[-1][0] <= _WIDTHS[band] / _MERGE:
            queue[-1][1] += chunks
        else:
            queue.append([since, chunks])

    def advance(self, now: float) -> None:
        """Count those that have lived through their band by now."""
        for band in range(_BANDS - 1):
            queue, end = self.waiting[band], EDGES[band + 1]
            while queue and queue[0][0] + end <= now:
                since, chunks = queue.popleft()
                self.reached[band] += chunks
                if band + 1 < _BANDS - 1:
                    self.enter(band + 1, since, chunks)
        if self.reached[0] > _FULL:
            self.returns = [count / 2.0 for count in self.returns]
            self.reached = [count / 2.0 for count in self.reached]


class Forecast:
    """Labels, their counts and their indexes. Owned by `Hierarchy`; policies read it."""

    def __init__(self) -> None:
        self._labels: dict[Features, int] = {}
        self._features: list[Features] = []
        self._counts: list[_Counts] = []
        self._index: list[list[float] | None] = []
        self._shares: dict[Features, list[float]] = {}
        self._entered = 0
        self._next_refresh = 256
        self.refreshes = 0

    def label(self, features: Features) -> int:
        """Number of a label; the last one stands for all beyond the bound."""
        number = self._labels.get(features)
        if number is None:
            if len(self._features) >= _MAX_LABELS:
                return _MAX_LABELS - 1
            number = self._labels[features] = len(self._features)
            self._features.append(features)
            self._counts.append(_Counts())
            self._index.append(None)
        return number

    def idle(self, label: int, chunks: int, now: float) -> None:
        """Chunks of this label went idle."""
        self._counts[label].enter(0, now, chunks)
        self._entered += chunks

    def returned(self, label: int, age: float, chunks: int) -> None:
        """Chunks that went idle with this label are used again after `age` seconds."""
        self._counts[label].returns[band_of(age)] += chunks

    def index(self, label: int, age: float) -> float:
        """Expected uses per second of holding a chunk, at this idle age."""
        table = self._index[label]
        if table is None:
            table = self._index[label] = _indexes(self._share(self._features[label]))
        return table[band_of(age)]

    def probability(self, label: int, age: float, within: float) -> float:
        """That a chunk of this idle age is used again in the next `within` seconds."""
        shares = self._share(self._features[label])
        first, last = band_of(age), band_of(age + within)
        left = 1.0 - sum(shares[:first])
        if left <= 0.0:
            return 0.0
        part = min(1.0, (age + within - EDGES[last]) / _WIDTHS[last])
        return min(1.0, (sum(shares[first:last]) + part * shares[last]) / left)

    def refresh(self, now: float) -> bool:
        """Take new counts into account, if there are enough of them to matter."""
        if self._entered < self._next_refresh:
            return False
        self._next_refresh = self._entered + max(256, min(16_384, self._entered // 16))
        sums: dict[Features, tuple[list[float], list[float]]] = {}
        for features, counts in zip(self._features, self._counts, strict=True):
            counts.advance(now)
            for depth in range(len(features) + 1):
                returns, reached = sums.setdefault(
                    features[:depth], ([0.0] * _BANDS, [0.0] * _BANDS)
                )
                for band in range(_BANDS):
                    returns[band] += counts.returns[band]
                    reached[band] += counts.reached[band]
        self._shares = {}
        for features in sorted(sums, key=len):
            parent = self._shares[features[:-1]] if features else _PRIOR
            returns, reached = sums[features]
            strength = _STRENGTH if features else 1.0
            self._shares[features] = [
                (returns[b] + strength * parent[b]) / (max(reached[b], returns[b]) + strength)
                for b in range(_BANDS)
            ]
        self._index = [None] * len(self._features)
        self.refreshes += 1
        return True

    def _share(self, features: Features) -> list[float]:
        """F of a label, or of the nearest ancestor that has been counted."""
        for depth in range(len(features), -1, -1):
            shares = self._shares.get(features[:depth])
            if shares is not None:
                return shares
        return _PRIOR


def band_of(age: float) -> int:
    """The band that an idle age lies in."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


def _indexes(shares: list[float]) -> list[float]:
    """The index at the start of each band. O(bands^2), once a label and refresh."""
    hazards = []
    left = 1.0
    for share in shares:
        hazards.append(min(0.99, share / left) if left > 1e-9 else 0.99)
        left -= share
    result = []
    for start in range(_BANDS):
        alive, gained, held, best = 1.0, 0.0, 0.0, 0.0
        for band in range(start, _BANDS):
            hit = alive * hazards[band]
            gained += hit
            held += _WIDTHS[band] * (alive - hit / 2.0)
            alive -= hit
            best = max(best, gained / held)
        result.append(best)
    return result


_PRIOR = [_PRIOR_RETURN / _BANDS] * _BANDS
