"""Loading torch's shared library on a second core while Python imports what comes before torch.

Opening the library (434 MB) registers thousands of operators, a quarter of a second of machine
code that needs no interpreter. Until it is open, the system's loader opens no other library for
this process: modules that have some are to be imported before.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import threading
from pathlib import Path

_LIBRARY = "libtorch_cpu.so"


def load_torch_beside() -> None:
    """Begin; importing torch waits for the end. Nothing happens where torch is imported already,
    or has no such library."""
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "lib" / _LIBRARY
    if library.is_file():
        threading.Thread(target=_open, args=(library,), name="load torch", daemon=True).start()


def _open(library: Path) -> None:
    """A failure is left to the import of torch, which reports it."""
    opened = ctypes.CDLL(None).dlopen  # called so, it leaves the interpreter to other threads
    opened.argtypes, opened.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    opened(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)
