"""A request body -> a Job: the tokenized requests for the engine, and how to write the reply.

Pure and synchronous: the server runs it on the event loop for small bodies and on a thread for
large ones; the CLI runs it for offline generation. Errors are RequestErrors that name the field.
"""

from __future__ import annotations

import enum
import json
import secrets
import time
from dataclasses import dataclass, replace
from typing import Any

from stepwell.base.errors import BodyTooLarge, InvalidParameter, RequestError, UnknownModel
from stepwell.base.request import GenerationRequest
from stepwell.base.sampling import SamplingParams
from stepwell.server.auth import ANYONE, Caller
from stepwell.server.context import CONTEXT_FIELDS, read_context
from stepwell.server.errors import KnowledgeOff
from stepwell.server.fields import Fields, check_text
from stepwell.server.knowledge.ports import Gave, Giver
from stepwell.server.knowledge.told import Told
from stepwell.server.knowledge.wish import FIELD as KNOWLEDGE
from stepwell.server.knowledge.wish import Mode, Wish, read_wish
from stepwell.server.messages import read_messages
from stepwell.server.ports import ModelInfoLike, TokenizerLike
from stepwell.server.sampling import (
    COMMON_FIELDS,
    DEFAULT_COMPLETION_TOKENS,
    IGNORED_FIELDS,
    UNSUPPORTED_FIELDS,
    LogprobsWanted,
    read_sampling,
    refuse_unserved,
)

MAX_PROMPTS = 1024
"""Prompts in one completions body."""


class Kind(enum.Enum):
    """Which of the two generation endpoints; the value is the start of reply ids."""

    CHAT = "chatcmpl"
    COMPLETION = "cmpl"


