"""`stepwell doctor` against our own real server: planted faults, and healthy servers under load.

A few run always (each starts a server, about ten seconds); all of them with the slow tests.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch")
pytest.importorskip("uvicorn")

from tests.doctor import campaign

QUICK = ("healthy, with a host tier", "pool too small")


def marked(planted: campaign.Planted):
    marks = () if planted.name in QUICK else (pytest.mark.slow,)
    return pytest.param(planted, id=planted.name, marks=marks)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("planted", [marked(planted) for planted in campaign.OWN])
def test_what_is_planted_is_found_and_nothing_else(planted, tmp_path):
    outcome = campaign.run(planted, tmp_path)
    said = [(f.code, f.symptom) for f in outcome.report.findings]
    assert not outcome.missed, said
    assert not outcome.false, said
    assert outcome.status or not planted.clients, "no request was answered"
