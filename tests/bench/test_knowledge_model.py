"""The shipped model, behind a real server, answers from what its context says and from nothing
else."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("dulwich")

from stepwell.evaluate.knowledge_drawn_ask import traps
from stepwell.evaluate.knowledge_drawn_context import context_of
from stepwell.evaluate.knowledge_drawn_course import Judge, make_course
from stepwell.evaluate.knowledge_model_server import Prompt, Serving
from stepwell.evaluate.shapes import model_folder

MOST_BYTES = 10_000_000


def test_the_artifact_is_small() -> None:
    assert sum(path.stat().st_size for path in model_folder("house-sql").iterdir()) <= MOST_BYTES


def test_it_reads_its_context_and_the_cache_changes_no_token(tmp_path: Path) -> None:
    course = make_course(seed=11, worlds=2, requests=0, trapped=24, untouched=6, tables=1)
    judge = Judge(course.worlds)
    asked = course.test
    plain = [Prompt(one.text) for one in asked]
    told = []
    for one in asked:
        world = course.worlds[one.world]
        facts = [fact.payload for fact in traps(one.query, world)]
        told.append(Prompt(one.text, context=context_of(facts, world.area) if facts else ""))
    with Serving(model_folder("house-sql"), tmp_path, "server", {}) as serving:
        before = serving.ask_all(plain, at_once=4)
        after = serving.ask_all(told, at_once=4)
        again = serving.ask_all(told, at_once=1)
    trapped = [place for place, one in enumerate(asked) if one.trapped]
    right = [judge.right(one, reply.text) for one, reply in zip(asked, after, strict=True)]
    naive = [judge.right(one, reply.text) for one, reply in zip(asked, before, strict=True)]
    judge.close()
    assert len(trapped) == 48
    assert not any(naive[place] for place in trapped)
    assert sum(right[place] for place in trapped) >= 40
    assert [reply.tokens for reply in again] == [reply.tokens for reply in after]
    assert sum(r.cached_tokens for r in again) > sum(r.cached_tokens for r in before)
