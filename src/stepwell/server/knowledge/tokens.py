"""How many tokens a text has, by the served model's tokenizer, counted once."""

from __future__ import annotations

from functools import lru_cache

from stepwell.server.ports import TokenizerLike

_KEPT = 16384


class TokenCounter:
    """Of texts without special tokens. Safe from several threads."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._kept = lru_cache(maxsize=_KEPT)(self._count)

    def __call__(self, text: str) -> int:
        return self._kept(text)

    def forget(self) -> None:
        """Drop the texts that are kept (erasing)."""
        self._kept.cache_clear()

    def _count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, special_tokens=False)) if text else 0
