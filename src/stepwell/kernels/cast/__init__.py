"""Rows of numbers to 8 or 4 bits with a scale each, and back.

    base       the three forms, their arithmetic, what a version is
    reference  plain torch: any row
    cpu        compiled (cpu_kernel): rows of a multiple of 16 numbers

Owns: the arithmetic and its exact result. Does not own: which rows belong together, or what is
done with rows that hold nan or infinities. Importing this package imports torch, not numba.
"""

from __future__ import annotations

from typing import Any

from stepwell.kernels import registry
from stepwell.kernels.cast.base import CastVersion, Form
from stepwell.kernels.native.vector import LANES

__all__ = ["CastVersion", "Form", "cast_version"]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.cast.{name}")


def _cpu_refusal(dim: int) -> str | None:
    return f"rows of {dim}, not a multiple of {LANES}" if dim % LANES else None


_VERSIONS = (
    registry.Version(
        name="cpu", because="compiled", load=lambda: _load("cpu"), refusal=_cpu_refusal
    ),
    registry.Version(
        name="reference",
        because="plain torch",
        load=lambda: _load("reference"),
        refusal=lambda dim: None,
    ),
)


def cast_version(dim: int) -> CastVersion:
    """The version for rows of `dim` numbers; the choice is recorded."""
    chosen: CastVersion = registry.choose("cast", _VERSIONS, subject=dim, key=f"rows of {dim}")
    return chosen
