"""Rate control: which rung and step reach a ratio or an error.

Ratios are 16-bit bytes over coded bytes; errors are shares of a plane's energy. Expectations come
from calibration; the `..._within` functions look at the chunk itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from stepwell.codec.kvtc.calibration import Plane

Choice = tuple[int, float]
_HALVINGS = 12


def choice_for_ratio(plane: Plane, ratio: float) -> Choice:
    """Rung and step whose expected payload is 16 * width / ratio bits a token."""
    wanted = 16.0 * (plane.stop - plane.start) / ratio
    return _interpolated(plane, [rung.bits for rung in plane.ladder], wanted)


def choice_for_error(plane: Plane, error: float) -> Choice:
    """Rung and step whose expected error is this share of the energy."""
    return _interpolated(plane, [rung.error for rung in plane.ladder], error * plane.energy)


def rung_near(plane: Plane, step: float) -> int:
    """The rung trained for the step nearest to this one, by ratio."""
    distance = [abs(math.log(rung.step / step)) for rung in plane.ladder]
    return int(np.argmin(distance))


def chunk_error(plane: Plane, coefficients: Tensor, choice: Choice) -> float:
    """The chunk's error energy a token, as a share of the plane's energy."""
    rung, step = choice
    coder = plane.coder
    back = coder.coefficients(
        coder.levels(coefficients, rung=rung, step=step), rung=rung, step=step
    )
    error = float((back - coefficients).square().sum())
    return error / (len(coefficients) * plane.energy)


def choice_within_error(plane: Plane, coefficients: Tensor, error: float) -> Choice:
    """The widest step at which this chunk's own error stays within the share; the finest rung's
    step where none does."""

    def fits(choice: Choice) -> bool:
        return chunk_error(plane, coefficients, choice) <= error

    low, high = plane.ladder[0].step, plane.ladder[-1].step
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if fits((rung_near(plane, middle), middle)):
            low = middle
        else:
            high = middle
    return rung_near(plane, low), low


def choice_within_bytes(plane: Plane, coefficients: Tensor, limit: int) -> Choice:
    """The finest step at which this chunk's coded bytes stay within the limit; the widest rung's
    step where none does."""
    low, high = plane.ladder[0].step, plane.ladder[-1].step
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        data = plane.coder.encode(coefficients, rung=rung_near(plane, middle), step=middle)
        if len(data) <= limit:
            high = middle
        else:
            low = middle
    return rung_near(plane, high), high


def _interpolated(plane: Plane, figures: Sequence[float], wanted: float) -> Choice:
    """The step at which a figure, monotone over the ladder, takes this value: straight lines
    between the rungs in logarithms; the end rungs outside."""
    steps = np.log([rung.step for rung in plane.ladder])
    logs = np.log(np.maximum(figures, 1e-300))
    order = np.argsort(logs, kind="stable")
    step = float(np.exp(np.interp(math.log(wanted), logs[order], steps[order])))
    return rung_near(plane, step), step
