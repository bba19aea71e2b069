"""Accelerators: memory, bandwidth, arithmetic, links and a price, from the makers' data sheets.

All rates are dense (no sparsity) and peak: what an engine reaches is a share of them, which the
planner states as an interval. Prices are dollars an hour for one device rented on demand, rounded,
as price lists of GPU clouds showed them in `PRICES_OF`: an assumption to be replaced by your own
(`--price`), and never a quote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from stepwell.base.errors import ConfigError, unknown_name

PRICES_OF = "2025 and 2026"
THIS_MACHINE = "cpu"
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device. `memory_bytes`: all of it, as the driver reports it; `used_bytes`: what others
    hold of it (known for this machine only). `bandwidth`, `host_link`, `peer_link`: bytes/s to its
    memory, to the host and to the next device. `flops`: operations/s by precision; `bf16` stands
    for every 16-bit format. `price_per_hour` in dollars, 0.0 where there is none."""

    name: str
    title: str
    memory_bytes: int
    bandwidth: float
    flops: Mapping[str, float]
    host_link: float
    peer_link: float
    price_per_hour: float
    source: str
    used_bytes: int = 0

    @property
    def ridge(self) -> float:
        """FLOP per byte at which arithmetic takes as long as reading, in 16 bits."""
        return self.flops["bf16"] / self.bandwidth

    def at_price(self, dollars: float) -> Device:
        """The same at another price an hour."""
        return replace(self, price_per_hour=dollars)


_PCIE3, _PCIE4, _PCIE5 = 12e9, 25e9, 50e9  # usable bytes/s of 16 lanes, one way
_SHEET = "data sheet"


def _flops(bf16: float, *, fp8: float = 0.0, int8: float = 0.0) -> Mapping[str, float]:
    """From teraFLOP/s; what the device cannot do is left out."""
    found = {"bf16": bf16, "fp8": fp8, "int8": int8}
    return {name: rate * 1e12 for name, rate in found.items() if rate}


def _device(
    name: str,
    title: str,
    mib: int,
    bandwidth: float,
    flops: Mapping[str, float],
    links: tuple[float, float],
    price: float,
    source: str,
) -> Device:
    return Device(
        name=name,
        title=title,
        memory_bytes=mib * _MIB,
        bandwidth=bandwidth * 1e9,
        flops=flops,
        host_link=links[0],
        peer_link=links[1],
        price_per_hour=price,
        source=f"{source}; memory as nvidia-smi or rocm-smi reports it",
    )


# name, title, MiB, GB/s, TFLOP/s, (host, peer) bytes/s, dollars an hour, source
DEVICES: Mapping[str, Device] = {
    entry.name: entry
    for entry in (
        _device("a100-40g", "NVIDIA A100 40 GB SXM", 40_960, 1555, _flops(312, int8=624),
                (_PCIE4, 300e9), 1.3, f"NVIDIA A100 {_SHEET}, 2021"),
        _device("a100-80g", "NVIDIA A100 80 GB SXM", 81_920, 2039, _flops(312, int8=624),
                (_PCIE4, 300e9), 1.8, f"NVIDIA A100 {_SHEET}, 2021"),
        _device("h100", "NVIDIA H100 80 GB SXM", 81_559, 3350,
                _flops(989.4, fp8=1978.9, int8=1978.9), (_PCIE5, 450e9), 3.0,
                f"NVIDIA H100 {_SHEET}, 2023"),
        _device("h100-pcie", "NVIDIA H100 80 GB PCIe", 81_559, 2000,
                _flops(756, fp8=1513, int8=1513), (_PCIE5, _PCIE5), 2.4,
                f"NVIDIA H100 {_SHEET}, 2023"),
        _device("h200", "NVIDIA H200 141 GB SXM", 143_771, 4800,
                _flops(989.4, fp8=1978.9, int8=1978.9), (_PCIE5, 450e9), 3.6,
                f"NVIDIA H200 {_SHEET}, 2024"),
        _device("b200", "NVIDIA B200 180 GB SXM", 183_359, 8000, _flops(2250, fp8=4500, int8=4500),
                (_PCIE5, 900e9), 5.5, f"NVIDIA HGX B200 {_SHEET}, 2024"),
        _device("l4", "NVIDIA L4 24 GB", 23_034, 300, _flops(121, fp8=242, int8=242),
                (_PCIE4, _PCIE4), 0.8, f"NVIDIA L4 {_SHEET}, 2023"),
        _device("l40s", "NVIDIA L40S 48 GB", 46_068, 864, _flops(362, fp8=733, int8=733),
                (_PCIE4, _PCIE4), 1.2, f"NVIDIA L40S {_SHEET}, 2023"),
        _device("a10", "NVIDIA A10 24 GB", 23_028, 600, _flops(125, int8=250),
                (_PCIE4, _PCIE4), 0.75, f"NVIDIA A10 {_SHEET}, 2021"),
        _device("t4", "NVIDIA T4 16 GB (float16, no bfloat16)", 15_360, 320, _flops(65, int8=130),
                (_PCIE3, _PCIE3), 0.4, f"NVIDIA T4 {_SHEET}, 2019"),
        _device("rtx3090", "NVIDIA GeForce RTX 3090", 24_576, 936, _flops(71, int8=284),
                (_PCIE4, _PCIE4), 0.3, "NVIDIA Ampere GA102 white paper, float32 accumulation"),
        _device("rtx4090", "NVIDIA GeForce RTX 4090", 24_564, 1008,
                _flops(165.2, fp8=330.3, int8=660.6), (_PCIE4, _PCIE4), 0.45,
                "NVIDIA Ada white paper, float32 accumulation"),
        _device("rtx5090", "NVIDIA GeForce RTX 5090", 32_607, 1792,
                _flops(209.5, fp8=419, int8=838), (_PCIE5, _PCIE5), 0.7,
                "NVIDIA RTX Blackwell white paper, float32 accumulation"),
        _device("mi300x", "AMD Instinct MI300X", 196_592, 5300,
                _flops(1307.4, fp8=2614.9, int8=2614.9), (_PCIE5, 448e9), 2.5,
                f"AMD Instinct MI300X {_SHEET}, 2023"),
    )
}  # fmt: skip
ALIASES: Mapping[str, str] = {
    "a100": "a100-80g",
    "a100-40": "a100-40g",
    "a100-80": "a100-80g",
    "h100-sxm": "h100",
    "h100-80g": "h100",
    "h200-sxm": "h200",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "local": THIS_MACHINE,
}


def canonical_name(name: str) -> str:
    """A device's name from a name or alias, `cpu` for this machine; case, separators and the
    maker do not matter. Raises ConfigError."""
    spelled = {_plain(each): each for each in (*DEVICES, THIS_MACHINE)}
    spelled |= {_plain(alias): each for alias, each in ALIASES.items()}
    found = spelled.get(_plain(name))
    if found is None:
        message, hint = unknown_name("device", name, [*DEVICES, THIS_MACHINE])
        raise ConfigError(message, hint=hint, param="device")
    return found


def _plain(name: str) -> str:
    text = re.sub("[^a-z0-9]", "", name.lower())
    return text.removeprefix("nvidia").removeprefix("amd").replace("gb", "g")


def device(name: str) -> Device:
    """One of the table, by name or alias. Raises ConfigError with the nearest name, also for this
    machine, whose rates are measured (`plan/local.py`)."""
    found = DEVICES.get(canonical_name(name))
    if found is None:
        raise ConfigError(f"{name} is this machine, which is in no table.", param="device")
    return found
