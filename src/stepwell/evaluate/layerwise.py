"""Would loading layer by layer pay? Whole chunks against slices of one layer, same bytes.

A value holds all layers of its blocks together. Loaded whole, a restore ends before the step that
follows it begins: load + step. Layer by layer, a layer's slices of all chunks are read together
(one small read a chunk), and the step may begin with the first layer while the next ones are read.
`overlapped` is when such a step would end at best, had each layer the same share of the step and
did reading slow computing by nothing. Plain reads: no checksum, no codec, no index, which either
way would pay for.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stepwell.evaluate.local_redis import binary, serve_redis
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.statistics import median

_BATCH_BYTES = 1 << 20  # of values asked for at once, as the mover does
Read = Callable[[Sequence[tuple[int, int, int]]], None]
"""Reads (chunk, offset, bytes) pieces into the same places of a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """Sizes in bytes, `step` in seconds."""

    chunks: int
    chunk: int
    layers: int
    step: float

    @property
    def whole(self) -> list[tuple[int, int, int]]:
        """One piece a chunk."""
        return [(index, 0, self.chunk) for index in range(self.chunks)]

    def layer(self, number: int) -> list[tuple[int, int, int]]:
        """This layer's piece of each chunk."""
        size = self.chunk // self.layers
        return [(index, number * size, size) for index in range(self.chunks)]


def measure_layerwise(directory: Path, restore: Restore, *, rounds: int) -> dict[str, object]:
    """Both ways in turn, from each medium. `directory`: on the disk to measure. Raises OSError."""
    data = np.frombuffer(
        random.Random(1).randbytes(restore.chunks * restore.chunk), np.uint8
    ).reshape(restore.chunks, restore.chunk)
    target = np.zeros_like(data)
    result: dict[str, object] = {
        "bytes": data.nbytes,
        "chunk": restore.chunk,
        "layers": restore.layers,
        "slice": restore.chunk // restore.layers,
        "rounds": rounds,
        "step_s": restore.step,
    }
    for name, medium in (("host", _host), ("disk", _disk), ("network", _network)):
        if name == "network" and binary() is None:
            result[name] = None
            continue
        with medium(data, target, directory) as (read, make_cold):
            result[name] = _compare(read, make_cold, restore, rounds=rounds)
        if not np.array_equal(data, target):
            raise OSError(f"what was read from {name} is not what was written")
    return result


def _compare(
    read: Read, make_cold: Callable[[], None], restore: Restore, *, rounds: int
) -> dict[str, float]:
    whole: list[float] = []
    layers: list[list[float]] = []
    for number in range(-1, rounds):  # one to warm up
        make_cold()
        (taken,) = _timed(read, [restore.whole])
        make_cold()
        slices = _timed(read, [restore.layer(layer) for layer in range(restore.layers)])
        if number >= 0:
            whole.append(taken)
            layers.append(slices)
    total = median([sum(slices) for slices in layers])
    load, step = median(whole), restore.step
    overlapped = median([_overlapped(slices, step) for slices in layers])
    return {
        "whole_s": round(load, 6),
        "layerwise_s": round(total, 6),
        "small_reads_cost_s": round(total - load, 6),
        "first_layer_s": round(median([slices[0] for slices in layers]), 6),
        "could_hide_s": round(min(load, step) * (1 - 1 / restore.layers), 6),
        "load_then_step_s": round(load + step, 6),
        "overlapped_s": round(overlapped, 6),
        "best_gain": round((load + step) / overlapped, 3),
    }


def _timed(read: Read, parts: Sequence[Sequence[tuple[int, int, int]]]) -> list[float]:
    seconds = []
    for pieces in parts:
        start = time.perf_counter()
        read(pieces)
        seconds.append(time.perf_counter() - start)
    return seconds


def _overlapped(slices: Sequence[float], step: float) -> float:
    """When the last layer has been computed, each one after its own slices and the layer before."""
    loaded = computed = 0.0
    for seconds in slices:
        loaded += seconds
        computed = max(loaded, computed) + step / len(slices)
    return computed


@contextmanager
def _host(
    data: np.ndarray, target: np.ndarray, directory: Path
) -> Iterator[tuple[Read, Callable[[], None]]]:
    def read(pieces: Sequence[tuple[int, int, int]]) -> None:
        for chunk, offset, size in pieces:
            np.copyto(target[chunk, offset : offset + size], data[chunk, offset : offset + size])

    yield read, lambda: None


@contextmanager
def _disk(
    data: np.ndarray, target: np.ndarray, directory: Path
) -> Iterator[tuple[Read, Callable[[], None]]]:
    rows = [row.data for row in target]
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        path = Path(folder) / "segment"
        path.write_bytes(data.tobytes())
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)

        def read(pieces: Sequence[tuple[int, int, int]]) -> None:
            for chunk, offset, size in pieces:
                os.preadv(fd, [rows[chunk][offset : offset + size]], chunk * len(data[0]) + offset)

        try:
            yield read, lambda: drop_page_cache(Path(folder))
        finally:
            os.close(fd)


@contextmanager
def _network(
    data: np.ndarray, target: np.ndarray, directory: Path
) -> Iterator[tuple[Read, Callable[[], None]]]:
    import redis

    size_of = data.shape[1]
    with tempfile.TemporaryDirectory() as folder, serve_redis(Path(folder)) as url:
        client = redis.Redis.from_url(url)
        for index, value in enumerate(data):
            client.set(b"%d" % index, value.tobytes())

        def read(pieces: Sequence[tuple[int, int, int]]) -> None:
            at_once = max(1, _BATCH_BYTES // pieces[0][2])
            for first in range(0, len(pieces), at_once):
                batch = pieces[first : first + at_once]
                asked = client.pipeline(transaction=False)
                for chunk, offset, size in batch:
                    if size == size_of:
                        asked.get(b"%d" % chunk)
                    else:
                        asked.getrange(b"%d" % chunk, offset, offset + size - 1)
                for (chunk, offset, size), value in zip(batch, asked.execute(), strict=True):
                    target[chunk, offset : offset + size] = np.frombuffer(value, np.uint8)

        yield read, lambda: None
        client.close()
