"""Write a checkpoint as a Hugging Face folder: `python -m house.export`.

Files are written aside and renamed one by one, so that a reader never sees half a file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from house.loop import CHECKPOINT, RUNS
from house.model import Shape, hf_config
from house.tasks import special_id
from house.tokenizer import BOS, END, EOS, PAD

MODEL_FOLDER = Path(__file__).parent.parent / "models" / "house"


def _write(folder: Path, name: str, value: object) -> None:
    temporary = folder / (name + ".tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    temporary.replace(folder / name)


def export(checkpoint: Path, folder: Path) -> None:
    """Weights in bfloat16 under their Hugging Face names, and the two configurations."""
    state = torch.load(checkpoint, weights_only=False)
    weights = {
        "model." + name: weight.to(torch.bfloat16).contiguous()
        for name, weight in state["model"].items()
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos, eos, pad = (special_id(tokenizer, text) for text in (BOS, END, PAD))
    _write(folder, "config.json", hf_config(Shape(), bos, eos, pad))
    _write(
        folder,
        "generation_config.json",
        {
            "bos_token_id": bos,
            "eos_token_id": [eos, special_id(tokenizer, EOS)],
            "pad_token_id": pad,
            "do_sample": False,
            "max_new_tokens": 256,
        },
    )
    save_file(weights, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    (folder / "model.safetensors.tmp").replace(folder / "model.safetensors")
    print(f"exported {state['tokens']:,} tokens, step {state['step']:,} to {folder}")


def main() -> None:
    """Export the run's last checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=RUNS / "house" / CHECKPOINT)
    parser.add_argument("--folder", type=Path, default=MODEL_FOLDER)
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.folder)


if __name__ == "__main__":
    main()
