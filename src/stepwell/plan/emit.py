"""The recommendation as something to run: a stepwell.toml, or a line for vLLM."""

from __future__ import annotations

import math
import shlex

from stepwell.base.config import Config
from stepwell.hardware.devices import THIS_MACHINE
from stepwell.plan.architecture import KVPrecision, WeightPrecision
from stepwell.plan.serving import Served
from stepwell.plan.setup import RESERVE_SHARE, Codec, Engine, Setup
from stepwell.plan.workload import Workload

_MIB, _GIB = 1 << 20, 1 << 30
# What vLLM (0.33) makes of any checkpoint while loading.
VLLM_ONLINE = {
    WeightPrecision.FP8: "fp8",
    WeightPrecision.INT8: "int8_per_channel_weight_only",
}


def serve_command(setup: Setup, workload: Workload, served: Served) -> str:
    """A shell line. Where Stepwell serves, it reads the file of `stepwell_toml`."""
    if setup.engine is Engine.STEPWELL:
        return "stepwell serve --config stepwell.toml"
    spec = setup.spec
    words = ["vllm", "serve", spec.path or spec.name]
    words += ["--max-model-len", str(workload.longest), "--max-num-seqs", str(served.batch)]
    if setup.device.name != THIS_MACHINE:
        words += ["--gpu-memory-utilization", f"{1 - RESERVE_SHARE:g}"]
    if setup.devices > 1:
        words += ["--tensor-parallel-size", str(setup.devices)]
    if setup.weights in VLLM_ONLINE and setup.weights is not spec.native:
        words += ["--quantization", VLLM_ONLINE[setup.weights]]
    if setup.kv is KVPrecision.FP8:
        words += ["--kv-cache-dtype", "fp8"]
    if setup.tiers.host:
        words += ["--kv-offloading-size", f"{setup.tiers.host / _GIB:g}"]
    return shlex.join(words)


def command_note(setup: Setup) -> str:
    """What the line cannot say; empty where there is nothing."""
    if setup.engine is Engine.VLLM and setup.weights is WeightPrecision.INT4:
        return f"name a checkpoint that is quantized to {setup.weights} instead"
    return ""


def stepwell_toml(setup: Setup, workload: Workload, served: Served) -> str | None:
    """The settings file, None where Stepwell does not serve this setup."""
    if setup.engine is not Engine.STEPWELL:
        return None
    pool = max(1, _pool_bytes(setup, workload, served) // _MIB)
    lines = ["[model]", f'path = "{_escaped(setup.spec.path)}"']
    if setup.device.name != THIS_MACHINE:
        lines.append('device = "cuda"')
    if setup.weights is not WeightPrecision.BF16:
        lines.append(f'weights = "{setup.weights}"')
    if setup.kv is not KVPrecision.MODEL:
        lines.append(f'kv = "{setup.kv}"')
    if 0 < workload.longest < setup.spec.max_positions:
        lines.append(f"max_model_len = {workload.longest}")
    lines += ["", "[cache]", f'pool = "{pool}MiB"']
    if setup.tiers.host or setup.tiers.disk:
        lines += ["", "[tiers]", *_tier_lines(setup)]
    lines += ["", "[scheduler]", f"max_sequences = {served.batch}"]
    if served.batch > Config().scheduler.max_step_tokens:
        lines.append(f"max_step_tokens = {served.batch}")
    return "\n".join(lines) + "\n"


def _pool_bytes(setup: Setup, workload: Workload, served: Served) -> int:
    """What the users need, at most what is free."""
    idle = max(0, math.ceil(served.users) - served.batch)
    wanted = served.batch * setup.session_bytes(workload.active)
    wanted += idle * setup.session_bytes(workload.context)
    longest = setup.session_bytes(workload.longest)  # one sequence must be able to grow
    return min(setup.free, max(wanted, longest))


def _tier_lines(setup: Setup) -> list[str]:
    tiers, lines = setup.tiers, []
    if tiers.host:
        lines.append(f'host = "{tiers.host // _MIB}MiB"')
    if tiers.disk:
        lines += ['disk = "~/stepwell-context"', f'disk_capacity = "{tiers.disk // _MIB}MiB"']
    if setup.codec is not Codec.RAW:
        names = [name for name in ("host", "disk") if getattr(tiers, name)]
        lines += [f'{name}_codec = "{setup.codec}"' for name in names]
    return lines


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
