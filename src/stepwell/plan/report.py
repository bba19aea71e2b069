"""Everything that is computed for one request, as the document that `--json` prints and that the
tables are drawn from. Sizes in bytes, times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stepwell.plan.memory import kv_bytes, kv_bytes_per_token, weight_bytes
from stepwell.plan.recommend import Recommendation, recommend
from stepwell.plan.report_memory import (
    CONTEXTS,
    device_section,
    in_engines_section,
    kv_section,
    memory_section,
    model_section,
    weights_section,
)
from stepwell.plan.report_serving import (
    deployment_section,
    roofline_section,
    sessions_section,
    workload_section,
)
from stepwell.plan.request import PlanRequest
from stepwell.plan.roofline import Roofline, decode_bound
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`given`: the hardware as asked for, nothing chosen. `recommendation`: with the levers."""

    request: PlanRequest
    workload: Workload
    given: Setup
    recommendation: Recommendation

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        given, work = self.given, self.workload
        spec, device = given.spec, given.device
        line = Roofline(spec, device, given.shape)
        return {
            "model": model_section(spec),
            "device": device_section(given),
            "weights_bytes": weight_bytes(spec, given.weights),
            "weights": weights_section(given),
            "kv_bytes_per_token": kv_bytes_per_token(spec, given.kv),
            "kv": kv_section(spec, given.kv),
            "contexts": {str(n): kv_bytes(spec, n, given.kv) for n in CONTEXTS},
            "contexts_in_engines": in_engines_section(spec, given.kv),
            "fits": given.free >= given.session_bytes(work.context),
            "free_bytes": max(0, given.free),
            "memory": memory_section(given),
            "ridge_flop_per_byte": device.ridge,
            "decode_bound_tokens_per_s": decode_bound(spec, device, 1, work.context, given.shape),
            "roofline": roofline_section(given, line, work),
            "sessions": sessions_section(given),
            "workload": workload_section(work),
            "recommendation": [step.as_dict() for step in self.recommendation.steps],
            "deployment": deployment_section(self.recommendation, work),
        }


def make_plan(request: PlanRequest) -> Plan:
    """Raises ConfigError for a request that cannot be, nothing for what does not fit."""
    workload = request.workload()
    request.check()
    return Plan(
        request=request,
        workload=workload,
        given=request.as_given(),
        recommendation=recommend(request.spec, request.device, workload, request.wishes),
    )
