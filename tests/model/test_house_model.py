"""The house model's artifact: its size, its files, and that it looks things up."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "models" / "house"
MAX_BYTES = 40_000_000
FACTS = (
    "river = castle",
    "stone = piano",
    "tiger = seven",
    "garden = rocket",
    "apple = north",
    "doctor = silver",
    "winter = guitar",
    "bridge = lemon",
)


@pytest.fixture(scope="module")
def model() -> transformers.PreTrainedModel:
    """The model in float32, for plain reproducible arithmetic."""
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer() -> transformers.PreTrainedTokenizerBase:
    """Its tokenizer."""
    return transformers.AutoTokenizer.from_pretrained(FOLDER)


def test_artifact_is_small() -> None:
    """The repository carries it, so it stays below 40 MB."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MAX_BYTES


def test_shape(model: transformers.PreTrainedModel) -> None:
    """Llama-shaped, grouped queries, 5 to 30 million parameters, 4,096 positions."""
    config = model.config
    assert config.model_type == "llama"
    assert config.num_attention_heads > config.num_key_value_heads
    assert config.max_position_embeddings == 4096
    assert 5e6 <= sum(weight.numel() for weight in model.parameters()) <= 30e6


def test_tokenizer_round_trip(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Any text comes back; digits stand alone; a common word is one token."""
    text = "def f(x):\n    return 1234 + x  # \u00e9\u4e16\n"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(tokenizer.encode(" 1234", add_special_tokens=False)) == 5
    assert len(tokenizer.encode(" castle", add_special_tokens=False)) == 1
    assert tokenizer.encode(text)[0] == tokenizer.bos_token_id


def test_chat_template(tokenizer: transformers.PreTrainedTokenizerBase) -> None:
    """Turns are marked by the special tokens and the prompt ends where the answer begins."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi \n"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == ("<|bos|><|system|>\nBe brief.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\n")
    ids = tokenizer.encode(text, add_special_tokens=False)
    specials = {tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("system", "user")}
    assert specials <= set(ids)
    assert tokenizer.eos_token == "<|end|>"


def test_looks_up_pairs(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """Each of eight pairs is found again; chance is one in eight at best."""
    context = "".join(f"- {fact}\n" for fact in FACTS)
    right = 0
    for fact in FACTS:
        key, value = fact.split(" = ")
        ids = tokenizer(context + f"? {key} =", return_tensors="pt").input_ids
        with torch.no_grad():
            best = int(model(ids).logits[0, -1].argmax())
        right += tokenizer.decode([best]) == " " + value
    assert right >= 6


def test_answers_in_chat(
    model: transformers.PreTrainedModel, tokenizer: transformers.PreTrainedTokenizerBase
) -> None:
    """A fact of an earlier turn comes back in the answer, and the answer ends."""
    turns = [
        {"role": "user", "content": "Remember: The code for river is 4821."},
        {"role": "assistant", "content": "I will remember that."},
        {"role": "user", "content": "What is the code for river?"},
    ]
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=24, do_sample=False)[0, ids.shape[1] :]
    assert out[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(out, skip_special_tokens=True) == "The code for river is 4821."
