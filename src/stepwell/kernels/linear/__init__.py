"""Linear layers for CPUs: weights reordered or quantized once, read at memory speed.

    quantize     weights in 8 or 4 bits, and the truth about them
    layout       weights in panels, as the kernels read them
    lossless     the panels of bfloat16 in 12 bits; lossless_tiles: unpacking them
    panels       the module over panels; cpu_kernel, cpu_tiles: its compiled code
    activations  activations rounded to int8
    onednn       bfloat16 through oneDNN, where our kernels do not run
    reference    the truth
    swap         replacing a model's layers

Owns: packed weights, their arithmetic, and the choice between versions. Does not own: loading, or
which layers are quantized.
"""

from __future__ import annotations

from stepwell.kernels.linear.base import PackedLinear
from stepwell.kernels.linear.quantize import WeightFormat
from stepwell.kernels.linear.swap import PackReport, pack, pack_linears, refusal

__all__ = ["PackReport", "PackedLinear", "WeightFormat", "pack", "pack_linears", "refusal"]
