"""Python's garbage collector in processes that import torch and transformers."""

from __future__ import annotations

import atexit
import gc


def collect_rarely() -> None:
    """A million objects come with the imports and stay. Looking through them at Python's own
    pace costs a third of the start, and once more at the end almost two seconds."""
    gc.set_threshold(100_000, 20, 50)
    atexit.register(gc.freeze)