_COMMON_FIELDS = COMMON_FIELDS | CONTEXT_FIELDS | {KNOWLEDGE}
_CHAT_FIELDS = _COMMON_FIELDS | {
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
}
# /v1/completions takes max_completion_tokens too: load clients send it to both.
_COMPLETION_FIELDS = _COMMON_FIELDS | {"prompt", "echo", "max_completion_tokens"}
_NO_TEMPLATE_VARIABLE = frozenset(
    {
        "chat_template",
        "conversation",
        "messages",
        "tools",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "tokenizer_kwargs",
        "add_generation_prompt",
        "continue_final_message",
    }
)
_ALSO_ACCEPTED = IGNORED_FIELDS | frozenset(UNSUPPORTED_FIELDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyOptions:
    """How the reply is written. `created`: seconds since 1970."""

    reply_id: str
    kind: Kind
    model: str
    created: int
    stream: bool = False
    include_usage: bool = False
    usage_every_chunk: bool = False
    echo: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    token_ids: bool = False
    n: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """The requests of one body, one per prompt, with the prompts' texts where echo needs them.
    `told`: what the reply says of the knowledge that they were given; None where none was asked."""

    options: ReplyOptions
    requests: tuple[GenerationRequest, ...]
    prompt_texts: tuple[str, ...]
    told: Told | None = None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(len(request.prompt_token_ids) for request in self.requests)


def parse_json(body: bytes) -> dict[str, Any]:
    """The body as an object. Raises RequestError."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise RequestError("the body must be a JSON object.")
    return value


def kind_of(body: dict[str, Any]) -> Kind:
    """For bodies that come without a path (/invocations, JSONL): told by their fields."""
    if "messages" in body:
        return Kind.CHAT
    if "prompt" in body:
        return Kind.COMPLETION
    raise InvalidParameter("the body has neither messages nor prompt.", param="messages")


def prepare(
    body: dict[str, Any],
    *,
    kind: Kind,
    info: ModelInfoLike,
    tokenizer: TokenizerLike,
    caller: Caller = ANYONE,
    now: float | None = None,
    giver: Giver | None = None,
) -> Job:
    """Check and tokenize a body. `caller`: by its key; what the body says goes before what the key
    says. `now`: arrival on the monotonic clock. `giver`: of the caller's knowledge; None: there is
    none. Raises RequestError, and KnowledgeError where the body asks for knowledge."""
    fields = Fields(body)
    _check_names(fields, kind)
    if "model" in fields and fields.string("model", "") != info.name:
        raise UnknownModel(
            f"the model {fields.get('model')!r} is not served here.",
            hint=f"This server has {info.name!r}.",
            param="model",
        )
    echo = fields.boolean("echo", False) if kind is Kind.COMPLETION else False
    logprobs = _logprobs_wanted(fields, kind, echo=echo)
    sampling = read_sampling(fields, max_tokens=_max_tokens(fields, kind), logprobs=logprobs)
    options = _options(fields, kind, info, sampling, echo=echo)
    context = read_context(fields)
    asked = _asked(fields, giver, options.reply_id)
    if kind is Kind.CHAT:
        gave, prompt = _chat_prompt(fields, tokenizer, asked)
        prompts, texts = [prompt], [""]
    else:
        gave = _given_prompt(fields, asked) if asked is not None else None
        given = gave.messages[0]["content"] if gave is not None else fields.get("prompt")
        prompts, texts = _completion_prompts(fields, given, info, tokenizer, echo=echo)
    requests = tuple(
        GenerationRequest(
            request_id=f"{options.reply_id}-{number}",
            prompt_token_ids=prompt,
            sampling=sampling,
            arrival=time.monotonic() if now is None else now,
            priority=fields.integer("priority", 0) or 0,
            tenant=caller.tenant,
            session_id=context.session_id,
            workload=context.workload or caller.workload,
            ttl=context.ttl,
            pin=context.pin,
            store=context.store,
        )
        for number, prompt in enumerate(prompts)
    )
    told = None
    if asked is not None and gave is not None:
        told = gave.told
        if asked.wish.mode is Mode.ON:
            marks = asked.giver.sent(gave, requests[0])
            requests = tuple(replace(request, marks=marks) for request in requests)
    return Job(options=options, requests=requests, prompt_texts=tuple(texts), told=told)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A body's wish for knowledge, and who can fulfil it."""

    giver: Giver
    wish: Wish
    reply_id: str


def _asked(fields: Fields, giver: Giver | None, reply_id: str) -> _Asked | None:
    wish = read_wish(fields)
    if wish is None:
        return None
    if giver is None:
        raise KnowledgeOff(
            "this server keeps no knowledge.",
            hint="Set knowledge.folder (docs/serving.md), or leave `knowledge` out.",
            param=KNOWLEDGE,
        )
    return _Asked(giver, wish, reply_id)


def _given_prompt(fields: Fields, asked: _Asked) -> Gave:
    value = fields.get("prompt")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str):
        raise InvalidParameter(
            "a request for knowledge takes one prompt, as a string.",
            hint="Send one request a prompt, or leave `knowledge` out.",
            param="prompt",
        )
    text = check_text(value, where="prompt")
    return asked.giver.prompt(text, asked.wish, reply_id=asked.reply_id)


def _check_names(fields: Fields, kind: Kind) -> None:
    own = _CHAT_FIELDS if kind is Kind.CHAT else _COMPLETION_FIELDS
    refuse_unserved(fields)
    fields.refuse_unknown(own, also=_ALSO_ACCEPTED)


def _max_tokens(fields: Fields, kind: Kind) -> int | None:
    """None: up to the end of the context."""
    older = fields.integer("max_tokens")
    newer = fields.integer("max_completion_tokens")
    if older is not None and newer is not None and older != newer:
        raise InvalidParameter(
            f"max_tokens is {older} but max_completion_tokens is {newer}.",
            hint="Give one of them.",
            param="max_tokens",
        )
    given = newer if newer is not None else older
    if given is None and kind is Kind.COMPLETION:
        return DEFAULT_COMPLETION_TOKENS
    return given


def _logprobs_wanted(fields: Fields, kind: Kind, *, echo: bool) -> LogprobsWanted:
    """Chat has a flag and a count, completions one count, which echo extends to the prompt."""
    prompt = fields.integer("prompt_logprobs")
    if kind is Kind.COMPLETION:
        count = fields.integer("logprobs")
        if echo and count is not None:
            prompt = max(count, prompt or 0)
        return LogprobsWanted(output=count, prompt=prompt)
    top = fields.integer("top_logprobs")
    if fields.boolean("logprobs", False):
        return LogprobsWanted(output=top or 0, prompt=prompt)
    if top is not None:
        raise InvalidParameter(
            "top_logprobs needs logprobs=true.", hint="Set logprobs.", param="top_logprobs"
        )
    return LogprobsWanted(output=None, prompt=prompt)


