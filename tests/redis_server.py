"""A real Valkey or Redis server for tests: its own process, folder and port, gone afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARY = shutil.which("valkey-server") or shutil.which("redis-server")
needs_server = pytest.mark.skipif(
    BINARY is None, reason="no valkey-server or redis-server is installed"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def redis_server(folder: Path, *options: str, port: int = 0) -> Iterator[subprocess.Popen]:
    """Run a server that listens on folder/redis.sock and, if given, on a port of 127.0.0.1."""
    assert BINARY is not None
    path = folder / "redis.sock"
    command = [BINARY, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--unixsocket", str(path), "--save", "", "--appendonly", "no", *options]
    log = folder / "redis.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 60
        while not _answers(path):
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            probe.sendall(b"PING\r\n")
            return probe.recv(1) in (b"+", b"-")  # "-": it wants a password first
        except OSError:
            return False
