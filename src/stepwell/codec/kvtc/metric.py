"""Which errors attention sees: a weight on each head's features, averaged over calibration.

An error e in a key moves a logit by q'e / sqrt(dim), an error f in a value moves the layer's
output by W_o f. To second order the expected damage is e' E[q q'] e and f' W_o' W_o f: quadratic
forms, one matrix a head. Coding in the geometry of their square root makes plain squared error
mean that damage (the split into a key and a value part follows AATC, arXiv:2608.14191; that the
transform is then no longer orthogonal, NOVA-KV, arXiv:2608.04074; both known here by their
abstracts, the derivation is our own).

Keys are coded with their rotary turn undone, at position t, and met by queries at any later
position; so the query moment is averaged over distances (see `query_moment`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from stepwell.codec.kvtc.rotary import Rotary


@dataclass(frozen=True)
class Metric:
    """`roots`: a symmetric positive definite matrix for each run of features, in row order:
    [width, width] float32, or [1, 1] for a plain factor on all of them. `widths`: of the runs."""

    roots: tuple[Tensor, ...]
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        fit = [len(root) in (1, w) for root, w in zip(self.roots, self.widths, strict=True)]
        if not all(fit):
            raise ValueError("a metric's roots are as wide as their features, or plain factors")

    @property
    def width(self) -> int:
        """Features that it weighs."""
        return sum(self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact."""
        return sum(4 * root.numel() for root in self.roots)

    @cached_property
    def _inverses(self) -> tuple[Tensor, ...]:
        return tuple(
            torch.linalg.inv(root.to(torch.float64)).to(torch.float32) for root in self.roots
        )

    def weigh(self, rows: Tensor) -> Tensor:
        """Rows [tokens, p] into the metric's geometry."""
        return self._apply(rows, self.roots)

    def unweigh(self, rows: Tensor) -> Tensor:
        """The inverse of `weigh`."""
        return self._apply(rows, self._inverses)

    def _apply(self, rows: Tensor, blocks: Sequence[Tensor]) -> Tensor:
        out, start = torch.empty_like(rows), 0
        for block, width in zip(blocks, self.widths, strict=True):
            part, root = rows[:, start : start + width], block.to(rows.dtype)
            out[:, start : start + width] = part * root if len(root) == 1 else part @ root
            start += width
        return out


def metric_of(moments: Sequence[Tensor], *, floor: float = 0.01) -> Metric:
    """Square roots of the heads' second moments [dim, dim], scaled so that the mean weight over
    all features is one. `floor`, a share of the mean weight, is added so that no direction is
    free: calibration may not have seen the query that needs it."""
    mean = sum(float(m.diagonal().sum()) for m in moments) / sum(len(m) for m in moments)
    if not mean > 0:
        raise ValueError("a metric needs queries or weights that are not all zero")
    roots = []
    for moment in moments:
        scaled = moment.to(torch.float64) / mean
        scaled = (1 - floor) * scaled + floor * torch.eye(len(moment), dtype=torch.float64)
        values, vectors = torch.linalg.eigh((scaled + scaled.T) / 2)
        root = (vectors * values.clamp(min=1e-12).sqrt()) @ vectors.T
        roots.append(root.to(torch.float32))
    return Metric(tuple(roots), tuple(len(root) for root in roots))


def factors(*, widths: Sequence[int], weights: Sequence[float]) -> Metric:
    """A plain factor on each run of features: how much an error there counts, as an amplitude."""
    roots = tuple(torch.tensor([[weight]], dtype=torch.float32) for weight in weights)
    return Metric(roots, tuple(widths))


def query_moment(queries: Tensor, *, rotary: Rotary | None, distances: Tensor) -> Tensor:
    """E[q q'] as a key sees it whose own turn is undone. `queries` [tokens, heads, dim] of one
    key head's group, their turn undone; `distances` [d]: tokens from key to query, averaged."""
    total = torch.zeros(queries.shape[-1], queries.shape[-1], dtype=torch.float64)
    moment = torch.einsum("thi,thj->ij", queries.double(), queries.double())
    moment /= queries.shape[0] * queries.shape[1]
    if rotary is None:
        return moment
    identity = torch.eye(len(moment), dtype=torch.float64)[:, None, :]
    for distance in distances.tolist():
        where = torch.full((len(moment),), distance)
        turn = rotary.apply(identity, positions=where)[:, 0]
        total += turn.T @ moment @ turn
    return total / len(distances)


def output_moment(output_weight: Tensor) -> Tensor:
    """W_o' W_o for one key-value head. `output_weight` [q_heads of the group, hidden, dim]."""
    wide = output_weight.to(torch.float64)
    return torch.einsum("ghi,ghj->ij", wide, wide)
