"""Training text that every Python machine has: standard-library sources and their docstrings.

A file belongs to the held-out set when the SHA-256 of its relative path says so, so that the
split is the same on every machine and no held-out text is seen in training.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED_PARTS = {
    "test",
    "tests",
    "idle_test",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "encodings",
    "lib2to3",
    "ensurepip",
    "turtledemo",
}
HELD_OUT_PERCENT = 4
MAX_SUMMARY_CHARS = 160


@dataclass
class Corpus:
    """Documents by set, and (qualified name, summary) pairs from docstrings of training files."""

    train: list[str] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    summaries: list[tuple[str, str]] = field(default_factory=list)


def is_held_out(relative_path: str) -> bool:
    """Whether a file is kept away from training, decided by its path alone."""
    digest = hashlib.sha256(relative_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def standard_library_files() -> list[Path]:
    """Sources of the running Python's standard library, sorted, without tests and tables."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = []
    for path in sorted(root.rglob("*.py")):
        if not SKIPPED_PARTS.intersection(path.relative_to(root).parts):
            found.append(path)
    return found + sorted(root.glob("LICENSE*"))


def _walk_docstrings(tree: ast.AST, prefix: str) -> list[tuple[str, str]]:
    """(qualified name, docstring) of every documented public class and function below `tree`."""
    found = []
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        text = ast.get_docstring(node)
        if text:
            found.append((name, text))
        if isinstance(node, ast.ClassDef):
            found.extend(_walk_docstrings(node, name))
    return found


def summary_of(docstring: str) -> str:
    """First paragraph on one line, cut to its first sentence."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    end = paragraph.find(". ")
    return paragraph if end < 0 else paragraph[: end + 1]


def _module_name(relative: Path) -> str:
    parts = list(relative.with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts)


def _docstrings_of(source: str, relative: Path) -> list[tuple[str, str]]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    module = _module_name(relative)
    found = _walk_docstrings(tree, module)
    text = ast.get_docstring(tree)
    return ([(module, text)] if text else []) + found


def load_corpus() -> Corpus:
    """Read the library; docstrings also come as prose documents, which doubles their weight."""
    root = Path(sysconfig.get_paths()["stdlib"])
    corpus = Corpus()
    for path in standard_library_files():
        relative = path.relative_to(root)
        source = path.read_text(encoding="utf-8", errors="replace")
        if is_held_out(relative.as_posix()):
            corpus.held_out.append(source)
            continue
        corpus.train.append(source)
        documented = _docstrings_of(source, relative)
        if documented:
            corpus.train.append("\n\n".join(f"{name}\n{text}" for name, text in documented))
        for name, text in documented:
            summary = summary_of(text)
            if 12 <= len(summary) <= MAX_SUMMARY_CHARS:
                corpus.summaries.append((name, summary))
    corpus.train.extend(_topics())
    return corpus


def _topics() -> list[str]:
    """The language reference that ships with `pydoc`, as prose."""
    from pydoc_data import topics

    return [topics.topics[name] for name in sorted(topics.topics)]
