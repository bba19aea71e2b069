"""Train the byte-level BPE tokenizer and write it in Hugging Face layout.

Byte-level BPE follows Sennrich et al. (arXiv:1508.07909) in GPT-2's form; digits are split one
by one so that a number is copied digit by digit and never depends on rare merged tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

from house.corpus import load_corpus
from house.words import common_words

VOCABULARY = 4096
MAX_LENGTH = 4096
WORD_WEIGHT = 3000
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SYSTEM, USER, ASSISTANT, END = "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = [PAD, BOS, EOS, SYSTEM, USER, ASSISTANT, END]
# Digits alone, words with one leading space, punctuation runs, and white space.
SPLIT = r"\d| ?[^\W\d_]+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + (message['content'] | trim) + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def _training_text() -> Iterator[str]:
    yield from load_corpus().train
    line = " ".join(["", *common_words()])
    for _ in range(WORD_WEIGHT):
        yield line


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE over the corpus; `WORD_WEIGHT` makes every common word one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_training_text(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": END,
        "pad_token": PAD,
        "additional_special_tokens": [EOS, SYSTEM, USER, ASSISTANT],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def main() -> None:
    """Train into `models/house`."""
    tokenizer = train_tokenizer()
    words = common_words()
    missing = [
        word
        for word in words
        if len(tokenizer.encode(" " + word, add_special_tokens=False).ids) != 1
    ]
    print(f"vocabulary {tokenizer.get_vocab_size()}, {len(words)} words, missing: {missing}")
    save_tokenizer(tokenizer, Path(__file__).parent.parent / "models" / "house")


if __name__ == "__main__":
    main()
