"""`stepwell cache`: what it says and does to a disk tier."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stepwell.base.errors import TierInUse, TierUnusable
from stepwell.cli.cache import TierDamaged, app
from tests.tier.disk_helpers import get, open_tier, put, value_of
from tests.values import key


@pytest.fixture
def tier(tmp_path: Path) -> Path:
    opened = open_tier(tmp_path)
    for name in range(30):
        put(opened, name)
    opened.close()
    return tmp_path


def call(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def spoil(path: Path, name: int) -> None:
    opened = open_tier(path)
    at = opened.books.find(key(name))
    assert at is not None
    with opened.files.path(at.segment).open("r+b") as file:
        file.seek(at.end - 1)
        file.write(bytes([value_of(name)[-1] ^ 1]))
    opened.close()


def test_ls(tier: Path) -> None:
    listed = json.loads(call("ls", tier, "--json", "--limit", 3))
    assert listed["chunks"] == 30
    assert [c["meta"] for c in listed["listed"]] == ["meta 27", "meta 28", "meta 29"]
    assert listed["listed"][0]["key"] == key(27).hex()
    text = call("ls", tier)
    assert "30 chunks (10 older ones not shown)" in text
    assert key(29).hex()[:16] in text


def test_verify_and_repair(tier: Path) -> None:
    assert json.loads(call("verify", tier, "--json"))["damaged"] == 0
    name = next(n for n in range(30) if len(value_of(n)) > 1)
    spoil(tier, name)
    with pytest.raises(TierDamaged, match="1 of 30"):
        call("verify", tier)
    done = json.loads(call("verify", tier, "--repair", "--json"))
    assert (done["damaged"], done["repaired"], done["faults"]) == (1, 1, {"body": 1})
    assert json.loads(call("verify", tier, "--json"))["chunks"] == 29


def test_gc_drops_the_oldest(tier: Path) -> None:
    before = json.loads(call("ls", tier, "--json"))["disk_bytes"]
    done = json.loads(call("gc", tier, "--to", before // 2, "--json"))
    assert done["after"] <= before // 2
    listed = json.loads(call("ls", tier, "--json", "--limit", 0))["listed"]
    assert [c["meta"] for c in listed] == [f"meta {n}" for n in range(done["dropped"], 30)]
    opened = open_tier(tier)
    assert all(get(opened, n) == value_of(n) for n in range(done["dropped"], 30))
    opened.close()


def test_clear(tier: Path) -> None:
    assert json.loads(call("clear", tier, "--yes", "--json"))["dropped"] == 30
    assert not list(tier.glob("segment-*"))
    assert json.loads(call("ls", tier, "--json"))["chunks"] == 0


def test_refusals(tier: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(TierUnusable, match="no disk tier"):
        call("ls", empty)
    assert not os.listdir(empty)
    opened = open_tier(tier)
    with pytest.raises(TierInUse, match=str(os.getpid())):
        call("ls", tier)
    opened.close()
