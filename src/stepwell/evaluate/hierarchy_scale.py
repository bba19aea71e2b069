"""How much `stepwell bench hierarchy` measures: quick, or in full."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`prefix`: tokens of a returning session. `returns`: prompts a tier. `sick_requests` a fault,
    each of `sick_prompt` tokens, low to high. `chats`: sessions of `chat_turns`, which begin with
    `chat_prompt` tokens, for each of `chat_rounds`; 0 chats: none. `plans`, `chunks`: of the brain
    at scale. `disk_total`: bytes a round of the disk beside a plain file, 0: not measured."""

    seed: int = 1
    vocab_size: int = 4096
    pool: str = "512MiB"
    prefix: int = 2048
    returns: int = 5
    sick_requests: int = 16
    sick_prompt: tuple[int, int] = (512, 1024)
    chats: int = 64
    chat_turns: int = 3
    chat_prompt: int = 256
    chat_rounds: int = 1
    think: float = 1.0
    chunks: int = 1_000_000
    plans: int = 2000
    disk_total: int = 512 << 20


def quick_scale(*, seed: int, vocab_size: int) -> Scale:
    """For 50 seconds with the house model."""
    return Scale(
        seed=seed, vocab_size=vocab_size, returns=3, sick_requests=14, chats=16, chat_turns=2,
        chat_prompt=512, think=0.1, chunks=100_000, plans=1000, disk_total=0,
    )  # fmt: skip
