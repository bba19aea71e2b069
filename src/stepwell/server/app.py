"""The ASGI application: paths, keys, limits, and every error in OpenAI's shape.

| path | what |
|---|---|
| GET /v1/models, /v1/models/{id} | the served model |
| POST /v1/chat/completions, /v1/completions | generation |
| POST /invocations | SageMaker: either body, told by its fields |
| GET /health, /ping | 200 while requests are taken, else 503; never needs a key |
| GET /metrics | Prometheus text |
| GET /knowledge | the review page; needs no key |
| /v1/knowledge/... | the tenant's knowledge base (`knowledge/routes.py`) |
| GET /debug/memory | live tensors and large containers; only with `server.debug` |
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from stepwell.base.config import Config, ServerConfig
from stepwell.base.errors import (
    EngineStopped,
    QueueFull,
    RequestError,
    StepwellError,
    UnknownModel,
)
from stepwell.base.units import parse_bytes
from stepwell.doctor.leaks.audit import audit
from stepwell.server.async_engine import AsyncEngine
from stepwell.server.auth import (
    ANYONE,
    Caller,
    KeyRing,
    check_host_header,
    check_origin_header,
    is_loopback,
)
from stepwell.server.errors import (
    KnowledgeOff,
    MethodNotAllowed,
    RequestTimeout,
    UnknownRoute,
    http_status,
)
from stepwell.server.generate import answer, last_words
from stepwell.server.http import Exchange, Receive, Scope, Send
from stepwell.server.knowledge.pack_engine import ServerPackEngine
from stepwell.server.knowledge.packs import PackKeeper
from stepwell.server.knowledge.ports import Giver
from stepwell.server.knowledge.site import PATH as PAGE
from stepwell.server.knowledge.site import Site
from stepwell.server.knowledge.start import make_knowledge
from stepwell.server.knowledge.wish import FIELD as KNOWLEDGE
from stepwell.server.limits import RateLimitedFor, RateLimiter, Resource
from stepwell.server.metrics import CONTENT_TYPE, Metrics
from stepwell.server.ports import EngineLike
from stepwell.server.protocol import Job, Kind, kind_of, parse_json, prepare
from stepwell.server.recorder import Recorder

if TYPE_CHECKING:
    from stepwell.server.knowledge.http import KnowledgePaths

logger = logging.getLogger(__name__)

_INLINE_BYTES = 4096
"""Bodies up to this size are parsed and tokenized on the event loop, larger ones on a thread."""

_OPEN_PATHS = frozenset({"/health", "/ping"})
_MODELS = "/v1/models"
_KNOWLEDGE = "/v1/knowledge"

_A = TypeVar("_A")
_T = TypeVar("_T")
_Handler = Callable[[Exchange, Caller], Awaitable[None]]


class App:
    """ASGI application over one engine, which it starts with the event loop.

    Raises ConfigError for an engine without a tokenizer.
    """

    def __init__(
        self,
        engine: EngineLike,
        *,
        config: Config,
        keys: KeyRing,
        recorder: Recorder | None = None,
    ) -> None:
        settings = config.server
        self.knowledge = (
            make_knowledge(
                config.knowledge,
                tokenizer=engine.tokenizer,
                keeper=PackKeeper(
                    ServerPackEngine(lambda: self.engine),
                    engine.tokenizer,
                    pins=config.knowledge.pin,
                ),
            )
            if engine.tokenizer is not None
            else None
        )
        self.metrics = Metrics(
            model_name=engine.info.name,
            cache_config={
                "block_size": str(config.cache.block_size),
                "cache_dtype": config.model.kv,
                "enable_prefix_caching": str(config.cache.prefix_caching),
            },
            knowledge=self.knowledge.counts if self.knowledge is not None else None,
        )
        self.engine = AsyncEngine(engine, metrics=self.metrics, recorder=recorder)
        self._settings: ServerConfig = settings
        self._keys = keys
        self._only_local = not len(keys) and is_loopback(settings.host)
        self._max_body = parse_bytes(settings.max_body)
        self._limiter = RateLimiter(
            requests_per_minute=settings.requests_per_minute,
            tokens_per_minute=settings.tokens_per_minute,
        )
        limits = config.scheduler
        self._max_in_flight = limits.max_waiting + limits.max_sequences
        self._in_flight = 0
        self._preparers = ThreadPoolExecutor(2, thread_name_prefix="stepwell-prepare")
        self._knowledge_paths = self._make_knowledge_paths()
        self._created = int(time.time())
        self._routes: dict[str, dict[str, _Handler]] = {
            "/health": {"GET": self._health},
            "/ping": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            _MODELS: {"GET": self._models},
            "/v1/chat/completions": {"POST": partial(self._generate, kind=Kind.CHAT)},
            "/v1/completions": {"POST": partial(self._generate, kind=Kind.COMPLETION)},
            "/invocations": {"POST": partial(self._generate, kind=None)},
        }
        if settings.debug:
            self._routes["/debug/memory"] = {"GET": self._debug_memory}
        self._site = Site()
        self._known = frozenset(self._routes)
        if self._knowledge_paths is not None:
            self._known |= self._knowledge_paths.patterns | self._site.paths

    def _make_knowledge_paths(self) -> KnowledgePaths | None:
        if self.knowledge is None:
            return None
        from stepwell.server.knowledge.http import KnowledgePaths

        timeout = self._settings.request_timeout
        return KnowledgePaths(
            self.knowledge, engine=self.engine, timeout=timeout, max_body=self._max_body
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._serve(Exchange(scope, receive, send))
        else:
            await send({"type": "websocket.close"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.engine.start()
                if self.knowledge is not None:
                    self.knowledge.keeper.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                if self.knowledge is not None:
                    await self.knowledge.close()
                await self.engine.stop(grace=0.0)
                self.engine.close()
                self._preparers.shutdown(wait=False)
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, exchange: Exchange) -> None:
        """Run the handler of a path; any error becomes the reply."""
        route = exchange.path
        try:
            route, handler = self._find(exchange)
            caller = ANYONE
            if self._only_local:
                check_host_header(exchange.header("host"))
                check_origin_header(exchange.header("origin"))
            if route not in _OPEN_PATHS and route not in self._site.paths:
                caller = self._keys.caller_of(exchange.header("authorization"))
            await handler(exchange, caller)
        except StepwellError as error:
            await self._refuse(exchange, error)
        except Exception:
            logger.exception("internal error at %s", route)
            await self._refuse(exchange, StepwellError("an internal error; see the server's log."))
        finally:
            known = route if route in self._known else "other"
            self.metrics.replied(known, exchange.status)

    def _find(self, exchange: Exchange) -> tuple[str, _Handler]:
        path = exchange.path.rstrip("/") or "/"
        methods = self._routes.get(path)
        if methods is None and path.startswith(_MODELS + "/"):
            path = _MODELS
            methods = {"GET": self._model}
        if path == PAGE or path.startswith(PAGE + "/"):
            self._check_knowledge_on()
            methods = {"GET": self._page}
        if path == _KNOWLEDGE or path.startswith(_KNOWLEDGE + "/"):
            return self._find_knowledge(exchange)
        if methods is None:
            raise UnknownRoute(
                f"there is no {exchange.path} here.", hint=f"Paths: {', '.join(self._routes)}."
            )
        if exchange.method not in methods:
            raise MethodNotAllowed(
                f"{path} does not take {exchange.method}.", hint=f"Use {', '.join(methods)}."
            )
        return path, methods[exchange.method]

    async def _page(self, exchange: Exchange, caller: Caller) -> None:
        await self._site(exchange, exchange.path.rstrip("/"))

    def _check_knowledge_on(self) -> None:
        if self._knowledge_paths is None:
            raise KnowledgeOff(
                "this server keeps no knowledge.",
                hint="Set knowledge.folder (docs/serving.md), then start it again.",
            )

    def _find_knowledge(self, exchange: Exchange) -> tuple[str, _Handler]:
        self._check_knowledge_on()
        assert self._knowledge_paths is not None
        return self._knowledge_paths.route(exchange), self._knowledge_call

    async def _knowledge_call(self, exchange: Exchange, caller: Caller) -> None:
        assert self._knowledge_paths is not None
        now = time.monotonic()
        self._limiter.admit(caller.tenant, resource=Resource.REQUESTS, amount=1, now=now)
        await self._knowledge_paths(exchange, caller)

    async def _refuse(self, exchange: Exchange, error: StepwellError) -> None:
        self.metrics.refused(error.code)
        if http_status(error) >= 500:
            logger.warning("%s: %s (%s)", exchange.path, error, error.code)
        seconds = error.seconds if isinstance(error, RateLimitedFor) else None
        write = asyncio.create_task(exchange.reply_error(error, retry_after=seconds))
        await last_words(write)

    async def _health(self, exchange: Exchange, caller: Caller) -> None:
        if not self.engine.healthy:
            raise EngineStopped("the engine takes no requests.")
        await exchange.reply_json({"status": "ok"})

    async def _metrics(self, exchange: Exchange, caller: Caller) -> None:
        stats, age = await self.engine.stats()
        account = await self.engine.account()
        page = self.metrics.render(stats, stats_age=age, account=account)
        headers = ((b"content-type", CONTENT_TYPE.encode()),)
        await exchange.reply(page, status=200, content_headers=headers)

    async def _debug_memory(self, exchange: Exchange, caller: Caller) -> None:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._preparers, audit)
        await exchange.reply_json(found.as_dict())

    async def _models(self, exchange: Exchange, caller: Caller) -> None:
        await exchange.reply_json({"object": "list", "data": [self._card()]})

    async def _model(self, exchange: Exchange, caller: Caller) -> None:
        wanted = exchange.path.removeprefix(_MODELS + "/")
        name = self.engine.info.name
        if wanted != name:
            raise UnknownModel(
                f"the model {wanted!r} is not served here.",
                hint=f"This server has {name!r}.",
                param="model",
            )
        await exchange.reply_json(self._card())

    def _card(self) -> dict[str, object]:
        info = self.engine.info
        return {
            "id": info.name,
            "object": "model",
            "created": self._created,
            "owned_by": "stepwell",
            "max_model_len": info.max_model_len,
        }

    async def _generate(self, exchange: Exchange, caller: Caller, *, kind: Kind | None) -> None:
        """Admit, read, tokenize, generate, reply."""
        now = time.monotonic()
        tenant = caller.tenant
        self._limiter.admit(tenant, resource=Resource.REQUESTS, amount=1, now=now)
        if self._in_flight >= self._max_in_flight:
            raise QueueFull(f"{self._in_flight} requests are in flight.", hint="Try again later.")
        self._in_flight += 1
        try:
            job = await self._read_job(exchange, kind, caller, now)
            self._limiter.admit(tenant, resource=Resource.TOKENS, amount=job.prompt_tokens, now=now)
            await answer(
                exchange,
                job,
                engine=self.engine,
                timeout=self._settings.request_timeout,
                charge=partial(self._charge, tenant),
            )
        finally:
            self._in_flight -= 1

    async def _read_job(
        self, exchange: Exchange, kind: Kind | None, caller: Caller, now: float
    ) -> Job:
        timeout = self._settings.request_timeout or None
        try:
            async with asyncio.timeout(timeout):
                body = await exchange.body(limit=self._max_body)
        except TimeoutError as error:
            raise RequestTimeout("the body did not arrive in time.") from error
        if len(body) <= _INLINE_BYTES:
            fields = parse_json(body)
        else:
            fields = await self._on_thread(parse_json, body)
        prepare_it = partial(self._prepare, fields, kind, caller, now)
        if self.knowledge is not None and fields.get(KNOWLEDGE) is not None:
            service, book = self.knowledge, self.knowledge.book(caller)
            return await book.run(
                lambda book: prepare_it(service.giver(book, caller)), seconds=timeout
            )
        if len(body) <= _INLINE_BYTES:
            return prepare_it(None)
        return await self._on_thread(prepare_it, None)

    async def _on_thread(self, work: Callable[[_A], _T], argument: _A) -> _T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._preparers, work, argument)

    def _prepare(
        self,
        fields: dict[str, Any],
        kind: Kind | None,
        caller: Caller,
        now: float,
        giver: Giver | None,
    ) -> Job:
        """A body -> Job. Runs on the event loop, on a thread, or on the tenant's with `giver`."""
        try:
            return prepare(
                fields,
                kind=kind or kind_of(fields),
                info=self.engine.info,
                tokenizer=self.engine.tokenizer,
                caller=caller,
                now=now,
                giver=giver,
            )
        except RecursionError as error:
            raise RequestError("the body is nested too deeply.") from error

    def _charge(self, tenant: str, tokens: int) -> None:
        self._limiter.charge(tenant, resource=Resource.TOKENS, amount=tokens, now=time.monotonic())
