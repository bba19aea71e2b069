"""A basis as two plain matrices, for the coefficients that a rung codes.

    coefficients  (X - mean) A        X^ = D S + mean        A [p, k], S [k, p]

Mean, metric and groups are in them. `Basis.forward` and `backward` are the reference: A is what
they make of unit rows. Built some coefficients at a time, so that besides the result at most some
hundred MiB are needed at p = 32,768, where a unit matrix alone would take 4.3 GB.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from stepwell.codec.kvtc.transform import Basis, BasisGroup

RUN = 256  # coefficients at a time


def analysis_matrix(basis: Basis, coded: Tensor, *, dtype: torch.dtype) -> Tensor:
    """[p, k], from centred rows to the coefficients `coded` int64 [k]."""
    out = torch.empty(basis.width, len(coded), dtype=dtype)
    for group, places, index in _runs(basis, coded):
        rows = torch.zeros(len(places), basis.width)
        rows[:, group.start : group.stop] = group.analysis(index).T
        if basis.metric is not None:
            rows = basis.metric.weigh(rows)  # its roots are symmetric: R A = (A' R)'
        out[:, places] = rows.T.to(dtype)
    return out


def synthesis_matrix(basis: Basis, coded: Tensor, *, dtype: torch.dtype) -> Tensor:
    """[k, p], from the coefficients `coded` int64 [k] to centred rows."""
    out = torch.empty(len(coded), basis.width, dtype=dtype)
    for group, places, index in _runs(basis, coded):
        rows = torch.zeros(len(places), basis.width)
        rows[:, group.start : group.stop] = group.directions(index).T
        if basis.metric is not None:
            rows = basis.metric.unweigh(rows)
        out[places] = rows.to(dtype)
    return out


def _runs(basis: Basis, coded: Tensor) -> Iterator[tuple[BasisGroup, Tensor, Tensor]]:
    """(group, places in `coded`, the same coefficients' places in the group), some at a time."""
    for group in basis.groups:
        places = torch.isin(coded, group.columns).nonzero()[:, 0]
        for run in torch.split(places, RUN):
            if len(run):
                yield group, run, torch.searchsorted(group.columns, coded[run])
