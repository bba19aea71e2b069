"""transformers with accelerate's disk offload: `device_map="auto"` under a limit for memory, the
rest of the layers stay in the checkpoint's safetensors and are read, mapped, when they run.

What its users write, with its defaults; static batches by `generate`. Prompts of one length.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from stepwell.evaluate.protocol import serve_contestant


class Offloaded:
    """One model."""

    def __init__(self) -> None:
        self._model: Any = None
        self._folder = tempfile.TemporaryDirectory()

    def load(self, model: str, memory: int) -> dict[str, Any]:
        """`memory`: bytes of weights that may stay."""
        import accelerate

        start = time.perf_counter()
        logging.disable_progress_bar()
        self._model = AutoModelForCausalLM.from_pretrained(
            model,
            dtype=torch.bfloat16,
            device_map="auto",
            max_memory={"cpu": memory},
            offload_folder=self._folder.name,
        )
        self._model.generation_config.eos_token_id = None
        self._model.generation_config.pad_token_id = 0
        places = list(self._model.hf_device_map.values())
        return {
            "seconds": time.perf_counter() - start,
            "version": accelerate.__version__,
            "modules": len(places),
            "on_disk": sum(place == "disk" for place in places),
        }

    @torch.inference_mode()
    def run(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> dict[str, Any]:
        """One static batch."""
        ids = torch.tensor(prompts)
        start = time.perf_counter()
        result = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
        )
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "tokens": result[:, ids.shape[1] :].tolist()}


if __name__ == "__main__":
    rival = Offloaded()
    serve_contestant({"load": rival.load, "run": rival.run})
