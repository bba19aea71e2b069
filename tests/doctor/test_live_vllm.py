"""`stepwell doctor` against a real vLLM on the CPU; each server takes a minute or two to start.

`bench/doctor_live.py vllm` runs the same and keeps the results.
"""

from __future__ import annotations

import pytest

pytest.importorskip("prometheus_client")

from tests.doctor import campaign
from tests.doctor.servers import vllm_missing

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(vllm_missing()), reason=vllm_missing() or "there is a vLLM"),
]


@pytest.mark.parametrize("planted", campaign.VLLM, ids=lambda planted: planted.name)
def test_what_is_planted_is_found_and_nothing_else(planted, tmp_path):
    outcome = campaign.run(planted, tmp_path)
    said = [(f.code, f.symptom) for f in outcome.report.findings]
    assert not outcome.missed, said
    assert not outcome.false, said
