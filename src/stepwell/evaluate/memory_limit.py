"""A process that cannot take more memory than it is given, and what it took at most.

A cgroup counts everything: heap, mapped files, and the page cache of what it reads. Version 1 needs
the memory controller mounted under /sys/fs/cgroup/memory, version 2 a writable group with that
controller; both need root in most places. Elsewhere RLIMIT_DATA bounds private memory: it counts
what is mapped, touched or not, and no page cache.
"""

from __future__ import annotations

import contextlib
import enum
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class Enforcement(enum.Enum):
    """Who holds the limit."""

    CGROUP_V1 = "cgroup v1"
    CGROUP_V2 = "cgroup v2"
    RLIMIT = "RLIMIT_DATA"


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """`limit` in bytes. Commands that `command` returns run under it together. Use as a context
    manager: leaving removes the group, whose processes have to be gone."""

    limit: int
    how: Enforcement
    folder: Path | None

    @classmethod
    def make(cls, limit: int) -> MemoryLimit:
        """The strictest that this machine lets us have."""
        name = f"stepwell-{uuid.uuid4().hex[:12]}"
        for how, parent, file in (
            (Enforcement.CGROUP_V1, _ROOT / "memory", "memory.limit_in_bytes"),
            (Enforcement.CGROUP_V2, _ROOT, "memory.max"),
        ):
            folder = parent / name
            try:
                folder.mkdir()
            except OSError:
                continue
            try:
                (folder / file).write_text(str(limit))
                return cls(limit, how, folder)
            except OSError:
                folder.rmdir()
        return cls(limit, Enforcement.RLIMIT, None)

    def __enter__(self) -> MemoryLimit:
        return self

    def __exit__(self, *exc: object) -> None:
        for _attempt in range(50):
            with contextlib.suppress(OSError):
                if self.folder is not None:
                    self.folder.rmdir()
                return
            time.sleep(0.1)  # until the last process has been waited for

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, begun under the limit."""
        if self.folder is None:
            enter = f"ulimit -d {self.limit // 1024}"
        else:
            enter = f"echo $$ > {self.folder / 'cgroup.procs'}"
        return ["sh", "-c", f'{enter} && exec "$@"', "sh", *command]

    def peak(self) -> int | None:
        """Most bytes that the group held at once, page cache included; None where nobody counts."""
        if self.folder is None:
            return None
        v1 = self.how is Enforcement.CGROUP_V1
        file = self.folder / ("memory.max_usage_in_bytes" if v1 else "memory.peak")
        return int(file.read_text()) if file.is_file() else None

    def anonymous(self) -> int | None:
        """Bytes of the group now that are no file's; None where nobody counts."""
        if self.folder is None:
            return None
        key = "total_rss" if self.how is Enforcement.CGROUP_V1 else "anon"
        rows = (line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return int(dict(rows)[key])


def can_limit_by_cgroup() -> bool:
    """Whether `MemoryLimit.make` gets a cgroup here."""
    with MemoryLimit.make(1 << 40) as probe:
        return probe.folder is not None and os.access(probe.folder / "cgroup.procs", os.W_OK)
