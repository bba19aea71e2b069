"""How idle worker threads wait. To be called before torch is imported."""

from __future__ import annotations

import os

# Turns of an idle worker's waiting loop before it sleeps. GNU OpenMP's own choice spins for some
# milliseconds: beside any other process that wants a core, each parallel region then waits for a
# scheduler slice. Measured on two cores with a 0.5B model: alone on the machine decoding is as fast
# as with the default, beside other processes 1.4 to 2.4 times faster (docs/lab-notes.md).
_SPIN_COUNT = "20000"


def bound_spinning() -> None:
    """Let OpenMP's workers spin shortly, then sleep. The user's own settings are left alone."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
