"""The truth in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.kernels.cast.base import LEAST_SCALE_BITS, Form, largest_number


def narrow(
    rows: Tensor, codes: NDArray[np.uint8], scales: NDArray[np.uint16], *, form: Form
) -> bool:
    """See `base.CastVersion`."""
    wide = rows.float()
    peak = wide.abs().amax(1)
    if not bool(torch.isfinite(peak).all()):
        return False
    bits = (peak / form.largest).view(torch.int32)
    bits = torch.clamp((bits + 0xFFFF) >> 16, min=LEAST_SCALE_BITS)
    scales[:] = bits.numpy().astype(np.uint16)
    scaled = wide * (1.0 / _scale(scales))
    if form is Form.FP8:
        found = scaled.to(torch.float8_e4m3fn).view(torch.uint8)
    else:
        found = torch.round(scaled).to(torch.int8).view(torch.uint8)
    if form is Form.INT4:
        found = torch.nn.functional.pad(found, (0, found.shape[1] % 2))
        found = found[:, 0::2] & 15 | found[:, 1::2] << 4
    codes[:] = found.numpy()
    return True


def widen(
    codes: NDArray[np.uint8], scales: NDArray[np.uint16], rows: Tensor, *, form: Form
) -> None:
    """See `base.CastVersion`."""
    stored = torch.from_numpy(codes.copy())
    if form is Form.FP8:
        numbers = stored.view(torch.float8_e4m3fn).float()
        # 0x7F is no number in E4M3; as bits of the same pattern it would be 480.
        numbers = torch.where(stored & 0x7F == 0x7F, 480.0 * (1.0 - (stored >> 7) * 2.0), numbers)
    elif form is Form.INT8:
        numbers = stored.view(torch.int8).float()
    else:
        pairs = torch.stack([stored << 4, stored & 0xF0], 2).view(torch.int8).float() / 16
        numbers = pairs.reshape(len(stored), -1)[:, : rows.shape[1]]
    limit = largest_number(rows.dtype)
    rows.copy_((numbers * _scale(scales)).clamp(-limit, limit))


def _scale(bits: NDArray[np.uint16]) -> Tensor:
    """[n, 1] float32 from the bits of bfloat16."""
    return torch.from_numpy((bits.astype(np.uint32) << 16).view(np.float32)).unsqueeze(1)
