"""bfloat16 in 12 bits without loss, where 16 neighbouring exponents hold nearly all numbers.

    base       the format, packing, what a version is
    reference  unpacking in plain numpy
    cpu        compiled (cpu_kernel)

Weights are spread like a bell: half of them lie within one power of two, and 16 powers of two below
the largest hold all but some 0.01 %. Owns: the format and its exact inverse. Does not own: where
the bytes lie. Importing this package imports numpy and torch, not numba.
"""

from __future__ import annotations

from typing import Any

from stepwell.kernels import registry
from stepwell.kernels.exponents.base import BLOCK, Packed, UnpackVersion, pack

__all__ = ["BLOCK", "Packed", "UnpackVersion", "pack", "unpack_version"]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.exponents.{name}")


_VERSIONS = (
    registry.Version(
        name="cpu", because="compiled", load=lambda: _load("cpu"), refusal=lambda subject: None
    ),
    registry.Version(
        name="reference",
        because="plain numpy",
        load=lambda: _load("reference"),
        refusal=lambda subject: None,
    ),
)


def unpack_version() -> UnpackVersion:
    """The version that runs; the choice is recorded."""
    chosen: UnpackVersion = registry.choose("exponents", _VERSIONS, subject=None, key="cpu")
    return chosen
