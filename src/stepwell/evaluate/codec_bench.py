"""How fast and how small codecs are on real K,V, one thread, zlib level 6 beside them.

`lossless`, `entropy` and `casts` are the pieces; each runs its contestants in turn, round by round,
and gives medians. Speeds are GB/s (10^9) of the raw side: the bytes of K,V that go in or come out,
2 for each symbol of the entropy coder.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.buffers import flat_views, total_bytes
from stepwell.codec.contract import Buffer, Codec
from stepwell.codec.registry import make_codec
from stepwell.codec.shape import BlockShape
from stepwell.evaluate.house_kv import block_views, model_blocks
from stepwell.evaluate.statistics import median
from stepwell.hardware.malloc import keep_freed_memory
from stepwell.kernels import entropy

Figures = dict[str, float]
_ZLIB_LEVEL = 6
_ZLIB_EVERY = 5  # rounds between zlib's: it takes a hundred times as long
_ENGINE_CHUNK, _LARGE_CHUNK = 4, 32  # blocks: the house model's chunk; one of 1.5 MiB
_STEP = 0.25  # of the entropy coder's symbols, as a share of a layer side's deviation
_CONTEXTS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Blocks to measure on: `numbers` [blocks, shape.numbers]."""

    shape: BlockShape
    numbers: Tensor


def lossless(sample: Sample, *, rounds: int) -> Figures:
    """`lossless_ratio`, `lossless_gbps_core` (the slower way) on chunks of 1.5 MiB, both ways each,
    the same for the engine's chunk, and zlib's on the same chunk."""
    codec = make_codec("lossless", shape=sample.shape)
    found: Figures = {}
    for blocks, suffix in ((_LARGE_CHUNK, ""), (_ENGINE_CHUNK, "_engine_chunk")):
        parts = block_views(sample.numbers[:blocks])
        runs = _codec_runs(codec, parts) | (_zlib_runs(parts) if not suffix else {})
        speeds = _speeds(runs, raw=total_bytes(parts), rounds=rounds)
        found |= {
            f"lossless_ratio{suffix}": _ratio(parts, codec.encode(parts)),
            f"lossless_encode_gbps{suffix}": speeds["encode"],
            f"lossless_decode_gbps{suffix}": speeds["decode"],
            f"lossless_gbps_core{suffix}": min(speeds["encode"], speeds["decode"]),
        }
        if not suffix:
            packed = zlib.compress(b"".join(parts), _ZLIB_LEVEL)
            found["zlib6_ratio"] = total_bytes(parts) / len(packed)
            found["zlib6_encode_gbps"] = speeds["zlib encode"]
            found["zlib6_decode_gbps"] = speeds["zlib decode"]
            found["copy_gbps"] = speeds["copy"]
    return found


def entropy_coder(sample: Sample, *, rounds: int) -> Figures:
    """`entropy_gbps_core` (the slower way) of rANS with static tables on quantised K,V.

    Tables are trained on the first half of the sample and code the second: a stand-in for what
    `kvtc` codes, with as many contexts, but without its transform.
    """
    symbols, contexts = _symbols(sample)
    half = len(symbols) // 2
    tables = entropy.build_tables(_counts(symbols[:half], contexts))
    rows = np.ascontiguousarray(symbols[half:])
    data = entropy.encode(rows, contexts, tables)
    packed = zlib.compress(rows.tobytes(), _ZLIB_LEVEL)
    runs: Mapping[str, Callable[[], object]] = {
        "encode": lambda: entropy.encode(rows, contexts, tables),
        "decode": lambda: entropy.decode(data, contexts, tables, tokens=len(rows)),
        "zlib encode": lambda: zlib.compress(rows.data, _ZLIB_LEVEL),
        "zlib decode": lambda: zlib.decompress(packed),
    }
    assert np.array_equal(entropy.decode(data, contexts, tables, tokens=len(rows)), rows)
    speeds = _speeds(runs, raw=2 * rows.size, rounds=rounds)
    return {
        "entropy_gbps_core": min(speeds["encode"], speeds["decode"]),
        "entropy_encode_gbps": speeds["encode"],
        "entropy_decode_gbps": speeds["decode"],
        "entropy_bits_per_symbol": 8 * len(data) / rows.size,
        "entropy_zlib6_bits_per_symbol": 8 * len(packed) / rows.size,
        "entropy_zlib6_encode_gbps": speeds["zlib encode"],
        "entropy_zlib6_decode_gbps": speeds["zlib decode"],
    }


