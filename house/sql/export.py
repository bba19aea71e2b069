"""Write a checkpoint as a Hugging Face folder: `python -m house.sql.export`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from house.loop import CHECKPOINT, RUNS
from house.model import Shape, hf_config
from house.sql.tokenizer import FOLDER, make_tokenizer
from house.tokenizer import BOS, END, EOS, PAD, save_tokenizer


def shape() -> Shape:
    """2.75 M parameters."""
    return Shape(vocab=make_tokenizer().get_vocab_size(), layers=5, inner=384, context=2048)


def export(checkpoint: Path, folder: Path) -> None:
    """Weights in bfloat16, the tokenizer and the two configurations."""
    state = torch.load(checkpoint, weights_only=False)
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, folder)
    bos, eos, end, pad = (tokenizer.token_to_id(text) for text in (BOS, EOS, END, PAD))
    generation = {
        "bos_token_id": bos,
        "eos_token_id": [end, eos],
        "pad_token_id": pad,
        "do_sample": False,
        "max_new_tokens": 64,
    }
    _write(folder / "config.json", hf_config(shape(), bos, end, pad))
    _write(folder / "generation_config.json", generation)
    stored = {
        f"model.{name}": w.to(torch.bfloat16).contiguous() for name, w in state["model"].items()
    }
    save_file(stored, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    (folder / "model.safetensors.tmp").replace(folder / "model.safetensors")
    print(f"exported {state['tokens']:,} tokens, step {state['step']:,} to {folder}")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main() -> None:
    """Export a run's last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=RUNS / "house-sql" / CHECKPOINT)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.folder)


if __name__ == "__main__":
    main()
