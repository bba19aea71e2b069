"""Deltas -> the JSON of a whole reply or of stream chunks.

The chunk of a plain text delta, the server's hottest path, is put together from prepared bytes
and one escaped string.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any

from stepwell.base.request import Delta, FinishReason, TokenLogprobs, Usage
from stepwell.server.http import event
from stepwell.server.knowledge.told import Told
from stepwell.server.logprobs import LegacyLogprobs, chat_logprobs, prompt_logprobs
from stepwell.server.ports import TokenizerLike
from stepwell.server.protocol import Job, Kind, ReplyOptions


@dataclass(slots=True)
class ChoiceState:
    """One choice of the reply so far. `started`: something of it was sent."""

    index: int
    prompt_token_ids: tuple[int, ...]
    legacy: LegacyLogprobs | None
    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    output_tokens: int = 0
    started: bool = False

    def add(self, delta: Delta) -> None:
        """Book a delta."""
        if delta.text:
            self.text.append(delta.text)
        if delta.token_ids:
            self.token_ids.extend(delta.token_ids)
            self.output_tokens += len(delta.token_ids)
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = delta.prompt_logprobs
        if delta.finish_reason is not None:
            self.finish_reason = delta.finish_reason
            self.stop_reason = delta.stop_reason
            self.usage = delta.usage

    def sent(self) -> None:
        """Forget what a chunk has carried away."""
        self.started = True
        self.text.clear()
        self.token_ids.clear()
        self.logprobs.clear()
        self.prompt_logprobs = None


class ReplyBuilder:
    """Collects the deltas of a job and writes them out, whole or in chunks."""

    def __init__(self, job: Job, *, tokenizer: TokenizerLike) -> None:
        self._options = job.options
        self._job = job
        self._tokenizer = tokenizer
        self._number = {request.request_id: i for i, request in enumerate(job.requests)}
        self.choices = [self._new_choice(i) for i in range(len(job.requests) * job.options.n)]
        self._ended = 0
        self._head = event(_frame(self._options, "chunk"))[: -len(b"}\n\n")]

    @property
    def streams(self) -> bool:
        """Whether the reply goes out in chunks."""
        return self._options.stream

    @property
    def finished(self) -> bool:
        """Whether every choice has its reason."""
        return all(choice.finish_reason is not None for choice in self.choices)

    def add(self, deltas: Iterable[Delta]) -> list[ChoiceState]:
        """Book deltas; returns the choices they belong to, each once."""
        touched: dict[int, ChoiceState] = {}
        for delta in deltas:
            index = self._number[delta.request_id] * self._options.n + delta.index
            choice = self.choices[index]
            choice.add(delta)
            touched[index] = choice
        return list(touched.values())

    def whole(self) -> dict[str, Any]:
        """The reply once finished."""
        reply = _frame(self._options, "whole")
        reply["choices"] = [self._whole_choice(choice) for choice in self.choices]
        reply["usage"] = self.usage()
        if self._job.told is not None:
            reply["knowledge"] = self._knowledge(self._job.told)
        return reply

    def chunk(self, choice: ChoiceState) -> bytes:
        """An event with what is new in a choice; empty if there is nothing to show yet."""
        options = self._options
        plain = (
            choice.started
            and options.logprobs is None
            and not options.token_ids
            and not options.usage_every_chunk
            and choice.finish_reason is None
        )
        text = "".join(choice.text)
        if plain:
            choice.sent()
            return self._plain_chunk(choice.index, text) if text else b""
        first = not choice.started
        if not (text or choice.finish_reason or choice.token_ids):
            return b""
        payload = _frame(options, "chunk")
        payload["choices"] = [self._chunk_choice(choice, text, first=first)]
        if options.usage_every_chunk:
            payload["usage"] = self._usage_so_far()
        elif options.include_usage:
            payload["usage"] = None
        if choice.finish_reason is not None:
            self._ended += 1
            if self._ended == len(self.choices) and self._job.told is not None:
                payload["knowledge"] = self._knowledge(self._job.told)
        choice.sent()
        return event(payload)

    def usage_chunk(self) -> bytes:
        """The last event of a stream that asked for usage."""
        payload = _frame(self._options, "chunk")
        payload["choices"] = []
        payload["usage"] = self.usage()
        return event(payload)

    def _knowledge(self, told: Told) -> dict[str, Any]:
        """In the whole reply, or in the last chunk that has a choice."""
        return told.as_dict(cached_tokens=self._cached_tokens())

    def _cached_tokens(self) -> int:
        first = [self.choices[i * self._options.n].usage for i in range(len(self._job.requests))]
        return sum(usage.cached_tokens for usage in first if usage is not None)

    def usage(self) -> dict[str, Any]:
        """Tokens of the whole job: each prompt once, every choice's output."""
        cached = self._cached_tokens()
        output = sum(
            choice.usage.completion_tokens if choice.usage is not None else choice.output_tokens
            for choice in self.choices
        )
        return _usage(self._job.prompt_tokens, output, cached)

    def _usage_so_far(self) -> dict[str, Any]:
        if self.finished:
            return self.usage()
        output = sum(choice.output_tokens for choice in self.choices)
        return _usage(self._job.prompt_tokens, output, 0)

    def _new_choice(self, index: int) -> ChoiceState:
        number = index // self._options.n
        options = self._options
        legacy = None
        if options.kind is Kind.COMPLETION and options.logprobs is not None:
            legacy = LegacyLogprobs(self._tokenizer, options.logprobs)
        choice = ChoiceState(
            index=index,
            prompt_token_ids=self._job.requests[number].prompt_token_ids,
            legacy=legacy,
        )
        if options.echo:
            choice.text.append(self._job.prompt_texts[number])
        return choice

    def _plain_chunk(self, index: int, text: str) -> bytes:
        escaped = encode_basestring_ascii(text)
        if self._options.kind is Kind.CHAT:
            inner = f'"delta":{{"content":{escaped}}}'
        else:
            inner = f'"text":{escaped}'
        tail = ',"usage":null}\n\n' if self._options.include_usage else "}\n\n"
        return self._head + (
            f',"choices":[{{"index":{index},{inner},"logprobs":null,"finish_reason":null}}]{tail}'
        ).encode("ascii")

    def _chunk_choice(self, choice: ChoiceState, text: str, *, first: bool) -> dict[str, Any]:
        if self._options.kind is Kind.CHAT:
            delta = {"role": "assistant", "content": text} if first else {"content": text}
            result: dict[str, Any] = {"index": choice.index, "delta": delta}
        else:
            result = {"index": choice.index, "text": text}
        return result | self._common(choice, first=first)

    def _whole_choice(self, choice: ChoiceState) -> dict[str, Any]:
        text = "".join(choice.text)
        if self._options.kind is Kind.CHAT:
            message = {"role": "assistant", "content": text, "refusal": None}
            result: dict[str, Any] = {"index": choice.index, "message": message}
        else:
            result = {"index": choice.index, "text": text}
        return result | self._common(choice, first=True)

    def _common(self, choice: ChoiceState, *, first: bool) -> dict[str, Any]:
        """Fields that whole choices and chunks of both kinds share."""
        options = self._options
        reason = choice.finish_reason.value if choice.finish_reason is not None else None
        common: dict[str, Any] = {
            "logprobs": self._logprobs(choice, first=first),
            "finish_reason": reason,
        }
        if reason is not None:
            common["stop_reason"] = choice.stop_reason
        if options.token_ids:
            common["token_ids"] = list(choice.token_ids)
            if first:
                common["prompt_token_ids"] = list(choice.prompt_token_ids)
        if options.prompt_logprobs is not None and choice.prompt_logprobs is not None:
            common["prompt_logprobs"] = prompt_logprobs(
                choice.prompt_logprobs, tokenizer=self._tokenizer, top=options.prompt_logprobs
            )
        return common

    def _logprobs(self, choice: ChoiceState, *, first: bool) -> dict[str, Any] | None:
        if self._options.logprobs is None:
            return None
        if choice.legacy is None:
            content = chat_logprobs(
                choice.logprobs, tokenizer=self._tokenizer, top=self._options.logprobs
            )
            return {"content": content, "refusal": None}
        if first and self._options.echo and choice.prompt_logprobs is not None:
            pairs = zip(choice.prompt_token_ids, choice.prompt_logprobs, strict=True)
            for token_id, entry in pairs:
                choice.legacy.add(token_id, entry)
        for item in choice.logprobs:
            choice.legacy.add(item.token_id, item)
        return choice.legacy.take()


def _frame(options: ReplyOptions, form: str) -> dict[str, Any]:
    """The fields around `choices`. `form`: whole or chunk."""
    if options.kind is Kind.CHAT:
        name = "chat.completion.chunk" if form == "chunk" else "chat.completion"
    else:
        name = "text_completion"
    return {
        "id": options.reply_id,
        "object": name,
        "created": options.created,
        "model": options.model,
    }


def _usage(prompt: int, output: int, cached: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def first_fault(deltas: Sequence[Delta]) -> Delta | None:
    """The first delta that ended by error or abort, if any."""
    for delta in deltas:
        if delta.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
            return delta
    return None
