"""llama.cpp's own quantization of a bfloat16 GGUF file, once, into a file beside it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp as api

FORMATS = {"int8": api.LLAMA_FTYPE_MOSTLY_Q8_0, "int4": api.LLAMA_FTYPE_MOSTLY_Q4_0}
"""Blocks of 32 weights with a float16 scale: Q8_0 has 8.5 bits a weight, Q4_0 has 4.5."""


def quantized(file: Path, weights: str) -> Path:
    """The file with all its matrices in that format; `file` itself for bf16.

    All of them (`pure`): by default a Q4_0 file keeps the output head in 6 or 8 bits, more bytes
    for each token than an engine whose head is in 4 bits reads.
    """
    if weights == "bf16":
        return file
    target = file.with_suffix("").with_suffix(f".{weights}.gguf")
    if target.is_file() and target.stat().st_mtime >= file.stat().st_mtime:
        return target
    params = api.llama_model_quantize_default_params()
    params.ftype = FORMATS[weights]
    params.pure = True
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        status = api.llama_model_quantize(
            str(file).encode(), str(part).encode(), ctypes.byref(params)
        )
        if status:
            raise RuntimeError(f"llama.cpp does not quantize {file.name} to {weights}: {status}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
