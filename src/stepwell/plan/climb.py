"""The levers one after another, each with what it gains, costs and risks."""

from __future__ import annotations

from dataclasses import replace

from stepwell.plan import levers_compute, levers_memory
from stepwell.plan.architecture import KVPrecision
from stepwell.plan.ladder import Ladder
from stepwell.plan.levers import weight_choices
from stepwell.plan.setup import Setup, Tiers
from stepwell.plan.steps import Step
from stepwell.plan.workload import Workload


def climb(
    chosen: Setup, workload: Workload, *, kv: KVPrecision | None
) -> tuple[Setup, tuple[Step, ...]]:
    """From the naive deployment of the chosen devices to what is recommended. `chosen`: weights,
    devices and the tiers that are there are decided; `kv`: fixed by the user."""
    first = weight_choices(chosen.spec, chosen.device, chosen.engine)[0]
    naive = replace(
        chosen, weights=first, kv=KVPrecision.MODEL, is_paged=False, reuses=False, tiers=Tiers()
    )
    ladder = Ladder(naive, workload)
    levers_compute.parallelism(ladder)
    levers_memory.paging(ladder)
    levers_memory.reuse(ladder)
    levers_compute.weights(ladder, chosen)
    levers_memory.kv(ladder, kv)
    levers_memory.tiers(ladder, chosen.tiers)
    levers_memory.codec(ladder)
    levers_compute.batch(ladder)
    levers_compute.groups(ladder)
    return ladder.setup, tuple(ladder.steps)
