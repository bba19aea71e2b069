"""The system's side: the kernel's OOM killer, exit code 137, Python and numpy."""

from __future__ import annotations

import re

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.reader import Reader, Sighting, Weight
from stepwell.doctor.oom.words import SIZE, Explanation, Holder, Step, parse_size

_KERNEL = re.compile(
    r"(?P<cgroup>Memory cgroup )?(?:[Oo]ut of memory: )?Kill(?:ed)? process (?P<pid>\d+),? "
    r"\((?P<name>[^)]*\)?)\) ?(?:score \d+ or sacrifice child[^\n]{0,200}?)?,? ?(?:UID:? ?\d+,? ?)?"
    r"total-vm:(?P<vm>[\d, ]+)kB, ?anon-rss:(?P<anon>[\d, ]+)kB, ?file-rss:(?P<file>[\d, ]+)kB"
    r"(?:, ?shmem-rss:(?P<shmem>[\d, ]+)kB)?"
)
_CONSTRAINT = re.compile(r"CONSTRAINT_MEMCG|oom_memcg=|Memory cgroup out of memory")
_EXIT = re.compile(
    r"OOMKilled(?:\"?: ?\"?true|\b)(?!\"?: ?\"?false)|exit(?:ed)?(?: with)? (?:code|status):? 137\b"
    r"|Exit ?Code\"?:? ?137\b|exit code: -9\b|signal(?: SIGKILL)? ?\(?9\)?\b"
    r"|: line \d+:\s+\d+ Killed\b|Detected \d+ oom[-_]kill event"
)
_NUMPY = re.compile(
    rf"(?:_?ArrayMemoryError|MemoryError): Unable to allocate {SIZE} for an array with shape "
    r"(?P<shape>\([\d, ]*\)) and data type (?P<dtype>\S+)"
)
_PYTHON = re.compile(r"^(?:\w+\.)*MemoryError(?:: (?P<told>[^\n]*))?$|std::bad_alloc")


def _kernel(sight: Sighting) -> Explanation:
    sizes = {
        name: int(re.sub(r"\D", "", sight.group(name)) or 0) << 10
        for name in ("vm", "anon", "file", "shmem")
    }
    near = "\n".join((*sight.place.before[-60:], *sight.place.lines[:3]))
    in_group = bool(_CONSTRAINT.search(near))
    whose = "its container's limit" if in_group else "the machine's memory"
    name = sight.group("name")
    resident = sizes["anon"] + sizes["file"] + sizes["shmem"]
    small = resident < 1 << 30
    why = (
        f"Memory was short in {'a container' if in_group else 'the whole machine'}, and the kernel "
        f"killed {name} ({sight.group('pid')}), which held {format_bytes(resident)} resident, "
        f"{format_bytes(sizes['anon'])} of it its own (heap, not files). Device memory has no part "
        "in it."
    )
    if small:
        why += (
            f" {format_bytes(resident)} is little: the process killed is not the one that took "
            "the memory; the table above the message lists all."
        )
    return Explanation(
        kind="kernel_cgroup" if in_group else "kernel_oom",
        source="Linux OOM killer",
        title=f"the kernel killed {name}: {whose} was used up",
        why=why,
        steps=_kernel_steps(in_group=in_group, anon=sizes["anon"], shmem=sizes["shmem"]),
        text=sight.text,
        phase=sight.phase,
        device="host memory",
        holders=(
            Holder(f"{name}: own (anon)", sizes["anon"], "heap, pinned buffers, CPU tensors"),
            Holder(f"{name}: mapped files", sizes["file"], "can be read again: not the cause"),
            Holder(f"{name}: shared", sizes["shmem"], "/dev/shm: workers, pinned pools"),
            Holder("other processes", None, "in the table above the message, if it is there"),
        ),
        evidence={f"{key}_bytes": float(size) for key, size in sizes.items()},
    )


