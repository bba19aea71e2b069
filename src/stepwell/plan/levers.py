"""Which precisions and sizes are open to a setup, and what is known of their price and risk.

Quality figures are our own measurements on one small model (docs/precision.md, docs/quality.md):
they rank the choices, and only a measurement on your model and task says what they cost there.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepwell.hardware.devices import THIS_MACHINE, Device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.memory import refusal
from stepwell.plan.setup import Codec, Engine, Setup

MOST_DEVICES = 8  # side by side: one machine

WEIGHT_RISK: Mapping[WeightPrecision, str] = {
    WeightPrecision.FP32: "none",
    WeightPrecision.BF16: "none",
    WeightPrecision.FP8: "small: a rounding of 3 bits of mantissa; not measured here",
    WeightPrecision.INT8: "small: KL 0.0013 nats, no question lost of 1,000 (our 5 M model)",
    WeightPrecision.INT4: "real: KL 0.055 nats, perplexity +4 % (our 5 M model); measure yours",
    WeightPrecision.NF4: "real: KL 0.055 nats, perplexity +3 % (our 5 M model); measure yours",
    WeightPrecision.MXFP4: "none: the checkpoint was trained for it",
}
# What a precision must save before it is chosen over the checkpoint's.
WEIGHT_PENALTY: Mapping[WeightPrecision, float] = {
    WeightPrecision.FP8: 1.15,
    WeightPrecision.INT8: 1.15,
    WeightPrecision.INT4: 2.5,
    WeightPrecision.NF4: 2.5,
}
KV_RISK: Mapping[KVPrecision, str] = {
    KVPrecision.MODEL: "none",
    KVPrecision.FP8: "small to moderate: grows with context; measure long prompts",
    KVPrecision.INT8: "small: a scale for each row (docs/quality.md)",
    KVPrecision.INT4: "real: measure with `stepwell evaluate quality`",
}
CODEC_RISK: Mapping[Codec, str] = {
    Codec.RAW: "none",
    Codec.LOSSLESS: "none: bytes come back as they were; some CPU time",
    Codec.KVTC: "real: lossy, guarded by a measured error; needs `stepwell calibrate`",
}


def weight_choices(spec: ModelSpec, device: Device, engine: Engine) -> tuple[WeightPrecision, ...]:
    """From the least risk to the most; the first is what the checkpoint is in."""
    if engine is Engine.STEPWELL:
        if spec.dtype_bytes != 2 or device.name != THIS_MACHINE:  # low bits are for CPUs
            return (WeightPrecision.BF16,)
        return (WeightPrecision.BF16, WeightPrecision.INT8, WeightPrecision.INT4)
    if spec.native is WeightPrecision.MXFP4:
        return (WeightPrecision.MXFP4,)
    if device.name == THIS_MACHINE:
        return (WeightPrecision.BF16,)
    has_fp8 = "fp8" in device.flops
    first = (WeightPrecision.FP8,) if spec.native is WeightPrecision.FP8 else (
        (WeightPrecision.BF16, WeightPrecision.FP8) if has_fp8
        else (WeightPrecision.BF16, WeightPrecision.INT8)
    )  # fmt: skip
    return (*first, WeightPrecision.INT4)


def kv_choices(setup: Setup) -> tuple[KVPrecision, ...]:
    """Lower precisions of KV, from the least risk to the most."""
    if setup.engine is Engine.STEPWELL:
        found = (KVPrecision.INT8, KVPrecision.INT4) if setup.device.name == THIS_MACHINE else ()
        return tuple(kv for kv in found if refusal(setup.spec, kv, setup.rounding) is None)
    return (KVPrecision.FP8,) if setup.device.name != THIS_MACHINE else ()


def codec_choices(setup: Setup) -> tuple[Codec, ...]:
    """Codecs of lower tiers. They code 16-bit numbers, and are ours."""
    if setup.engine is not Engine.STEPWELL or setup.kv is not KVPrecision.MODEL:
        return ()
    return (Codec.LOSSLESS, Codec.KVTC)


def device_counts(spec: ModelSpec, device: Device, engine: Engine, total: int) -> tuple[int, ...]:
    """Devices side by side that divide the query heads, and `total` where the user says one. Our
    engine runs on one."""
    if device.name == THIS_MACHINE or engine is Engine.STEPWELL:
        return (1,)
    heads = [layer.q_heads for layer, _ in spec.kinds if layer.q_heads] or [spec.hidden_size]
    counts = (n for n in (1, 2, 4, MOST_DEVICES) if all(head % n == 0 for head in heads))
    return tuple(n for n in counts if not total or total % n == 0)
