"""Numbers taken apart into the byte that repeats and the bytes that do not, and put back.

    base       what goes where, what a version is
    reference  plain numpy
    cpu        compiled (cpu_kernel)

Owns: the split, its inverse, and counting symbols by segment. Does not own: coding the symbols.
Importing this package imports numpy and torch, not numba.
"""

from __future__ import annotations

from typing import Any

from stepwell.kernels import registry
from stepwell.kernels.planes.base import Planes, PlanesVersion

__all__ = ["Planes", "PlanesVersion", "planes_version"]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.planes.{name}")


_VERSIONS = (
    registry.Version(
        name="cpu",
        because="compiled",
        load=lambda: _load("cpu"),
        refusal=lambda subject: None,
    ),
    registry.Version(
        name="reference",
        because="plain numpy",
        load=lambda: _load("reference"),
        refusal=lambda subject: None,
    ),
)


def planes_version() -> PlanesVersion:
    """The version that runs; the choice is recorded."""
    chosen: PlanesVersion = registry.choose("planes", _VERSIONS, subject=None, key="cpu")
    return chosen
