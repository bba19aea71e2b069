"""Drives an engine with lower tiers for `stepwell bench hierarchy`: one request at a time, waiting
for stores, forgetting, and a Redis or Valkey server that lives as long as a measurement."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwell.base.hierarchy import TierName
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM

REPLY_TOKENS = 8
_SETTLE_SECONDS = 60.0
_SERVERS = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class Reply:
    """Seconds from arrival to the first token, and the tokens."""

    ttft: float
    tokens: tuple[int, ...]


def draw_prompt(source: random.Random, length: int, *, vocab_size: int) -> list[int]:
    """Random token ids, none of the lowest, which are special or single bytes."""
    return [source.randrange(min(300, vocab_size // 2), vocab_size) for _ in range(length)]


def serve(llm: LLM, prompt: Sequence[int]) -> Reply:
    """One greedy reply of `REPLY_TOKENS`, alone in the engine."""
    sampling = SamplingParams(max_tokens=REPLY_TOKENS, temperature=0.0, ignore_eos=True)
    completion = llm.generate([prompt], sampling)[0]
    timings = completion.timings
    if completion.error is not None:
        raise completion.error
    assert timings is not None and timings.first_token is not None
    return Reply(timings.first_token - timings.arrival, tuple(completion.token_ids))


def settle(llm: LLM) -> None:
    """Wait until every transfer has ended. Raises TimeoutError."""
    engine = llm.built.engine
    end = time.monotonic() + _SETTLE_SECONDS
    while engine.tiers is not None and engine.tiers.hierarchy.stats().open_orders:
        if time.monotonic() > end:
            raise TimeoutError("transfers do not end")
        engine.wait_for_transfers(0.02)
        engine.tend()


def forget(llm: LLM, *, disk: Path | None = None) -> None:
    """Empty the device cache once everything is stored; drop the disk tier's page cache."""
    settle(llm)
    llm.built.engine.clear_cache()
    if disk is not None:
        assert llm.built.open_tiers is not None
        llm.built.open_tiers.stores[TierName.DISK].flush()
        drop_page_cache(disk)


def drop_page_cache(folder: Path) -> None:
    """Make the next reads of the segments come from the disk."""
    for path in folder.glob("segment-*"):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def differing(one: Sequence[int], other: Sequence[int]) -> int:
    """Positions whose tokens differ, missing ones included."""
    pairs = sum(a != b for a, b in zip(one, other, strict=False))
    return pairs + abs(len(one) - len(other))


def remote_binary() -> str | None:
    """A server program on PATH."""
    return next((path for name in _SERVERS if (path := shutil.which(name))), None)


@contextmanager
def remote_server(binary: str, folder: Path) -> Iterator[str]:
    """Run a server that keeps nothing on disk; gives its address. Raises OSError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _await(port, process)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.02)
