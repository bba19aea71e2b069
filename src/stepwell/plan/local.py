"""This machine as a device: memory as the system reports it, rates as measured here.

bandwidth   bytes/s that all cores together read, by libc's memchr over memory far larger than the
            caches: no interpreter, no package, some 0.2 s
arithmetic  FLOP/s of a float32 matrix product by numpy's BLAS. 16-bit products are counted as
            faster by what the CPU's instructions give, an estimate that the device's source says;
            without numpy, cores times clock times 32 FLOP

Measured once and kept in the cache folder; a second measurement keeps the higher of each rate, for
what was seen once is possible and what is lower was disturbed.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from stepwell.hardware.devices import THIS_MACHINE, Device
from stepwell.hardware.machine import Machine, read_machine

_VERSION = 1
_VOLUME = 192 << 20  # bytes, well beyond the caches
_TRIES = 5
_SIDE = 1024  # of the matrix product
_ESTIMATED_CLOCK = 2.5e9
_FLOP_PER_CYCLE = 32.0
_DISK_AND_HOST = 10e9  # of a link that a CPU does not need: its memory is the host's


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured here. `float32`: FLOP/s, 0.0 where numpy is missing."""

    bandwidth: float
    float32: float

    def merged(self, other: Rates) -> Rates:
        """The higher of each."""
        return Rates(max(self.bandwidth, other.bandwidth), max(self.float32, other.float32))


def this_machine(
    *, remeasure: bool = False, say: Callable[[str], None] = lambda text: None
) -> Device:
    """The device `cpu`. Measures if nothing is cached or `remeasure`, and says so through `say`."""
    machine = read_machine()
    place = rates_place(machine)
    kept = _load(place)
    if kept is None or remeasure:
        say(f"measuring this machine's memory and arithmetic, once; kept in {place}")
        measured = measure(machine.cores)
        kept = measured if kept is None else kept.merged(measured)
        _store(place, kept)
    factor, why = _sixteen_bit(machine)
    flops = kept.float32 or machine.cores * _ESTIMATED_CLOCK * _FLOP_PER_CYCLE
    base = "measured float32 product" if kept.float32 else "cores times clock (numpy is missing)"
    return Device(
        name=THIS_MACHINE,
        title=f"this machine: {machine.cpu}, {machine.cores} cores",
        memory_bytes=machine.memory_total,
        used_bytes=max(0, machine.memory_total - machine.memory_available),
        bandwidth=kept.bandwidth,
        flops={"bf16": flops * factor},
        host_link=_DISK_AND_HOST,
        peer_link=_DISK_AND_HOST,
        price_per_hour=0.0,
        source=f"bandwidth measured here; arithmetic: {base}, {why}",
    )


def rates_place(machine: Machine) -> Path:
    """Where this machine's rates are kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    what = f"{_VERSION}|{machine.cpu}|{machine.cores}|{machine.memory_total >> 30}"
    return home / "stepwell" / f"rates-{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"


def measure(cores: int) -> Rates:
    """Some 0.3 s."""
    return Rates(bandwidth=_read_rate(cores), float32=_product_rate())


def _best(call: Callable[[], object]) -> float:
    """Seconds of the fastest try, after one that warms up."""
    call()
    best = float("inf")
    for _ in range(_TRIES):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _read_rate(cores: int) -> float:
    """Bytes/s. ctypes lets go of the interpreter's lock, so threads read side by side."""
    library = ctypes.CDLL(None)
    library.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    library.memchr.restype = ctypes.c_void_p
    memory = (ctypes.c_char * _VOLUME)()
    ctypes.memset(memory, 1, _VOLUME)
    start, part = ctypes.addressof(memory), _VOLUME // cores

    def look(number: int) -> None:
        library.memchr(start + number * part, 0, part)

    with ThreadPoolExecutor(cores) as pool:
        return cores * part / _best(lambda: list(pool.map(look, range(cores))))


def _product_rate() -> float:
    """FLOP/s, 0.0 without numpy."""
    try:
        import numpy
    except ImportError:
        return 0.0
    matrix = numpy.ones((_SIDE, _SIDE), dtype=numpy.float32)
    out = numpy.empty_like(matrix)
    return 2.0 * _SIDE**3 / _best(lambda: numpy.matmul(matrix, matrix, out=out))


def _sixteen_bit(machine: Machine) -> tuple[float, str]:
    """How much faster than in float32 a product of 16-bit numbers is, by the instructions."""
    if "amx_bf16" in machine.flags:
        return 8.0, "16-bit estimated at eight times that (AMX)"
    if machine.has_fast_bf16:
        return 2.0, "16-bit estimated at twice that (bfloat16 dot products)"
    return 1.0, "computed in float32"


def _load(place: Path) -> Rates | None:
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        rates = Rates(float(data["bandwidth"]), float(data["float32"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rates if 0 < rates.bandwidth < float("inf") and rates.float32 >= 0 else None


def _store(place: Path, rates: Rates) -> None:
    """Failing to keep them costs measuring again."""
    text = json.dumps({"bandwidth": rates.bandwidth, "float32": rates.float32})
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        other = place.with_suffix(f".{os.getpid()}")
        other.write_text(text, encoding="utf-8")
        other.replace(place)
    except OSError:
        return
