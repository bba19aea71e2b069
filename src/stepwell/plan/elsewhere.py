"""What would hold a model that does not fit: other devices, or more of them."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.hardware.devices import DEVICES
from stepwell.plan.architecture import ModelSpec, WeightPrecision
from stepwell.plan.levers import device_counts, weight_choices
from stepwell.plan.setup import Engine, Setup
from stepwell.plan.workload import Workload

_LEAST_RESIDENT = 0.05  # of the weights; what streaming needs is some layers (docs/streaming.md)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Devices that hold the weights and one sequence."""

    device: str
    devices: int
    weights: WeightPrecision
    dollars_per_hour: float

    def __str__(self) -> str:
        price = f"${self.dollars_per_hour:,.2f} an hour"
        return f"{self.devices} x {self.device} with {self.weights} weights ({price})"


def what_would_fit(
    spec: ModelSpec, workload: Workload, *, most: int = 3
) -> tuple[Alternative, ...]:
    """The cheapest of the table, each kind of device once, least risk first."""
    found = []
    for device in DEVICES.values():
        for weights in weight_choices(spec, device, Engine.VLLM):
            counts = [
                count
                for count in device_counts(spec, device, Engine.VLLM, 0)
                if _holds(Setup(spec=spec, device=device, engine=Engine.VLLM, devices=count,
                                weights=weights), workload)
            ]  # fmt: skip
            if counts:
                price = counts[0] * device.price_per_hour
                found.append(
                    Alternative(
                        device=device.name,
                        devices=counts[0],
                        weights=weights,
                        dollars_per_hour=price,
                    )
                )
                break
    return tuple(sorted(found, key=lambda each: each.dollars_per_hour)[:most])


def from_disk(setup: Setup, workload: Workload) -> str | None:
    """How our own engine would serve it all the same, with layers read from disk in every step;
    None where it does not, or where not even KV fits. The rate of the disk is an assumption."""
    if setup.engine is not Engine.STEPWELL:
        return None
    kv = setup.session_bytes(workload.active)
    budget = setup.free + setup.weight_bytes - kv
    if budget < setup.weight_bytes * _LEAST_RESIDENT:
        return None
    read = setup.weight_bytes - budget
    rate = setup.tiers.disk_rate
    return (
        f"this machine with layers from disk: stepwell serve {setup.spec.path} --weights "
        f"{setup.weights} --weights-budget {budget // _MIB}MiB, at most {rate / read:.2g} steps/s "
        f"from a disk of {rate / 1e9:g} GB/s"
    )


def _holds(setup: Setup, workload: Workload) -> bool:
    return setup.free >= setup.session_bytes(workload.active)
