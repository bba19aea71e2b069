"""What `stepwell plan` is asked: the model, the hardware, the load. Checks what can be wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.base.errors import ConfigError
from stepwell.hardware.devices import THIS_MACHINE, Device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.memory import refusal
from stepwell.plan.recommend import Wishes
from stepwell.plan.setup import Engine, Setup, choose_engine
from stepwell.plan.workload import DEFAULT_CONTEXT, PRESETS, Workload, make_workload, parse_slo

_OUR_WEIGHTS = (
    WeightPrecision.BF16,
    WeightPrecision.INT8,
    WeightPrecision.INT4,
    WeightPrecision.NF4,
)
_VLLM_WEIGHTS = (
    WeightPrecision.BF16,
    WeightPrecision.FP8,
    WeightPrecision.INT8,
    WeightPrecision.INT4,
)
_GROWTH = 4  # a sequence may become so many times as long as it usually is


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """`context` 0: DEFAULT_CONTEXT, or what the model allows."""

    spec: ModelSpec
    device: Device
    wishes: Wishes = field(default_factory=Wishes)
    workload_name: str = "chat"
    context: int = 0
    users: int = 0
    slo: str = ""

    def workload(self) -> Workload:
        """Checked against the model. Raises ConfigError."""
        if self.device.name == THIS_MACHINE and self.wishes.devices > 1:
            raise ConfigError(
                f"there is one {THIS_MACHINE}: this machine.", hint="Use --users.", param="devices"
            )
        most = self.spec.max_positions
        context = self.context or min(DEFAULT_CONTEXT, most or DEFAULT_CONTEXT)
        if most and context > most:
            raise ConfigError(
                f"a context of {context:,} tokens is longer than the {most:,} positions of "
                f"{self.spec.name}.",
                hint=f"Use --context {most}, or less.",
                param="context",
            )
        longest = min(_GROWTH * context, most) if most else _GROWTH * context
        found = make_workload(
            self.workload_name, context=context, longest=longest, users=self.users
        )
        slo = parse_slo(self.slo, PRESETS[self.workload_name].slo)
        return Workload(
            name=found.name,
            prompt=found.prompt,
            output=found.output,
            think=found.think,
            context=found.context,
            longest=found.longest,
            slo=slo,
            users=found.users,
        )

    def check(self) -> None:
        """Raises ConfigError for precisions that the engine does not have."""
        given = self.as_given()
        here = self.device.name == THIS_MACHINE
        valid = self._valid_weights(given.engine, here=here)
        if self.wishes.weights is not None and given.weights not in valid:
            raise ConfigError(
                f"{given.engine} does not hold weights of {self.spec.name} in {given.weights} on "
                f"{self.device.name}.",
                hint=f"Valid: {', '.join(valid)}.",
                param="weights",
            )
        reason = refusal(self.spec, given.kv, given.rounding)
        if reason is None and given.engine is Engine.STEPWELL and not here:
            low = given.kv is not KVPrecision.MODEL
            reason = "K and V in low bits are for CPUs" if low else None
        if reason is not None:
            raise ConfigError(
                f"{given.engine} does not serve {self.spec.name} so: {reason}.",
                hint="Leave --engine and --kv to be chosen.",
                param="engine",
            )

    def _valid_weights(self, engine: Engine, *, here: bool) -> tuple[WeightPrecision, ...]:
        if engine is Engine.STEPWELL:
            return _OUR_WEIGHTS if here else _OUR_WEIGHTS[:1]
        native = self.spec.native
        return _VLLM_WEIGHTS if native in _VLLM_WEIGHTS else (*_VLLM_WEIGHTS, native)

    def as_given(self) -> Setup:
        """The hardware with the precisions asked for, or the checkpoint's own."""
        count = self.wishes.devices or 1
        engine, _ = choose_engine(self.spec, self.device)
        return Setup(
            spec=self.spec,
            device=self.device,
            engine=self.wishes.engine or engine,
            devices=count,
            weights=self.wishes.weights or self.spec.native or WeightPrecision.BF16,
            kv=self.wishes.kv or KVPrecision.MODEL,
            tiers=self.wishes.tiers_of(self.device, count),
        )
