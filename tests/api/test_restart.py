"""Real servers and a real client: context that survives kill -9, and that another replica resumes.

The reply after a restore must be the reply of a server that never lost the context.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from stepwell.evaluate.server_process import ServerProcess
from stepwell.tier.disk.index import INDEX_FILE
from tests.api.running import wait_until
from tests.redis_server import free_port, needs_server, redis_server

pytest.importorskip("torch")

SESSIONS = ("ada", "bob", "cleo")
TRIES = 4  # of the network: a busy machine may find computing faster for a while
Start = Callable[..., ServerProcess]
Messages = list[dict[str, str]]


def opening(session: str) -> Messages:
    """A first turn of some 1,400 tokens that is this session's alone."""
    source = random.Random(session)
    notes = "\n".join(f"note {i}: {source.randrange(10**6)}" for i in range(100))
    return [{"role": "user", "content": f"{notes}\nWhich notes are there?"}]


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """start(name, settings) -> a server that answers; ended after the test."""
    with ExitStack() as stack:

        def begin(name: str, **settings: str) -> ServerProcess:
            pairs = {key.replace("__", "."): value for key, value in settings.items()}
            # In float32 no rounding of a prompt that is restored in part reaches a token.
            pairs |= {"cache.pool": "128MiB", "model.dtype": "float32"}
            process = ServerProcess(
                model="house", name="house", settings=pairs, log=tmp_path / f"{name}.log"
            )
            stack.enter_context(process)
            process.wait_ready()
            return process

        yield begin


def ask(server: ServerProcess, session: str, messages: Messages) -> tuple[str, int]:
    """The reply and how many prompt tokens came from memory."""
    with openai.OpenAI(base_url=server.url, api_key="none", max_retries=0) as client:
        reply = client.chat.completions.create(
            model="house", messages=messages, max_tokens=24, temperature=0,
            extra_body={"session_id": session},
        )  # fmt: skip
    details = reply.usage.prompt_tokens_details
    return reply.choices[0].message.content, details.cached_tokens


def follow_up(session: str, reply: str) -> Messages:
    return [
        *opening(session),
        {"role": "assistant", "content": reply},
        {"role": "user", "content": "And the last of them?"},
    ]


def talk(server: ServerProcess, *, suffix: str = "") -> dict[str, tuple[str, str]]:
    """Each session's first reply, and what a server that loses nothing answers next."""
    names = [session + suffix for session in SESSIONS]
    first = {session: ask(server, session, opening(session))[0] for session in names}
    wait_until_stored(server)
    second = {}
    for session, reply in first.items():
        second[session], cached = ask(server, session, follow_up(session, reply))
        assert cached > 500
    return {session: (first[session], second[session]) for session in names}


def resume(server: ServerProcess, said: dict[str, tuple[str, str]]) -> int:
    """The same answers again; prompt tokens that came from a tier."""
    for session, (reply, expected) in said.items():
        assert ask(server, session, follow_up(session, reply))[0] == expected
    return int(metric(server, "stepwell_restored_tokens_total"))


def metric(server: ServerProcess, name: str) -> float:
    """Sum over all labels."""
    page = httpx.get(server.url.removesuffix("/v1") + "/metrics", trust_env=False).text
    lines = [line for line in page.splitlines() if line.startswith(name)]
    assert lines, f"{name} is not in:\n{page[:2000]}"
    return sum(float(line.split()[-1]) for line in lines)


def wait_until_stored(server: ServerProcess) -> None:
    """Until stores have ended."""
    deadline, before = time.monotonic() + 60, -1.0
    while (stored := metric(server, "stepwell_tier_stored_bytes_total")) != before or not stored:
        assert time.monotonic() < deadline
        before = stored
        time.sleep(0.5)
    time.sleep(1.0)  # a busy machine may have more under way


def rows(folder: Path, copy: Path) -> int:
    """Chunks in the index of a disk tier. Of a copy, since the server has its own locked."""
    copy.mkdir(exist_ok=True)
    for file in (*folder.rglob(INDEX_FILE), *folder.rglob(f"{INDEX_FILE}-wal")):
        shutil.copy(file, copy)
    try:
        with closing(sqlite3.connect(copy / INDEX_FILE)) as db:
            return int(db.execute("SELECT count(*) FROM chunks").fetchone()[0])
    except sqlite3.DatabaseError:  # copied while it was written
        return 0


def test_a_session_survives_kill_9(start: Start, tmp_path: Path) -> None:
    disk = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "256MiB"}
    first = start("first", **disk)
    said = talk(first)
    copies = (tmp_path / f"copy-{n}" for n in count())
    # Stored and flushed, which an idle server does after a second.
    wait_until(
        lambda: rows(tmp_path / "disk", next(copies)) >= metric(first, "stepwell_tier_chunks") > 0
    )
    first.kill()
    # Whether a chunk is loaded or computed is decided by measured speeds: not each time, then.
    assert resume(start("second", **disk), said) > 300


@needs_server
def test_a_session_of_one_replica_resumes_on_another(start: Start, tmp_path: Path) -> None:
    port = free_port()
    with redis_server(tmp_path, port=port):
        shared = {"tiers__remote": f"redis://127.0.0.1:{port}/0"}
        first, second = start("a", **shared), start("b", **shared)
        restored = (resume(second, talk(first, suffix=str(n))) for n in range(TRIES))
        assert any(tokens > 300 for tokens in restored)
