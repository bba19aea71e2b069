"""Verbs on golden cases (`casefile`)."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from stepwell.base.errors import InvalidParameter
from stepwell.knowledge.harness import CaseKind
from stepwell.server.fields import check_text
from stepwell.server.knowledge.casefile import Golden, Reads
from stepwell.server.knowledge.desk import Answer, Ask, Desk, needed, page, read_choice
from stepwell.server.knowledge.wish import read_area

MOST_CASES = 1000
_NAMES = ("id", "question", "expect", "forbid", "area", "kind", "reads", "remove")


def list_cases(desk: Desk, ask: Ask) -> Answer:
    """In order of id."""
    asked = ask.asked("limit", "after")
    rows = [asdict(case) for _, case in sorted(desk.cases.read().items())]
    return Answer(value=page(rows, asked))


def put_case(desk: Desk, ask: Ask) -> Answer:
    """Add one, replace the one of its id, or with `remove` take it away."""
    fields = ask.fields(*_NAMES)
    held = desk.cases.read()
    if fields.boolean("remove", False):
        name = needed(fields, "id")
        if name not in held:
            raise InvalidParameter(f"no case {name!r:.80}.", hint="GET cases lists.", param="id")
        desk.cases.write({k: v for k, v in held.items() if k != name})
        return Answer(value={"id": name, "removed": True})
    golden = _read(ask, by=desk.person)
    if golden.id not in held and len(held) >= MOST_CASES:
        raise InvalidParameter(f"there are {MOST_CASES} cases.", hint="Remove some.", param="id")
    desk.cases.write({**held, golden.id: golden})
    return Answer(value=asdict(golden), status=201)


def _read(ask: Ask, *, by: str) -> Golden:
    fields = ask.fields(*_NAMES)
    question = needed(fields, "question")
    area = read_area(fields, where="area")
    made = hashlib.sha256(f"{area}\0{question}".encode()).hexdigest()[:12]
    texts = {
        name: tuple(check_text(text, where=name) for text in fields.strings(name) if text.strip())
        for name in ("expect", "forbid")
    }
    if not any(texts.values()):
        raise InvalidParameter(
            "a case must expect or forbid something.",
            hint="expect, forbid: ids of entries or texts.",
            param="expect",
        )
    kinds = {kind.value: kind.value for kind in CaseKind}
    reads = {item.value: item.value for item in Reads}
    return Golden(
        id=fields.string("id", "") or f"case-{made}",
        question=question,
        area=area,
        kind=read_choice(fields, "kind", kinds) if "kind" in fields else CaseKind.GOLDEN.value,
        reads=read_choice(fields, "reads", reads) if "reads" in fields else Reads.CONTEXT.value,
        by=by,
        **texts,
    )
