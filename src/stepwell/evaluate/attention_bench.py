"""`stepwell bench attention`: what decoding over a long context costs in attention alone.

Each layer's K and V are read once a token, so the bytes of K, V and scales over the machine's read
bandwidth bound it. Blocks lie in random order, as a pool's do after a while, and all layers
together exceed the caches. Formats are measured in turn, beside the bandwidth of the same round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from stepwell.evaluate.ceiling import read_rate
from stepwell.hardware.malloc import keep_freed_memory
from stepwell.kernels.paged_attention import (
    AttentionSpec,
    KVFormat,
    RaggedBatch,
    paged_attention,
)
from stepwell.kernels.write_kv import write_kv
from stepwell.model.attention import LayerShape
from stepwell.model.pool import KVPool

BLOCK_TOKENS = 16
_FILL_TOKENS = 2048  # written at a time
_READ_BYTES = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionOptions:
    """One sequence of `context` tokens over `layers` layers of these heads, `rounds` times."""

    kv_heads: int
    group: int
    dim: int
    layers: int
    context: int
    rounds: int
    formats: tuple[KVFormat, ...]


def run_attention_bench(options: AttentionOptions, *, say: Callable[[str], None]) -> dict[str, Any]:
    """The document for JSON. Rates in bytes a second; shares are medians over the rounds, each of
    its own round's bandwidth, which is the higher of before and after."""
    keep_freed_memory()  # as the engine does: a call's scratch is not new memory each time
    pools = {}
    for form in options.formats:
        say(f"filling a pool in {form}")
        pools[form] = _Filled(options, form)
    reads: list[float] = []
    found: dict[KVFormat, list[tuple[float, float]]] = {form: [] for form in pools}
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}")
        before = read_rate(_READ_BYTES)
        seconds = {form: pool.token_seconds() for form, pool in pools.items()}
        read = max(before, read_rate(_READ_BYTES))
        reads.append(read)
        for form, value in seconds.items():
            found[form].append((value, pools[form].nbytes / value / read))
    plain = pools[options.formats[0]].nbytes
    return {
        "shape": {k: v for k, v in asdict(options).items() if k != "formats"},
        "threads": torch.get_num_threads(),
        "read_gbps": round(statistics.median(reads) / 1e9, 2),
        "formats": {
            form.value: _figures(pools[form].nbytes, plain, rows) for form, rows in found.items()
        },
    }


def _figures(nbytes: int, plain: int, rows: list[tuple[float, float]]) -> dict[str, float]:
    seconds = statistics.median(seconds for seconds, _ in rows)
    shares = sorted(share for _, share in rows)
    return {
        "bytes_per_token": nbytes,
        "bytes_vs_first": round(nbytes / plain, 4),
        "ms_per_token": round(1e3 * seconds, 3),
        "gbps": round(nbytes / seconds / 1e9, 2),
        "share_of_read": round(statistics.median(shares), 4),
        "share_of_read_lowest": round(shares[0], 4),
        "share_of_read_highest": round(shares[-1], 4),
    }


class _Filled:
    """A pool full of one sequence's random K and V, and a token to decode over it."""

    def __init__(self, options: AttentionOptions, form: KVFormat) -> None:
        shape = LayerShape(
            kv_heads=options.kv_heads, key_dim=options.dim, value_dim=options.dim,
            q_heads=options.kv_heads * options.group, window=None, softcap=None, has_sinks=False,
        )  # fmt: skip
        blocks = -(-options.context // BLOCK_TOKENS)
        self._pool = KVPool.reserve(
            {nn.Identity(): shape for _ in range(options.layers)}, num_blocks=blocks,
            block_size=BLOCK_TOKENS, dtype=torch.bfloat16, device=torch.device("cpu"), form=form,
        )  # fmt: skip
        source = torch.Generator().manual_seed(0)
        self._table = torch.randperm(blocks, generator=source).tolist()
        for batch in self._steps(options.context):
            size = (len(batch.slots), options.kv_heads, options.dim)
            rows = torch.randn(2, *size, generator=source).bfloat16()
            for layer in self._pool.layers.values():
                write_kv(rows[0], rows[1], layer, batch)
        self._query = torch.randn(1, shape.q_heads, options.dim, generator=source).bfloat16()
        self._batch = self._build(1, options.context)
        self._spec = AttentionSpec(scale=options.dim**-0.5)
        self.token_seconds()  # compiles

    @property
    def nbytes(self) -> int:
        """K, V and scales that a token's attention reads."""
        return self._pool.nbytes

    @torch.inference_mode()
    def token_seconds(self) -> float:
        """One decoded token's attention over all layers."""
        began = time.perf_counter()
        for layer in self._pool.layers.values():
            paged_attention(self._query, layer, self._batch, self._spec)
        return time.perf_counter() - began

    def _steps(self, context: int) -> Iterator[RaggedBatch]:
        for start in range(0, context, _FILL_TOKENS):
            stop = min(context, start + _FILL_TOKENS)
            yield self._build(stop - start, stop)

    def _build(self, new: int, context: int) -> RaggedBatch:
        return RaggedBatch.build(
            [new], [context], block_tables=[self._table], block_size=BLOCK_TOKENS
        )
