"""The unit of packed weights: rows that the CPU kernels compute side by side, and lay side by side.

Rows of a weight are columns of the layer's output.
"""

from __future__ import annotations

PANEL_ROWS = 16  # of a panel: one register
PANELS = 4  # of a unit
UNIT_ROWS = PANEL_ROWS * PANELS


def padded_rows(rows: int) -> int:
    """Rows of whole units that hold `rows`."""
    return UNIT_ROWS * max(1, -(-rows // UNIT_ROWS))