def casts(sample: Sample, *, rounds: int) -> Figures:
    """Ratio, speeds, and the squared error as a share of the energy, of fp8, int8 and int4."""
    found: Figures = {}
    parts = block_views(sample.numbers[:_LARGE_CHUNK])
    for name in ("fp8", "int8", "int4"):
        codec = make_codec(name, shape=sample.shape)
        speeds = _speeds(_codec_runs(codec, parts), raw=total_bytes(parts), rounds=rounds)
        out = torch.empty_like(sample.numbers[:_LARGE_CHUNK])
        encoded = codec.encode(parts)
        codec.decode(encoded, block_views(out))
        exact = sample.numbers[:_LARGE_CHUNK].double()
        error = (out.double() - exact).square().sum() / exact.square().sum()
        found |= {
            f"{name}_ratio": _ratio(parts, encoded),
            f"{name}_gbps_core": min(speeds["encode"], speeds["decode"]),
            f"{name}_error_share": float(error),
        }
    return found


PIECES = (lossless, entropy_coder, casts)


def run(
    sample: Sample, *, rounds: int, pieces: Sequence[Callable[..., Figures]] = PIECES
) -> Figures:
    """These pieces. Sets malloc as serving does."""
    keep_freed_memory()
    return {name: value for piece in pieces for name, value in piece(sample, rounds=rounds).items()}


def load_sample(model: Path, text: str, *, blocks: int = 128) -> Sample:
    """K,V of a prompt with this text."""
    shape, numbers = model_blocks(model, text, blocks=blocks)
    return Sample(shape=shape, numbers=numbers)


def _speeds(runs: Mapping[str, Callable[[], object]], *, raw: int, rounds: int) -> dict[str, float]:
    """GB/s of each, medians over rounds in which all take their turn; zlib sits most rounds out."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(-1, rounds):
        for name, call in runs.items():
            if name.startswith("zlib") and number % _ZLIB_EVERY:
                continue
            began = time.perf_counter()
            call()
            if number >= 0:  # the first warms up
                times[name].append(time.perf_counter() - began)
    return {name: raw / median(seconds) / 1e9 for name, seconds in times.items()}


def _codec_runs(codec: Codec, parts: Sequence[Buffer]) -> dict[str, Callable[[], object]]:
    encoded = codec.encode(parts)
    out = [memoryview(bytearray(len(part))) for part in parts]
    return {
        "encode": lambda: codec.encode(parts),
        "decode": lambda: codec.decode(encoded, out),
    }


def _zlib_runs(parts: Sequence[Buffer]) -> dict[str, Callable[[], object]]:
    joined = b"".join(parts)
    packed = zlib.compress(joined, _ZLIB_LEVEL)
    source, target = np.frombuffer(joined, np.uint8), np.empty(len(joined), np.uint8)
    return {
        "copy": lambda: np.copyto(target, source),
        "zlib encode": lambda: zlib.compress(joined, _ZLIB_LEVEL),
        "zlib decode": lambda: zlib.decompress(packed),
    }


def _ratio(parts: Sequence[Buffer], encoded: Sequence[Buffer]) -> float:
    return total_bytes(parts) / total_bytes(flat_views(encoded))


def _symbols(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [tokens, p], uint16 [p]): zigzag of K,V in steps, and columns grouped by size."""
    columns = []
    for segment in sample.shape.segments():
        part = sample.numbers[:, segment.start : segment.start + segment.size].float()
        part = part.view(-1, segment.heads, segment.tokens, segment.dim)
        rows = part.transpose(1, 2).reshape(-1, segment.heads * segment.dim)
        columns.append((rows / (_STEP * rows.std())).round())
    levels = torch.cat(columns, 1).clamp(-127, 127).to(torch.int64).numpy()
    symbols = np.where(levels > 0, 2 * levels - 1, -2 * levels).astype(np.uint8)
    order = np.abs(levels).mean(0).argsort().argsort()
    return symbols, (order * _CONTEXTS // len(order)).astype(np.uint16)


def _counts(symbols: np.ndarray, contexts: np.ndarray) -> np.ndarray:
    counts = [
        np.bincount(symbols[:, contexts == c].ravel(), minlength=256) for c in range(_CONTEXTS)
    ]
    return np.stack(counts)
