"""A Stepwell server as a process of its own: started, awaited, stopped."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.evaluate.contestants import ContestantFailed

_READY = re.compile(r"ready: (http\S+)")
_STOP_SECONDS = 10.0


@dataclass(slots=True)
class ServerProcess:
    """`stepwell serve` on a free port of this machine. Use as a context manager."""

    model: str
    name: str
    settings: Mapping[str, Any]
    log: Path
    url: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "stepwell.cli.main", "serve", self.model, "--port", "0",
                   "--name", self.name]  # fmt: skip
        for key, value in self.settings.items():
            command += ["--set", f"{key}={_toml(value)}"]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=dict(os.environ),
            )
        return self

    def wait_ready(self, *, timeout: float = 180.0) -> str:
        """The base URL once it serves. Raises ContestantFailed."""
        assert self._process is not None and self._process.stdout is not None, "not started"
        pipe, seen = self._process.stdout.fileno(), b""
        deadline = time.monotonic() + timeout
        while not self.url:
            if time.monotonic() > deadline:
                raise self._failure("was not ready in time")
            if not select.select([pipe], [], [], 0.5)[0]:
                continue
            data = os.read(pipe, 1 << 16)
            if not data:
                raise self._failure("ended before it was ready")
            seen += data
            if match := _READY.search(seen.decode(errors="replace")):
                self.url = match[1]
        return self.url

    def kill(self) -> None:
        """As a power cut of this process: SIGKILL, nothing is tidied up."""
        assert self._process is not None, "not started"
        self._process.kill()
        self._process.wait()

    def __exit__(self, *exc: object) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            with contextlib.suppress(OSError):
                process.stdout.close()

    def _failure(self, what: str) -> ContestantFailed:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.is_file() else []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ContestantFailed(f"the server {what}.", hint=f"{self.log}: {last[:200]}")


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
