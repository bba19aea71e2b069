"""From starting a process to its first token, with the house model: `stepwell generate`."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from stepwell.base.errors import StepwellError
from stepwell.evaluate.options import OnProgress
from stepwell.evaluate.statistics import Spread

_COMMAND = ("generate", "house", "-p", "def main():", "--max-tokens", "1")
_TIMEOUT = 300.0


def measure_start(*, rounds: int, say: OnProgress) -> dict[str, Any]:
    """Seconds with everything cached, after one start that is not counted, and with an empty
    folder for machine code. Their difference is what compiling takes at first use."""
    say("start: warming the caches")
    first_token_seconds({})
    say("start: load to first token")
    warm = Spread.of([first_token_seconds({}) for _ in range(rounds)])
    say("start: first use, with nothing compiled")
    with tempfile.TemporaryDirectory() as folder:
        first_use = first_token_seconds({"NUMBA_CACHE_DIR": folder})
    return {
        "command": "stepwell " + shlex.join(_COMMAND),
        "first_token_s": warm.as_dict(),
        "first_use_s": first_use,
        "compile_s": first_use - warm.median,
    }


def first_token_seconds(environment: Mapping[str, str]) -> float:
    """From starting the process to its first line of output, which has the token. StepwellError
    where there is none."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "stepwell.cli.main", *_COMMAND],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.monotonic() - start
        if not line or process.wait(timeout=_TIMEOUT):
            raise StepwellError("`stepwell generate house` gave no token.")
    return seconds
