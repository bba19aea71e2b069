"""After erasing, no byte of it is left in any file, packed or not."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from dulwich.repo import Repo

from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.erase import History
from stepwell.knowledge.errors import EntryErased
from stepwell.knowledge.payload import Document, Metric
from stepwell.knowledge.policy import Evidence, Session
from tests.knowledge.shop import ANN, ORDERS, learn, shop

CANARY = "zanzibarquux"
SECRET = Metric(name=f"{CANARY} rate", expression="sum(x)", table="orders", note=f"{CANARY} here")


def left(folder: Path) -> list[str]:
    """Files, and objects inside git's compressed ones, that hold the canary or a half of it that a
    tokenizer may have cut off."""
    needles = (CANARY.encode(), CANARY[:8].encode())
    found = [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes().lower() for needle in needles)
    ]
    with Repo(str(folder / "shop" / "truth.git")) as repo:
        for object_id in repo.object_store:
            if any(needle in repo[object_id].as_raw_string().lower() for needle in needles):
                found.append(object_id.decode())
    return found


def fill(base: Knowledge) -> str:
    (name,) = learn(base, SECRET, triggers=[f"{CANARY}s"])
    learn(base, *(Document(title=f"note {n}", text=f"about {n} things") for n in range(40)))
    base.failed(f"no such column: {CANARY}", question=f"{CANARY} rate", by="ann")
    return name


@pytest.mark.parametrize("released", [True, False])
def test_no_byte_is_left(tmp_path: Path, released: bool) -> None:
    with shop(tmp_path) as base:
        name = fill(base)
        if released:
            base.release(by="eve")
            learn(base, ORDERS)
            base.release(by="eve")
        assert CANARY in base.context(f"{CANARY} rate", ANN).text
        assert left(tmp_path)
        base.erase(name, by="dpo", history=History.ERASE)
        assert left(tmp_path) == [], "while it is open"
        assert CANARY not in base.context(f"{CANARY} rate", ANN).text
        for release in base.releases():
            base.rollback(release, by="eve")
            given = base.context(f"{CANARY} rate", Session(id=release))
            assert CANARY not in given.text
        with pytest.raises(EntryErased):
            base.entry(name)
        with pytest.raises(EntryErased):
            base.capture(SECRET, by="ann", evidence=Evidence.USER_CONFIRMED)
    assert left(tmp_path) == []
    with shop(tmp_path) as base:
        base.rebuild()
        assert CANARY not in base.context(f"{CANARY} rate", ANN).text
        assert len(base.releases()) == (2 if released else 0)


def test_without_history_old_releases_keep_it_and_show_it_to_nobody(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        name = fill(base)
        base.release(by="eve")
        base.erase(name, by="dpo")
        assert base.releases() == ("r0001", "r0002") and base.current == "r0002"
        assert all("sqlite" not in path for path in left(tmp_path))
        base.rollback("r0001", by="eve")
        for session in (Session(id="1"), ANN):
            given = base.context(f"{CANARY} rate", session)
            assert CANARY not in given.text and name not in given.ids
    (tmp_path / "shop" / "index.sqlite").unlink()
    with shop(tmp_path) as base:
        assert CANARY not in base.context(f"{CANARY} rate", ANN).text


def test_what_was_made_from_it_is_named(tmp_path: Path) -> None:
    with shop(tmp_path) as base:
        name = fill(base)
        (child,) = learn(base, Document(title="sum", text="of others"), parents=[name])
        assert base.erase(name, by="dpo", history=History.ERASE).derived == (child,)


def test_vectors_go_too(tmp_path: Path) -> None:
    import numpy as np

    from stepwell.knowledge.policy import Capture, Policy

    def embed(texts: object) -> np.ndarray:
        return np.ones((len(list(texts)), 4), dtype=np.float32) / 2  # type: ignore[call-overload]

    policy = Policy(capture=Capture.QUARANTINE)
    with Knowledge.open(tmp_path, tenant="shop", policy=policy, embedder=embed) as base:
        (name,) = learn(base, SECRET)
        base.release(by="eve")
        base.erase(name, by="dpo", history=History.ERASE)
    with sqlite3.connect(tmp_path / "shop" / "index.sqlite") as db:
        assert db.execute("SELECT count(*) FROM vectors").fetchone() == (0,)
    db.close()
