"""What one person enters without a release moves no byte of what anybody else is given."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepwell.knowledge.base import Knowledge
from stepwell.knowledge.entry import Source, Status, Validity
from stepwell.knowledge.errors import KnowledgeError
from stepwell.knowledge.payload import Document, Gotcha, Metric, Payload, Template
from stepwell.knowledge.policy import Capture, Evidence, Policy, Scope, Session
from tests.knowledge.shop import ALL, Clock, learn

QUESTIONS = (
    "what is the status of our orders",
    "how many open orders are there",
    "staus of the refnud policy",
    "active custmers per month",
    "open orders of active customers over 50",
)
WORDS = "orders status stature open closed refund policy active customers state month over staus"
TEXT = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=6).map(" ".join)
PAYLOADS: st.SearchStrategy[Payload] = st.one_of(
    st.sampled_from(ALL),
    st.builds(Gotcha, about=TEXT, rule=TEXT),
    st.builds(Document, title=TEXT, text=TEXT),
    st.builds(Metric, name=st.just("active customers"), expression=TEXT, table=TEXT, note=TEXT),
    st.builds(
        Template,
        question=st.sampled_from(QUESTIONS) | TEXT,
        sql=st.sampled_from(["SELECT 1", "SELECT count(*) FROM orders WHERE state = 'x'"]),
    ),
)
Act = Callable[[Knowledge, str], None]


def entering(
    payload: Payload,
    triggers: list[str],
    source: Source,
    area: str,
    ends: str,
    replaces: bool,
) -> Act:
    """Capture and confirm; `replaces`: says that it replaces all that is released."""

    def act(base: Knowledge, user: str) -> None:
        made = base.capture(
            payload, by=user, evidence=Evidence.ACCEPTED_EDIT, source=source, area=area,
            triggers=triggers, validity=Validity(last=ends),
        )  # fmt: skip
        base.confirm(
            made.id,
            by=user,
            supersedes=tuple(e.id for e in base.entries(Status.RELEASED)) if replaces else (),
        )

    return act


def meddling(base: Knowledge, user: str) -> None:
    """Confirm and reject whatever there is."""
    for entry in base.entries(Status.CONFIRMED):
        base.confirm(entry.id, by=user)
        base.reject(entry.id, by=user)


ENTERING = st.builds(
    entering,
    PAYLOADS,
    st.lists(TEXT, max_size=2),
    st.sampled_from([Source.USER, Source.OUTSIDE_TOOL]),
    st.sampled_from(["", "north"]),
    st.sampled_from(["", "2020-01-01"]),
    st.booleans(),
)
ACTS = st.lists(
    st.tuples(st.sampled_from(["mallory", "mallory", "ann"]), ENTERING | st.just(meddling)),
    max_size=7,
)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Counts of letters, of length one."""
    rows = [[1e-3 + text.count(chr(97 + n)) for n in range(26)] for text in texts]
    found = np.array(rows, dtype=np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def told(base: Knowledge) -> list[object]:
    found: list[object] = []
    for user in ("ann", "bob"):
        for area in ("", "north"):
            scope = Scope(area=area, user=user)
            session = Session(id=f"{user} {area}", scope=scope)
            for question in QUESTIONS:
                given_now = base.context(question, session)
                found.append((given_now.text, given_now.fresh, given_now.ids, given_now.entries))
                found.append(base.search(question, scope))
    return found


def released(folder: Path) -> Path:
    """A tenant's folder with all of the shop released, to be copied."""
    with Knowledge.open(
        folder, tenant="t", policy=Policy(capture=Capture.QUARANTINE), embedder=embed
    ) as base:
        learn(base, *ALL, by="eve")
        base.release(by="zoe")
    return folder


def given_to_others(folder: Path, acts: Sequence[tuple[str, Act]], *, with_mallory: bool) -> object:
    policy = Policy(capture=Capture.QUARANTINE)
    with Knowledge.open(
        folder, tenant="t", policy=policy, embedder=embed, clock=Clock(still=True)
    ) as base:
        for user, act in acts:
            if user == "ann" and act is meddling:
                continue  # what she does to mallory's is to be seen
            if user == "ann" or with_mallory:
                with contextlib.suppress(KnowledgeError):
                    act(base, user)
        return told(base)


def test_nothing_of_it_is_seen(tmp_path_factory: pytest.TempPathFactory) -> None:
    start = released(tmp_path_factory.mktemp("start"))

    @settings(max_examples=25, deadline=None, phases=[Phase.generate])
    @given(ACTS)
    def check(acts: list[tuple[str, Act]]) -> None:
        with TemporaryDirectory() as folder:
            told_to = []
            for name, with_mallory in (("without", False), ("with", True)):
                shutil.copytree(start, Path(folder) / name)
                made = given_to_others(Path(folder) / name, acts, with_mallory=with_mallory)
                told_to.append(made)
            assert told_to[0] == told_to[1]

    check()
