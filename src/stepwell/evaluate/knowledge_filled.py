"""A knowledge base that already holds a release, written without the gate: for measuring what reads
it, at sizes for which capturing one by one takes minutes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from stepwell.evaluate.knowledge_facts import facts
from stepwell.evaluate.knowledge_questions import questions
from stepwell.evaluate.knowledge_world import World, make_worlds
from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.contents import Contents
from stepwell.knowledge.context import packs_of
from stepwell.knowledge.embed import Embedder
from stepwell.knowledge.entry import ALWAYS, Entry, Provenance, Source, Status, new_entry
from stepwell.knowledge.markdown import to_markdown
from stepwell.knowledge.payload import Document, Gotcha, Payload, Template
from stepwell.knowledge.policy import Capture, Policy
from stepwell.knowledge.render import estimated_tokens
from stepwell.knowledge.truth import Truth

TENANT = "bench"
_DAY = "2026-01-01T00:00:00Z"


def released(payload: Payload, *, area: str = "", triggers: Sequence[str] = ()) -> Entry:
    """As a release holds it."""
    made = Provenance(source=Source.USER, by="author", at=_DAY)
    entry = new_entry(payload, area=area, triggers=tuple(triggers), depends_on=(),
                      validity=ALWAYS, provenance=made, parents=())  # fmt: skip
    return entry.with_status(Status.RELEASED)


@contextmanager
def filled(entries: Iterable[Entry], *, embedder: Embedder | None = None) -> Iterator[Knowledge]:
    """In a folder that is deleted. One confirmer suffices."""
    policy = Policy(capture=Capture.QUARANTINE, pending=1_000_000)
    held = {entry.id: entry for entry in entries}
    with TemporaryDirectory(prefix="knowledge-") as folder:
        packs = packs_of(held.values(), policy=policy, count_tokens=estimated_tokens)
        texts = {name: to_markdown(entry) for name, entry in held.items()}
        (Path(folder) / TENANT).mkdir()
        truth = Truth(Path(folder) / TENANT / "truth.git")
        truth.point(truth.write(Contents(entries=texts, packs=packs), by="author", at=0.0))
        truth.close()
        base = Knowledge.open(folder, tenant=TENANT, policy=policy, embedder=embedder)
        try:
            yield base
        finally:
            base.close()


def others(*, count: int, seed: int) -> list[Entry]:
    """Queries, joins and metrics of several worlds, in no area, `count` of them: what is in the
    way. Further seeds give worlds of the same domains, so words repeat as they do in practice."""
    found: dict[str, Entry] = {}
    draw = random.Random(f"others {seed}")
    number = seed * 1000
    while len(found) < count:
        for place, world in enumerate(make_worlds(count=6, seed=number)):
            for entry in _of(place, world, draw):
                found[entry.id] = entry
        number += 1
    return list(found.values())[:count]


def _of(place: int, world: World, draw: random.Random) -> Iterator[Entry]:
    for question in questions(place, world):
        for text in question.wordings:
            yield released(Template(question=text, sql=question.sql))
    for fact in facts(world).values():
        if not isinstance(fact.payload, Gotcha):
            yield released(fact.payload, triggers=fact.triggers)
    tables = list(world.columns())
    for number in range(20):
        about = draw.sample(tables, 2)
        title = f"{about[0]} and {about[1]}, note {draw.randrange(10_000)}"
        text = " ".join(draw.choices([*tables, world.state, world.level, world.day, *world.states,
                                      "since", "before", "only", "where"], k=25))  # fmt: skip
        yield released(Document(title=f"{title} {number}", text=text))
