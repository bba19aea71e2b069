"""Log-probabilities in the two shapes that clients read: chat (objects) and legacy (columns)."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.base.request import TokenLogprobs
from stepwell.server.ports import TokenizerLike

LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot say (OpenAI's own stand-in)."""


def token_label(tokenizer: TokenizerLike, token_id: int) -> str:
    """The token as text; `bytes:\\xe2\\x80` where its bytes are no whole characters."""
    data = tokenizer.token_bytes(token_id)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(
    entries: Sequence[TokenLogprobs], *, tokenizer: TokenizerLike, top: int
) -> list[dict[str, Any]]:
    """`choices[].logprobs.content` of a chat reply."""
    return [
        {
            **_chat_token(tokenizer, entry.token_id, entry.logprob),
            "top_logprobs": [_chat_token(tokenizer, *pair) for pair in entry.top[:top]],
        }
        for entry in entries
    ]


def prompt_logprobs(
    entries: Sequence[TokenLogprobs | None], *, tokenizer: TokenizerLike, top: int
) -> list[dict[str, Any] | None]:
    """vLLM's shape: per position, token id -> logprob, rank and text; null for the first."""
    rows: list[dict[str, Any] | None] = []
    for entry in entries:
        if entry is None:
            rows.append(None)
            continue
        ranked = [(rank + 1, *pair) for rank, pair in enumerate(entry.top[:top])]
        ranked.append((entry.rank, entry.token_id, entry.logprob))
        rows.append(
            {
                str(token_id): {
                    "logprob": _finite(logprob),
                    "rank": rank,
                    "decoded_token": token_label(tokenizer, token_id),
                }
                for rank, token_id, logprob in ranked
            }
        )
    return rows


@dataclass(slots=True)
class LegacyLogprobs:
    """Columns of /v1/completions for one choice, growing with its text.

    `top` alternatives per position, and always the token itself: lm-eval tells a greedy token by
    comparing the two. `text_offset` counts characters from the start of the choice's text.
    """

    tokenizer: TokenizerLike
    top: int
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)
    _length: int = 0
    _decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, token_id: int, entry: TokenLogprobs | None) -> None:
        """The next token; `entry` is None where nothing predicts it."""
        self.tokens.append(token_label(self.tokenizer, token_id))
        self.text_offset.append(self._length)
        self._length += self._visible_length(token_id)
        if entry is None:
            self.token_logprobs.append(None)
            self.top_logprobs.append(None)
            return
        self.token_logprobs.append(_finite(entry.logprob))
        pairs = [*entry.top[: self.top], (entry.token_id, entry.logprob)]
        self.top_logprobs.append(
            {token_label(self.tokenizer, token): _finite(logprob) for token, logprob in pairs}
        )

    def take(self) -> dict[str, Any]:
        """What was added since the last call."""
        columns = {
            "tokens": self.tokens,
            "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs,
            "text_offset": self.text_offset,
        }
        self.tokens, self.token_logprobs, self.top_logprobs, self.text_offset = [], [], [], []
        return columns

    def _visible_length(self, token_id: int) -> int:
        """Characters that the token adds to the text; special tokens add none."""
        if self.tokenizer.decode([token_id], skip_special_tokens=True) == "":
            return 0
        return len(self._decoder.decode(self.tokenizer.token_bytes(token_id)))


def _chat_token(tokenizer: TokenizerLike, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_label(tokenizer, token_id),
        "logprob": _finite(logprob),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }


def _finite(logprob: float) -> float:
    return logprob if logprob > LOWEST else LOWEST
