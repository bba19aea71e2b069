"""The server as a process: signals, exit status, a busy port."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@contextmanager
def process(*arguments):
    """A serving process and its URL."""
    command = [sys.executable, "-m", "tests.api.serve_fake", *arguments]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        try:
            yield child, child.stdout.readline().strip()
        finally:
            child.kill()


def wait_until_running(url, count):
    """Until so many sequences are in the batch."""
    page = "vllm:num_requests_running{"
    while True:
        text = httpx.get(url.removesuffix("/v1") + "/metrics", timeout=60, trust_env=False).text
        (line,) = (one for one in text.splitlines() if one.startswith(page))
        if float(line.split()[-1]) >= count:
            return
        time.sleep(0.01)


def post(url, **fields):
    body = {"prompt": "a", "max_tokens": 60} | fields
    return httpx.post(url + "/completions", json=body, timeout=100, trust_env=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_ends_with_0(number):
    with process("0.05", "60") as (child, url), ThreadPoolExecutor(2) as pool:
        whole = pool.submit(post, url)
        streamed = pool.submit(post, url, stream=True)
        wait_until_running(url, 2)
        child.send_signal(number)
        assert whole.result().json()["choices"][0]["finish_reason"] == "length"
        assert streamed.result().text.endswith("data: [DONE]\n\n")
        assert child.wait(timeout=60) == 0
        assert "Traceback" not in child.stderr.read()


def test_after_the_grace_replies_are_errors_and_the_status_is_0():
    with process("0.02", "0.3", "freeze") as (child, url), ThreadPoolExecutor(1) as pool:
        reply = pool.submit(post, url)
        wait_until_running(url, 1)
        child.send_signal(signal.SIGTERM)
        assert reply.result().status_code == 503
        assert child.wait(timeout=60) == 0


def test_an_idle_connection_does_not_hold_up_the_end():
    with process("0.001", "20") as (child, url):
        with httpx.Client(trust_env=False) as client:
            assert client.get(url + "/models").status_code == 200
            child.send_signal(signal.SIGTERM)
            assert child.wait(timeout=60) == 0


def test_a_busy_port_is_refused_before_the_model_loads():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        command = [
            sys.executable,
            "-m",
            "stepwell.cli.main",
            "serve",
            "--port",
            str(busy.getsockname()[1]),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 2 and result.stdout == ""
    assert "cannot listen" in result.stderr and "[invalid_config]" in result.stderr
