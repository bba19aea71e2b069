"""Models larger than memory: decoder layers come from disk while the ones before them compute.

Owns: the choice of what stays (`plan`), the file that is read (`store`, built by `build` from a
`skeleton` and a `checkpoint`), reading ahead (`reader`), pointing layers at what was read
(`streamer`), the embedding by rows (`embedding`), and all of it in order (`load`). Does not own:
how layers compute, which must take the addresses of their tensors anew at each call.
"""

from __future__ import annotations

from stepwell.model.streaming.load import Needs, load_within_budget, measure_read, needs_of
from stepwell.model.streaming.streamer import Streamer

__all__ = ["Needs", "Streamer", "load_within_budget", "measure_read", "needs_of"]
