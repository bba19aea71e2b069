"""How far a restored cache moves the model's predictions on text that goes on after it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stepwell.evaluate.statistics import percentile


@dataclass(slots=True)
class Fidelity:
    """Collected over positions of continuation text. `kl`: nats of KL(vanilla || restored)."""

    kl: list[float] = field(default_factory=list)
    agreed: int = 0
    loss: float = 0.0

    def add(self, vanilla: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Logits [tokens, vocabulary] of both and the tokens that came next [tokens]."""
        logs, base = (torch.log_softmax(x.double(), -1) for x in (logits, vanilla))
        terms = base.exp() * (base - logs)
        # An impossible token on both sides is no difference, though its term is not a number.
        terms = torch.where(base == -math.inf, 0.0, terms)
        self.kl += terms.sum(-1).clamp(min=0.0).tolist()
        self.agreed += int((logits.argmax(-1) == vanilla.argmax(-1)).sum())
        self.loss -= float(logs.gather(-1, targets[:, None]).sum())

    @property
    def positions(self) -> int:
        """Predictions compared."""
        return len(self.kl)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "positions": self.positions,
            "kl_mean": float(f"{math.fsum(self.kl) / self.positions:.4g}"),
            "kl_p99": float(f"{percentile(self.kl, 99):.4g}"),
            "kl_max": float(f"{max(self.kl):.4g}"),
            "top1_agreement": round(self.agreed / self.positions, 5),
            "perplexity": round(math.exp(self.loss / self.positions), 4),
        }
