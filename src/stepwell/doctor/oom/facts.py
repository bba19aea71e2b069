"""What a server's log says on the way: sizes of its parts, its settings, which engine it is.

Every rank of an engine writes its own lines; the last one of a kind counts, as ranks are alike.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from stepwell.doctor.oom.words import gib, mib

# Engines in the order in which a name decides: SGLang and TGI import parts of vLLM.
ENGINES = (
    ("sglang", re.compile(r"sglang|sgl_jax|mem[-_]fraction[-_]static", re.IGNORECASE)),
    ("tgi", re.compile(r"text_generation|text-generation", re.IGNORECASE)),
    ("tensorrt-llm", re.compile(r"tensorrt[-_]llm|TRT-LLM", re.IGNORECASE)),
    ("vllm", re.compile(r"vllm|EngineCore", re.IGNORECASE)),
    ("ollama", re.compile(r"ollama", re.IGNORECASE)),
    ("llama.cpp", re.compile(r"ggml|llama_|llama-server|llama\.cpp")),
    ("stepwell", re.compile(r"stepwell")),
    ("transformers", re.compile(r"transformers")),
)
_N = r"(\d+(?:\.\d+)?)"
_SIZES = (
    ("weights", re.compile(rf"(?:Model loading took|model weights took) {_N} Gi?B"), gib),
    ("weights", re.compile(rf"model weights take {_N}\s?GiB"), gib),
    ("weights", re.compile(rf"Load weight end\..*mem usage={_N} GB"), gib),
    ("kv", re.compile(rf"Available KV cache memory: {_N} GiB"), gib),
    ("kv", re.compile(rf"reserved for KV Cache is {_N}\s?GiB"), gib),
    ("kv", re.compile(rf"kv_cache_size={_N}GiB"), gib),
    ("activations", re.compile(rf"activation peak memory takes {_N}\s?GiB"), gib),
    ("outside torch", re.compile(rf"non_torch_memory (?:takes |=){_N}\s?GiB"), gib),
    ("graphs", re.compile(rf"Graph capturing finished .*took {_N} GiB"), gib),
    ("left after loading", re.compile(rf"Load weight end\..*avail mem={_N} GB"), gib),
    ("left after the KV pool", re.compile(rf"Memory pool end\. avail mem={_N} GB"), gib),
)
_KEY_VALUE = re.compile(rf"KV Cache is allocated\..*K size: {_N} GB, V size: {_N} GB")
_BUFFER = re.compile(rf"(\w+)\s+(model|KV|compute|output)? ?buffer size =\s*{_N} MiB")
_SETTINGS = (
    ("gpu_memory_utilization", re.compile(rf"gpu[-_]memory[-_]utilization[=\s'\":(]+{_N}")),
    ("mem_fraction_static", re.compile(rf"mem[-_]fraction[-_]static[=\s'\":]+{_N}")),
    ("tensor_parallel_size", re.compile(r"tensor[-_]parallel[-_]size[=\s'\":]+(\d+)")),
    ("tensor_parallel_size", re.compile(r"--tp(?:-size)?[=\s]+(\d+)")),
    ("max_model_len", re.compile(r"max[-_](?:model|seq)[-_]len[=\s'\":]+(\d+)")),
    ("max_num_seqs", re.compile(r"max[-_]num[-_]seqs[=\s'\":]+(\d+)")),
    ("max_num_batched_tokens", re.compile(r"max[-_]num[-_]batched[-_]tokens[=\s'\":]+(\d+)")),
    ("chunked_prefill_size", re.compile(r"chunked[-_]prefill[-_]size[=\s'\":]+(\d+)")),
)
_NAMED_WITHIN = 20_000  # lines: an engine names itself at its start
_TELLING = (
    "buffer size", "oading", "weights take", "KV Cache", "KV cache memory", "capturing finished",
    "kv_cache_size", "Load weight end", "Memory pool end", "gpu_mem", "gpu-mem", "fraction", "--tp",
    "parallel", "max_", "max-", "prefill",
)  # fmt: skip


@dataclass(slots=True)
class LogFacts:
    """Sizes in bytes by part, settings by name, engines by how many lines name them.
    `buffers`: llama.cpp's, by (device, kind)."""

    sizes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, float] = field(default_factory=dict)
    engines: Counter[str] = field(default_factory=Counter)
    buffers: dict[tuple[str, str], int] = field(default_factory=dict)
    lines: int = 0

    def read(self, line: str) -> None:
        """Take what one line says."""
        if self.lines < _NAMED_WITHIN and (name := engine_named(line)):
            self.engines[name] += 1
        self.lines += 1
        if not any(word in line for word in _TELLING):
            return
        for part, pattern, unit in _SIZES:
            if match := pattern.search(line):
                self.sizes[part] = unit(match[1])
        if match := _KEY_VALUE.search(line):
            self.sizes["kv"] = gib(match[1]) + gib(match[2])
        if match := _BUFFER.search(line):
            self.buffers[match[1], (match[2] or "model").lower()] = mib(match[3])
        for name, pattern in _SETTINGS:
            if match := pattern.search(line):
                self.settings[name] = float(match[1])

    @property
    def engine(self) -> str:
        """The engine that the log is of; empty where no line names one."""
        for name, _ in ENGINES:
            if self.engines[name] and name != "transformers":
                return name
        return "transformers" if self.engines["transformers"] else ""

    def buffer(self, kind: str) -> int:
        """Bytes of llama.cpp's buffers of a kind on accelerators."""
        return sum(
            size
            for (device, of), size in self.buffers.items()
            if of == kind and not device.startswith("CPU") and not device.endswith("Host")
        )


def engine_named(line: str) -> str:
    """The engine that a line names, by file or by logger; empty: none."""
    for name, pattern in ENGINES:
        if pattern.search(line):
            return name
    return ""
