"""A kernel is compiled once per machine, said so before, and loaded from the disk afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

SCRIPT = """
import sys
from stepwell.kernels.native import compile_log
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import load_int64

def kernel(args):
    load_int64(args, 0)

said = []
with compile_log.telling(said.append):
    assert compile_kernel(kernel).address
(one,) = compile_log.made()
assert one.seconds > 0 and said == ([one.kernel] if one.compiled else [])
print(one.kernel, one.compiled)
"""


def run(script: Path, cache: Path) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def test_compiled_once_then_loaded(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    assert [run(script, tmp_path / "cache") for _ in range(2)] == [
        "__main__ True",
        "__main__ False",
    ]


def test_without_a_writable_folder_compiled_in_each_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert [run(script, tmp_path / "cache") for _ in range(2)] == ["__main__ True"] * 2
