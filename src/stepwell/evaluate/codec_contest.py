"""`kvtc` against `kvtc-paper` at one nominal ratio and equal error, and variants of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stepwell.codec.kvtc.calibration import Calibration
from stepwell.codec.kvtc.control import rung_near
from stepwell.codec.kvtc.paper import Order
from stepwell.evaluate.codec_measure import Energy, Point, coding_of, measure, plane_step_at
from stepwell.evaluate.codec_paper import Paper
from stepwell.evaluate.codec_prepare import Bench

Say = Callable[[str], None]


def apart_at(
    calibration: Calibration, chunks: Sequence[Tensor], energy: Energy, goal: Point
) -> tuple[Point, list[float]]:
    """Keys and values apart, each at the goal's error: the point, and bytes a token of each."""
    goals = (goal.key_error * energy.keys, goal.value_error * energy.values)
    steps = []
    for plane, limit in zip(calibration.planes, goals, strict=True):
        steps.append(plane_step_at(plane, chunks, limit=_over(limit)))
    point = measure(chunks, coding_of(calibration, steps), energy)
    tokens, sizes = sum(map(len, chunks)), []
    for plane, step in zip(calibration.planes, steps, strict=True):
        rung, size = rung_near(plane, step), 0
        for chunk in chunks:
            coefficients = plane.basis.forward(chunk[:, plane.start : plane.stop])
            size += 4 + len(plane.coder.encode(coefficients, rung=rung, step=step))
        sizes.append(size / tokens)
    return point, sizes


def _over(most: float) -> Callable[[Tensor], float]:
    return lambda error: float(error.sum()) / most


def joint_at(
    calibration: Calibration, chunks: Sequence[Tensor], energy: Energy, goal: Point, *, each: bool
) -> Point:
    """Keys and values together. `each`: neither error above the goal's; else their sum is not."""

    def limit(error: Tensor) -> float:
        keys, values, both = energy.shares(error)
        if not each:
            return both / goal.total_error
        return max(keys / goal.key_error, values / goal.value_error)

    step = plane_step_at(calibration.planes[0], chunks, limit=limit)
    return measure(chunks, coding_of(calibration, [step]), energy)


@dataclass(frozen=True)
class Contestants:
    """The paper's codec and ours, keys and values together and (None: left out) apart."""

    paper: Paper
    joint: Calibration
    apart: Calibration | None


@dataclass(frozen=True)
class Variants:
    """Both with a transform for each layer, ours with one for each half of the layers."""

    paper_by_layer: Paper
    by_layer: Calibration
    two_groups: Calibration


class Clock:
    """Seconds that each training took, by name. `say`: progress."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.seconds: dict[str, float] = {}

    def timed(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` makes."""
        self.say(f"training: {name}")
        began = time.perf_counter()
        made = make()
        self.seconds[name] = round(time.perf_counter() - began, 2)
        return made


_APART: dict[str, Any] = {"joint": False}


def train_contestants(
    bench: Bench, clock: Clock, *, least_ratio: float, paper_sample: int, rungs: int, apart: bool
) -> Contestants:
    """Paper's and ours. `paper_sample`: tokens its errors are measured on; `least_ratio`: the least
    that its programme is asked for; `rungs`: of our ladders."""
    arguments = (bench.gathered, bench.keys, bench.values)
    sizes: dict[str, Any] = {"least_ratio": least_ratio, "sample": paper_sample}
    return Contestants(
        paper=clock.timed("paper", lambda: Paper.train(*arguments, **sizes)),
        joint=clock.timed("joint", lambda: bench.train(joint=True, rungs=rungs)),
        apart=clock.timed("apart", lambda: bench.train(**_APART, rungs=rungs)) if apart else None,
    )


def train_variants(bench: Bench, clock: Clock) -> Variants:
    """See `Variants`."""
    arguments = (bench.gathered, bench.keys, bench.values)
    half = -(-len(bench.keys.parts) // 2)
    return Variants(
        paper_by_layer=clock.timed(
            "paper_by_layer", lambda: Paper.train(*arguments, group_layers=1)
        ),
        by_layer=clock.timed("by_layer", lambda: bench.train(**_APART, group_layers=1)),
        two_groups=clock.timed("two_groups", lambda: bench.train(**_APART, group_layers=half)),
    )


def ratio_row(
    trained: Contestants,
    chunks: Sequence[Tensor],
    energy: Energy,
    ratio: int,
    *,
    variants: Variants | None,
) -> dict[str, Any]:
    """The contestants at one nominal ratio, and where asked the variants of their parts."""
    tries = [
        (*trained.paper.point(chunks, energy, ratio=ratio, order=order), order) for order in Order
    ]
    goal, key_bytes, value_bytes, order = min(tries, key=lambda found: found[0].bytes)
    joint = joint_at(trained.joint, chunks, energy, goal, each=True)
    row: dict[str, Any] = {
        "nominal_ratio": ratio,
        "paper": goal.as_dict()
        | {"key_bytes": round(key_bytes, 3), "value_bytes": round(value_bytes, 3)}
        | {"order": order.value, "plans": trained.paper.describe(ratio)},
        "paper_bytes_by_order": {o.value: round(p.bytes, 3) for p, _, _, o in tries},
        "kvtc_joint_each_error": joint.as_dict(),
        "paper_over_kvtc": {"both_joint": round(goal.bytes / joint.bytes, 3)},
    }
    if trained.apart is not None:
        apart, (our_keys, our_values) = apart_at(trained.apart, chunks, energy, goal)
        total = joint_at(trained.joint, chunks, energy, goal, each=False)
        row["kvtc_apart"] = apart.as_dict() | {
            "key_bytes": round(our_keys, 3),
            "value_bytes": round(our_values, 3),
        }
        row["kvtc_joint_total_error"] = total.as_dict()
        row["paper_over_kvtc"] |= {
            "keys_apart": round(key_bytes / our_keys, 3),
            "values_apart": round(value_bytes / our_values, 3),
            "both_apart": round(goal.bytes / apart.bytes, 3),
            "both_joint_total_error": round(goal.bytes / total.bytes, 3),
        }
    if variants is not None:
        row["variants"] = _variants(
            trained, variants, chunks, energy, ratio=ratio, goal=goal, order=order
        )
    return row


def _variants(
    trained: Contestants,
    others: Variants,
    chunks: Sequence[Tensor],
    energy: Energy,
    *,
    ratio: int,
    goal: Point,
    order: Order,
) -> dict[str, Any]:
    """Other coders and transforms: bytes a token at the paper's error unless they say another."""
    found: dict[str, Any] = {}
    for name, deflate in _compressors().items():
        point = trained.paper.point(chunks, energy, ratio=ratio, order=order, deflate=deflate)[0]
        found[f"paper_{name}"] = {"bytes_per_token": round(point.bytes, 3)}
    by_layer = others.paper_by_layer.point(chunks, energy, ratio=ratio, order=order)[0]
    found["paper_pca_by_layer"] = by_layer.as_dict()
    for name in ("by_layer", "two_groups"):
        point = apart_at(getattr(others, name), chunks, energy, goal)[0]
        found[f"kvtc_apart_{name}"] = point.as_dict() | {
            "paper_over": round(goal.bytes / point.bytes, 3)
        }
    return found


def _compressors() -> dict[str, Callable[[bytes], bytes]]:
    found: dict[str, Callable[[bytes], bytes]] = {"undeflated": bytes}
    try:
        import zstandard
    except ImportError:
        return found
    for level in (3, 19):
        found[f"zstd{level}"] = zstandard.ZstdCompressor(level=level).compress
    return found
