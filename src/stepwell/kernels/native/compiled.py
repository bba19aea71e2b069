"""Compiling kernels once per machine: where numba keeps machine code, and when it is stale.

Numba keys its cache on the file of the decorated function alone. Our kernels are built from
intrinsics in several files, so the folder name carries a hash of all of them: edited code never
meets old machine code. Numba adds the CPU's name and features itself.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import sigutils, types
from numba.core.ccallback import CFunc

from stepwell.kernels.native import compile_log

# A callback that works on one step's arguments; see team.run.
KERNEL_SIGNATURE = types.void(types.int64)
_KERNELS = Path(__file__).resolve().parent.parent
# No division raises, since nobody could catch it in a C callback.
_OPTIONS = {"error_model": "numpy"}
_lock = threading.Lock()  # numba's compiler and its cache setting are process-wide


def cache_folder() -> Path:
    """NUMBA_CACHE_DIR where set, else a folder of the user's cache; in it, one per source state."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(chosen) if chosen else Path(home) / "stepwell" / "numba"
    return root / f"kernels-{_sources_digest()[:16]}"


@cache
def _sources_digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(_KERNELS.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _usable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def compile_kernel(function: Callable[[int], None]) -> Any:
    """Machine code for a kernel callback (from the cache where it is there).

    The result keeps the code alive; its `.address` is a C function pointer `void(int64)`. Without
    a writable cache folder the kernel is compiled afresh in each process: slower, never wrong.
    """
    folder = cache_folder()
    name = function.__module__.removeprefix("stepwell.kernels.")
    with _lock, compile_log.making(name) as begin:
        before = numba.config.CACHE_DIR
        numba.config.CACHE_DIR = str(folder)
        try:
            signature = sigutils.normalize_signature(KERNEL_SIGNATURE)
            kernel: Any = CFunc(function, signature, {}, _OPTIONS)
            if _usable(folder):
                kernel.enable_caching()
            kernel._cache = _Telling(kernel._cache, begin)
            kernel.compile()
            return kernel
        finally:
            numba.config.CACHE_DIR = before


class _Telling:
    """numba's cache of one kernel, saying so when it does not hold it."""

    def __init__(self, cache: Any, missing: Callable[[], None]) -> None:
        self._cache, self._missing = cache, missing

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The machine code, None where it is not there."""
        found = self._cache.load_overload(signature, context)
        if found is None:
            self._missing()
        return found

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep it."""
        self._cache.save_overload(signature, code)
