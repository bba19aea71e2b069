"""The namespace: a hash of everything that the bytes of a block depend on.

Two engines may share a block exactly if their namespaces are equal. Tenants are kept apart on top
of it, in the root of each key chain (`cache/keys.py`).
"""

from __future__ import annotations

import enum
import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

LAYOUT_VERSION = 1
_SAMPLE = 1 << 16
_READ = 8 << 20


class Coverage(enum.Enum):
    """How much of each weights file is hashed.

    SAMPLED: the header (names, shapes, dtypes, offsets) and one 64 KiB sample from each of 16
    evenly spread places: tells checkpoints and fine-tunes apart without reading gigabytes. Files
    that differ only between the samples would be taken for equal, so this is for memory that
    dies with the process. WHOLE: every byte, for tiers that outlive it.
    """

    SAMPLED = "sampled"
    WHOLE = "whole"


def weights_manifest(folder: Path | None, coverage: Coverage) -> list[tuple[str, int, str]]:
    """(file name, bytes, digest) of each safetensors file, or of the GGUF file that `folder` is.
    Quantized weights and their scales are tensors in these files like any others."""
    if folder is None:
        return []
    files = [folder] if folder.is_file() else sorted(folder.glob("*.safetensors"))
    digest = _whole_digest if coverage is Coverage.WHOLE else _sampled_digest
    return [(path.name, path.stat().st_size, digest(path)) for path in files]


def weights_hash(folder: Path) -> bytes:
    """32 bytes, equal only for the same weights files. Reads all of them."""
    manifest = weights_manifest(folder, Coverage.WHOLE)
    return hashlib.sha256(json.dumps(manifest).encode()).digest()


def _sampled_digest(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        if path.suffix != ".safetensors":  # GGUF: what is first is not the header's size
            header = min(size, _READ)
        file.seek(0)
        digest.update(file.read(8 + header))
        for part in range(16):
            file.seek(part * max(0, size - _SAMPLE) // 15)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _whole_digest(path: Path) -> str:
    """Not cryptographic: weights are told apart, not defended against a forger."""
    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(_READ))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def make_namespace(
    *,
    folder: Path | None,
    coverage: Coverage = Coverage.SAMPLED,
    model_config: dict[str, Any],
    dtype: str,
    block_size: int,
    instance: str = "",
    lossy: str = "",
    precision: str = "",
    kv: str = "model",
) -> bytes:
    """Hash of weights, configuration, precision and layout. `instance` separates models that have
    no files (random weights). `lossy`: codecs that bytes may have been through, `precision`: how
    weights were quantized; both empty for not at all. `kv`: the pool's format."""
    parts = {
        "weights": weights_manifest(folder, coverage),
        "config": model_config,
        "dtype": dtype,
        "block_size": block_size,
        "layout": LAYOUT_VERSION,
        "instance": instance,
    }
    if lossy:
        parts["lossy"] = lossy
    if precision:
        parts["precision"] = precision
    if kv != "model":
        parts["kv"] = kv
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
