"""Scaled coefficients to levels, and levels to symbols of one byte.

    base       cells of a context, columns of a chunk, what a version is
    reference  plain numpy
    cpu        compiled (cpu_kernel)

Owns: which cell a number falls into, and which symbol a level has. Does not own: where thresholds
come from (codec/kvtc), or coding the symbols. Importing this package imports numpy and torch, not
numba.
"""

from __future__ import annotations

from typing import Any

from stepwell.kernels import registry
from stepwell.kernels.levels.base import ESCAPE, LONGEST, SYMBOLS, Cells, Columns, LevelsVersion

__all__ = ["ESCAPE", "LONGEST", "SYMBOLS", "Cells", "Columns", "LevelsVersion", "levels_version"]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.levels.{name}")


_VERSIONS = (
    registry.Version(
        name="cpu",
        because="compiled, 16 columns at a time",
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


def levels_version() -> LevelsVersion:
    """The version that runs; the choice is recorded."""
    chosen: LevelsVersion = registry.choose("levels", _VERSIONS, subject=None, key="cpu")
    return chosen
