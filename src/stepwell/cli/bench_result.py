"""What benchmarks of several parts share: which parts to measure, and the document that is left:
when, by which command, on which machine, what."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.cli.output import print_table

if TYPE_CHECKING:
    from stepwell.evaluate.options import Section

Part = TypeVar("Part", bound=enum.Enum)


def chosen_parts(text: str, kind: type[Part]) -> tuple[Part, ...]:
    """Those of `--only`, comma-separated, in the order in which they are measured. ConfigError for
    a name that is none."""
    names = words(text)
    known = [part.value for part in kind]
    for name in names:
        if name not in known:
            message, hint = unknown_name("part", name, known)
            raise ConfigError(message, hint=hint, param="only")
    return tuple(part for part in kind if part.value in names)


def words(text: str) -> tuple[str, ...]:
    """Of a comma-separated option."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def show_section(section: Section) -> None:
    """A finished part, as soon as it is."""
    print_table(section.title, section.columns, section.rows)
    for line in section.notes:
        print(line)
    print(flush=True)


def write_document(document: dict[str, Any], out: Path | None) -> None:
    """To the file of `--out`, where there is one."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def result_document(result: dict[str, Any], *, model: str, quick: bool) -> dict[str, Any]:
    """For --json and --out."""
    import platform
    import shlex
    import sys
    from datetime import UTC, datetime

    from stepwell.hardware.machine import read_machine

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "stepwell " + shlex.join(sys.argv[1:]),
        "machine": read_machine().as_dict() | {"host_python": platform.python_version()},
        "model": model,
        "quick": quick,
    } | result


def earlier_result(out: Path | None) -> dict[str, Any] | None:
    """The result that is there; None where there is none yet. Raises ConfigError."""
    if out is None:
        raise ConfigError("--add adds to a file.", hint="Name it with --out.", param="add")
    if not out.is_file():
        return None
    found = json.loads(out.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "samples" not in found:
        raise ConfigError(f"{out} is no result that rounds can be added to.", param="out")
    return found
