"""Single tensors out of a folder of safetensors, without holding the rest.

Files are mapped, so what was read counts as page cache until `forget`. Names must be the model's
own: where transformers renames or merges tensors while loading (experts of some mixtures), the
checkpoint cannot be read layer by layer and is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stepwell.base.errors import UnsafeCheckpoint, UnsupportedArchitecture
from stepwell.model.streaming.skeleton import Origin, Skeleton


class CheckpointTensors:
    """Which file holds which tensor."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._open = safe_open
        self._files: dict[str, Path] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)
        if not self._files:
            raise UnsafeCheckpoint(
                f"{folder} has no safetensors weights; pickled ones are never loaded.",
                hint="Convert them with transformers' save_pretrained.",
            )

    def check(self, skeleton: Skeleton) -> None:
        """Raises UnsupportedArchitecture where the model needs a tensor that is not there."""
        wanted = {o.name for unit in skeleton.units for o in unit.origins.values()}
        missing = sorted((wanted | {skeleton.embedding_name, *skeleton.rest}) - set(self._files))
        if missing:
            raise UnsupportedArchitecture(
                f"the checkpoint has no tensor {missing[0]} ({len(missing)} are missing): its "
                "tensors are renamed or merged at load, so it cannot be read layer by layer.",
                hint="Save it with transformers' save_pretrained under the model's own names, or "
                "load it whole: model.weights_budget = 0.",
            )

    def read(self, origin: Origin, dtype: torch.dtype) -> Tensor:
        """The values, in memory of their own."""
        with self._open(self._files[origin.name], framework="pt") as file:
            if origin.rows is None:
                found: Any = file.get_tensor(origin.name)
            else:
                found = file.get_slice(origin.name)[origin.rows]
            return found.to(dtype, copy=True)

    def forget(self) -> None:
        """Give the files' pages back to the system."""
        for path in set(self._files.values()):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)
