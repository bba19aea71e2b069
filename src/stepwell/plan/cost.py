"""Dollars for a million tokens, from the price of an hour and the time that tokens take.

    output   price/s * (t(B) / B) / busy            a step makes B tokens
    input    price/s * (p / context) / busy         a prompt of `context` tokens takes p, of which
                                                    reused history needs no computing
    blended  price/s / (input tokens/s + output tokens/s)

The time that is left free for queues (1 - busy) is paid for and divided among both. `input` counts
tokens as users send them, history included.
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.plan.serving import BUSY, Served
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Workload

_HOUR, _MILLION = 3600.0, 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Dollars a million tokens, at full load."""

    input: float
    output: float
    blended: float


def cost_per_million(setup: Setup, workload: Workload, served: Served) -> Cost:
    """Of one group of devices that serves as many users as it can; zeros without a price."""
    dollars = setup.devices * setup.device.price_per_hour / _HOUR
    tokens = served.input_rate(workload) + served.output_rate(workload)
    paid = dollars / BUSY * _MILLION
    return Cost(
        input=paid * served.prompt_seconds / workload.context,
        output=paid * served.step_seconds / served.batch,
        blended=dollars / tokens * _MILLION,
    )


def cost_of_load(groups: int, setup: Setup, workload: Workload, served: Served) -> float:
    """Dollars a million tokens, blended, when `groups` of devices serve the workload's users: what
    stands idle is paid for too."""
    dollars = groups * setup.devices * setup.device.price_per_hour / _HOUR
    share = workload.users / served.users
    tokens = share * (served.input_rate(workload) + served.output_rate(workload))
    return dollars / tokens * _MILLION
