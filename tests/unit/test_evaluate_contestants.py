"""Contestants as processes: answers, errors, death, silence; and rivals that are not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import stepwell
from stepwell.evaluate import contestants
from stepwell.evaluate.contestants import Contestant, ContestantFailed, rival_contestant

SCRIPT = """
import os, sys, time
from stepwell.evaluate.protocol import serve_contestant

def fail():
    raise ValueError("on purpose")

def loud(text):
    print("noise on stdout")
    os.write(1, b"noise below python")
    return {"text": text}

serve_contestant({
    "loud": loud, "fail": fail, "die": lambda: os._exit(3),
    "sleep": lambda: time.sleep(60) or {}, "pid": lambda: {"pid": os.getpid()},
})
"""


@pytest.fixture
def contestant(tmp_path: Path) -> Contestant:
    script = tmp_path / "contestant.py"
    script.write_text(SCRIPT, encoding="utf-8")
    package = str(Path(stepwell.__file__).parents[1])
    return Contestant(
        name="test",
        command=(sys.executable, str(script)),
        log=tmp_path / "log",
        environment={"PYTHONPATH": package},
    )


def test_replies_are_not_mixed_with_what_libraries_print(contestant: Contestant) -> None:
    with contestant:
        for text in ("a", "ü" * 100_000):
            assert contestant.ask("loud", text=text) == {"text": text}
    assert "noise below python" in contestant.log.read_text()


def test_an_error_is_told_and_the_contestant_goes_on(contestant: Contestant) -> None:
    with contestant:
        with pytest.raises(ContestantFailed, match="on purpose"):
            contestant.ask("fail")
        with pytest.raises(ContestantFailed, match="no such operation"):
            contestant.ask("dance")
        assert contestant.ask("loud", text="x") == {"text": "x"}


def test_death_is_noticed(contestant: Contestant) -> None:
    with contestant:
        with pytest.raises(ContestantFailed, match="has ended"):
            contestant.ask("die", timeout=60)
        with pytest.raises(ContestantFailed):
            contestant.ask("pid", timeout=60)


def test_silence_ends_and_leaving_leaves_no_process(
    contestant: Contestant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "_QUIT_SECONDS", 0.5)
    with contestant:
        pid = contestant.ask("pid", timeout=60)["pid"]
        with pytest.raises(ContestantFailed, match="in time"):
            contestant.ask("sleep", timeout=0.2)
        contestant.__exit__()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_rivals_that_are_not_installed_say_how(tmp_path: Path) -> None:
    with pytest.raises(ContestantFailed, match=r"setup\.sh openvino"):
        rival_contestant("openvino", workdir=tmp_path, environments=tmp_path)
    with pytest.raises(ContestantFailed, match="no such rival"):
        rival_contestant("abacus", workdir=tmp_path, environments=tmp_path)
