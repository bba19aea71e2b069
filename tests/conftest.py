"""What all tests share: the environment they run in."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import settings

# Workers that wait do not spin: tests share their machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Re-count the engine's books after every step (see engine/build.py).
os.environ.setdefault("STEPWELL_CHECK", "1")
# Nothing here may reach the network for a model.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models of the tests are tiny: a second thread only waits. Kernel tests ask for two themselves.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Machine code of kernels is the same for all: a test with a cache folder of its own compiles none.
_CACHE = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(_CACHE) / "stepwell" / "numba"))

# The same examples every time, so that a red run means a change; `make test-full` draws new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("new", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("STEPWELL_EXAMPLES", "same"))
