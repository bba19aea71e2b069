"""What would hold a model that does not fit: other devices, or more of them."""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.hardware.devices import DEVICES
from stepwell.plan.architecture import ModelSpec, WeightPrecision
from stepwell.plan.levers import device_counts, weight_choices
from stepwell.plan.setup import Engine, Setup
from stepwell.plan.workload import Workload


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
                for count in device_counts(spec, 0)
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


def _holds(setup: Setup, workload: Workload) -> bool:
    return setup.free >= setup.session_bytes(workload.context + workload.output)
