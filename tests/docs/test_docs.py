"""Docs say what is: paths exist, words are used, figures come from committed results."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PATH = re.compile(r"`((?:src|docs|tests|bench|house|models|cache|engine|model|server|base|kernels"
                  r"|evaluate|hardware|cli)/[\w./-]*)`")  # fmt: skip
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_path_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in [*PATH.findall(text), *LINK.findall(text)]:
        places = (ROOT / name, ROOT / "src" / "stepwell" / name, page.parent / name)
        assert any(place.exists() for place in places), f"{page.name} names {name}"


def test_every_folder_is_in_the_layout_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in sorted((ROOT / "src" / "stepwell").iterdir()):
        if (folder / "__init__.py").is_file():
            assert f"`src/stepwell/{folder.name}`" in text, folder.name


def test_every_folder_says_what_it_owns() -> None:
    for init in sorted((ROOT / "src" / "stepwell").rglob("__init__.py")):
        assert init.read_text(encoding="utf-8").startswith('"""'), init


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_docs.py", "--check"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_names_a_machine_of_its_makers() -> None:
    """Paths of one machine have no place in the tree."""
    for page in PAGES:
        assert "/work/" not in page.read_text(encoding="utf-8"), page.name
