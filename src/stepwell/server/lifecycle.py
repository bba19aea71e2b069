"""From a built engine to a process that serves until it is told to stop.

On SIGTERM or SIGINT: the listening socket closes, /health turns 503, new requests on open
connections get 503, running ones have `server.shutdown_grace` seconds, the rest are aborted with
an error reply, and the process ends with 0. A second signal cuts the grace short.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from stepwell.base.config import Config
from stepwell.base.errors import ConfigError
from stepwell.server.app import App
from stepwell.server.auth import KeyRing, check_exposure, load_keys
from stepwell.server.knowledge.start import check_knowledge
from stepwell.server.ports import EngineLike
from stepwell.server.recorder import Recorder

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 75
_REPLY_SECONDS = 10.0
"""After the grace, for the last error replies to leave."""


class Listener:
    """A bound socket and the address that clients use. It refuses connections until served."""

    def __init__(self, host: str, port: int) -> None:
        """Raises ConfigError when the address cannot be bound."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self.socket.bind((host, port))
        except OSError as error:
            self.socket.close()
            raise ConfigError(
                f"cannot listen on {host}:{port}: {error.strerror or error}.",
                hint="Choose another --port (0: any free one).",
                param="server.port",
            ) from error
        self.socket.setblocking(False)
        self.port: int = self.socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/v1"


class Server(uvicorn.Server):
    """uvicorn, with the signals left to us and an engine to stop alongside."""

    def __init__(self, app: App, *, grace: float) -> None:
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="on",
            ws="none",
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            server_header=False,
            timeout_graceful_shutdown=int(grace + _REPLY_SECONDS) + 1,
        )
        super().__init__(settings)
        self._app = app
        self._grace = grace
        self._stopping: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing: uvicorn would raise the signal again and end with a status other than 0."""
        yield

    def leave(self) -> None:
        """Begin to stop; called again, do not wait for running requests. On the event loop."""
        if self._stopping is None:
            logger.info("stopping; running requests have %g s", self._grace)
            self._stopping = asyncio.ensure_future(self._app.engine.stop(grace=self._grace))
        else:
            self._app.engine.hurry()
        self.should_exit = True

    async def run_until_told(self, listener: Listener, *, on_ready: Callable[[str], None]) -> None:
        """Serve. `on_ready` is told the base URL once connections are accepted."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Only the main thread may set handlers; elsewhere (tests) `leave` is called directly.
            with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                loop.add_signal_handler(number, self.leave)
        serving = asyncio.ensure_future(self.serve(sockets=[listener.socket]))
        while not self.started and not serving.done():
            await asyncio.sleep(0.005)
        if self.started:
            on_ready(listener.url)
        await serving
        if self._stopping is not None:
            await self._stopping


def check_settings(config: Config, *, sagemaker: bool = False) -> KeyRing:
    """Keys, the rule that no other machine gets in without one, and what knowledge needs. Raises
    ConfigError.

    `sagemaker`: the container contract puts its own access control in front.
    """
    keys = load_keys(config.server)
    if not sagemaker:
        check_exposure(config.server.host, keys=keys)
    check_knowledge(config.knowledge, tenants=keys.tenants())
    return keys


def run_server(
    engine: EngineLike,
    *,
    config: Config,
    keys: KeyRing,
    listener: Listener,
    on_ready: Callable[[str], None],
    recorder: Recorder | None = None,
) -> None:
    """Serve until a signal; returns after a graceful stop."""
    app = App(engine, config=config, keys=keys, recorder=recorder)
    server = Server(app, grace=config.server.shutdown_grace)
    runner = asyncio.Runner(loop_factory=server.config.get_loop_factory())
    try:
        with runner:
            runner.run(server.run_until_told(listener, on_ready=on_ready))
    finally:
        if recorder is not None:
            recorder.close()
