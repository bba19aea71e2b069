"""Keys of blocks: a hash chain, so that a key names a block's tokens and everything before them.

    key(i) = sha256(key(i - 1) || tokens of block i),    key(-1) = sha256(namespace || tenant)

Equal keys mean equal prefixes of one tenant under one namespace. The namespace covers what the
bytes depend on (weights, configuration, precision, layout); it is made in `model/identity.py`.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence


def root_key(namespace: bytes, tenant: str) -> bytes:
    """Start of the chain of one tenant. The length prefix keeps (a, bc) and (ab, c) apart."""
    salt = tenant.encode()
    return hashlib.sha256(len(namespace).to_bytes(4, "little") + namespace + salt).digest()


def extend_keys(
    keys: list[bytes], tokens: Sequence[int], *, count: int, block_size: int, root: bytes
) -> None:
    """Append to `keys` until it holds the keys of the first `count` blocks of `tokens`."""
    parent = keys[-1] if keys else root
    for start in range(len(keys) * block_size, count * block_size, block_size):
        block = array("I", tokens[start : start + block_size])
        parent = hashlib.sha256(parent + block.tobytes()).digest()
        keys.append(parent)
