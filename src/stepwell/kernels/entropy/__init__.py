"""Entropy coding with static tables: interleaved rANS.

    base        the arithmetic and its sources, what a version is
    tables      RansTables, build_tables
    stream      encode, decode, decode_prefix: symbols to a stream of bytes and back
    reference   the truth, in plain Python
    cpu         compiled: cpu_kernel symbol by symbol, cpu_lanes 32 at a time, cpu_fit for tables

Owns: coding symbols whose model is known to both sides. Does not own: where symbols come from,
what models them, or a checksum. Importing this package imports numpy and torch, not numba.
"""

from __future__ import annotations

from stepwell.kernels.entropy.base import StreamError
from stepwell.kernels.entropy.stream import (
    MAX_COUNT,
    decode,
    decode_prefix,
    encode,
    head_bytes,
)
from stepwell.kernels.entropy.tables import RansTables, build_tables

__all__ = [
    "MAX_COUNT",
    "RansTables",
    "StreamError",
    "build_tables",
    "decode",
    "decode_prefix",
    "encode",
    "head_bytes",
]
