"""A model of three times the memory that its weights may take, under a limit that the kernel holds:
it runs, with the tokens of the whole model.

What the interpreter, torch and the kernels take is measured first, with a tiny model in a group of
its own; the limit is that and a third of the weights. Without a cgroup of our own, RLIMIT_DATA
holds private mappings instead, touched or not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from stepwell.evaluate.memory_limit import Enforcement, MemoryLimit, can_limit_by_cgroup

MANY = 1 << 40
LARGE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16}
MARGIN = 72 << 20  # a step of these sizes, and how far two equal starts differ
CODE = """
import json, sys
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
folder, budget, weights = sys.argv[1:]
llm = LLM(
    folder,
    cache__pool="4MiB",
    model__dtype="bfloat16",
    model__weights_budget=budget,
    model__weights=weights,
)
prompts = [[5, 6, 7, 8] * 10, [300, 4, 300]]
choices = llm.generate(prompts, SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
private = [line for line in open("/proc/self/status") if line.startswith("VmData")][0].split()[1]
print(json.dumps([[c.token_ids for c in choices], 1024 * int(private)]))
llm.close()
"""


def run(
    folder: Path, budget: int, limit: int, weights: str
) -> tuple[list[Any] | None, int, MemoryLimit, str]:
    """Tokens (None where it was killed), and the most memory: of the group, or private."""
    with MemoryLimit.make(limit) as held:
        if held.folder is None and limit == MANY:
            held = MemoryLimit(1 << 36, Enforcement.RLIMIT, None)
        child = subprocess.run(
            held.command([sys.executable, "-c", CODE, str(folder), str(budget), weights]),
            capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
        peak = held.peak()
    if child.returncode:
        return None, peak or 0, held, child.stderr[-500:]
    tokens, private = json.loads(child.stdout.splitlines()[-1])
    return tokens, peak if peak is not None else private, held, ""


@pytest.mark.slow  # a process near its limit may take minutes to be killed
@pytest.mark.timeout(600)
@pytest.mark.parametrize("weights", ["checkpoint", "int8"])
def test_a_third_of_its_size_is_enough(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """Also for building the store, which packs and quantizes under the same limit."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Layers that nobody fuses, so that both compute with the same kernels. In bfloat16 out of
    # float32, so that the whole model is memory of its own and not the mapped checkpoint.
    large, tiny = checkpoint("olmo2", **LARGE), checkpoint("olmo2")
    whole = sum(path.stat().st_size for path in large.glob("*.safetensors")) // 2
    expected, _, _, why = run(large, 0, MANY, weights)
    assert expected is not None, why
    _, base, _, _ = run(tiny, 0, MANY, weights)
    limit = base + whole // 3 + MARGIN
    found, peak, held, why = run(large, whole // 3, limit, weights)
    assert found is not None, f"{held.how.value}: {why}"
    assert found == expected
    assert peak <= limit
    assert held.folder is not None or not can_limit_by_cgroup()
    assert run(large, 0, limit, weights)[0] is None, "the limit does not bind"
