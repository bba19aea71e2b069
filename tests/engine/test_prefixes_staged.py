"""Forgetting over a pool that only a device's copies may reach: tests of `test_prefixes.py` that do
not look at the pool's bytes themselves."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from tests.engine.test_prefixes import (  # noqa: F401
    make_tiered,
    plain,
    test_a_live_sequence_finishes_and_gives_nothing_to_others,
    test_what_an_earlier_process_wrote_goes_when_nobody_can_vouch_for_it,
)
from tests.engine.test_tiers_staged import fake_device  # noqa: F401
