"""What Linux says of a process and its children: memory by kind, threads, open files."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from stepwell.base.errors import StepwellError

PROC = Path("/proc")
_KIB = 1 << 10


class NoSuchProcess(StepwellError):
    """There is no process of that id, it may not be looked at, or this is not Linux."""

    code = "no_such_process"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSample:
    """One process tree at one moment; bytes. `anon`: its own memory, what was swapped out included;
    `file`: mapped files, which can be read again; `shmem`: shared memory. `files` None: not
    permitted to count."""

    anon: int
    file: int
    shmem: int
    threads: int
    files: int | None
    processes: int


def sample_tree(pid: int) -> ProcessSample:
    """Of `pid` and its descendants. Raises NoSuchProcess."""
    own = _sample(pid)
    if own is None:
        hint = "On Linux give the id of a running process of yours."
        raise NoSuchProcess(f"process {pid} cannot be looked at.", hint=hint)
    found = [own, *filter(None, map(_sample, descendants(pid)))]
    files = [sample.files for sample in found]
    return ProcessSample(
        anon=sum(sample.anon for sample in found),
        file=sum(sample.file for sample in found),
        shmem=sum(sample.shmem for sample in found),
        threads=sum(sample.threads for sample in found),
        files=None if None in files else sum(count or 0 for count in files),
        processes=len(found),
    )


def descendants(pid: int) -> list[int]:
    """Children, their children and so on, as the system lists them at this moment."""
    found, open_ids = [], [pid]
    while open_ids:
        parent = open_ids.pop()
        try:
            tasks = list((PROC / str(parent) / "task").iterdir())
            children = [int(c) for t in tasks for c in (t / "children").read_text().split()]
        except OSError:
            continue
        found += children
        open_ids += children
    return found


def listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port; None: none, or not to be seen."""
    wanted = {f"socket:[{fields[9]}]" for fields in _listening(port)}
    if not wanted:
        return None
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if any(os.readlink(entry) in wanted for entry in (folder / "fd").iterdir()):
                return int(folder.name)
        except OSError:
            continue
    return None


def listening_addresses(port: int) -> tuple[str, ...]:
    """Addresses of this machine that a TCP port listens on; empty: none, or not Linux."""
    found = {_address(fields[1].rpartition(":")[0]) for fields in _listening(port)}
    return tuple(sorted(found))


def _listening(port: int) -> list[list[str]]:
    return [
        fields
        for name in ("tcp", "tcp6")
        for fields in _rows(PROC / "net" / name)
        if len(fields) > 9 and fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
    ]


def _address(text: str) -> str:
    """From hexadecimal words in this machine's byte order, as the kernel prints them."""
    words = [bytes.fromhex(text[i : i + 8]) for i in range(0, len(text), 8)]
    if sys.byteorder == "little":
        words = [word[::-1] for word in words]
    return str(ipaddress.ip_address(b"".join(words)))


def _sample(pid: int) -> ProcessSample | None:
    folder = PROC / str(pid)
    try:
        status = _fields(folder / "status")
        exact = _fields(folder / "smaps_rollup")
    except OSError:
        exact = {}
        try:
            status = _fields(folder / "status")
        except OSError:
            return None
    if "RssAnon" not in status and "Anonymous" not in exact:
        return None  # a zombie, or a thread of the kernel
    shmem = status.get("RssShmem", 0)
    anon = exact.get("Anonymous", status.get("RssAnon", 0)) + exact.get("Swap", 0)
    resident = exact.get("Rss", status.get("VmRSS", 0))
    file = max(0, resident - exact.get("Anonymous", status.get("RssAnon", 0)) - shmem)
    return ProcessSample(
        anon=anon * _KIB,
        file=file * _KIB,
        shmem=shmem * _KIB,
        threads=status.get("Threads", 1),
        files=_count_files(folder / "fd"),
        processes=1,
    )


def _fields(path: Path) -> dict[str, int]:
    """Numbers of `Name:  123 kB` lines."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return {name: int(number) for name, number in re.findall(r"^(\w+):\s+(\d+)", text, re.M)}


def _count_files(folder: Path) -> int | None:
    try:
        return len(os.listdir(folder))
    except OSError:
        return None


def _rows(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()[1:]]
    except OSError:
        return []
