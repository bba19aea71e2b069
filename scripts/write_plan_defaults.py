"""Writes what configurations mean where they leave fields out, from transformers' own classes.

    python scripts/write_plan_defaults.py [--check]

The planner reads the result without transformers. `also`: other names of a field.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parent.parent / "src" / "stepwell" / "plan" / "defaults.json"
# Fields that planning reads. Those that other fields are computed from are not listed.
FIELDS = """
attention_bias attention_chunk_size attention_out_bias attn_layer_offset attn_layer_period bias
block_auto_adjust_ff_dim block_ffn_dim_multiplier block_multiple_of conv_L_cache conv_bias
conv_kernel decoder_sparse_step do_layer_norm_before enable_bias expand expert_layer_offset
expert_layer_period ffn_dim first_k_dense_replace head_dim hidden_size interleave_moe_layer_step
intermediate_size intermediate_size_mlp kv_lora_rank linear_conv_kernel_dim linear_key_head_dim
linear_num_key_heads linear_num_value_heads linear_value_head_dim lm_head_bias mamba_conv_bias
mamba_d_conv mamba_d_ssm mamba_d_state mamba_dt_rank mamba_expand mamba_n_groups mamba_n_heads
mamba_proj_bias mamba_rms_norm max_position_embeddings max_window_layers mlp_bias
mlp_only_layers moe_intermediate_size moe_num_experts multi_query n_embd n_groups n_head n_inner
n_layer n_positions n_routed_experts n_shared_experts new_decoder_architecture
no_rope_layer_interval num_attention_heads num_experts num_experts_per_tok num_heads
num_hidden_layers num_key_value_heads num_kv_heads num_local_experts parallel_attn
projectors_bias q_lora_rank qk_nope_head_dim qk_rope_head_dim qkv_bias
shared_expert_intermediate_size shared_intermediate_size sliding_window sliding_window_pattern
state_size tie_word_embeddings time_step_rank use_bias use_conv_bias use_qk_norm
use_sliding_window v_head_dim vocab_size word_embed_proj_dim
""".split()


def collect() -> dict[str, Any]:
    """Model type -> its defaults and other names."""
    from transformers import CONFIG_MAPPING

    from stepwell.plan.families import known_types

    found = {}
    for name in known_types():
        if name not in CONFIG_MAPPING:
            continue
        cls = CONFIG_MAPPING[name]
        defaults = {f: getattr(cls, f) for f in FIELDS if is_plain(getattr(cls, f, None))}
        also = {k: v for k, v in cls.attribute_map.items() if k in FIELDS or v in FIELDS}
        found[name] = {"defaults": defaults, "also": also}
    return found


def is_plain(value: Any) -> bool:
    """Whether JSON can say it, and it says anything."""
    return isinstance(value, bool | int | float | str | list)


def main() -> None:
    """Write, or compare with what is there."""
    text = json.dumps(collect(), indent=1, sort_keys=True) + "\n"
    if "--check" in sys.argv:
        sys.exit(0 if PLACE.read_text(encoding="utf-8") == text else f"{PLACE} is out of date")
    PLACE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
