"""Real servers on free ports, in a thread of this process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx

from stepwell.base.config import load_config
from stepwell.server.app import App
from stepwell.server.lifecycle import Listener, Server, check_settings


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Of use where nothing can be waited for; `seconds` are for a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.005)


@dataclass
class Running:
    """A server in a thread of this process."""

    url: str
    engine: Any
    app: App
    server: Server
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def openai(self, key: str = "none", **options: Any) -> Any:
        """The real client, without its retries."""
        import openai

        return openai.OpenAI(base_url=self.url, api_key=key, max_retries=0, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.post(self.root + path, json=body, timeout=30, **options)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with httpx.Client(trust_env=False) as client:
            return client.get(self.root + path, timeout=30, **options)

    def abandon(
        self,
        path: str,
        body: Any,
        *,
        when: Callable[[], Any],
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Send a request, and hang up without reading a reply once `when()` is true."""
        host, port = self.root.removeprefix("http://").split(":")
        content = json.dumps(body).encode()
        lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)
            wait_until(when)

    def leave(self) -> None:
        self.loop.call_soon_threadsafe(self.server.leave)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.leave()
        self.thread.join(timeout=60)
        assert not self.thread.is_alive()


def start_server(engine: Any, *, recorder: Any = None, **settings: Any) -> Running:
    """Serve `engine`; settings are those of [server], plus max_waiting of [scheduler] and, as
    `knowledge={...}`, those of [knowledge]."""
    overrides: dict[str, Any] = {"server.port": 0, "server.shutdown_grace": 5.0}
    for name, value in settings.pop("knowledge", {}).items():
        overrides[f"knowledge.{name}"] = value
    for name, value in settings.items():
        section = "scheduler" if name in ("max_waiting", "max_sequences") else "server"
        overrides[f"{section}.{name}"] = value
    config = load_config(None, overrides)
    listener = Listener(config.server.host, config.server.port)
    app = App(engine, config=config, keys=check_settings(config), recorder=recorder)
    server = Server(app, grace=config.server.shutdown_grace)
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        await server.run_until_told(listener, on_ready=lambda url: ready.set())

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="test-server", daemon=True)
    thread.start()
    assert ready.wait(30)
    return Running(listener.url, engine, app, server, loops[0], thread)
