"""Texts as vectors, where a model for it is there. Without one, words and entities do."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Embedder = Callable[[Sequence[str]], np.ndarray]
"""Texts -> [texts, dimension] float32, rows of length one."""


def sentence_embedder(model: str) -> Embedder | None:
    """By sentence-transformers, from a folder or a name that it knows; None where it is not
    installed. Loading it loads torch. Nothing is fetched from a network."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return None
    module: Any = importlib.import_module("sentence_transformers")
    loaded = module.SentenceTransformer(model, local_files_only=True)

    def embed(texts: Sequence[str]) -> np.ndarray:
        found = loaded.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    return embed
