"""oneDNN's caches of compiled matrix products, which are keyed by the number of rows.

A ragged step has any number of rows up to its budget, so an unbounded cache fills with one entry
per number of rows and layer shape: some 300 MB in the first two thousand requests of a small model.
Two caches stand in a row: torch's (ideep) and oneDNN's own. Both read their size from the
environment at first use, which may come after torch was imported.
"""

from __future__ import annotations

import os

from stepwell.base.decisions import Decision

# Entries of each. A model has about five different products, so this holds a dozen numbers of rows;
# measured with 32, 64, 256 and 1,024: the fewer, the faster (docs/lab-notes.md).
_ENTRIES = 64
_VARIABLES = ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def bound_primitive_caches() -> Decision:
    """Bound both caches. The user's own settings are left alone."""
    values = [int(os.environ.setdefault(name, str(_ENTRIES))) for name in _VARIABLES]
    why = "entries for one number of rows each; without a bound they grow with every new one"
    return Decision("memory.onednn_cache", min(values), why)
