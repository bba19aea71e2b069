"""Accelerators: memory, bandwidth, arithmetic, links and a price, from the makers' data sheets.

All rates are dense (no sparsity) and peak: what a kernel reaches is a share of them, which the
planner states as an interval. Prices are dollars an hour for one device on demand, rounded, as
cloud price lists showed them around `PRICES_OF`: an assumption to be replaced by your own
(`--price`), and never a quote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stepwell.base.errors import ConfigError, unknown_name

PRICES_OF = "late 2026"
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device. `memory_bytes`: as the driver reports it, near enough (marketing GB are GiB for
    these cards unless said otherwise). `bandwidth`, `host_link`, `peer_link` in bytes/s; `flops`:
    operations/s by precision (bf16, fp8, int8). `price_per_hour` in dollars; 0.0: not known."""

    name: str
    title: str
    memory_bytes: int
    bandwidth: float
    flops: Mapping[str, float]
    host_link: float
    peer_link: float
    price_per_hour: float
    source: str
    is_measured: bool = False

    @property
    def ridge(self) -> float:
        """FLOP per byte at which arithmetic takes as long as reading, in bf16."""
        return self.flops["bf16"] / self.bandwidth


_PCIE3, _PCIE4, _PCIE5 = 12e9, 25e9, 50e9  # usable bytes/s of 16 lanes
_A100 = "NVIDIA A100 data sheet, 2021"
_H100 = "NVIDIA H100 data sheet, 2023 (half of the figures with sparsity)"


def _flops(bf16: float, fp8: float = 0.0, int8: float = 0.0) -> Mapping[str, float]:
    found = {"bf16": bf16 * 1e12, "fp8": fp8 * 1e12, "int8": int8 * 1e12}
    return {name: rate for name, rate in found.items() if rate}


def _device(
    name: str,
    title: str,
    gib: float,
    gbps: float,
    flops: Mapping[str, float],
    links: tuple[float, float],
    price: float,
    source: str,
) -> Device:
    return Device(
        name=name, title=title, memory_bytes=int(gib * _GIB), bandwidth=gbps * 1e9, flops=flops,
        host_link=links[0], peer_link=links[1], price_per_hour=price, source=source,
    )  # fmt: skip


DEVICES: Mapping[str, Device] = {
    entry.name: entry
    for entry in (
        _device("a100-40g", "NVIDIA A100 40 GB SXM", 40, 1555, _flops(312, int8=624),
                (_PCIE4, 300e9), 1.3, _A100),
        _device("a100-80g", "NVIDIA A100 80 GB SXM", 80, 2039, _flops(312, int8=624),
                (_PCIE4, 300e9), 1.8, _A100),
        _device("h100", "NVIDIA H100 80 GB SXM", 80, 3350, _flops(989, 1979, 1979),
                (_PCIE5, 450e9), 3.0, _H100),
        _device("h200", "NVIDIA H200 141 GB SXM", 141, 4800, _flops(989, 1979, 1979),
                (_PCIE5, 450e9), 3.6, "NVIDIA H200 data sheet, 2024"),
    )
}  # fmt: skip
ALIASES: Mapping[str, str] = {"a100": "a100-80g", "h100-sxm": "h100", "4090": "rtx4090"}


def device(name: str) -> Device:
    """By name or alias. Raises ConfigError with the nearest name."""
    wanted = name.strip().lower().replace("_", "-")
    wanted = ALIASES.get(wanted, wanted)
    if wanted not in DEVICES:
        message, hint = unknown_name("device", name, [*DEVICES, "cpu"])
        raise ConfigError(message, hint=hint, param="device")
    return DEVICES[wanted]
