"""Levers on computing: devices side by side, precision of weights, batch, copies."""

from __future__ import annotations

import math
from dataclasses import replace

from stepwell.base.units import format_bytes, format_seconds
from stepwell.plan.emit import VLLM_ONLINE
from stepwell.plan.ladder import Ladder
from stepwell.plan.levers import WEIGHT_RISK, weight_choices
from stepwell.plan.setup import Engine, Setup
from stepwell.plan.steps import Score, Step, best_of, change


def parallelism(ladder: Ladder) -> None:
    """Devices side by side: decided before, since the weights must fit."""
    count, device = ladder.setup.devices, ladder.setup.device.name
    if count == 1:
        ladder.add("parallelism", "one device", ladder.setup, taken=False, gain="not needed",
                  cost="none", risk="none")  # fmt: skip
        return
    one, many = (ladder.step_seconds(replace(ladder.setup, devices=n)) for n in (1, count))
    ladder.add(
        "parallelism", f"{count} x {device} side by side (tensor parallel)", ladder.setup,
        gain=f"{format_bytes(ladder.setup.weight_bytes / count)} of weights on each; a step "
             f"takes {format_seconds(many)} at least, not {format_seconds(one)}",
        cost=f"{count} devices; two all-reduces in every layer"
             + ("; K and V lie on several of them" if ladder.copies() > 1 else ""),
        risk="one device that fails stops all",
    )  # fmt: skip


def weights(ladder: Ladder, chosen: Setup) -> None:
    """Precision of weights: decided with the devices."""
    before, after = ladder.setup, replace(ladder.setup, weights=chosen.weights)
    if before.weights == after.weights:
        others = weight_choices(chosen.spec, chosen.device, chosen.engine)[1:]
        start = Score.of(chosen, ladder.workload)
        tried = {
            each: change(start, Score.of(replace(chosen, weights=each), ladder.workload))
            for each in others
        }
        said = "; ".join(f"{each}: {text or 'no change'}" for each, text in tried.items())
        ladder.add(
            "weights", f"{before.weights}, as the checkpoint", before, taken=False,
            gain=f"not worth its risk with the other levers pulled ({said})"
            if said else "no other precision here",
            cost="none", risk="none",
        )  # fmt: skip
        return
    sizes = [format_bytes(each.weight_bytes) for each in (before, after)]
    times = [format_seconds(ladder.step_seconds(each)) for each in (before, after)]
    ladder.take(
        "weights", f"{after.weights}", after,
        gain=f"{sizes[0]} → {sizes[1]}; a step of one sequence takes {times[0]} → {times[1]} "
             "at least",
        cost="packed while loading" if after.engine is Engine.STEPWELL
             else "quantized while loading" if after.weights in VLLM_ONLINE
             else "needs a checkpoint that is quantized so",
        risk=WEIGHT_RISK[after.weights],
    )  # fmt: skip


def batch(ladder: Ladder) -> None:
    """Sequences that decode at once."""
    one, _ = best_of(replace(ladder.setup, most_sequences=1), ladder.workload)
    best, _ = best_of(ladder.setup, ladder.workload)
    if one is None or best is None:
        return
    rates = [each.output_rate(ladder.workload) for each in (one, best)]
    ladder.add(
        "batch", f"at most {best.batch} sequences at once",
        replace(ladder.setup, most_sequences=best.batch),
        gain=f"{rates[0]:,.0f} → {rates[1]:,.0f} output tokens/s; further is limited by "
             f"{best.limit}",
        cost=f"time per token {format_seconds(one.tpot)} → {format_seconds(best.tpot)}",
        risk="none", before=one.users,
    )  # fmt: skip


def groups(ladder: Ladder) -> None:
    """Copies of the whole."""
    asked, each = ladder.workload.users, ladder.score.within
    if not asked or not each:
        return
    count = math.ceil(asked / each)
    if count == 1:
        return
    total = count * ladder.setup.devices
    price = total * ladder.setup.device.price_per_hour
    ladder.steps.append(
        Step(
            lever="replicas",
            choice=f"{count} groups, {total} devices",
            is_taken=True,
            gain=f"{each:.0f} → {count * each:.0f} users",
            cost=f"${price:,.2f} an hour" if price else f"{total} machines",
            risk="sessions must stay with their group, or share a network tier",
            users_before=each,
            users_after=count * each,
        )
    )
