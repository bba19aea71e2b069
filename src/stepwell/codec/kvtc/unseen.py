"""What a calibration does on rows that it was not trained on.

Training measures bits and errors on its own sample. Where directions are many and rows few, unseen
rows lie worse: then those figures promise too much, ratios are missed, and the guard of the tiers
(chunk.py), which compares a chunk's error with what is expected, keeps chunks exact that are as
good as any. So each rung is told again what held-out rows gave.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stepwell.codec.kvtc.allocation import level_bits
from stepwell.codec.kvtc.calibration import Calibration, Plane


def told_by(calibration: Calibration, rows: Tensor) -> Calibration:
    """The calibration with the bits and errors of every rung as these rows [tokens, width] give
    them."""
    planes = tuple(_told(plane, rows[:, plane.start : plane.stop]) for plane in calibration.planes)
    return replace(calibration, planes=planes)


def _told(plane: Plane, rows: Tensor) -> Plane:
    coefficients = plane.basis.forward(rows)
    ladder = []
    for number, rung in enumerate(plane.ladder):
        levels = plane.coder.levels(coefficients, rung=number, step=rung.step)
        back = plane.coder.coefficients(levels, rung=number, step=rung.step)
        difference = plane.basis.backward(back[:, : rung.reach]) - rows
        if plane.basis.metric is not None:
            difference = plane.basis.metric.weigh(difference)
        error = float(difference.to(torch.float64).square().sum()) / len(rows)
        bits = level_bits(torch.from_numpy(levels), rung.model) / len(rows)
        ladder.append(replace(rung, bits=bits, error=error))
    return replace(plane, ladder=tuple(ladder))
