"""Lower tiers under a pool on a CUDA device: the tests of staged transfers, and of the engine over
them, with real copies. (`model.device = auto` takes the CUDA device.)"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from stepwell.engine.llm import LLM  # noqa: E402
from stepwell.engine.staging.cuda import CudaCopies  # noqa: E402
from tests.engine.conftest import tiny_checkpoint  # noqa: E402, F401
from tests.engine.staging_rig import POOL  # noqa: E402
from tests.engine.test_staging import (  # noqa: E402, F401
    test_a_load_that_fails_touches_no_block,
    test_blocks_of_a_store_are_free_before_the_tier_has_them,
    test_copies_wait_for_what_compute_was_told_before,
    test_loads_beyond_the_slots_wait_until_their_deadlines,
    test_stores_beyond_the_slots_wait_and_beyond_the_backlog_are_refused,
    test_what_is_stored_comes_back_from_every_tier,
)
from tests.engine.test_staging_random import test_random_orders  # noqa: E402, F401
from tests.engine.test_tiers import (  # noqa: E402, F401
    MakeTiered,
    make_tiered,
    plain,
    test_a_returning_prompt_is_restored_from_host,
    test_a_sick_tier_changes_no_token,
    test_aborting_while_loading_frees_everything,
    test_context_survives_a_restart_on_disk,
    test_preempted_sequences_swap_instead_of_forgetting,
    test_split_computes_the_front_while_the_back_is_loaded,
)
from tests.tier.movers import BLOCK  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
_LAG = 2_000_000  # cycles that compute sleeps before it writes a block, about a millisecond


class CudaDevice:
    """Blocks on the device; compute is the current stream, kept behind by sleeping kernels."""

    def __init__(self) -> None:
        self.storage = torch.zeros((POOL, BLOCK), dtype=torch.uint8, device="cuda")
        self.copies = CudaCopies(self.storage)

    def write(self, block: int, data: bytes) -> None:
        source = torch.frombuffer(bytearray(data), dtype=torch.uint8).to("cuda")
        torch.cuda._sleep(_LAG)
        self.storage[block].copy_(source)

    def read(self, block: int) -> bytes:
        return bytes(self.storage[block].cpu().numpy())


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    made = CudaDevice()
    yield made
    made.copies.close(5)


def test_the_pool_is_on_the_device_and_staging_is_pinned(make_tiered: MakeTiered) -> None:  # noqa: F811
    llm: LLM = make_tiered(tiers__host="8MiB")
    assert llm.built.pool.storage.device.type == "cuda"
    (staging,) = [d for d in llm.built.decisions if d.name == "tiers.staging"]
    assert staging.because == "16 chunks for each tier and direction"
    assert CudaCopies(llm.built.pool.storage.view(torch.uint8)).allocate(2).is_pinned()
