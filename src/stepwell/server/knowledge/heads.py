"""Where a pack stands in a prompt, in tokens, whatever the chat template puts around it.

The pack's own tokens are looked for in the prompt's, less a few at both ends, where a tokenizer may
join them with their neighbours. What is in front of them is the *head*: system messages and what
the template adds. All packs begin with the same preamble, so that the head of one request and the
text of another pack give the tokens that a request with that pack will have.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.server.ports import TokenizerLike

_EDGE = 4
"""Tokens at each end of a text that its neighbours may change."""
_KEPT = 32


@dataclass(frozen=True, slots=True)
class Place:
    """`head`: tokens in front of the pack's own, its first few included. `end`: tokens up to its
    last few. Everything of the pack and all that follows it lies behind `start`."""

    head: tuple[int, ...]
    end: int

    @property
    def start(self) -> int:
        return max(0, len(self.head) - 2 * _EDGE)


class PackTokens:
    """Tokens of packs, counted once. Not thread-safe."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    def inner(self, pack: str) -> tuple[int, ...]:
        """Without those at its ends; empty for a text that is too short to be found."""
        if pack not in self._kept:
            tokens = self._tokenizer.encode(pack, special_tokens=False)
            self._kept[pack] = tuple(tokens[_EDGE:-_EDGE])
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(pack)
        return self._kept[pack]

    def place(self, prompt: Sequence[int], pack: str) -> Place | None:
        """None where it is not found."""
        inner = self.inner(pack)
        at = _find(prompt, inner) if inner else -1
        return None if at < 0 else Place(tuple(prompt[:at]), at + len(inner))

    def forget(self) -> None:
        """Drop the texts that are kept (erasing)."""
        self._kept.clear()


def _find(tokens: Sequence[int], part: Sequence[int]) -> int:
    """The first place of `part` in `tokens`, -1 without one."""
    hay, needle = array("I", tokens).tobytes(), array("I", part).tobytes()
    size = array("I").itemsize
    at = hay.find(needle)
    while at >= 0 and at % size:
        at = hay.find(needle, at + 1)
    return at // size if at >= 0 else -1
