"""What this machine could do at best, measured now, and what that allows a model.

Two rates bound inference: bytes read a second (each decode step reads every weight once) and
bf16 multiply-adds a second (each token of a prompt passes every weight). A benchmark prints them
first, because a result means something only as a share of them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Self

from stepwell.evaluate.statistics import median
from stepwell.evaluate.workload import Workload


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Best of several tries. Bandwidth in bytes/s by one and by all threads; bf16 FLOP/s and int8
    operations/s (a multiply-add counts as two), None where torch has no int8 product here."""

    bandwidth_one: float
    bandwidth_all: float
    flops_one: float
    flops_all: float
    threads: int
    int8_all: float | None = None

    def best(self, other: Ceiling) -> Ceiling:
        """The higher of each rate: a ceiling that was seen once is one."""
        return Ceiling(
            bandwidth_one=max(self.bandwidth_one, other.bandwidth_one),
            bandwidth_all=max(self.bandwidth_all, other.bandwidth_all),
            flops_one=max(self.flops_one, other.flops_one),
            flops_all=max(self.flops_all, other.flops_all),
            threads=self.threads,
            int8_all=max((x for x in (self.int8_all, other.int8_all) if x), default=None),
        )

    def as_dict(self) -> dict[str, float | None]:
        """For result files."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelCost:
    """What a model costs. `parameters` that every token passes (without head and embedding),
    `head_parameters` that every *sampled* token passes in addition, `decode_bytes` read by each
    step, `kv_bytes` of one token, `attention_width` = layers x query heads x head size."""

    parameters: int
    head_parameters: int
    decode_bytes: int
    kv_bytes: int
    attention_width: int

    def decode_bound(self, ceiling: Ceiling) -> float:
        """Tokens a second of one short sequence: the weights are read once a token."""
        return ceiling.bandwidth_all / self.decode_bytes

    def prefill_bound(self, ceiling: Ceiling, *, length: int) -> float:
        """Prompt tokens a second for a prompt of this length."""
        return length * ceiling.flops_all / self.prefill_flops(length)

    def prefill_flops(self, length: int) -> float:
        """Of a whole prompt: projections, and attention over half of the square."""
        return 2.0 * self.parameters * length + 2.0 * self.attention_width * length * length

    def mix_seconds(self, ceiling: Ceiling, workload: Workload) -> float:
        """Least seconds for all requests together: every multiply-add at the measured rate, or
        the reads of as many steps as the longest output, whichever takes longer."""
        flops = 0.0
        for request in workload.requests:
            prompt, output = len(request.prompt), request.max_tokens
            flops += self.prefill_flops(prompt)
            flops += 2.0 * (self.parameters + self.head_parameters) * output
            flops += 4.0 * self.attention_width * output * (prompt + output / 2)
        steps = max(request.max_tokens for request in workload.requests)
        return max(flops / ceiling.flops_all, steps * self.decode_bytes / ceiling.bandwidth_all)

    def as_dict(self) -> dict[str, int]:
        """For result files."""
        return asdict(self)


def measure_ceiling(*, quick: bool) -> Ceiling:
    """About 3 s, or 1.5 s if quick. Leaves torch's thread count as it was."""
    import torch

    threads = torch.get_num_threads()
    size, tries = (2048, 4) if quick else (4096, 5)
    volume = (256 if quick else 1024) << 20
    try:
        flops = [_gemm(size, tries, threads=n) for n in (1, threads)]
        int8 = _gemm_int8(size, tries)
    finally:
        torch.set_num_threads(threads)
    bandwidth = [_read(volume, 5, threads=n) for n in (1, threads)]
    return Ceiling(
        bandwidth_one=bandwidth[0], bandwidth_all=max(bandwidth),
        flops_one=flops[0], flops_all=max(flops), threads=threads, int8_all=int8,
    )  # fmt: skip


def _seconds(call: Callable[[], Any], tries: int) -> list[float]:
    """Of each try, after one that warms up."""
    found = []
    for _ in range(1 + tries):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found[1:]


def _best(call: Callable[[], Any], tries: int) -> float:
    """Seconds of the fastest try."""
    return min(_seconds(call, tries))


def _gemm(size: int, tries: int, *, threads: int) -> float:
    """FLOP/s of a square bf16 matrix product."""
    import torch

    torch.set_num_threads(threads)
    left = torch.randn(size, size).to(torch.bfloat16)
    right = torch.randn(size, size).to(torch.bfloat16)
    out = torch.empty_like(left)
    return 2.0 * size**3 / _best(lambda: torch.mm(left, right, out=out), tries)


def _gemm_int8(size: int, tries: int) -> float | None:
    """Operations/s of a square int8 matrix product with int32 sums, by all threads."""
    import torch

    left = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    right = torch.randint(-127, 127, (size, size), dtype=torch.int8)
    try:
        return 2.0 * size**3 / _best(lambda: torch._int_mm(left, right), tries)
    except (NotImplementedError, RuntimeError):
        return None


def read_rate(volume: int) -> float:
    """Bytes/s read by all of torch's threads: the best of a few tries."""
    import torch

    return _read(volume, 3, threads=torch.get_num_threads())


class Reading:
    """An array far larger than the caches, to be read again and again. Use as a context manager."""

    def __init__(self, volume: int, *, threads: int) -> None:
        import numpy as np

        self._volume = volume
        self._parts = np.array_split(np.ones(volume // 8, dtype=np.float64), threads)
        self._pool = ThreadPoolExecutor(threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def rate(self, tries: int = 3) -> float:
        """Bytes/s of summing it with all threads: the best of so many passes."""
        return self._volume / min(self._passes(tries))

    def usual_rate(self, tries: int = 5) -> float:
        """The median over so many passes: what stands beside other medians."""
        return self._volume / median(self._passes(tries))

    def _passes(self, tries: int) -> list[float]:
        """Seconds of each, after one that warms up."""
        add_up = _reader()
        return _seconds(lambda: list(self._pool.map(add_up, self._parts)), tries)


def _read(volume: int, tries: int, *, threads: int) -> float:
    """Bytes/s of summing an array far larger than the caches, by that many threads."""
    with Reading(volume, threads=threads) as reading:
        return reading.rate(tries)


@functools.cache
def _reader() -> Callable[[Any], float]:
    """A sum in machine code that lets go of the interpreter lock; numpy's where numba is not."""
    try:
        import numba
    except ImportError:
        import numpy as np

        return np.sum

    @numba.njit("float64(float64[::1])", nogil=True, fastmath=True, cache=False)
    def add_up(array: Any) -> float:
        total = 0.0
        for i in range(array.shape[0]):
            total += array[i]
        return total

    return add_up
