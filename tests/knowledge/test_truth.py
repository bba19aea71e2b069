"""Markdown and git: what is released comes back as it was, and damage is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.knowledge.contents import Contents
from stepwell.knowledge.entry import Dependency, Entry, Provenance, Source, Status, Trust, Validity
from stepwell.knowledge.errors import InvalidEntry, KnowledgeDamaged, UnknownRelease
from stepwell.knowledge.markdown import from_markdown, to_markdown
from stepwell.knowledge.payload import (
    Document,
    ErrorRule,
    Gotcha,
    Metric,
    Relationship,
    Schema,
    Template,
)
from stepwell.knowledge.truth import Truth

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=60) | st.sampled_from(
    ["```\n", "## id", "---", "\n\n", "a\rb", "- x", "````sql\n## y\n```"]
)
FULL = TEXT.map(lambda text: text + "x")
PAYLOADS = st.one_of(
    st.builds(Schema, table=FULL, columns=st.lists(FULL, min_size=1).map(tuple), note=TEXT),
    st.builds(Relationship, left=FULL, right=FULL, note=TEXT),
    st.builds(Template, question=FULL, sql=st.just("SELECT `a`\n\nFROM t -- ```\nWHERE x = '\r'")),
    st.builds(Metric, name=FULL, expression=FULL, table=FULL, note=TEXT),
    st.builds(Gotcha, about=FULL, rule=FULL),
    st.builds(ErrorRule, signature=FULL, fix=FULL),
    st.builds(Document, title=FULL, text=FULL),
)
TUPLES = st.lists(TEXT, max_size=3).map(tuple)
ENTRIES = st.builds(
    Entry,
    id=st.just("x-1"),
    area=st.sampled_from(["", "shop", "a.b_c-1"]),
    payload=PAYLOADS,
    triggers=TUPLES,
    depends_on=st.lists(st.builds(Dependency, name=TEXT, hash=TEXT), max_size=3).map(tuple),
    validity=st.builds(Validity, first=st.sampled_from(["", "2026-01-01"])),
    provenance=st.builds(
        Provenance, source=st.sampled_from(Source), by=TEXT, at=TEXT, parents=TUPLES
    ),
    trust=st.sampled_from(Trust),
    status=st.sampled_from(Status),
    supersedes=TUPLES,
    contradicts=TUPLES,
)


@settings(max_examples=200, deadline=None)
@given(ENTRIES)
def test_an_entry_survives_markdown(entry: Entry) -> None:
    assert from_markdown(to_markdown(entry)) == entry


@pytest.mark.parametrize("text", ["", "---\n---\n", "---\nid: 1\n---\n", "---\nid\n---\n", "x"])
def test_what_is_no_entry_is_refused(text: str) -> None:
    with pytest.raises(InvalidEntry):
        from_markdown(text)


def contents(**entries: str) -> Contents:
    return Contents(entries=entries, packs={"": "all\r\n", "shop": "".join(entries.values())})


def test_releases_keep_their_bytes_and_the_pointer_moves(tmp_path: Path) -> None:
    truth = Truth(tmp_path / "truth.git")
    assert truth.current() == "" and truth.names() == ()
    first, second = contents(a="one\r\n"), contents(a="two\n", b="three\n")
    for item in (first, second):
        truth.point(truth.write(item, by="ann", at=5.0))
    assert truth.names() == ("r0001", "r0002") and truth.current() == "r0002"
    truth.close()
    truth = Truth(tmp_path / "truth.git")
    assert truth.contents("r0001") == first and truth.contents("r0002") == second
    truth.point("r0001")
    assert truth.current() == "r0001" and truth.ids("r0001") == {"a"}
    assert truth.pack("r0002", "shop") == "two\nthree\n" and truth.pack("r0001", "other") == ""
    assert "+two" in truth.diff("r0001", "r0002")
    assert truth.history("b") == (("r0002", "three\n"),)
    assert truth.contents(truth.revert("r0001", by="ann", at=6.0)) == first
    with pytest.raises(UnknownRelease):
        truth.point("r0009")
    truth.close()


def test_rewrite_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    truth = Truth(tmp_path / "truth.git")
    for item in (contents(a="one", b="canary"), contents(a="two", b="canary")):
        truth.point(truth.write(item, by="ann", at=5.0))
    truth.point("r0001")
    truth.rewrite(lambda old: contents(a=old.entries["a"]))
    assert truth.names() == ("r0001", "r0002") and truth.current() == "r0001"
    assert truth.contents("r0002") == contents(a="two")
    for object_id in truth._repo.object_store:
        assert b"canary" not in truth._repo[object_id].as_raw_string()
    truth.close()


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    truth = Truth(tmp_path / "truth.git")
    truth.point(truth.write(contents(a="one " * 100), by="ann", at=5.0))
    truth.close()
    packs = sorted((tmp_path / "truth.git" / "objects").rglob("*.pack"))
    assert packs
    whole = packs[0].read_bytes()
    refused = 0
    for place in range(12, len(whole) - 20, 7):
        packs[0].chmod(0o644)
        packs[0].write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        truth = Truth(tmp_path / "truth.git")
        try:
            assert truth.contents("r0001") == contents(a="one " * 100)
        except KnowledgeDamaged:
            refused += 1
        finally:
            truth.close()
    assert refused
