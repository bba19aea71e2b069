"""Calibration in one streaming pass: mean and covariance of rows, or a sketch of it.

`Moments` keeps p x p float64 sums and is exact; 32,768 features take 8.6 GB. `Sketch` keeps twice
p x k: the covariance times k random directions, from which the leading eigenvectors follow
(Nystrom approximation; Halko, Martinsson and Tropp, SIAM Review 53, 2011, section 5.5). A second
pass over the same rows, started from the first one's result, is a step of subspace iteration.
No n x p matrix is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SINK_TOKENS = 4  # the first positions' keys and values are outliers: never in the sample


def without_sinks(rows: Tensor, *, positions: Tensor) -> Tensor:
    """The rows whose position is not among the first four."""
    return rows[positions >= SINK_TOKENS]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Eigenvectors of a covariance. `mean` [p], `vectors` [p, r] orthonormal columns, `variances`
    [r] descending; `total` is the trace of the covariance, dropped directions included."""

    mean: Tensor
    vectors: Tensor
    variances: Tensor
    total: float
    count: int


class Moments:
    """Running mean and covariance of rows [tokens, p]."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in rows [tokens, p]. Sums are of differences to the first rows' mean, so that a
        mean far from zero costs no digits."""
        if not len(rows):
            return
        wide = rows.to(torch.float64)
        if self._shift is None:
            self._shift = wide.mean(0)
        wide = wide - self._shift
        self.count += len(rows)
        self._sum += wide.sum(0)
        self._squares.addmm_(wide.T, wide)

    def mean(self) -> Tensor:
        """[p] float64."""
        assert self._shift is not None, "no rows yet"
        return self._shift + self._sum / self.count

    def covariance(self) -> Tensor:
        """[p, p] float64, divided by the number of rows."""
        offset = self._sum / self.count
        return self._squares / self.count - torch.outer(offset, offset)

    def part(self, start: int, stop: int) -> Moments:
        """The moments of the features start:stop alone."""
        found = Moments(0)
        found.count = self.count
        found._shift = None if self._shift is None else self._shift[start:stop]
        found._sum = self._sum[start:stop]
        found._squares = self._squares[start:stop, start:stop]
        return found


class Sketch:
    """The leading eigenvectors of a covariance too wide to hold."""

    def __init__(self, width: int, *, rank: int, oversample: int = 16, seed: int = 0) -> None:
        columns = min(width, rank + oversample)
        generator = torch.Generator().manual_seed(seed)
        self.rank = min(rank, width)
        self._omega = torch.randn(width, columns, generator=generator, dtype=torch.float64)
        self._omega = torch.linalg.qr(self._omega).Q
        self._clear()

    def _clear(self) -> None:
        self.count = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(len(self._omega), dtype=torch.float64)
        self._squares = torch.zeros(len(self._omega), dtype=torch.float64)
        self._image = torch.zeros_like(self._omega)

    def add(self, rows: Tensor) -> None:
        """Take in rows [tokens, p]."""
        if not len(rows):
            return
        wide = rows.to(torch.float64)
        if self._shift is None:
            self._shift = wide.mean(0)
        wide = wide - self._shift
        self.count += len(rows)
        self._sum += wide.sum(0)
        self._squares += wide.square().sum(0)
        self._image.addmm_(wide.T, wide @ self._omega)

    def next_pass(self) -> None:
        """Start again from what was found: rows are to be added once more."""
        self._omega = torch.linalg.qr(self._centred()).Q
        self._clear()

    def energy(self) -> Tensor:
        """The covariance's diagonal, [p] float64."""
        return self._squares / self.count - (self._sum / self.count).square()

    def spectrum(self, *, weights: Tensor | None = None) -> Spectrum:
        """The leading `rank` eigenvectors, by the Nystrom formula C ~ Y (Omega' Y)^-1 Y'.
        `weights` [p]: of rows that are multiplied by these (the mean is left as it was)."""
        image, omega, energy = self._centred(), self._omega, self.energy()
        if weights is not None:
            wide = weights.to(torch.float64)
            # W C W seen through W^-1 Omega is W times what was seen of C.
            image, omega = image * wide[:, None], omega / wide[:, None]
            energy = energy * wide.square()
        # A tiny multiple of the identity keeps the Cholesky factor real; it is taken off again.
        shift = 1e-10 * float(image.norm()) / float(omega.norm()) + 1e-300
        image = image + shift * omega
        core = omega.T @ image
        factor = torch.linalg.cholesky((core + core.T) / 2)
        half = torch.linalg.solve_triangular(factor, image.T, upper=False).T
        vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
        assert self._shift is not None, "no rows yet"
        return Spectrum(
            mean=self._shift + self._sum / self.count,
            vectors=vectors[:, : self.rank],
            variances=(singular.square() - shift).clamp(min=0.0)[: self.rank],
            total=float(energy.sum()),
            count=self.count,
        )

    def _centred(self) -> Tensor:
        offset = self._sum / self.count
        return self._image / self.count - torch.outer(offset, offset @ self._omega)


class Reservoir:
    """A uniform sample of at most `size` rows of a stream, each row's chance the same (Vitter,
    ACM Trans. Math. Software 11, 1985, algorithm R). The same for the same seed and stream."""

    def __init__(self, *, size: int, width: int, seed: int = 0) -> None:
        self._rows = torch.empty(size, width, dtype=torch.float32)
        self._seen = 0
        self._generator = torch.Generator().manual_seed(seed)

    def add(self, rows: Tensor) -> None:
        """Offer rows [tokens, p]."""
        number = torch.arange(self._seen, self._seen + len(rows))
        chance = torch.rand(len(rows), generator=self._generator, dtype=torch.float64)
        place = (chance * (number + 1)).to(torch.int64)
        place = torch.where(number < len(self._rows), number, place)
        taken = (place < len(self._rows)).nonzero()[:, 0]
        for row in taken.tolist():  # in order: a later row may take an earlier one's place
            self._rows[place[row]] = rows[row]
        self._seen += len(rows)

    def rows(self) -> Tensor:
        """The sample, [at most size, p]."""
        return self._rows[: self._seen]
