"""Our engine's memory as planned before its start, against its account after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stepwell.base.units import parse_bytes
from stepwell.evaluate.engine_account import measure_account
from stepwell.evaluate.shapes import house_folder, make_checkpoint
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.engine_memory import MEASURED_WITH, EngineSettings, engine_memory
from stepwell.plan.read import read_model

_WEIGHTS = {
    "checkpoint": WeightPrecision.BF16,
    "int8": WeightPrecision.INT8,
    "int4": WeightPrecision.INT4,
}
_KV = {"model": KVPrecision.MODEL, "int8": KVPrecision.INT8, "int4": KVPrecision.INT4}
_QWEN = "qwen2.5-0.5b-shape"
# model, weights, KV, pool
_QUICK = (("house", "checkpoint", "model", "64MiB"),)
_FULL = (
    *_QUICK,
    ("house", "int8", "int8", "64MiB"),
    ("house", "int4", "int4", "auto"),
    (_QWEN, "checkpoint", "model", "512MiB"),
    (_QWEN, "int8", "int8", "256MiB"),
    (_QWEN, "int4", "model", "256MiB"),
)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One start. `planned`, `system` (resident), `unaccounted`: bytes; `plan` and `account` by
    part."""

    engine: str
    planned: int
    system: int
    unaccounted: int
    plan: dict[str, int]
    account: dict[str, int]

    @property
    def error(self) -> float:
        """Of the plan, as a share of what is resident."""
        return self.planned / self.system - 1

    @property
    def unaccounted_share(self) -> float:
        """Of what is resident."""
        return self.unaccounted / self.system

    def as_dict(self) -> dict[str, Any]:
        """For results."""
        shares = {
            "error": round(self.error, 5),
            "unaccounted_share": round(self.unaccounted_share, 5),
        }
        return asdict(self) | shares | {"constants_measured_with": MEASURED_WITH}


def engine_rows(*, quick: bool, workdir: Path) -> Iterator[EngineRow]:
    """Starts one engine after the other, each in a process of its own. Raises AccountFailed."""
    for model, weights, kv, pool in _QUICK if quick else _FULL:
        folder = house_folder()
        if model == _QWEN:
            folder = make_checkpoint(model, workdir=workdir.expanduser(), tokenizer=folder)
        settings = {"model.weights": weights, "model.kv": kv, "cache.pool": pool}
        found = measure_account({"model.path": str(folder), **settings})
        planned = engine_memory(
            read_model(str(folder)),
            EngineSettings(
                weights=_WEIGHTS[weights],
                kv=_KV[kv],
                pool=None if pool == "auto" else parse_bytes(pool),
                available=found["available"],
            ),
        )
        yield EngineRow(
            engine=f"{model}, weights {weights}, KV {kv}, pool {pool}",
            planned=planned.total,
            system=found["system"],
            unaccounted=found["unaccounted"],
            plan=asdict(planned),
            account=found["parts"],
        )
