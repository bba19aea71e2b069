"""A Valkey or Redis server of our own for a benchmark: nothing saved, gone afterwards."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_START_SECONDS = 10.0


def binary() -> str | None:
    """Where the server is, None where none is installed."""
    return shutil.which("valkey-server") or shutil.which("redis-server")


@contextmanager
def serve_redis(folder: Path) -> Iterator[str]:
    """Its URL on loopback, over TCP as replicas would speak to it."""
    command = binary()
    if command is None:
        raise FileNotFoundError("no valkey-server or redis-server is installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(
        [command, *arguments, "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise OSError("the network tier's server does not answer")
