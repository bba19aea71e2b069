"""How a model is deployed: the levers, and what memory is left by them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepwell.hardware.devices import THIS_MACHINE, Device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.memory import Rounding, kv_bytes, refusal, weight_bytes
from stepwell.plan.roofline import Shape
from stepwell.plan.work import kv_shards

# Of a device's memory: driver context, workspace, activations, compiled graphs. An assumption.
RESERVE_SHARE = 0.05


class Engine(StrEnum):
    """Who serves."""

    STEPWELL = "stepwell"
    VLLM = "vllm"


class Codec(StrEnum):
    """How lower tiers keep K and V."""

    RAW = "raw"
    LOSSLESS = "lossless"
    KVTC = "kvtc"


# Bytes kept of 16 bits: docs/codecs.md (lossless), and its default target.
CODEC_SHARE = {Codec.RAW: 1.0, Codec.LOSSLESS: 2 / 3, Codec.KVTC: 1 / 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiers:
    """Bytes for idle sessions below the device, of one group of devices. `disk_rate`: bytes/s."""

    host: int = 0
    disk: int = 0
    disk_rate: float = 3e9


NO_TIERS = Tiers()
# Rented machines usually have twice their accelerators' memory. An assumption.
_HOST_PER_DEVICE = 2
_USUAL_DISK = 32 << 30  # our own tiers.disk_capacity


def usual_tiers(device: Device, devices: int) -> Tiers:
    """What is assumed below a group of devices. Where the device is this machine, its memory is
    the host's, and a host tier would only take from the pool."""
    if device.name == THIS_MACHINE:
        return Tiers(disk=_USUAL_DISK)
    return Tiers(host=_HOST_PER_DEVICE * device.memory_bytes * devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One group of devices that holds one copy of the model."""

    spec: ModelSpec
    device: Device
    engine: Engine
    devices: int = 1
    weights: WeightPrecision = WeightPrecision.BF16
    kv: KVPrecision = KVPrecision.MODEL
    is_paged: bool = True
    reuses: bool = True
    tiers: Tiers = NO_TIERS
    codec: Codec = Codec.RAW
    most_sequences: int = 0  # 0: as many as pay

    @property
    def shape(self) -> Shape:
        """For the roofline."""
        return Shape(weights=self.weights, kv=self.kv, devices=self.devices)

    @property
    def rounding(self) -> Rounding:
        """Whose books of KV."""
        return Rounding.STEPWELL if self.engine is Engine.STEPWELL else Rounding.VLLM

    @property
    def memory(self) -> int:
        """Bytes of the group."""
        return self.devices * self.device.memory_bytes

    @property
    def reserve(self) -> int:
        """Bytes that neither weights nor KV get."""
        return int(self.memory * RESERVE_SHARE)

    @property
    def weight_bytes(self) -> int:
        """As the engine holds them."""
        ours = self.engine is Engine.STEPWELL and self.device.name == THIS_MACHINE
        rounding = Rounding.STEPWELL if ours else Rounding.IDEAL
        return weight_bytes(self.spec, self.weights, rounding=rounding)

    @property
    def free(self) -> int:
        """Bytes left for KV; below zero where the weights do not fit."""
        used = self.devices * self.device.used_bytes
        return self.memory - self.reserve - used - self.weight_bytes

    def session_bytes(self, tokens: int) -> int:
        """KV of one sequence of `tokens`, copies on several devices included."""
        shards = kv_shards(self.spec, self.devices)
        held = kv_bytes(self.spec, tokens, self.kv, self.rounding)
        return held * -(-self.devices // shards)

    def stored_bytes(self, tokens: int) -> int:
        """The same in a lower tier."""
        held = kv_bytes(self.spec, tokens, self.kv, self.rounding)
        return max(1, int(held * CODEC_SHARE[self.codec]))


def choose_engine(spec: ModelSpec, device: Device) -> tuple[Engine, str]:
    """Our engine on a CPU that it serves this model on, vLLM elsewhere; and why."""
    if device.name != THIS_MACHINE:
        return Engine.VLLM, "our engine's kernels are made for CPUs: on accelerators vLLM serves"
    reason = refusal(spec, rounding=Rounding.STEPWELL)
    if reason is not None:
        return Engine.VLLM, f"Stepwell does not serve it: {reason}"
    return Engine.STEPWELL, "on this machine Stepwell serves"
