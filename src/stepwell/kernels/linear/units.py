"""The unit of packed weights: rows that the CPU kernels compute side by side, and lay side by side,
and how far ahead of their use they are asked for.

Rows of a weight are columns of the layer's output.
"""

from __future__ import annotations

PANEL_ROWS = 16  # of a panel: one register
PANELS = 4  # of a unit
UNIT_ROWS = PANEL_ROWS * PANELS
# Bytes from the weights in use to those that are asked for. Further away they are a second stream
# beside the one that the hardware follows: asking for the next unit, 28 to 608 KiB away, cost bf16
# and lossless a tenth to a third of their rate where memory is fast (docs/lab-notes.md).
AHEAD = 4096


def padded_rows(rows: int) -> int:
    """Rows of whole units that hold `rows`."""
    return UNIT_ROWS * max(1, -(-rows // UNIT_ROWS))
