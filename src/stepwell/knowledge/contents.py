"""What a release holds, as a value: compared, summed up, shown."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What one release holds. `entries`: id -> markdown; `packs`: area -> text."""

    entries: Mapping[str, str]
    packs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A release: who made it, when (seconds since 1970), and the entries that it holds."""

    name: str
    by: str
    at: float
    ids: frozenset[str]


def digest(contents: Contents) -> str:
    """sha256 over names and texts, in order."""
    whole = hashlib.sha256()
    for part in (contents.entries, contents.packs):
        for name, text in sorted(part.items()):
            data = text.encode()
            whole.update(f"{name}\0{len(data)}\0".encode() + data)
        whole.update(b"\1")
    return whole.hexdigest()


def diff_entries(before: Mapping[str, str], after: Mapping[str, str], *, old: str, new: str) -> str:
    """Unified diff of two sets of entries, id -> markdown."""
    out: list[str] = []
    for name in sorted(before.keys() | after.keys()):
        a, b = before.get(name, ""), after.get(name, "")
        if a != b:
            lines = difflib.unified_diff(
                a.split("\n"),
                b.split("\n"),
                f"{old}/{name}.md",
                f"{new}/{name}.md",
                lineterm="",
                n=1,
            )
            out += lines
    return "\n".join(out) + "\n" if out else ""
