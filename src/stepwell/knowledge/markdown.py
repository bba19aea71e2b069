"""Entries as markdown: what git holds and people review.

Front matter holds one JSON value a line (which YAML readers read too), the body one section for
each field of the payload: texts in a fence that is longer than any run of backticks in them, lists
as bullets of JSON strings. Lines end in "\\n" only; what is inside a fence is kept to the byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from typing import Any

from stepwell.knowledge.entry import (
    Dependency,
    Entry,
    Provenance,
    Source,
    Status,
    Trust,
    Validity,
)
from stepwell.knowledge.errors import InvalidEntry, KnowledgeError
from stepwell.knowledge.payload import Kind, make_payload

_TICKS = re.compile(r"`+")


def to_markdown(entry: Entry) -> str:
    """Everything of an entry."""
    lines = ["---"]
    lines += [f"{name}: {_json(value)}" for name, value in _front(entry).items()]
    lines.append("---")
    for item in fields(entry.payload):
        value = getattr(entry.payload, item.name)
        lines += ["", f"## {item.name}", ""]
        if isinstance(value, tuple):
            lines += [f"- {_json(part)}" for part in value]
        elif value:
            fence = "`" * max(3, 1 + max((len(m) for m in _TICKS.findall(value)), default=0))
            lines += [fence, *value.split("\n"), fence]
    return "\n".join(lines) + "\n"


def _front(entry: Entry) -> dict[str, object]:
    made = entry.provenance
    return {
        "id": entry.id,
        "kind": entry.kind.value,
        "status": entry.status.value,
        "area": entry.area,
        "triggers": list(entry.triggers),
        "depends_on": [[item.name, item.hash] for item in entry.depends_on],
        "validity": asdict(entry.validity),
        "provenance": {
            "source": made.source.value,
            "by": made.by,
            "at": made.at,
            "parents": list(made.parents),
        },
        "trust": entry.trust.name.lower(),
        "supersedes": list(entry.supersedes),
        "contradicts": list(entry.contradicts),
    }


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def from_markdown(text: str) -> Entry:
    """The entry that `to_markdown` wrote. Raises InvalidEntry."""
    lines = text.split("\n")
    try:
        end = lines.index("---", 1)
        front = dict(_front_line(line) for line in lines[1:end])
        payload = make_payload(Kind(front["kind"]), dict(_sections(lines[end + 1 :])))
        made = front["provenance"]
        return Entry(
            id=front["id"],
            area=front["area"],
            payload=payload,
            triggers=tuple(front["triggers"]),
            depends_on=tuple(
                Dependency(name=name, hash=value) for name, value in front["depends_on"]
            ),
            validity=Validity(**front["validity"]),
            provenance=Provenance(
                source=Source(made["source"]),
                by=made["by"],
                at=made["at"],
                parents=tuple(made["parents"]),
            ),
            trust=Trust[front["trust"].upper()],
            status=Status(front["status"]),
            supersedes=tuple(front["supersedes"]),
            contradicts=tuple(front["contradicts"]),
        )
    except KnowledgeError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, StopIteration) as error:
        raise InvalidEntry(
            f"not the markdown of an entry: {error!r}.",
            hint="docs/knowledge.md shows one.",
            param="markdown",
        ) from None


def _front_line(line: str) -> tuple[str, Any]:
    name, _, value = line.partition(": ")
    return name, json.loads(value)


def _sections(lines: list[str]) -> Iterator[tuple[str, object]]:
    """Field name -> text or list of texts."""
    rest = iter(lines)
    name: str | None = None
    found: list[str] = []
    text = ""
    for line in rest:
        if line.startswith("## "):
            if name is not None:
                yield name, found or text
            name, found, text = line[3:], [], ""
        elif line.startswith("```"):
            text = "\n".join(iter(rest.__next__, line))
        elif line.startswith("- "):
            found.append(json.loads(line[2:]))
        elif line:
            raise ValueError(f"a line outside a section: {line[:40]!r}")
    if name is not None:
        yield name, found or text
