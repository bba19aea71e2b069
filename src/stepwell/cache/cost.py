"""What restoring and recomputing cost on this machine, learned while serving.

Every cost is a linear model over a few features, fitted by least squares on observations that
fade (`decay` per observation), so that a changed machine is followed:

    load of b bytes from a tier      seconds = latency + b / bandwidth
    prefill of n tokens after c      seconds = overhead + n * linear + n * (c + n / 2) * attention

Old observations also fade by a further factor with each one that is off by more than a factor of
two. A fast surprise is believed at once, because errors are relative and it weighs much. A slow
one weighs little: for transfers, older observations fade by the fourth power of the ratio, so that
it is believed at once too (a hiccup then costs one recomputation, a disbelieved sick tier many
stalls). For prefill they do not, since a restore is allowed a share of the recompute seconds.

A start-up probe enters as ordinary observations. Coefficients are kept non-negative. The spread of
recent relative errors gives the margin of an upper estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_RIDGE = 1e-6
_FIRST_SPREAD = 0.5
_SPREAD_WEIGHT = 0.1
_LARGEST_ERROR = 4.0
_SURPRISE = 2.0  # prediction and measurement differ by this factor
_FADE_ON_SURPRISE = 0.25
_SLOW_POWER = 4.0
_STALE = 8


class FadingLeastSquares:
    """y ~ sum of coefficient * feature, coefficients >= 0, errors weighed relative to y.

    Weighing by 1 / y^2 makes a 10 % error on a short transfer count like one on a long transfer.
    `slow_power`: by which power of predicted / measured older observations fade when a measurement
    is surprisingly slow.
    """

    def __init__(self, features: int, *, decay: float = 0.97, slow_power: float = 0.0) -> None:
        self._n = features
        self._slow_power = slow_power
        self._decay = decay
        self._xx = [[0.0] * features for _ in range(features)]
        self._xy = [0.0] * features
        self._coefficients = [0.0] * features
        self._unsolved = 0  # observations that the coefficients do not know
        self.count = 0
        self.spread = _FIRST_SPREAD

    def observe(self, features: Sequence[float], y: float) -> None:
        """One measurement. Non-positive or non-finite ones are ignored."""
        if not (y > 0 and math.isfinite(y)):
            return
        decay = self._decay
        if self.count:
            predicted = self._estimate(features, stale=min(_STALE, self.count // 2))
            error = abs(predicted - y) / y
            self.spread += _SPREAD_WEIGHT * (min(error, _LARGEST_ERROR) - self.spread)
            if not y / _SURPRISE <= predicted <= y * _SURPRISE:
                decay *= _FADE_ON_SURPRISE * min(1.0, predicted / y) ** self._slow_power
                self._unsolved = _STALE
        weight = 1.0 / (y * y)
        for i in range(self._n):
            row = self._xx[i]
            for j in range(self._n):
                row[j] = row[j] * decay + weight * features[i] * features[j]
            self._xy[i] = self._xy[i] * decay + weight * features[i] * y
        self.count += 1
        self._unsolved += 1

    def predict(self, features: Sequence[float]) -> float:
        """The estimate; 0.0 before the first observation."""
        return self._estimate(features, stale=0)

    def _estimate(self, features: Sequence[float], *, stale: int) -> float:
        """With coefficients that lack at most `stale` observations: solving is most of the work
        of observing, and to tell a surprise slightly old ones do."""
        if self._unsolved > stale:
            self._coefficients, self._unsolved = self._solve(), 0
        return sum(c * f for c, f in zip(self._coefficients, features, strict=True))

    def _solve(self) -> list[float]:
        """Least squares; a negative coefficient is fixed at zero and the rest solved again."""
        active = [i for i in range(self._n) if self._xx[i][i] > 0]
        while active:
            solution = _gauss(
                [[self._xx[i][j] for j in active] for i in active], [self._xy[i] for i in active]
            )
            worst = min(
                range(len(active)),
                key=lambda k: solution[k] * self._xx[active[k]][active[k]] ** 0.5,
            )
            if solution[worst] >= 0:
                result = [0.0] * self._n
                for k, i in enumerate(active):
                    result[i] = solution[k]
                return result
            active.pop(worst)
        return [0.0] * self._n


def _gauss(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Solve a small symmetric system, scaled and with a ridge for collinear features."""
    n = len(right)
    scale = [1.0 / math.sqrt(matrix[i][i]) for i in range(n)]
    a = [[matrix[i][j] * scale[i] * scale[j] for j in range(n)] for i in range(n)]
    b = [right[i] * scale[i] for i in range(n)]
    for i in range(n):
        a[i][i] += _RIDGE
    for i in range(n):
        for k in range(i + 1, n):
            factor = a[k][i] / a[i][i]
            for j in range(i, n):
                a[k][j] -= factor * a[i][j]
            b[k] -= factor * b[i]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (b[i] - sum(a[i][j] * x[j] for j in range(i + 1, n))) / a[i][i]
    return [x[i] * scale[i] for i in range(n)]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds expected, and an upper value that the spread of past errors justifies."""

    seconds: float
    upper: float


class TransferCost:
    """Seconds to move bytes over one link; `in_flight` bytes ahead in the queue count too."""

    def __init__(self, *, decay: float = 0.95) -> None:
        self._model = FadingLeastSquares(2, decay=decay, slow_power=_SLOW_POWER)
        self.in_flight = 0

    @property
    def known(self) -> bool:
        """Whether anything was ever measured."""
        return self._model.count > 0

    def observe(self, *, size: int, seconds: float) -> None:
        """`size` bytes took `seconds` from order to arrival, queue included."""
        self._model.observe((1.0, float(size)), seconds)

    def estimate(self, size: int) -> Estimate:
        """Seconds for `size` more bytes behind what is in flight."""
        seconds = self._model.predict((1.0, float(size + self.in_flight)))
        return Estimate(seconds, seconds * (1.0 + 2.0 * self._model.spread))

    def model_seconds(self, size: int) -> float:
        """Expected seconds for `size` bytes on an idle link."""
        return self._model.predict((1.0, float(size)))


class PrefillCost:
    """Seconds to compute tokens after a context."""

    def __init__(self, *, decay: float = 0.98) -> None:
        self._model = FadingLeastSquares(3, decay=decay)

    @property
    def known(self) -> bool:
        """Whether anything was ever measured."""
        return self._model.count > 0

    @property
    def spread(self) -> float:
        """Mean relative error of recent predictions."""
        return self._model.spread if self.known else _FIRST_SPREAD

    def observe(self, *, tokens: int, context: int, seconds: float) -> None:
        """`tokens` were computed after `context` tokens in `seconds`."""
        if tokens > 0:
            self._model.observe(_prefill_features(tokens, context), seconds)

    def seconds(self, *, tokens: int, context: int) -> float:
        """Expected seconds; 0.0 for no tokens."""
        return self._model.predict(_prefill_features(tokens, context)) if tokens > 0 else 0.0

    def marginal(self, *, tokens: int, context: int) -> float:
        """Seconds that these tokens add to a longer prefill: no overhead."""
        _, linear, attention = _prefill_features(tokens, context)
        return self._model.predict((0.0, linear, attention))


def _prefill_features(tokens: int, context: int) -> tuple[float, float, float]:
    return (1.0, float(tokens), tokens * (context + tokens / 2.0))
