"""Pins: which blocks of the device's prefix cache are evicted last, within a share of the pool.

A pin names the keys of a whole prefix, whether its blocks are there or not. Pins are ordered by
worth; the best ones are protected, prefix first, until the share is used up. Protected blocks still
count as available: a request that needs room gets theirs when nothing else is left, the least worth
and the deepest first. So a pin never makes a request wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Pin:
    keys: tuple[bytes, ...]
    worth: float


class DevicePins:
    """Keys by rank: 0 is to be evicted last. Owned by `BlockPool`."""

    def __init__(self, most_blocks: int) -> None:
        """`most_blocks`: how many may be protected."""
        self._most = most_blocks
        self._pins: dict[str, _Pin] = {}
        self._ranks: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._pins)

    def rank(self, key: bytes | None) -> int | None:
        """None: not protected."""
        return None if key is None else self._ranks.get(key)

    def set(self, name: str, keys: Sequence[bytes], *, worth: float) -> None:
        """Pin, or pin anew."""
        self._pins[name] = _Pin(tuple(keys), worth)
        self._order()

    def drop(self, name: str) -> None:
        """Unpin. Unknown names are ignored."""
        if self._pins.pop(name, None) is not None:
            self._order()

    def drop_holding(self, keys: frozenset[bytes]) -> list[str]:
        """Unpin whatever holds one of these keys; the names."""
        names = [name for name, pin in self._pins.items() if not keys.isdisjoint(pin.keys)]
        for name in names:
            del self._pins[name]
        if names:
            self._order()
        return names

    def protected(self, name: str) -> int:
        """How many of a pin's keys are within the share."""
        pin = self._pins.get(name)
        return 0 if pin is None else sum(key in self._ranks for key in pin.keys)

    def _order(self) -> None:
        self._ranks = {}
        for _, pin in sorted(self._pins.items(), key=lambda item: (-item[1].worth, item[0])):
            for key in pin.keys:
                if len(self._ranks) >= self._most:
                    return
                self._ranks.setdefault(key, len(self._ranks))
