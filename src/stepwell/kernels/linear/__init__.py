"""Linear layers for decoding on CPUs: weights reordered once, read at memory speed.

Owns: packing one weight (`cpu`), the module that computes with it (`base`), swapping a model's
layers (`swap`), and the truth (`reference`). Does not own: loading, or quantized weights.
"""

from __future__ import annotations

from stepwell.kernels.linear.base import PackedLinear
from stepwell.kernels.linear.cpu import pack, refusal
from stepwell.kernels.linear.swap import PackReport, pack_linears

__all__ = ["PackReport", "PackedLinear", "pack", "pack_linears", "refusal"]
