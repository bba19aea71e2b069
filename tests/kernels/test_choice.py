"""The registry, warming up, the cache of compiled code, and the team of threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from stepwell.base.errors import ConfigError
from stepwell.kernels import (
    advise_huge_pages,
    decisions,
    kernel_choice,
    threads_kind,
    warm_up,
)
from stepwell.kernels.native import compiled, team
from stepwell.kernels.paged_attention import (
    AttentionSpec,
    cpu,
    paged_attention,
    reference,
    version_for,
)
from stepwell.kernels.write_kv import version_for as writer_for
from tests.kernels.pools import make_case


def test_auto_takes_the_compiled_version(choices: pytest.MonkeyPatch) -> None:
    choices.delenv("STEPWELL_KERNELS", raising=False)
    case = make_case([(1, 5)])
    assert version_for(case.layer) is cpu.attend
    (decision,) = decisions()
    assert (decision.name, decision.value) == ("kernels.paged_attention", "cpu")
    assert "block_size 16" in decision.because


def test_reasons_are_recorded(choices: pytest.MonkeyPatch) -> None:
    choices.delenv("STEPWELL_KERNELS", raising=False)
    version_for(make_case([(1, 5)], key_dim=24).layer)
    (decision,) = decisions()
    assert decision.value == "gathered"
    assert "not cpu: key_dim 24" in decision.because


def test_reference(choices: pytest.MonkeyPatch) -> None:
    choices.setenv("STEPWELL_KERNELS", "reference")
    case = make_case([(1, 5)])
    assert version_for(case.layer) is reference.attend
    writer_for(case.layer)
    assert [d.value for d in decisions()] == ["reference", "reference"]
    assert "torch" in threads_kind()


def test_unknown_value(choices: pytest.MonkeyPatch) -> None:
    choices.setenv("STEPWELL_KERNELS", "refrence")
    with pytest.raises(ConfigError, match=r"refrence.*Did you mean 'reference'.*auto"):
        kernel_choice()


def test_warm_up_compiles_each_variant_once(choices: pytest.MonkeyPatch) -> None:
    choices.delenv("STEPWELL_KERNELS", raising=False)
    case, other = make_case([(1, 5)]), make_case([(1, 5)], key_dim=24)
    layers = [(case.layer, 4), (case.layer, 4), (other.layer, 4)]
    assert warm_up(layers) == 2
    assert {d.value for d in decisions()} == {"cpu", "gathered"}


def test_kernels_run_in_the_openmp_team_of_torch() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("torch's OpenMP runtime is looked up on Linux only")
    assert team.openmp_entry() is not None
    assert "2" in threads_kind()


def test_without_an_openmp_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread does all the tasks, with the same bits."""
    case = make_case([(1, 900), (30, 60)])
    spec = AttentionSpec(scale=0.2)
    expected = paged_attention(case.query, case.layer, case.batch, spec)
    monkeypatch.setattr(team, "openmp_entry", lambda: None)
    assert torch.equal(paged_attention(case.query, case.layer, case.batch, spec), expected)
    assert "one thread" in team.threads_kind()


def test_concurrent_calls() -> None:
    """Several Python threads may attend at once, each with its own batch."""
    cases = [make_case([(1, 700), (20, 300)], seed=seed) for seed in range(3)]
    spec = AttentionSpec(scale=0.2)
    expected = [paged_attention(c.query, c.layer, c.batch, spec) for c in cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        case = cases[index]
        for _ in range(20):
            if not torch.equal(
                paged_attention(case.query, case.layer, case.batch, spec), expected[index]
            ):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert compiled.cache_folder().parent == tmp_path
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compiled.cache_folder().parent == tmp_path / "stepwell" / "numba"


_CHILD = """
from stepwell.kernels.write_kv import cpu
print("hits", cpu.compiled_kernel().cache_hits)
"""


def test_a_second_process_loads_machine_code(tmp_path: Path) -> None:
    """One of the package; for a folder that is not writable, see `test_compiling`."""
    source = Path(__file__).parents[2] / "src"

    def run(cache: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            env={**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        return done.stdout.strip()

    assert run(str(tmp_path)) == "hits 0"
    assert run(str(tmp_path)) == "hits 1"


def test_importing_kernels_imports_no_compiler() -> None:
    """numba takes half a second, and GPU machines never need it."""
    code = "import sys, stepwell.kernels, stepwell.kernels.paged_attention, stepwell.kernels.linear"
    code += "; sys.exit('numba' in sys.modules)"
    source = Path(__file__).parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=100)


def test_huge_pages_are_asked_for() -> None:
    """Advice only: True where the kernel took it, and the memory stays usable either way."""
    memory = torch.empty(8 << 20, dtype=torch.uint8)
    assert advise_huge_pages(memory) in (True, False)
    memory.fill_(7)
    assert int(memory.sum()) == 7 * (8 << 20)
    assert not advise_huge_pages(torch.empty(16))
