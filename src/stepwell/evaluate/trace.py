"""Request traces as published with Mooncake (FAST'25): real arrival times, lengths and sharing.

One JSON object a line: `timestamp` (ms), `input_length`, `output_length` (tokens) and `hash_ids`,
one id for each 512-token block of the input; equal ids mean equal prefix blocks. The tokens are
not published, so each id stands for tokens drawn from that id: what was shared stays shared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError
from stepwell.evaluate.workload import Request, Workload, random_tokens
from stepwell.simulate.trace import MOONCAKE_BLOCK, read_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions:
    """How a trace is fitted to a model.

    `length_scale` shortens inputs, outputs and blocks alike; `time_scale` 0.5 replays twice as
    fast; `max_length` (tokens, input plus output) cuts what the model cannot hold.
    """

    limit: int = 0
    length_scale: float = 1.0
    time_scale: float = 1.0
    max_length: int = 4096
    vocab_size: int = 4096


def read_trace(path: Path, options: TraceOptions) -> Workload:
    """The first `limit` requests (0: all). Raises ConfigError for a file that is no such trace."""
    rows = [_checked(row, path) for row in read_rows(path, limit=options.limit)]
    if not rows:
        raise ConfigError(f"{path} has no requests.", param="trace")
    return Workload(path.stem, tuple(_requests(rows, options)))


def _checked(row: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if {"timestamp", "input_length", "output_length", "hash_ids"} <= row.keys():
        return row
    raise ConfigError(
        f"{path} is no Mooncake trace.",
        hint="Fields: timestamp, input_length, output_length, hash_ids.", param="trace",
    )  # fmt: skip


def _requests(rows: list[Mapping[str, Any]], options: TraceOptions) -> Iterator[Request]:
    start = rows[0]["timestamp"]
    blocks: dict[int, tuple[int, ...]] = {}
    for row in rows:
        output = max(1, round(row["output_length"] * options.length_scale))
        output = min(output, options.max_length - 1)
        length = max(1, round(row["input_length"] * options.length_scale))
        tokens: list[int] = []
        for hash_id in row["hash_ids"]:
            if hash_id not in blocks:
                blocks[hash_id] = _block_tokens(hash_id, options)
            tokens += blocks[hash_id]
        yield Request(
            prompt=tuple(tokens[: min(length, options.max_length - output)]),
            max_tokens=output,
            offset=(row["timestamp"] - start) / 1000 * options.time_scale,
        )


def _block_tokens(hash_id: int, options: TraceOptions) -> tuple[int, ...]:
    """The tokens that this id stands for, the same in every process."""
    count = max(1, round(MOONCAKE_BLOCK * options.length_scale))
    source = random.Random(f"block/{hash_id}")
    return random_tokens(source, count, vocab_size=options.vocab_size)