def _kernel_steps(*, in_group: bool, anon: int, shmem: int) -> tuple[Step, ...]:
    steps = []
    if in_group:
        steps.append(
            Step(
                "Raise the container's memory limit (docker -m, resources.limits.memory), if the "
                "machine has more.",
                f"must exceed {format_bytes(anon + shmem)} and a margin",
            )
        )
    steps += [
        Step("Lower what serving keeps in host memory: swap space, KV offload (vLLM "
             "--swap-space, --kv-offloading-size), prompt caches (llama.cpp --cache-ram), "
             "tiers.host.",
             "each is a fixed number of bytes from the start"),
        Step("Loading: safetensors (mapped, not copied), one process after the other, "
             "low_cpu_mem_usage; pickled checkpoints are held twice.",
             "loading peaks at the size of one shard instead of the model"),
        Step("If it died after hours, look for a leak: stepwell doctor leaks --pid N.",
             "tells growth from a peak"),
    ]  # fmt: skip
    return tuple(steps)


def _exit(sight: Sighting) -> Explanation:
    sure = "OOMKilled" in sight.text or "oom" in sight.text
    return Explanation(
        kind="exit_137",
        source="container runtime" if "line" not in sight.text else "shell",
        title="the process was killed (SIGKILL)" + (", for memory" if sure else ""),
        why="137 is 128 + 9: SIGKILL. "
        + ("The runtime says that it was for memory: the container's limit was reached."
           if sure else
           "The kernel kills so when memory is short, but so does a stop that was not answered in "
           "time, a failed liveness probe or a person. The text does not say which."),
        steps=(
            Step("Ask the kernel: dmesg -T | grep -i -B2 -A2 'killed process' (on the node), and "
                 "the runtime: docker inspect, kubectl describe pod (OOMKilled).",
                 "settles whether memory was the reason, and whose"),
            Step("If it was: raise the limit, or lower host memory (swap space, KV offload, "
                 "prompt caches, loading).", "see the explanation of the kernel's message"),
            Step("If it was not: look at probes and stop timeouts.",
                 "no memory setting helps then"),
        ),
        text=sight.text,
        phase=sight.phase,
        device="host memory",
        holders=(Holder("unknown", None, "an exit code has no numbers"),),
        evidence={"said_to_be_memory": "yes" if sure else "not said"},
    )  # fmt: skip


def _numpy(sight: Sighting) -> Explanation:
    asked, shape, dtype = parse_size(sight.match[1]), sight.group("shape"), sight.group("dtype")
    return Explanation(
        kind="numpy_memory",
        source="numpy",
        title=f"one array of {format_bytes(asked)} was refused",
        why=f"An array of shape {shape} and type {dtype} takes {format_bytes(asked)} of host "
        "memory in one piece. The shape in the message tells whether it is meant to be that large.",
        steps=(
            Step("Look at the shape: a broadcast or a dense copy of something sparse is the usual "
                 "reason.", f"{format_bytes(asked)} less"),
            Step("Work in pieces (np.memmap, chunks), or in a smaller type"
                 + (" (float32)." if dtype == "float64" else "."),
                 "half with 4 bytes instead of 8" if dtype == "float64" else "in proportion"),
        ),
        text=sight.text,
        phase=sight.phase,
        device="host memory",
        requested=asked,
        holders=(Holder("host memory", None, "the text does not say"),),
        evidence={"shape": shape, "dtype": dtype},
    )  # fmt: skip


def _python(sight: Sighting) -> Explanation:
    return Explanation(
        kind="python_memory",
        source="Python" if "MemoryError" in sight.text else "C++ runtime",
        title="malloc returned nothing",
        why="The process asked for host memory and the system refused: a limit of the process "
        "(ulimit -v, a job scheduler), or a single piece larger than RAM and swap. The message has "
        "no numbers.",
        steps=(
            Step("Check `ulimit -v` and the container's limit against the process's size.",
                 "shows which limit refused it"),
            Step("The line of the traceback above names what was being made.",
                 "shows what to shrink"),
        ),
        text=sight.text,
        phase=sight.phase,
        device="host memory",
        holders=(Holder("unknown", None, "the message has no numbers"),),
    )  # fmt: skip


READERS = (
    Reader("kernel", r"Kill(?:ed)? process \d+", _KERNEL, _kernel, span=4),
    Reader("numpy_memory", "MemoryError: Unable to allocate", _NUMPY, _numpy, span=3),
    Reader("python_memory", r"MemoryError|std::bad_alloc", _PYTHON, _python, span=1),
    Reader("exit_137", r"\b137\b|OOMKilled|code: -9|signal\D{0,12}9\b|Killed\b|oom[-_]kill event",
           _EXIT, _exit, Weight.CONSEQUENCE, span=1),
)  # fmt: skip
