"""A tiny calibration made of random rows: what the KVTC tests share."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.gather import Gatherer
from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.kvtc.train import TrainingOptions, train_calibration

DIM, HEADS, LAYERS = 8, 2, 2
ROTARY = Rotary(inv_freq=(1.0, 0.3, 0.05, 0.01), scaling=1.25)
KEYS = RowLayout(tuple(LayerPart(heads=HEADS, dim=DIM, rotary=ROTARY) for _ in range(LAYERS)))
VALUES = RowLayout(tuple(LayerPart(heads=HEADS, dim=DIM) for _ in range(LAYERS)))
WIDTH = KEYS.width + VALUES.width
WEIGHTS = bytes(range(32))


def rows(tokens: int, *, seed: int, width: int = WIDTH) -> Tensor:
    """Correlated rows whose spectrum falls steeply, with heavy tails and a mean."""
    mixing = torch.linalg.qr(torch.randn(width, width, generator=_generator(0))).Q
    spread = torch.arange(1, width + 1) ** -0.8
    generator = _generator(seed)
    noise = torch.randn(tokens, width, generator=generator)
    heavy = noise * (0.5 + torch.rand(tokens, 1, generator=generator))
    return 3 * (heavy * spread) @ mixing + torch.linspace(-1, 1, width)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def calibration(*, joint: bool, precision: Precision = Precision.FLOAT16) -> Calibration:
    """Trained on 2,000 rows, six rungs."""
    gathered = Gatherer.of(width=WIDTH, sample=1500)
    for seed in range(4):
        gathered.add(rows(500, seed=seed))
    options = TrainingOptions(joint=joint, precision=precision, rungs=6)
    return train_calibration(gathered, weights=WEIGHTS, keys=KEYS, values=VALUES, options=options)
