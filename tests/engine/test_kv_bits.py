"""The engine over a pool of 8- and 4-bit K,V: as with any pool, and what it refuses."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from stepwell.base.config import load_config  # noqa: E402
from stepwell.base.errors import ConfigError  # noqa: E402
from stepwell.engine.codecs import layout_hash  # noqa: E402
from stepwell.engine.kv_format import check_kv  # noqa: E402
from stepwell.engine.llm import LLM  # noqa: E402
from tests.engine.conftest import TOKENIZER_FILES  # noqa: E402
from tests.engine.test_tiers import restored, run, settle, slow_compute  # noqa: E402

FORMS = ["int8", "int4"]
MakeKV = Callable[..., LLM]


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer float32 llama whose heads are 32 wide, as 4 bits need."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(5)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=4096, max_position_embeddings=512,
        tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (tiny_checkpoint / name).is_file():
            shutil.copy(tiny_checkpoint / name, folder / name)
    return folder


@pytest.fixture
def make(checkpoint: Path) -> MakeKV:
    """make(form, cache__pool="4MiB") -> a fresh engine."""

    def made(form: str, **settings: Any) -> LLM:
        return LLM(str(checkpoint), **({"cache__pool": "4MiB", "model__kv": form} | settings))

    return made


def prompts_of(count: int, length: int) -> list[list[int]]:
    rng = random.Random(count)
    return [[rng.randrange(300, 4000) for _ in range(length + 16 * i)] for i in range(count)]


def plain_pool_blocks(make: MakeKV) -> int:
    return make("model").built.pool.num_blocks


@pytest.mark.parametrize(("form", "share"), [("int8", 0.266), ("int4", 0.1407)])
def test_more_blocks_in_the_same_bytes(make: MakeKV, form: str, share: float) -> None:
    """Of float32: half of what it is of 16 bits. Said by a Decision and by the stats."""
    llm = make(form)
    pool = llm.built.pool
    assert pool.num_blocks / plain_pool_blocks(make) == pytest.approx(1 / share, rel=0.01)
    assert pool.nbytes <= 4 << 20
    (decision,) = [d for d in llm.built.decisions if d.name == "model.kv"]
    assert decision.value == form
    assert f"{share:.1%} of float32" in decision.because
    assert llm.built.engine.stats().kv_format == form


@pytest.mark.parametrize("form", FORMS)
def test_batches_chunks_and_preemption_change_no_token(make: MakeKV, form: str) -> None:
    prompts = prompts_of(6, 62)  # each needs another block while it decodes
    roomy = make(form, cache__prefix_caching=False)
    expected = [run(roomy, [prompt])[0] for prompt in prompts]
    assert run(roomy, prompts) == expected, "batched"
    chunked = make(form, scheduler__max_step_tokens=40)
    assert run(chunked, prompts) == expected, "chunked"
    assert run(chunked, prompts) == expected, "from the prefix cache, last blocks copied"
    block = roomy.built.pool.block_bytes
    tight = make(form, cache__pool=str(10 * block))
    assert run(tight, prompts) == expected, "preempted"
    assert tight.built.engine.stats().preemptions > 0


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("codec", ["raw", "auto"])
def test_a_returning_prompt_is_restored(
    make: MakeKV, monkeypatch: pytest.MonkeyPatch, form: str, codec: str
) -> None:
    """The tier moves the bytes of a block, scales and all."""
    tiers = {"tiers__host": "4MiB", "tiers__host_codec": codec, "tiers__chunk_blocks": 2}
    prompts = prompts_of(3, 200)
    expected = run(make(form, cache__prefix_caching=False), prompts)
    llm = make(form, tiers__auto_error=0.1, **tiers)
    slow_compute(llm, monkeypatch)
    assert run(llm, prompts) == expected
    settle(llm)
    llm.built.engine.clear_cache()
    assert run(llm, prompts) == expected
    assert restored(llm) >= 3 * 192
    llm.close()


def test_other_formats_never_find_the_chunks(
    make: MakeKV, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = {"tiers__disk": str(tmp_path / "disk"), "tiers__disk_capacity": "64MiB",
            "tiers__disk_free_floor": "1MiB", "tiers__chunk_blocks": 2}  # fmt: skip
    (prompt,) = prompts_of(1, 300)
    layouts = set()
    for form in ("model", *FORMS):
        for turn in range(2):
            llm = make(form, **disk)
            layouts.add(layout_hash(llm.built.pool))
            slow_compute(llm, monkeypatch)
            found = run(llm, [prompt])
            assert found == run(make(form), [prompt])
            assert (restored(llm) > 0) == (turn == 1), "its own chunks, and no other's"
            settle(llm)
            llm.close()
    assert len(layouts) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiers.host_codec": "lossless"}, "tiers.host_codec = lossless does not go with"),
        ({"tiers.disk_codec": "int8"}, "tiers.disk_codec = int8 does not go with"),
        ({"tiers.remote_codec": "kvtc"}, "tiers.remote_codec = kvtc does not go with"),
        ({"cache.rolling": "kvtc"}, "cache.rolling codes 16-bit K,V"),
    ],
)
def test_what_does_not_go_with_it_is_refused(settings: dict[str, str], message: str) -> None:
    config = load_config(overrides={"model.kv": "int8", **settings})
    with pytest.raises(ConfigError, match=message) as error:
        check_kv(config, torch.device("cpu"))
    assert error.value.hint
    check_kv(load_config(overrides=settings), torch.device("cpu"))


def test_other_devices_are_refused() -> None:
    config = load_config(overrides={"model.kv": "int4"})
    with pytest.raises(ConfigError, match=r"int4 needs model.device = cpu, not cuda"):
        check_kv(config, torch.device("cuda"))


def test_sizes_are_refused(tiny_checkpoint: Path, make: MakeKV) -> None:
    """Heads of 16 numbers, and blocks of 8 tokens."""
    with pytest.raises(ConfigError, match="head dimension 16 is not a multiple of 32"):
        LLM(str(tiny_checkpoint), model__kv="int4")
    with pytest.raises(ConfigError, match="block_size 8 is not a multiple of 16"):
        make("int8", cache__block_size=8)
