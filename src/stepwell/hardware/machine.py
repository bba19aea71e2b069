"""Facts about this machine that choices depend on."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """`cores`: those this process may use. `memory_*` in bytes, the container's limit included."""

    cpu: str
    cores: int
    flags: frozenset[str]
    memory_total: int
    memory_available: int

    @property
    def has_fast_bf16(self) -> bool:
        """Whether the CPU multiplies bfloat16 in hardware."""
        return bool(self.flags & {"avx512_bf16", "amx_bf16", "bf16"})

    def as_dict(self) -> dict[str, object]:
        """For result files: without the long list of flags."""
        facts = asdict(self)
        facts["flags"] = sorted(self.flags & _TELLING_FLAGS)
        facts["system"] = f"{platform.system()} {platform.release()}"
        facts["python"] = platform.python_version()
        return facts


_TELLING_FLAGS = frozenset(
    {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "bf16"}
)


def read_machine() -> Machine:
    """Ask the system."""
    cpu, flags = _cpu()
    total, available = _memory()
    return Machine(
        cpu=cpu, cores=_cores(), flags=flags, memory_total=total, memory_available=available
    )


def resident_bytes() -> int:
    """Resident memory of this process, in bytes."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu() -> tuple[str, frozenset[str]]:
    name, flags = platform.processor() or platform.machine(), frozenset[str]()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            if key.strip() in ("flags", "Features"):
                return name, frozenset(value.split())
    return name, flags


def _memory() -> tuple[int, int]:
    """Total and available bytes; the smaller of the machine's and the cgroup's."""
    info = Path("/proc/meminfo")
    if not info.is_file():
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total // 2
    rows = dict(line.split(":", 1) for line in info.read_text().splitlines())
    total, available = (int(rows[k].split()[0]) * 1024 for k in ("MemTotal", "MemAvailable"))
    for limit, used in filter(None, map(cgroup_memory, _cgroup_folders(Path("/sys/fs/cgroup")))):
        total, available = min(total, limit), min(available, max(0, limit - used))
    return total, available


def _cgroup_folders(root: Path) -> list[Path]:
    """Folders whose limits hold for this process: its own groups and those around them, of both
    versions of cgroups. Inside a container the paths may be those of the host: then only the roots
    are there."""
    found = [root, root / "memory"]
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if kinds in ("", "memory"):
            base = root / kinds if kinds else root
            parts = Path(path).parts[1:]
            found += [base.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return found


def cgroup_memory(folder: Path) -> tuple[int, int] | None:
    """Limit and use of a container in bytes, None where it has no limit. File pages that were not
    read again, such as a checkpoint's, are not counted: the kernel drops them before it kills."""
    names = ("max", "current", "inactive_file")
    if (folder / "memory.limit_in_bytes").is_file():  # version 1
        names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
    try:
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in names[:2])
        rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit, used - int(dict(rows)[names[2]])
    except (OSError, ValueError, KeyError):
        return None
