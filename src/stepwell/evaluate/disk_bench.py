"""The disk tier beside a plain large file: same bytes, same disk, in turn (A B B A).

    python -m stepwell.evaluate.disk_bench DIRECTORY [--total 512MiB] [--chunk 1MiB] [--rounds 4]

A writes the bytes to one file and calls fdatasync, drops them from the page cache, reads them back.
B writes them as chunks to a disk tier and flushes, drops its segments from the page cache, reads
every chunk into the same buffer. The last line is one JSON object: medians in GB/s (10^9) and the
tier's share of the plain file, median of the rounds' ratios;
`_best` is the ratio of each side's best round, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stepwell.base.units import parse_bytes
from stepwell.evaluate.statistics import median, median_ratio
from stepwell.tier.contract import ReadOutcome, WriteOutcome
from stepwell.tier.disk import DiskOptions, DiskTier

_POOL = 64 << 20
_COPY_BYTES = 1 << 20


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--total", default="512MiB", help="bytes a round")
    parser.add_argument("--chunk", default="1MiB", help="bytes a chunk")
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args(arguments)
    result = measure(
        chosen.directory,
        total=parse_bytes(chosen.total),
        chunk=parse_bytes(chosen.chunk),
        rounds=chosen.rounds,
    )
    print(json.dumps(result))


def measure(directory: Path, *, total: int, chunk: int, rounds: int) -> dict[str, float | int]:
    """Run the rounds; `total` and `chunk` in bytes. Raises OSError, RuntimeError for a bad read."""
    count = max(1, total // chunk)
    pool = memoryview(random.Random(1).randbytes(min(_POOL, max(chunk, total))))
    places = [index * 4096 % (len(pool) - chunk + 1) for index in range(count)]
    parts = [pool[place : place + chunk] for place in places]
    times: dict[str, list[float]] = {name: [] for name in ("pw", "pr", "tw", "tr")}
    runners = {"p": _plain, "t": _tier}
    for number in range(-1, rounds):
        for name in ("p", "t") if number % 2 else ("t", "p"):
            with tempfile.TemporaryDirectory(dir=directory) as folder:
                write, read = runners[name](Path(folder) / "store", parts)
            os.sync()  # removing files costs too: not in the next one's time
            if number >= 0:  # one round to warm up
                times[name + "w"].append(write)
                times[name + "r"].append(read)
    rate = {name: count * chunk / median(seconds) / 1e9 for name, seconds in times.items()}
    return {
        "chunk": chunk,
        "total": count * chunk,
        "rounds": rounds,
        "plain_write": round(rate["pw"], 3),
        "tier_write": round(rate["tw"], 3),
        "write_share": round(median_ratio(times["pw"], times["tw"]), 3),
        "plain_read": round(rate["pr"], 3),
        "tier_read": round(rate["tr"], 3),
        "read_share": round(median_ratio(times["pr"], times["tr"]), 3),
        "write_share_best": round(min(times["pw"]) / min(times["tw"]), 3),
        "read_share_best": round(min(times["pr"]) / min(times["tr"]), 3),
    }


def _plain(path: Path, parts: Sequence[memoryview]) -> tuple[float, float]:
    """Seconds to write and to read one large file."""
    start = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    for part in parts:
        os.write(fd, part)
    os.fdatasync(fd)
    written = time.perf_counter() - start
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    out = memoryview(bytearray(_COPY_BYTES))
    start = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    while os.readv(fd, [out]):
        pass
    os.close(fd)
    return written, time.perf_counter() - start


def _tier(path: Path, parts: Sequence[memoryview]) -> tuple[float, float]:
    """Seconds to write and flush, and to read cold, the same bytes through a disk tier."""
    capacity = 8 * sum(map(len, parts)) + (1 << 30)
    options = DiskOptions(capacity=capacity, free_floor=0)
    keys = [hashlib.sha256(b"%d" % index).digest() for index in range(len(parts))]
    tier = DiskTier(path, options=options)
    start = time.perf_counter()
    for key, part in zip(keys, parts, strict=True):
        if tier.write(key, [part]) is not WriteOutcome.STORED:
            raise RuntimeError("the tier did not take a chunk")
    tier.flush()
    written = time.perf_counter() - start
    tier.close()
    for segment in path.glob("segment-*"):
        fd = os.open(segment, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    tier = DiskTier(path, options=options)
    out = memoryview(bytearray(len(parts[0])))
    start = time.perf_counter()
    for key in keys:
        if tier.read(key, [out]) is not ReadOutcome.OK:
            raise RuntimeError("the tier did not give a chunk back")
    read = time.perf_counter() - start
    tier.close()
    return written, read


if __name__ == "__main__":
    main()