def _options(
    fields: Fields, kind: Kind, info: ModelInfoLike, sampling: SamplingParams, *, echo: bool
) -> ReplyOptions:
    options = ReplyOptions(
        reply_id=f"{kind.value}-{secrets.token_hex(12)}",
        kind=kind,
        model=info.name,
        created=int(time.time()),
        stream=fields.boolean("stream", False),
        echo=echo,
        logprobs=sampling.logprobs,
        prompt_logprobs=fields.integer("prompt_logprobs"),
        token_ids=fields.boolean("return_token_ids", False),
        n=sampling.n,
    )
    table = fields.table("stream_options")
    if table is None:
        return options
    if not options.stream:
        raise InvalidParameter(
            "stream_options needs stream=true.", hint="Leave it out.", param="stream_options"
        )
    inner = Fields(table, prefix="stream_options.")
    inner.refuse_unknown({"include_usage", "continuous_usage_stats", "include_obfuscation"})
    every_chunk = inner.boolean("continuous_usage_stats", False)
    return replace(
        options,
        include_usage=inner.boolean("include_usage", False),
        usage_every_chunk=every_chunk,
    )


def _chat_prompt(
    fields: Fields, tokenizer: TokenizerLike, asked: _Asked | None
) -> tuple[Gave | None, tuple[int, ...]]:
    messages = read_messages(fields.get("messages"))
    kwargs = _template_kwargs(fields)
    gave = None
    if asked is not None:
        gave = asked.giver.chat(messages, asked.wish, reply_id=asked.reply_id)
        messages = gave.messages
    continues = fields.boolean("continue_final_message", False)
    ids = tokenizer.encode_chat(
        messages,
        add_generation_prompt=fields.boolean("add_generation_prompt", not continues),
        continue_final_message=continues,
        template_kwargs=kwargs,
    )
    return gave, tuple(ids)


def _template_kwargs(fields: Fields) -> dict[str, Any] | None:
    """Variables for the template; never arguments of the function that renders it."""
    table = fields.table("chat_template_kwargs")
    for name in table or {}:
        if name in _NO_TEMPLATE_VARIABLE or name.startswith("return_"):
            raise InvalidParameter(
                f"chat_template_kwargs.{name} is not a template variable.",
                param="chat_template_kwargs",
            )
    return table


def _completion_prompts(
    fields: Fields, value: Any, info: ModelInfoLike, tokenizer: TokenizerLike, *, echo: bool
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Token ids and (for echo) texts of a string, strings, token ids, or lists of them."""
    if value is None:
        raise InvalidParameter("prompt is missing.", param="prompt")
    single = isinstance(value, str) or (
        isinstance(value, list) and bool(value) and not isinstance(value[0], str | list)
    )
    items = [value] if single else value
    if not isinstance(items, list) or not items:
        raise fields.wrong("prompt", "a string, token ids, or a list of either")
    if len(items) > MAX_PROMPTS:
        raise BodyTooLarge(f"prompt has {len(items)} entries; the limit is {MAX_PROMPTS}.")
    special = fields.boolean("add_special_tokens", True)
    prompts: list[tuple[int, ...]] = []
    texts: list[str] = []
    for item in items:
        if isinstance(item, str):
            text = check_text(item, where="prompt")
            ids = tuple(tokenizer.encode(text, special_tokens=special))
        else:
            ids = _token_ids(item, info.vocab_size)
            text = tokenizer.decode(ids) if echo else ""
        prompts.append(ids)
        texts.append(text)
    return prompts, texts


def _token_ids(item: Any, vocab_size: int) -> tuple[int, ...]:
    if not isinstance(item, list) or not all(type(token) is int for token in item):
        raise InvalidParameter(
            "prompt must be a string, token ids, or a list of either.", param="prompt"
        )
    if not all(0 <= token < vocab_size for token in item):
        raise InvalidParameter(
            f"prompt holds a token id outside 0 to {vocab_size - 1}.", param="prompt"
        )
    return tuple(item)
