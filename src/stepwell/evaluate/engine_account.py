"""The account of an engine in a process of its own: what `stepwell plan` is held against.

Run as a module with settings by dotted names as one JSON argument, it prints one JSON line. A
process that had to compile kernels holds what compiling took; `measure_account` starts it again
then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from stepwell.base.errors import StepwellError

_SECONDS = 240.0


class AccountFailed(StepwellError):
    """The process ended without an account."""

    code = "account_failed"


def measure_account(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`parts`: resident bytes by part; `system`, `unaccounted`, `proportional`, `available` (before
    the start): bytes. Raises AccountFailed."""
    found = _start(settings)
    return _start(settings) if found["compiled"] else found


def _start(settings: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "stepwell.evaluate.engine_account", json.dumps(dict(settings))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS, check=False, env=os.environ
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AccountFailed(f"the engine's process ended with {done.returncode}: {last}", hint="")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _child(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As the command line starts an engine."""
    from stepwell.base.config import load_config
    from stepwell.hardware.machine import read_machine
    from stepwell.model.quick_imports import import_transformers

    available = read_machine().memory_available
    import_transformers()
    from stepwell.engine.build import build_engine
    from stepwell.hardware.account import proportional_bytes
    from stepwell.kernels.native import compile_log

    built = build_engine(load_config(overrides=dict(settings)))
    built.pool.touch()
    account = built.account()
    if account is None:
        raise AccountFailed("this system does not tell what a process holds.", hint="")
    found = {
        "parts": {str(line.part): line.resident for line in account.held},
        "committed": {str(line.part): line.committed for line in account.held},
        "system": account.system,
        "unaccounted": account.unaccounted,
        "proportional": proportional_bytes(),
        "available": available,
        "compiled": sum(made.compiled for made in compile_log.made()),
    }
    built.close()
    return found


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[1]))))
