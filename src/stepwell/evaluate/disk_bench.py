"""The disk tier beside a plain large file: same bytes, same disk, in turn (A B B A).

    python -m stepwell.evaluate.disk_bench DIRECTORY [--total 512MiB] [--chunk 1MiB]
        [--rounds 4] [--threads 1] [--layers 0] [--step 0] [--out FILE]

A writes the bytes to one file and calls fdatasync, drops them from the page cache, reads them back;
drops them again and copies the file, until the copy is on the disk. B writes them as chunks to a
disk tier, by as many threads as the engine gives it, and flushes, drops its segments from the page
cache, reads every chunk into a buffer of each thread. The last line is one JSON object: medians in
GB/s (10^9) and the tier's shares of the plain file and of the copy, medians of the rounds' ratios;
`_best` is the ratio of each side's best round, which a busy machine disturbs less.

With `--layers N` it measures something else: whether a restore of `--total` bytes would gain from
being loaded layer by layer, in time for a step of `--step` seconds (`layerwise.py`), as

    python -m stepwell.evaluate.disk_bench . --layers 24 --total 24MiB --chunk 192KiB --step 0.048
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from stepwell.base.units import parse_bytes
from stepwell.evaluate.layerwise import Restore, measure_layerwise
from stepwell.evaluate.page_cache import drop_page_cache
from stepwell.evaluate.statistics import median, median_ratio
from stepwell.hardware.machine import read_machine
from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.disk import DiskOptions, DiskTier

_POOL = 64 << 20
_COPY_BYTES = 1 << 20
_Runner = Callable[[Path, Sequence[memoryview]], tuple[float, ...]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--total", default="512MiB", help="bytes a round")
    parser.add_argument("--chunk", default="1MiB", help="bytes a chunk")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the tier; the engine has 1")
    parser.add_argument("--layers", type=int, default=0, help="compare with layer by layer")
    parser.add_argument("--step", type=float, default=0.0, help="seconds of the step that follows")
    parser.add_argument("--out", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args(arguments)
    total, chunk = parse_bytes(chosen.total), parse_bytes(chosen.chunk)
    if chosen.layers:
        if chunk % chosen.layers:
            parser.error(f"{chunk} bytes do not divide into {chosen.layers} layers")
        restore = Restore(
            chunks=max(1, total // chunk), chunk=chunk, layers=chosen.layers, step=chosen.step
        )
        result = measure_layerwise(chosen.directory, restore, rounds=chosen.rounds)
    else:
        result = measure(
            chosen.directory,
            total=total,
            chunk=chunk,
            rounds=chosen.rounds,
            threads=chosen.threads,
        )
    if chosen.out is not None:
        command = f"python -m stepwell.evaluate.disk_bench {' '.join(sys.argv[1:])}"
        document = {"command": command, "machine": read_machine().as_dict()} | result
        chosen.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measure(
    directory: Path, *, total: int, chunk: int, rounds: int, threads: int
) -> dict[str, object]:
    """Run the rounds; `total` and `chunk` in bytes. Raises OSError, RuntimeError for a bad read."""
    count = max(1, total // chunk)
    pool = memoryview(random.Random(1).randbytes(min(_POOL, max(chunk, total))))
    places = [index * 4096 % (len(pool) - chunk + 1) for index in range(count)]
    parts = [pool[place : place + chunk] for place in places]
    times: dict[str, list[float]] = {name: [] for name in ("pw", "pr", "pc", "tw", "tr")}
    runners: dict[str, _Runner] = {"p": _plain, "t": partial(_tier, threads=threads)}
    for number in range(-1, rounds):
        for name in ("p", "t") if number % 2 else ("t", "p"):
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                write, read, *copy = runners[name](Path(folder) / "store", parts)
            os.sync()  # removing files costs too: not in the next one's time
            if number >= 0:  # one round to warm up
                times[name + "w"].append(write)
                times[name + "r"].append(read)
                times["pc"] += copy
    rate = {name: count * chunk / median(seconds) / 1e9 for name, seconds in times.items()}
    return {
        "chunk": chunk,
        "total": count * chunk,
        "rounds": rounds,
        "threads": threads,
        "plain_write": round(rate["pw"], 3),
        "tier_write": round(rate["tw"], 3),
        "write_share": round(median_ratio(times["pw"], times["tw"]), 3),
        "plain_read": round(rate["pr"], 3),
        "tier_read": round(rate["tr"], 3),
        "read_share": round(median_ratio(times["pr"], times["tr"]), 3),
        "plain_copy": round(rate["pc"], 3),
        "write_share_of_copy": round(median_ratio(times["pc"], times["tw"]), 3),
        "read_share_of_copy": round(median_ratio(times["pc"], times["tr"]), 3),
        "write_share_best": round(min(times["pw"]) / min(times["tw"]), 3),
        "read_share_best": round(min(times["pr"]) / min(times["tr"]), 3),
    }


def _plain(path: Path, parts: Sequence[memoryview]) -> tuple[float, ...]:
    """Seconds to write, to read and to copy one large file."""
    start = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    for part in parts:
        os.write(fd, part)
    os.fdatasync(fd)
    written = time.perf_counter() - start
    os.close(fd)
    drop_page_cache(path.parent)
    out = memoryview(bytearray(_COPY_BYTES))
    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    while os.readv(fd, [out]):
        pass
    os.close(fd)
    read = time.perf_counter() - start
    drop_page_cache(path.parent)
    return written, read, _copy(path, path.with_suffix(".copy"), out)


def _copy(path: Path, target: Path, buffer: memoryview) -> float:
    """Seconds to copy a cold file, until the copy is on the disk."""
    start = time.perf_counter()
    with path.open("rb", buffering=0) as source, target.open("wb", buffering=0) as copy:
        while size := source.readinto(buffer):
            copy.write(buffer[:size])
        os.fdatasync(copy.fileno())
    return time.perf_counter() - start


def _tier(path: Path, parts: Sequence[memoryview], *, threads: int) -> tuple[float, ...]:
    """Seconds to write and flush, and to read cold, the same bytes through a disk tier."""
    capacity = 8 * sum(map(len, parts)) + (1 << 30)
    options = DiskOptions(capacity=capacity, free_floor=0)
    keys = [hashlib.sha256(b"%d" % index).digest() for index in range(len(parts))]
    tier = DiskTier(path, options=options)
    start = time.perf_counter()
    _share_out(threads, lambda mine: _write(tier, keys[mine], parts[mine]))
    tier.flush()
    written = time.perf_counter() - start
    tier.forget_cached()
    start = time.perf_counter()
    _share_out(threads, lambda mine: _read(tier, keys[mine], len(parts[0])))
    read = time.perf_counter() - start
    tier.close()
    return written, read


def _share_out(threads: int, work: Callable[[slice], None]) -> None:
    """Thread i takes every `threads`-th chunk from the i-th on."""
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, slice(i, None, threads)) for i in range(threads)]:
            done.result()


def _write(tier: DiskTier, keys: Sequence[bytes], parts: Sequence[memoryview]) -> None:
    for key, part in zip(keys, parts, strict=True):
        if tier.write(key, [part]) is not WriteOutcome.STORED:
            raise RuntimeError("the tier did not take a chunk")


def _read(tier: DiskTier, keys: Sequence[bytes], size: int) -> None:
    out = memoryview(bytearray(size))
    for key in keys:
        if tier.read(key, [out]) is not ReadOutcome.OK:
            raise RuntimeError("the tier did not give a chunk back")


if __name__ == "__main__":
    main()
