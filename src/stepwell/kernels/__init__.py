"""Operations on tensors, each in a folder with a plain torch reference beside its fast versions.

    paged_attention/  attention of a ragged step's new tokens over the block pool
    write_kv/         new K,V into their slots
    linear/           bfloat16 linear layers for CPU decoding
    native/           what compiled CPU code shares
    registry          which version runs, and why
    warm              compiling before serving
    pages             asking the operating system for huge pages

Owns: arithmetic, its compiled code and the choice between versions.
Does not own: the pool, block tables, models, or when anything is called.
Importing this package imports torch, not numba.
"""

from __future__ import annotations

from stepwell.kernels.pages import advise_huge_pages
from stepwell.kernels.registry import decisions, kernel_choice
from stepwell.kernels.warm import threads_kind, warm_up

__all__ = ["advise_huge_pages", "decisions", "kernel_choice", "threads_kind", "warm_up"]
