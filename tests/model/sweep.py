"""Every causal language model of transformers, as a tiny random one: is Stepwell's output the same?

`python -m tests.model.sweep [names]` writes what it finds to bench/results/architectures.json
(all of them, or those named); test_sweep.py asks the same of each and fails on a silent difference.

The truth is the model's own forward pass without a cache, see test_windows.py.
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.base.sampling import SamplingParams
from stepwell.engine.llm import LLM
from tests.checkpoints import ARCHITECTURES, BASE, VOCABULARY

RESULT = Path(__file__).resolve().parents[2] / "bench" / "results" / "architectures.json"
NAMES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
IDENTICAL, REFUSED, DIFFERS = "identical", "refused by name", "differs"
NOT_TINY, NO_REFERENCE = "cannot be built tiny", "transformers does not run it"
UNNAMED, UNTELLING = "raises, but not by name", "output does not depend on the prompt"
MAX_PARAMETERS = 30_000_000  # 120 MB in float32; with two copies and the pool far below 2 GB
LENGTHS, OUTPUT = (3, 17, 40, 75), 6
GREEDY = SamplingParams(max_tokens=OUTPUT, temperature=0.0, ignore_eos=True)
# Fields that make a model small, used where the configuration has them and as small as it accepts.
# A window is shorter than the longest prompt; no field is invented that the class does not know.
SMALL: dict[str, Any] = BASE | {
    "num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4,
    "num_experts_per_tok": 2, "num_experts_per_token": 2, "moe_topk": 2, "moe_k": 2,
    "moe_intermediate_size": 48, "shared_expert_intermediate_size": 48, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "sliding_window": 24, "kv_lora_rank": 32,
    "q_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    "ffn_hidden_size": 96, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 512,
    "n_inner": 96, "ffn_dim": 96, "word_embed_proj_dim": 64, "d_model": 64, "n_heads": 4,
    "n_layers": 3, "max_seq_len": 512, "decoder_layers": 3, "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96, "encoder_layers": 1, "encoder_ffn_dim": 96, "num_layers": 3,
    "query_pre_attn_scalar": 16, "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY, "embedding_size": 64, "rotary_dim": 8,
    "dim_model_base": 64, "kv_channels": 16, "is_decoder": True, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
# What a class wants otherwise than SMALL has it; None takes the field out.
SPECIAL: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": None},
    "gpt_neo": {"attention_types": [[["global"], 3]]},
    "reformer": {"axial_pos_embds": False},
    "xlstm": {"v_head_dim": None},
    "xmod": {"default_language": "en_XX"},
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2},
}
# Latent attention expands to as many heads of K and V as of queries.
for _name in ("axk1", "deepseek_v3", "glm4_moe_lite", "longcat_flash", "minicpm3", "youtu"):
    SPECIAL[_name] = {"num_key_value_heads": 4}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one architecture. `why` is the error's first line where there is one."""

    architecture: str
    outcome: str
    why: str = ""
    seconds: float = 0.0


def examine(name: str) -> Outcome:
    """Build it tiny, run it in transformers and in Stepwell, compare."""
    started = time.monotonic()
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        outcome, why = _examine(name, Path(folder))
    return Outcome(name, outcome, why, round(time.monotonic() - started, 1))


def _examine(name: str, folder: Path) -> tuple[str, str]:
    try:
        _build(name, folder)
    except Exception as error:
        return NOT_TINY, _line(error)
    prompts = _prompts()
    try:
        llm = LLM(str(folder), cache__pool="8MiB")
    except UnsupportedArchitecture as error:
        return REFUSED, _line(error.message)
    except Exception as error:
        return _reference_fails(folder, prompts) or (UNNAMED, _line(error))
    if failure := _reference_fails(folder, prompts[:1]):
        return failure
    outputs = [c.token_ids for c in llm.generate(prompts, GREEDY)]
    expected = [_forward_without_cache(folder, prompt) for prompt in prompts]
    if outputs != expected:
        return DIFFERS, _first(outputs, expected)
    # A model that says the same whatever it reads would hide any error.
    telling = len({tuple(tokens) for tokens in expected}) == len(prompts)
    return (IDENTICAL, "") if telling else (UNTELLING, "equal, and equal for all prompts")


def _reference_fails(folder: Path, prompts: list[list[int]]) -> tuple[str, str] | None:
    try:
        for prompt in prompts:
            _forward_without_cache(folder, prompt)
    except Exception as error:
        return NO_REFERENCE, _line(error)
    return None


def _first(outputs: list[list[int]], expected: list[list[int]]) -> str:
    wrong = [n for n, a, b in zip(LENGTHS, outputs, expected, strict=True) if a != b]
    return f"prompts of {', '.join(map(str, wrong))} tokens"


def _build(name: str, folder: Path) -> None:
    config = _tiny_config(name)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters with the fields that are known here")
    torch.manual_seed(7)
    AutoModelForCausalLM.from_config(_tiny_config(name), dtype=torch.float32).save_pretrained(
        folder
    )


def _tiny_config(name: str) -> Any:
    default = AutoConfig.for_model(name)
    own = SPECIAL.get(name, {})
    if name in ARCHITECTURES:
        own = ARCHITECTURES[name] | own
    settings = {k: v for k, v in SMALL.items() if _has(default, k)} | own
    for part in ("text_config", "vision_config", "audio_config"):
        inner = getattr(default, part, None)
        if inner is not None:
            settings[part] = {k: v for k, v in SMALL.items() if _has(inner, k)} | {
                "model_type": inner.model_type
            }
    return AutoConfig.for_model(name, **{k: v for k, v in settings.items() if v is not None})


def _has(config: Any, field: str) -> bool:
    """Whether the class has the field and uses it by default (an absent window stays absent)."""
    if field in ("pad_token_id", "num_key_value_heads", "head_dim"):
        return hasattr(config, field)
    return getattr(config, field, None) is not None


def _prompts() -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(3, VOCABULARY) for _ in range(n)] for n in LENGTHS]


@torch.inference_mode()
def _forward_without_cache(folder: Path, prompt: list[int]) -> list[int]:
    model = _reference(folder)
    tokens = list(prompt)
    for _ in range(OUTPUT):
        logits = model(input_ids=torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def _reference(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _line(error: object) -> str:
    """The first line of an error, without this run's folder in it."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text.replace(tempfile.gettempdir(), "").strip()[:160]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No notices and progress of transformers."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield


def main(names: list[str]) -> None:
    """Write the outcomes, keeping those of architectures that were not asked for."""
    known = json.loads(RESULT.read_text())["outcomes"] if RESULT.is_file() else []
    found = {row["architecture"]: row for row in known if row["architecture"] in NAMES}
    with quiet():
        for name in names or NAMES:
            found[name] = asdict(examine(name))
            print(found[name], flush=True)
            result = {
                "transformers": transformers.__version__,
                "outcomes": [found[n] for n in sorted(found)],
            }
            RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
