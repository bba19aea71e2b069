"""Every number of a plan with its formula and its source, as Decisions for `--explain`."""

from __future__ import annotations

from stepwell.base.decisions import Decision
from stepwell.plan.memory import fixed_bytes, kv_bytes_per_token, weight_bytes
from stepwell.plan.report import Plan
from stepwell.plan.roofline import Efficiency, Roofline
from stepwell.plan.serving import BUSY
from stepwell.plan.setup import CODEC_SHARE, RESERVE_SHARE


def decisions(plan: Plan) -> list[Decision]:
    """In the order in which the numbers depend on each other."""
    return [
        *_model(plan),
        *_memory(plan),
        *_roofline(plan),
        *_recommendation(plan),
    ]


def _model(plan: Plan) -> list[Decision]:
    spec, given = plan.given.spec, plan.given
    kinds = ", ".join(f"{count} x {layer.kind}" for layer, count in spec.kinds)
    rows = " + ".join(
        f"{count} layers x {sum(n * size for n, size in layer.rows):,} numbers"
        for layer, count in spec.kinds
        if layer.numbers_per_token
    )
    stored = f"; the checkpoint's headers say {spec.stored_bytes:,}" if spec.stored_bytes else ""
    return [
        Decision("model.source", spec.source, f"{spec.model_type}: {kinds}"),
        Decision(
            "weights_bytes",
            weight_bytes(spec, given.weights),
            f"sum over {len(spec.weights)} kinds of tensors of numbers times bytes in "
            f"{given.weights}, {spec.parameters:,} parameters; shapes as transformers builds "
            f"them{stored}",
        ),
        Decision(
            "kv_bytes_per_token",
            kv_bytes_per_token(spec, given.kv),
            f"({rows or 'no layer keeps K and V'}) in {given.kv}; only layers that remember every "
            "token",
        ),
        Decision(
            "kv.fixed_bytes",
            fixed_bytes(spec, given.kv),
            "full windows of layers that slide or chunk, and states, whatever the length",
        ),
    ]


def _memory(plan: Plan) -> list[Decision]:
    given = plan.given
    device = given.device
    return [
        Decision("device", device.title, device.source),
        Decision(
            "memory.reserve_bytes",
            given.reserve,
            f"{RESERVE_SHARE:.0%} of {given.memory:,} for driver, workspace, activations and "
            "graphs: an assumption",
        ),
        Decision(
            "free_bytes",
            given.free,
            f"{given.memory:,} - {given.reserve:,} reserve - "
            f"{given.devices * device.used_bytes:,} of others - {given.weight_bytes:,} weights as "
            f"{given.engine} holds them",
        ),
        Decision(
            "session_bytes",
            given.session_bytes(plan.workload.context),
            f"KV of {plan.workload.context:,} tokens in {given.engine}'s blocks",
        ),
    ]


def _roofline(plan: Plan) -> list[Decision]:
    given, context = plan.given, plan.workload.context
    device = given.device
    line = Roofline(given.spec, device, given.shape)
    step, prompt = line.decode(batch=1, context=context), line.prefill(tokens=context)
    return [
        Decision(
            "ridge_flop_per_byte",
            device.ridge,
            f"{device.flops['bf16']:.4g} FLOP/s / {device.bandwidth:.4g} bytes/s (16 bits)",
        ),
        Decision(
            "decode_bound_tokens_per_s",
            1.0 / line.seconds(step),
            f"1 / max({step.read:,.0f} bytes / {device.bandwidth * given.devices:.4g}, "
            f"{step.flop:.4g} FLOP / {line.rate * given.devices:.4g}): one sequence of "
            f"{context:,} tokens; weights without the embedding's table, "
            f"{line.weights_read(1):,.0f} bytes, are read in every step",
        ),
        Decision(
            "ttft_bound_s",
            line.seconds(prompt),
            f"{prompt.flop:.4g} FLOP of a prompt of {context:,} tokens, half of the pairs attended",
        ),
    ]


def _recommendation(plan: Plan) -> list[Decision]:
    found, work = plan.recommendation, plan.workload
    shares = ", ".join(
        f"{each.name.lower()} {each.decode:.0%}/{each.prefill:.0%}"
        for each in (Efficiency.LOW, Efficiency.LIKELY, Efficiency.HIGH)
    )
    base = [
        Decision("engine", found.setup.engine.value, found.engine_why),
        Decision("efficiency", shares, "share of the bound, decoding/prompts: assumptions"),
        Decision(
            "workload",
            work.name,
            f"{work.prompt:,} new tokens behind {work.history:,}, {work.output:,} out, "
            f"{work.think:g} s between: a preset's assumptions",
        ),
        Decision("busy", BUSY, "share of the device's time at most, so that queues stay short"),
        Decision(
            "codec", found.setup.codec.value,
            f"bytes below the device: {CODEC_SHARE[found.setup.codec]:.0%} of 16 bits "
            "(docs/codecs.md)",
        ),
    ]  # fmt: skip
    for efficiency, served in found.served.items():
        cost = found.cost[efficiency]
        base.append(
            Decision(
                f"users.{efficiency.name.lower()}",
                round(served.users, 1),
                f"r = busy * B / (O * t + B * p) = {served.requests_per_s:.3g}/s with B = "
                f"{served.batch}, t = {served.step_seconds:.3g} s, p = {served.prompt_seconds:.3g} "
                f"s; times think + ttft + O * tpot; output ${cost.output:.3f}, input "
                f"${cost.input:.4f} a million by the device's time, {1 - BUSY:.0%} idle included",
            )
        )
    return base
