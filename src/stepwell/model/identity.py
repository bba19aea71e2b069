"""The namespace: a hash of everything that the bytes of a block depend on.

Two engines may share a block exactly if their namespaces are equal. Tenants are kept apart on top
of it, in the root of each key chain (`cache/keys.py`).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

LAYOUT_VERSION = 1
_SAMPLE = 1 << 16


def weights_manifest(folder: Path | None) -> list[tuple[str, int, str]]:
    """(file name, bytes, digest) of each safetensors file.

    The digest covers the header (names, shapes, dtypes, offsets) and one 64 KiB sample from each
    of 16 evenly spread places: enough to tell checkpoints and fine-tunes apart without reading
    gigabytes at start. Files that differ only between the samples would be taken for equal;
    lower tiers that outlive the process are to hash whole files.
    """
    if folder is None or not folder.is_dir():
        return []
    manifest = []
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest = hashlib.sha256()
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            file.seek(0)
            digest.update(file.read(8 + header))
            for part in range(16):
                file.seek(part * max(0, size - _SAMPLE) // 15)
                digest.update(file.read(_SAMPLE))
        manifest.append((path.name, size, digest.hexdigest()))
    return manifest


def make_namespace(
    *,
    folder: Path | None,
    model_config: dict[str, Any],
    dtype: str,
    block_size: int,
    instance: str = "",
) -> bytes:
    """Hash of weights, configuration, precision and layout. `instance` separates models that have
    no files (random weights)."""
    parts = {
        "weights": weights_manifest(folder),
        "config": model_config,
        "dtype": dtype,
        "block_size": block_size,
        "layout": LAYOUT_VERSION,
        "instance": instance,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).digest()
