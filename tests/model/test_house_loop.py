"""One loop trains both models of the house: steps, checkpoints and resuming, by both recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tokenizers")
pytest.importorskip("sqlglot")

from house import train as text_and_tasks  # noqa: E402
from house.corpus import Corpus  # noqa: E402
from house.loop import Program, phase_at  # noqa: E402
from house.sql import train as reading  # noqa: E402

PROGRAMS = {"house": text_and_tasks.PROGRAM, "house-sql": reading.PROGRAM}


def _short(program: Program, folder: Path, batches: int) -> Path:
    """The recipe's last phase alone, in batches of one short row."""
    recipe = json.loads(program.recipe.read_text())
    phase = recipe["phases"][-1] | {"batch_tokens": 384, "length": 384, "lengths": {"384": 1.0}}
    path = folder / "recipe.json"
    path.write_text(json.dumps(recipe | {"phases": [phase | {"tokens": 384 * batches}]}))
    return path


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Program:
    """On a few documents: reading the whole library would take longer than the steps."""
    documents = [" ".join(f"line {n} of document {i}" for n in range(400)) for i in range(3)]
    corpus = Corpus(train=documents, held_out=documents[:1], summaries=[("a.b", "Does c.")])
    monkeypatch.setattr(text_and_tasks, "load_corpus", lambda: corpus)
    return PROGRAMS[request.param]


def test_a_recipe_takes_steps_and_goes_on_where_it_stopped(
    program: Program, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trainer = program.trainer(run, _short(program, tmp_path, batches=3))
    before = {name: w.clone() for name, w in trainer.lesson.model.state_dict().items()}
    assert trainer.train()
    assert (trainer.step, trainer.tokens) == (3, 3 * 384)
    after = trainer.lesson.model.state_dict()
    assert all(not torch.equal(before[name], w) for name, w in after.items() if "proj" in name)
    again = program.trainer(run, _short(program, tmp_path, batches=4))
    assert (again.step, again.tokens) == (3, 3 * 384)
    assert all(torch.equal(after[name], w) for name, w in again.lesson.model.state_dict().items())
    for one in (trainer, again):
        one.learn(again.recipe["phases"][-1])
    changed = again.lesson.model.state_dict()
    assert all(torch.equal(changed[name], w) for name, w in after.items())


def test_phases_follow_one_another() -> None:
    recipe = {"phases": [{"name": "a", "tokens": 10}, {"name": "b", "tokens": 30}]}
    assert phase_at(recipe, 0)[0]["name"] == "a"
    assert phase_at(recipe, 25) == ({"name": "b", "tokens": 30}, 0.5)
    assert phase_at(recipe, 40)[1] == 1.0
