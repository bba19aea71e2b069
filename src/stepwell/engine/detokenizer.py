"""Tokens to text, as they come.

A token may end inside a character, and some tokenizers drop a space at the start of a text; so
each new piece is the difference between decoding a short tail of tokens with and without the new
ones, and is held back while it ends in an incomplete character. Text that may be the beginning of
a stop string is held back too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_INCOMPLETE = "\ufffd"
_LONGEST_CHARACTER = 12  # tokens; a tail that is still incomplete then is not going to complete


@dataclass(slots=True)
class Detokenizer:
    """Incremental text of one sequence. `decode` maps token ids to text.

    `start`, `shown`: the tail decoded is tokens[start:], of which tokens[:shown] are shown.
    """

    decode: Callable[[Sequence[int]], str]
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    tokens: list[int] = field(default_factory=list)
    start: int = 0
    shown: int = 0
    held: str = ""
    stopped_by: str | None = None

    def begin(self, context: Sequence[int]) -> None:
        """Start after these tokens (the end of the prompt), which are not shown."""
        self.tokens = list(context)
        self.shown = len(self.tokens)

    def push(self, token_id: int) -> str:
        """Text that this token makes certain; sets `stopped_by` when a stop string is complete."""
        self.tokens.append(token_id)
        return self._release(self._new_text(final=False))

    def flush(self) -> str:
        """All text that was held back; call once, at the end."""
        if self.stopped_by is not None:
            return ""
        text = self.held + self._new_text(final=True)
        self.held = ""
        return text

    def _new_text(self, *, final: bool) -> str:
        before = self.decode(self.tokens[self.start : self.shown])
        text = self.decode(self.tokens[self.start :])
        waits = text.endswith(_INCOMPLETE) and len(self.tokens) - self.shown < _LONGEST_CHARACTER
        if len(text) <= len(before) or (waits and not final):
            return ""
        self.start, self.shown = self.shown, len(self.tokens)
        return text[len(before) :]

    def _release(self, text: str) -> str:
        """Hold back what may become a stop string; cut at a complete one."""
        if not self.stop:
            return text
        text = self.held + text
        found = [(at, s) for s in self.stop if (at := text.find(s)) >= 0]
        if found:
            at, self.stopped_by = min(found)
            self.held = ""
            return text[: at + len(self.stopped_by)] if self.include_stop else text[:at]
        keep = _longest_overlap(text, self.stop)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _longest_overlap(text: str, stop: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins a stop string."""
    longest = min(len(text), max(len(s) for s in stop) - 1)
    for length in range(longest, 0, -1):
        tail = text[-length:]
        if any(s.startswith(tail) for s in stop):
            return length
    return 0
