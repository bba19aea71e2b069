"""Addresses of numpy arrays, for kernels that take plain numbers."""

from __future__ import annotations

from numpy.typing import NDArray


def address_of(array: NDArray) -> int:
    """Where the first element lies. A fifth of what `array.ctypes.data` costs; the caller keeps
    the array alive."""
    address: int = array.__array_interface__["data"][0]
    return address
