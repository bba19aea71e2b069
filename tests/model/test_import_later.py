"""Stand-ins for modules: nothing runs until something is asked for, and then all is there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.model.import_later import import_later, import_now

SOURCES = {
    "late_one.py": "import late_trace; late_trace.ran.append('one'); value = 1\n",
    "late_two/__init__.py": (
        "import late_trace; late_trace.ran.append('two'); from late_two import inner\n"
    ),
    "late_two/inner.py": "import late_trace; late_trace.ran.append('inner'); value = 2\n",
    "late_needs.py": "import late_trace; late_trace.ran.append('needs'); import late_one\n",
    "late_three.py": "import late_trace; late_trace.ran.append('three'); import late_user\n",
    "late_user.py": "import late_trace; late_trace.ran.append('user')\n",
    "late_trace.py": "ran = []\n",
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The modules above can be imported; which of them ran so far."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = set(sys.modules)
    importlib.invalidate_caches()
    yield importlib.import_module("late_trace").ran
    for name in set(sys.modules) - before:
        if name.startswith("late_"):
            del sys.modules[name]


def test_a_module_runs_when_an_attribute_is_asked_for(ran: list[str]) -> None:
    import_later(["late_one"], before={})
    held = importlib.import_module("late_one")
    assert ran == []
    assert held.value == 1
    assert ran == ["one"]
    assert importlib.import_module("late_one") is not held
    assert importlib.import_module("late_one").value == held.value == 1
    assert ran == ["one"]


def test_looking_for_its_file_does_not_run_it(ran: list[str], tmp_path: Path) -> None:
    import_later(["late_one"], before={})
    held = importlib.import_module("late_one")
    assert held.__file__ == str(tmp_path / "late_one.py")
    assert held.__name__ == "late_one"
    assert ran == []


def test_a_module_inside_runs_its_package_first_and_itself_once(ran: list[str]) -> None:
    import_later(["late_two"], before={})
    importlib.import_module("late_two")
    assert ran == []
    inner = importlib.import_module("late_two.inner")
    assert ran == ["two", "inner"]
    assert inner is sys.modules["late_two.inner"]
    assert sys.modules["late_two"].inner is inner
    assert inner.__spec__ is not None
    assert inner.__spec__.origin == inner.__file__


def test_those_who_rely_on_it_find_it_imported(ran: list[str]) -> None:
    import_later(["late_one"], before={"late_needs": ["late_one"]})
    importlib.import_module("late_one")
    importlib.import_module("late_needs")
    assert ran == ["one", "needs"]


def test_one_that_imports_those_who_rely_on_it_runs_them_once(ran: list[str]) -> None:
    import_later(["late_three"], before={"late_user": ["late_three"]})
    importlib.import_module("late_three")
    user = importlib.import_module("late_user")
    assert ran == ["three", "user"]
    assert user is sys.modules["late_user"]
    assert user.__spec__ is not None
    assert user.__spec__.origin == user.__file__


def test_what_was_never_imported_is_not_imported_for_others(ran: list[str]) -> None:
    import_later(["late_one"], before={"late_trace_nothing": ["late_one"]})
    import_now("late_one")
    assert ran == []


def test_modules_that_are_not_there_stay_so(ran: list[str]) -> None:
    import_later(["late_none"], before={})
    with pytest.raises(ModuleNotFoundError, match="late_none"):
        importlib.import_module("late_none")


def test_modules_that_are_there_are_left_alone(ran: list[str]) -> None:
    held = importlib.import_module("late_one")
    import_later(["late_one"], before={})
    assert importlib.import_module("late_one") is held
    import_now("late_one")
    assert ran == ["one"]
