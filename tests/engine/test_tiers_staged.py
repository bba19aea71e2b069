"""The engine over lower tiers through staging memory: tests of `test_tiers.py`,
over a pool that only a fake device's copies may reach."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from stepwell.model.pool import KVPool  # noqa: E402
from tests.engine.fake_device import FakeDevice  # noqa: E402
from tests.engine.test_tiers import (  # noqa: E402, F401
    make_tiered,
    plain,
    test_a_failed_build_lets_go_of_the_disk,
    test_a_returning_prompt_is_restored_from_host,
    test_a_sick_tier_changes_no_token,
    test_aborting_while_loading_frees_everything,
    test_context_survives_a_restart_on_disk,
    test_preempted_sequences_swap_instead_of_forgetting,
    test_split_computes_the_front_while_the_back_is_loaded,
)


@pytest.fixture(autouse=True)
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    made: list[FakeDevice] = []

    def copies_for(pool: KVPool) -> FakeDevice:
        made.append(FakeDevice(pool.storage.view(torch.uint8), delay=0.0005))
        return made[-1]

    def no_views(pool: KVPool, blocks: object) -> None:
        raise AssertionError("the pool's bytes were touched")

    monkeypatch.setattr("stepwell.engine.staging.choose.copies_for", copies_for)
    monkeypatch.setattr(KVPool, "views", no_views)
    yield
    assert made
