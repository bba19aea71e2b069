"""What compute and links cost in a simulation: profiles of GPUs, or this machine as measured.

Prefill by the roofline's compute side (Kaplan et al. 2020, section 2.1: 2 FLOP a parameter and
token, and 4 * layers * width * context a token for attention) at a share of peak that long prompts
reach in practice. Links are the usable rates of PCIe Gen4/Gen5 x16, one NVMe drive and a 10 Gbit
network. Prices are assumptions for comparison, in dollars an hour; pass your own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.base.hierarchy import TierName

_SHARE_OF_PEAK = 0.5
_OVERHEAD = 5e-3


@dataclass(frozen=True, slots=True)
class Shape:
    """A model. `width`: attention heads times head size. `kv_bytes`: a token over all layers."""

    name: str
    parameters: float
    layers: int
    width: int
    kv_bytes: int


@dataclass(frozen=True, slots=True)
class Link:
    """One tier's path to the device. Seconds, bytes a second."""

    latency: float
    bandwidth: float

    def seconds(self, size: int) -> float:
        """For one transfer on the idle link."""
        return self.latency + size / self.bandwidth


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Seconds of a prefill: overhead + linear * n + attention * n * (context + n / 2)."""

    name: str
    overhead: float
    linear: float
    attention: float
    decode_seconds: float
    links: Mapping[TierName, Link]
    dollars_per_hour: float

    def prefill(self, *, tokens: int, context: int) -> float:
        """Seconds to compute `tokens` after `context`; 0.0 for none."""
        if tokens <= 0:
            return 0.0
        pairs = tokens * (context + tokens / 2.0)
        return self.overhead + self.linear * tokens + self.attention * pairs

    def with_codec(self, *, speed: float) -> Machine:
        """The same with a codec of `speed` decoded bytes a second behind every link; sizes are
        still those that the tier holds. 0: none."""
        if speed <= 0:
            return self
        links = {
            tier: Link(link.latency, 1.0 / (1.0 / link.bandwidth + 1.0 / speed))
            for tier, link in self.links.items()
        }
        return replace(self, links=links)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("llama-3.1-8b", 8.03e9, 32, 4096, 2 * 2 * 8 * 128 * 32),
        Shape("llama-3.1-70b", 70.6e9, 80, 8192, 2 * 2 * 8 * 128 * 80),
        Shape("qwen2.5-7b", 7.6e9, 28, 3584, 2 * 2 * 4 * 128 * 28),
        Shape("qwen2.5-0.5b", 0.49e9, 24, 896, 2 * 2 * 2 * 64 * 24),
    )
}

_GPUS = {  # dense bf16 FLOP/s and HBM bytes/s of the data sheets, host link, dollars an hour
    "a100-80": (312e12, 2.04e12, 22e9, 1.8),
    "h100": (989e12, 3.35e12, 45e9, 3.0),
    "h200": (989e12, 4.8e12, 45e9, 3.6),
}
_DISK, _REMOTE = Link(1e-4, 5e9), Link(1e-3, 1.15e9)
HARDWARE = tuple(_GPUS)


def make_machine(hardware: str, shape: Shape) -> Machine:
    """A profile by name, or a JSON file of measured values. Raises ConfigError."""
    if hardware in _GPUS:
        flops, memory, link, dollars = _GPUS[hardware]
        rate = flops * _SHARE_OF_PEAK
        return Machine(
            name=hardware, overhead=_OVERHEAD, linear=2.0 * shape.parameters / rate,
            attention=4.0 * shape.layers * shape.width / rate,
            decode_seconds=2.0 * shape.parameters / memory * 2.0,
            links={TierName.HOST: Link(2e-5, link), TierName.DISK: _DISK,
                   TierName.REMOTE: _REMOTE},
            dollars_per_hour=dollars,
        )  # fmt: skip
    path = Path(hardware)
    if not path.is_file():
        message, hint = unknown_name("hardware", hardware, HARDWARE)
        raise ConfigError(message, hint=f"{hint} Or a JSON file.", param="hardware")
    try:
        return _measured(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} is no machine file: {error}.",
            hint='It has {"name", "prefill": {"overhead", "linear", "attention"}, '
            '"decode_seconds", "links": {"host": {"latency", "bandwidth"}}, "dollars_per_hour"}.',
            param="hardware",
        ) from error


def _measured(data: Mapping[str, Any]) -> Machine:
    prefill = data["prefill"]
    return Machine(
        name=str(data["name"]), overhead=float(prefill["overhead"]),
        linear=float(prefill["linear"]), attention=float(prefill["attention"]),
        decode_seconds=float(data.get("decode_seconds", 0.0)),
        links={
            TierName[name.upper()]: Link(float(link["latency"]), float(link["bandwidth"]))
            for name, link in data["links"].items()
        },
        dollars_per_hour=float(data.get("dollars_per_hour", 0.0)),
    )  # fmt: skip
