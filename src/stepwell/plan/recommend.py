"""A recommendation that layers the levers: what each one gains, costs and risks.

Starts from the naive deployment (a contiguous reservation of the longest length for every sequence,
no reuse, no tiers, the checkpoint's precision) and adds one lever after another. The measure is the
users that are served within the objectives at the likely efficiency; with a number of users to
serve, it is the price of serving them. Precision is lowered only where that pays
(`WEIGHT_PENALTY`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stepwell.hardware.devices import Device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.climb import climb
from stepwell.plan.cost import Cost, cost_per_million
from stepwell.plan.levers import WEIGHT_PENALTY, device_counts, weight_choices
from stepwell.plan.roofline import Efficiency
from stepwell.plan.serving import Served, at_efficiency
from stepwell.plan.setup import Engine, Setup, Tiers, choose_engine, usual_tiers
from stepwell.plan.steps import Score, Step, best_of
from stepwell.plan.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the user fixed; 0 and None: to be chosen."""

    devices: int = 0
    weights: WeightPrecision | None = None
    kv: KVPrecision | None = None
    engine: Engine | None = None
    tiers: Tiers | None = None

    def tiers_of(self, device: Device, count: int) -> Tiers:
        """Below one group of `count` devices."""
        return self.tiers or usual_tiers(device, count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """`fits`: weights and one sequence have room. `within`: the objectives are met. `groups`: of
    `setup.devices` devices each, for the users asked for (1 where none were). `served`: one group,
    at three efficiencies and the same batch. `verdict`: one sentence."""

    setup: Setup
    engine_why: str
    fits: bool
    within: bool
    groups: int
    served: dict[Efficiency, Served]
    cost: dict[Efficiency, Cost]
    limit: str
    steps: tuple[Step, ...]
    verdict: str


def recommend(
    spec: ModelSpec, device: Device, workload: Workload, wishes: Wishes
) -> Recommendation:
    """Raises nothing for what does not fit: the verdict says so."""
    engine, why = choose_engine(spec, device)
    if wishes.engine is not None:
        engine, why = wishes.engine, "as asked"
    chosen = _choose(spec, device, workload, wishes, engine)
    if chosen is None:
        return _does_not_fit(spec, device, workload, wishes, engine, why)
    setup, steps = climb(chosen, workload, kv=wishes.kv)
    open_ended = replace(setup, most_sequences=0)
    found, stretch = best_of(open_ended, workload)
    assert found is not None, "what was chosen holds one sequence"
    within = stretch == 1.0
    groups = _groups(setup, workload, wishes, found)
    served = {each: at_efficiency(setup, workload, found, each) for each in _INTERVAL}
    return Recommendation(
        setup=setup,
        engine_why=why,
        fits=True,
        within=within,
        groups=groups,
        served=served,
        cost={each: cost_per_million(setup, workload, served[each]) for each in _INTERVAL},
        limit=found.limit,
        steps=steps,
        verdict=_verdict(setup, workload, wishes, found, groups, within=within),
    )


_INTERVAL = (Efficiency.LOW, Efficiency.LIKELY, Efficiency.HIGH)


def _groups(setup: Setup, workload: Workload, wishes: Wishes, found: Served) -> int:
    """As many as the users need, or as there are."""
    there = wishes.devices // setup.devices
    needed = max(1, math.ceil(workload.users / found.users)) if workload.users else there or 1
    return min(needed, there) if there else needed


def price_of(setup: Setup, users: float, workload: Workload) -> float:
    """What is compared: devices (or dollars an hour) for the users asked for, or for one user."""
    each = setup.devices * (setup.device.price_per_hour or 1.0)
    if users <= 0:
        return math.inf
    return each * math.ceil(workload.users / users) if workload.users else each / users


def _choose(
    spec: ModelSpec, device: Device, workload: Workload, wishes: Wishes, engine: Engine
) -> Setup | None:
    """Weights' precision and devices side by side, the other levers pulled: what costs least for
    the users asked for; the fewest devices that meet the objectives where none were."""
    choices = (
        (wishes.weights,) if wishes.weights else weight_choices(spec, device, engine)
    )  # fmt: skip
    best: tuple[tuple[float, ...], Setup] | None = None
    for weights in choices:
        penalty = 1.0 if weights == choices[0] else WEIGHT_PENALTY.get(weights, 1.0)
        for count in device_counts(spec, device, engine, wishes.devices):
            setup = Setup(
                spec=spec, device=device, engine=engine, devices=count, weights=weights,
                kv=wishes.kv or KVPrecision.MODEL,
                tiers=wishes.tiers_of(device, count),
            )  # fmt: skip
            if setup.free < setup.session_bytes(workload.active):
                continue
            score = Score.of(setup, workload)
            price = price_of(setup, score.users, workload) * penalty
            devices = 0 if workload.users or wishes.devices else count
            key = (score.stretch, float(devices), price)
            if best is None or key < best[0]:
                best = (key, setup)
    return best[1] if best else None


def _does_not_fit(
    spec: ModelSpec, device: Device, workload: Workload, wishes: Wishes, engine: Engine, why: str
) -> Recommendation:
    least = wishes.weights or weight_choices(spec, device, engine)[-1]
    count = device_counts(spec, device, engine, wishes.devices)[-1]
    setup = Setup(
        spec=spec, device=device, engine=engine, devices=count, weights=least,
        kv=wishes.kv or KVPrecision.MODEL,
                tiers=wishes.tiers_of(device, count),
    )  # fmt: skip
    need = setup.weight_bytes + setup.session_bytes(workload.active)
    have = setup.free + setup.weight_bytes
    verdict = (
        f"does not fit: {need / 1e9:.1f} GB for {least} weights and one sequence of "
        f"{workload.context:,} tokens, {have / 1e9:.1f} GB on {count} x {device.name}"
    )
    return Recommendation(
        setup=setup, engine_why=why, fits=False, within=False, groups=0, served={}, cost={},
        limit="memory", steps=(), verdict=verdict,
    )  # fmt: skip


def _verdict(
    setup: Setup, workload: Workload, wishes: Wishes, found: Served, groups: int, *, within: bool
) -> str:
    where = f"{setup.devices} x {setup.device.name}"
    if not within:
        return (
            f"fits on {where}, but not within the objectives: time to first token "
            f"{found.ttft:.2f} s, time per token {found.tpot * 1e3:.0f} ms likely"
        )
    total, served = groups * setup.devices, groups * found.users
    each = f"{where} serve some {found.users:.0f} users, limited by {found.limit}"
    if not workload.users:
        many = f"; {groups} groups some {served:.0f}" if groups > 1 else ""
        return each + many
    if served < workload.users:
        some = f"some {served:.0f} of {workload.users} users"
        return f"{total} x {setup.device.name} serve {some}: {each}"
    return f"{workload.users} users need {total} x {setup.device.name}: {each}"
