"""Bounds that no engine can beat: the larger of the time to read bytes and the time to compute.

    ridge     FLOP/s / bytes/s                                       (Williams et al. 2009)
    decode    bytes  weights that a step touches, once; K and V of every sequence; states twice
              FLOP   2 a weight and token; 2 * query heads * (key + value size) for each token
                     remembered (MLA absorbed: latent and rotary part, then latent)
    prefill   bytes  weights, once
              FLOP   2 a weight and token; attention over the pairs that the mask lets through

A step does not read the embedding's table (a row of it a token), but all of the head, which is the
table where they are tied. Of a layer's experts, batch b reads E * (1 - (1 - k/E)^b) if tokens
choose evenly. With n devices side by side (tensor parallel) bytes and FLOP are divided, and two
all-reduces a layer are added. Activations are not counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from stepwell.hardware.devices import Device
from stepwell.plan.architecture import Component, KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.work import (
    attention_flop,
    kv_read,
    kv_shards,
    multiplied,
    pairs,
    step_weights,
)


class Efficiency(Enum):
    """Share of the bound that engines reach, in decoding and in prompts. Assumptions: well-tuned
    engines reach HIGH, most deployments LIKELY. 1.0 is the bound itself."""

    LOW = (0.4, 0.3)
    LIKELY = (0.65, 0.5)
    HIGH = (0.85, 0.75)
    BOUND = (1.0, 1.0)

    @property
    def decode(self) -> float:
        """Of the decoding bound."""
        return float(self.value[0])

    @property
    def prefill(self) -> float:
        """Of the bound of prompts."""
        return float(self.value[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a model runs: precisions of weights and KV, and devices side by side."""

    weights: WeightPrecision = WeightPrecision.BF16
    kv: KVPrecision = KVPrecision.MODEL
    devices: int = 1


@dataclass(frozen=True, slots=True)
class Work:
    """Of one step: bytes read and FLOP, of all devices together; seconds of talk between them."""

    read: float
    flop: float
    talk: float = 0.0

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flop / self.read


class Roofline:
    """One model on one kind of device; what does not depend on the batch is computed once."""

    def __init__(self, spec: ModelSpec, device: Device, shape: Shape | None = None) -> None:
        self.spec, self.device, self.shape = spec, device, shape or Shape()
        self.rate = _rate(device, self.shape)
        self.shared, self.routed = step_weights(spec, self.shape.weights)
        self.multiplied = multiplied(spec)
        self.head = multiplied(spec, only=Component.HEAD)
        # K and V of fewer heads than devices, and latents of MLA, lie on several devices.
        self.copies = self.shape.devices / kv_shards(spec, self.shape.devices)

    def decode(self, *, batch: int, context: int) -> Work:
        """One step of `batch` sequences that each remember `context` tokens."""
        flop = batch * (2.0 * self.multiplied + attention_flop(self.spec, context))
        kv = kv_read(self.spec, context, self.shape.kv) * self.copies
        return Work(self.weights_read(batch) + batch * kv, flop, self._talk(batch))

    def prefill(self, *, tokens: int, context: int = 0) -> Work:
        """A prompt of `tokens` after `context` tokens that are there already; one row of logits."""
        flop = 2.0 * (tokens * (self.multiplied - self.head) + self.head)
        for layer, count in self.spec.kinds:
            width = 2.0 * layer.q_heads * (layer.key_dim + layer.value_dim)
            flop += count * width * pairs(layer, tokens, context)
            flop += 4.0 * count * tokens * layer.state.held if layer.state else 0.0
        kv = kv_read(self.spec, context, self.shape.kv) * self.copies
        return Work(self.weights_read(tokens) + kv, flop, self._talk(tokens))

    def weights_read(self, tokens: int) -> float:
        """Bytes of weights that a step over so many tokens reads."""
        some = sum(size * (1.0 - (1.0 - share) ** tokens) for size, share in self.routed)
        return self.shared + some

    def seconds(self, work: Work, share: float = 1.0) -> float:
        """The bound, or how long it takes at a share of the device's rates."""
        devices = self.shape.devices * share
        reading = work.read / (self.device.bandwidth * devices)
        return max(reading, work.flop / (self.rate * devices)) + work.talk

    def computes(self, *, batch: int, context: int) -> bool:
        """Whether a step takes at least as long to compute as to read."""
        work = self.decode(batch=batch, context=context)
        return work.flop / self.rate >= work.read / self.device.bandwidth

    def _talk(self, tokens: int) -> float:
        """Seconds of two all-reduces a layer, by volume only."""
        devices = self.shape.devices
        if devices == 1:
            return 0.0
        volume = 2.0 * (devices - 1) / devices * tokens * self.spec.hidden_size * 2
        return 2.0 * len(self.spec.layers) * volume / self.device.peer_link


def ridge(device: Device) -> float:
    """FLOP per byte in 16 bits."""
    return device.ridge


def decode_bound(
    spec: ModelSpec, device: Device, batch: int = 1, context: int = 0, shape: Shape | None = None
) -> float:
    """Most tokens a second of all sequences together."""
    line = Roofline(spec, device, shape)
    return batch / line.seconds(line.decode(batch=batch, context=context))


def ttft_bound(
    spec: ModelSpec, device: Device, tokens: int, shape: Shape | None = None, *, context: int = 0
) -> float:
    """Least seconds from a prompt to its first token on an idle device."""
    line = Roofline(spec, device, shape)
    return line.seconds(line.prefill(tokens=tokens, context=context))


def prefill_bound(
    spec: ModelSpec, device: Device, tokens: int, shape: Shape | None = None
) -> float:
    """Most prompt tokens a second."""
    return tokens / ttft_bound(spec, device, tokens, shape)


def compute_bound_batch(line: Roofline, *, context: int) -> int:
    """The least batch whose step takes as long to compute as to read; 0 where reading K and V keeps
    it waiting at any batch."""
    low, high = 1, 1 << 16
    if not line.computes(batch=high, context=context):
        return 0
    while low < high:
        middle = (low + high) // 2
        if line.computes(batch=middle, context=context):
            high = middle
        else:
            low = middle + 1
    return low


def kv_bound_batch(line: Roofline, *, context: int) -> int:
    """The batch from which a step reads at least as much KV as weights, so that a further sequence
    gains less than half of what the first ones did; 0 where nothing is read of KV."""
    each = kv_read(line.spec, context, line.shape.kv) * line.copies
    low, high = 1, 1 << 20
    if not each:
        return 0
    while low < high:
        middle = (low + high) // 2
        if middle * each >= line.weights_read(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _rate(device: Device, shape: Shape) -> float:
    """FLOP/s in the precision that is multiplied in: fp8 where weights and device have it; weights
    in other low bits are unpacked and multiplied in 16."""
    if shape.weights is WeightPrecision.FP8:
        return device.flops.get("fp8", device.flops["bf16"])
    return device.flops["bf16"]
