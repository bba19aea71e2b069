"""Files of earlier formats are brought forward whole; what is not known is left as it is."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.knowledge.entry import Status
from stepwell.knowledge.errors import KnowledgeDamaged, KnowledgeFormat
from stepwell.knowledge.formats import open_file
from stepwell.knowledge.payload import Document
from stepwell.knowledge.policy import Evidence
from stepwell.knowledge.records import _FORMAT, _STEPS
from tests.knowledge.shop import ALL, ANN, learn, shop

FORMAT_3 = """
CREATE TABLE entries (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, by TEXT NOT NULL, findings TEXT NOT NULL,
  subject TEXT NOT NULL, times INTEGER NOT NULL, body TEXT NOT NULL);
CREATE INDEX entries_by_subject ON entries (subject);
CREATE INDEX entries_by_person ON entries (by, status);
CREATE TABLE evidence (
  id TEXT NOT NULL, what TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
  UNIQUE (id, what, by));
CREATE TABLE votes (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL, by TEXT NOT NULL, confirms INTEGER NOT NULL,
  supersedes TEXT NOT NULL, UNIQUE (id, by));
CREATE TABLE events (
  number INTEGER PRIMARY KEY, at TEXT NOT NULL, what TEXT NOT NULL, id TEXT NOT NULL,
  by TEXT NOT NULL, detail TEXT NOT NULL, seal BLOB NOT NULL);
CREATE TABLE tombstones (
  id TEXT PRIMARY KEY, said TEXT NOT NULL, at TEXT NOT NULL, by TEXT NOT NULL);
CREATE TABLE hashes (name TEXT PRIMARY KEY, hash TEXT NOT NULL);
CREATE TABLE validated (id TEXT NOT NULL, name TEXT NOT NULL, hash TEXT NOT NULL,
  PRIMARY KEY (id, name));
CREATE TABLE failures (signature TEXT PRIMARY KEY, times INTEGER NOT NULL, question TEXT NOT NULL);
"""
"""As that version wrote it."""
KILLED = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.executescript(sys.argv[2])
os._exit(0)
"""
KEPT = "entries evidence votes events tombstones hashes validated failures".split()


def fill(folder: Path) -> str:
    """A base with something of everything; a released entry of it."""
    with shop(folder) as base:
        name, *_ = learn(base, *ALL, depends_on=["orders"])
        base.drift({"orders": "1"})
        base.release(by="eve")
        base.capture(Document(title="waits", text="x"), by="ann", evidence=Evidence.EXECUTED)
        (gone,) = learn(base, Document(title="gone", text="y"))
        base.erase(gone, by="dpo")
        base.failed("no such column: a", question="q", by="ann")
        return name


def dump(path: Path, tables: list[str]) -> dict[str, list[tuple]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return {t: sorted(db.execute(f"SELECT * FROM {t}"), key=repr) for t in tables}


def layout(path: Path) -> set[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return set(db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def make_old(path: Path) -> None:
    """The same rows in the tables of format 3."""
    rows = dump(path, KEPT)
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(f"{FORMAT_3} PRAGMA user_version=3;")
        for table, found in rows.items():
            for row in found:
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO {table} VALUES ({marks})", row)
        db.commit()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_format_before_is_brought_forward_with_all_it_holds(tmp_path: Path) -> None:
    name = fill(tmp_path)
    path = tmp_path / "shop" / "records.sqlite"
    fresh, rows = layout(path), dump(path, KEPT)
    make_old(path)
    assert layout(path) != fresh
    with shop(tmp_path) as base:
        assert [e.payload for e in base.entries(Status.CANDIDATE)] == [
            Document(title="waits", text="x")
        ]
        assert len(base.events()) == len(rows["events"])
        base.outcome([name], by="ann", good=False)
        assert base.usefulness(name).bad == 1
        assert base.context("orders", ANN).ids
    assert layout(path) == fresh and dump(path, KEPT) == rows
    with shop(tmp_path) as base:
        assert base.usefulness(name).bad == 1, "once is enough"


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "records.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(f"{FORMAT_3} PRAGMA user_version=3;")
    before = layout(path)
    broken = {3: "CREATE TABLE half (a); CREATE TABLE entries (b);"}
    with pytest.raises(KnowledgeDamaged, match="entries"):
        open_file(path, tables="", number=4, steps=broken)
    assert layout(path) == before
    open_file(path, tables="", number=4, steps=_STEPS).close()
    assert ("outcomes" in dict(layout(path))) and layout(path) > before


def test_steps_are_taken_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    open_file(path, tables="CREATE TABLE a (n);", number=1, steps={}).close()
    steps = {1: "ALTER TABLE a ADD COLUMN m;", 2: "ALTER TABLE a RENAME TO b;"}
    open_file(path, tables="", number=3, steps=steps).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT n, m FROM b").fetchall() == []
        assert db.execute("PRAGMA user_version").fetchone() == (3,)


@pytest.mark.parametrize(("number", "says"), [(_FORMAT + 1, "later one"), (1, "later backup")])
@pytest.mark.parametrize("killed", [False, True])
def test_an_unknown_format_is_refused_and_nothing_is_touched(
    tmp_path: Path, number: int, says: str, killed: bool
) -> None:
    fill(tmp_path)
    path = tmp_path / "shop" / "records.sqlite"
    write = f"PRAGMA user_version={number}; CREATE TABLE news (a);"
    if killed:  # what was written last is in the log beside the file
        subprocess.run([sys.executable, "-c", KILLED, str(path), write], check=True, timeout=60)
    else:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(write)
    before = bytes_of(tmp_path)
    with pytest.raises(KnowledgeFormat, match=f"format {number}, .* 3 to {_FORMAT}") as caught:
        shop(tmp_path)
    assert says in str(caught.value)
    after = bytes_of(tmp_path)
    shared = str(path) + "-shm"  # SQLite's own index of the log
    assert {k: v for k, v in after.items() if k != shared} == {
        k: v for k, v in before.items() if k != shared
    }


def test_what_is_no_database_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "shop" / "records.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(KnowledgeDamaged, match=r"records\.sqlite"):
        shop(tmp_path)
