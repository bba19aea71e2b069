"""A word in memory by which one thread asks a program that another one runs to end early."""

from __future__ import annotations

import numpy as np


class Interrupt:
    """Programs look at it where their calls say so (`program.WAIT_OR_END`). Any thread may ask;
    whoever runs programs clears it before looking for what the others may want."""

    def __init__(self) -> None:
        self._word = np.zeros(1, dtype=np.int64)

    @property
    def address(self) -> int:
        """Of the word, an int64: 0 as long as nobody asks."""
        return int(self._word.ctypes.data)

    def ask(self) -> None:
        """End at the next place where that can be."""
        self._word[0] = 1

    def clear(self) -> None:
        """Nobody asks."""
        self._word[0] = 0
