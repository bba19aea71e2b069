"""When will a chunk be wanted again? Learned online, from nothing but counts.

Every chunk that goes idle gets a *label*: workload class, how often it was used again, turns of its
session, its last idle time, whether it is the end of its chain, length of the chain. For each label
the forecast counts how many chunks went idle and at which idle age (in bands that widen
geometrically) they were used again. Hence

    hazard[b]   share of what is idle at the start of band b and is used again within it

as returns[b] / at_risk[b]. What is inside a band now counts by the part of it lived so far, as in a
life table, so a young system neither over- nor underrates returns. A chain counts as one, however
long, since its chunks live and die together. A label with few counts leans on its parent, the label
less its last feature: hazard = (returns + K * hazard of parent) / (at_risk + K).

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
_FULL = 5_000.0
_FIRST_REFRESH, _LAST_REFRESH = 32.0, 4096.0
_PRIOR_HAZARD = 0.02
_LARGEST = 0.98
_MAX_LABELS = 4096

Features = tuple[int, ...]
UNLABELLED = 0
"""Label of what has not gone idle here yet: adopted, or found in a shared tier."""


class _Counts:
    """Counts of one label. `returns[b]`: weight that was used again in band b. `passed[b]`: weight
    that has lived through band b. `inside[b]`: (since, weight) of what is in band b now or is
    still to come to it; weight that has returned is entered again with a minus."""

    __slots__ = ("inside", "passed", "returns")

    def __init__(self) -> None:
        self.returns = [0.0] * _BANDS
        self.passed = [0.0] * _BANDS
        self.inside: list[deque[list[float]] | None] = [None] * _BANDS

    def enter(self, band: int, since: float, weight: float) -> None:
        """Weight idle since then is in a band; what came at nearly the same time is merged."""
        queue = self.inside[band]
        if queue is None:
            queue = self.inside[band] = deque()
        if queue and since - queue[-1][0] <= _WIDTHS[band] / _MERGE:
            queue[-1][1] += weight
        else:
            queue.append([since, weight])

    def come_back(self, band: int, since: float, weight: float) -> None:
        """Weight idle since then was used again in `band`: it is at risk in no later one."""
        self.returns[band] += weight
        if band + 1 < _BANDS:
            self.enter(band + 1, since, -weight)

    def at_risk(self, now: float) -> list[float]:
        """Weight that could have returned in each band, counted by the part of it lived so far."""
        risk = [0.0] * _BANDS
        for band in range(_BANDS):
            queue, end = self.inside[band], EDGES[band] + _WIDTHS[band]
            while queue and queue[0][0] + end <= now:
                since, weight = queue.popleft()
                self.passed[band] += weight
                if band + 1 < _BANDS:
                    self.enter(band + 1, since, weight)
            lived = 0.0
            for since, weight in queue or ():
                lived += weight * min(1.0, max(0.0, now - since - EDGES[band]) / _WIDTHS[band])
            risk[band] = max(self.passed[band] + lived, self.returns[band])
        if self.passed[0] > _FULL:
            self.returns = [count / 2.0 for count in self.returns]
            self.passed = [count / 2.0 for count in self.passed]
        return risk


class Forecast:
    """Labels, their counts and their indexes. Owned by `Hierarchy`; policies read it."""

    def __init__(self) -> None:
        self._labels: dict[Features, int] = {}
        self._features: list[Features] = []
        self._counts: list[_Counts] = []
        self._index: list[list[float] | None] = []
        self._hazards: dict[Features, list[float]] = {}
        self._entered = 0.0
        self._next_refresh = _FIRST_REFRESH
        self.refreshes = 0
        assert self.label(()) == UNLABELLED

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

    def features(self, label: int) -> Features:
        """Of a label."""
        return self._features[label]

    def idle(self, label: int, weight: float, now: float) -> None:
        """Chunks of this label went idle. `weight`: their share of a chain."""
        self._counts[label].enter(0, now, weight)
        self._entered += weight

    def returned(self, label: int, since: float, weight: float, now: float) -> None:
        """Chunks that went idle with this label at `since` are used again."""
        self._counts[label].come_back(band_of(now - since), since, weight)

    def index(self, label: int, age: float) -> float:
        """Expected uses per second of holding a chunk, at this idle age."""
        table = self._index[label]
        if table is None:
            table = self._index[label] = _indexes(self._hazard(self._features[label]))
        return table[band_of(age)]

    def probability(self, label: int, age: float, within: float) -> float:
        """That a chunk of this idle age is used again in the next `within` seconds."""
        hazards = self._hazard(self._features[label])
        first, last = band_of(age), band_of(age + within)
        left = 1.0
        for band in range(first, last + 1):
            begin, end = max(age, EDGES[band]), min(age + within, EDGES[band] + _WIDTHS[band])
            left *= (1.0 - hazards[band]) ** (max(0.0, end - begin) / _WIDTHS[band])
        return 1.0 - left

    def refresh(self, now: float) -> bool:
        """Take new counts into account, if there are enough of them to matter."""
        if self._entered < self._next_refresh:
            return False
        step = max(_FIRST_REFRESH, min(_LAST_REFRESH, self._entered / 16.0))
        self._next_refresh = self._entered + step
        sums: dict[Features, tuple[list[float], list[float]]] = {}
        for features, counts in zip(self._features, self._counts, strict=True):
            risk = counts.at_risk(now)
            for depth in range(len(features) + 1):
                key = features[:depth]
                if key not in sums:
                    sums[key] = ([0.0] * _BANDS, [0.0] * _BANDS)
                returns, at_risk = sums[key]
                for band in range(_BANDS):
                    returns[band] += counts.returns[band]
                    at_risk[band] += risk[band]
        self._hazards = {}
        for features in sorted(sums, key=len):
            parent = self._hazards[features[:-1]] if features else None
            self._hazards[features] = _shrunk(*sums[features], parent)
        self._index = [None] * len(self._features)
        self.refreshes += 1
        return True

    def _hazard(self, features: Features) -> list[float]:
        """Of a label, or of the nearest ancestor that has been counted."""
        for depth in range(len(features), -1, -1):
            hazards = self._hazards.get(features[:depth])
            if hazards is not None:
                return hazards
        return _PRIOR


def _shrunk(returns: list[float], at_risk: list[float], parent: list[float] | None) -> list[float]:
    """Counts leaning on the parent's hazards; the root's lean on the band before, so that bands
    that nothing has lived through yet go on as the last one known."""
    hazards = []
    before = _PRIOR[0]
    for band in range(_BANDS):
        lean = before if parent is None else parent[band]
        strength = 1.0 if parent is None else _STRENGTH
        before = (returns[band] + strength * lean) / (at_risk[band] + strength)
        hazards.append(min(before, _LARGEST))
    return hazards


def band_of(age: float) -> int:
    """The band that an idle age lies in."""
    return bisect_right(EDGES, age) - 1 if age > 0 else 0


def _indexes(hazards: list[float]) -> list[float]:
    """The index at the start of each band. O(bands^2), once a label and refresh."""
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


_PRIOR = [_PRIOR_HAZARD] * _BANDS
