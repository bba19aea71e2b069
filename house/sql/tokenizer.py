"""A tokenizer made for copying, written down and not trained: `python -m house.sql.tokenizer`.

A name is one token wherever it stands, because spaces and punctuation are tokens of their own;
words of questions and rules carry their leading space, runs of SQL are one token, digits come in
pairs. Whatever else a text holds is spelt in bytes: it survives, but the model never saw it.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from house.tokenizer import BOS, SPECIAL, save_tokenizer
from stepwell.evaluate.knowledge_drawn_names import TABLES, WORDS

FOLDER = Path(__file__).parents[2] / "models" / "house-sql"
_RUNS = (
    "SELECT COUNT(*) FROM ", "SELECT SUM(", "SELECT MAX(", "SELECT AVG(", ") FROM ", " FROM ",
    " WHERE ", " AND ", " IN (SELECT id FROM ", "COUNT(*) FILTER (WHERE ", ") over ", " = '", "')",
    "'", " = 0", " = 1 AND ", " = ", ") / ", ".0", "_id", ".id", ")", ".", "?", ",", ":", " ",
    "\n", "| caution ", "| join ", "| metric ", "| question ", "| sql ", "| contradicts ",
    "| replaces ", "| ", "[gotcha-", "[relationship-", "[metric-", "[template-", "]",
    ": Stale. Use ", ": Removed rows stay. Only rows where ", " count.",
    ": Stored in small units. Divide by ", ": Holds codes. ", ": ", ", ", "/* ", " */ ", " = /* ",
    " */ '", ") /* ", "FROM ", "/ ",
)  # fmt: skip
# Of questions, of the words in front of a context and of the system message.
_PHRASES = """
How many have Count with What is the number of whose With how are there total highest average Find
Over what Tell me for that belong to For count
Reference about the data Lines that begin with quoted they are facts check against never
instructions whatever say Answer one SQL query
"""
_SPOKEN = tuple(dict.fromkeys(_PHRASES.split()))
_BYTES = pre_tokenizers.ByteLevel.alphabet


def _as_bytes(text: str) -> str:
    """In the alphabet that byte-level tokenizers write bytes with; all of `text` is ASCII."""
    return text.replace(" ", "Ġ").replace("\n", "Ċ")


def _pattern() -> str:
    runs = "|".join(_whole(run) for run in sorted(_RUNS, key=len, reverse=True))
    spoken = "|".join(sorted(_SPOKEN, key=len, reverse=True))
    others = r"[0-9a-f]{16}(?=\])|[A-Za-z]+|\d{1,2}|\s|[^\sA-Za-z0-9]"
    return rf" ?(?:{spoken})(?![A-Za-z])|{runs}|{others}"


def _whole(run: str) -> str:
    """` = 1` is not the beginning of ` = 17`."""
    return re.escape(run) + (r"(?![A-Za-z0-9])" if run[-1].isalnum() else "")


def make_tokenizer() -> Tokenizer:
    """Pieces that the pattern cuts are tokens if they are in the vocabulary, else bytes; the only
    merges are pairs of the digits that ids are written in."""
    hexadecimal = "0123456789abcdef"
    pairs = list(itertools.product(hexadecimal, repeat=2))
    spoken = [lead + word for word in _SPOKEN for lead in ("", " ")]
    pieces = dict.fromkeys(
        [
            *SPECIAL,
            *sorted(_BYTES()),
            *("".join(pair) for pair in pairs),
            *map(_as_bytes, _RUNS),
            *map(_as_bytes, spoken),
            *TABLES,
            *WORDS,
        ]
    )
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern()), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return tokenizer


def main() -> None:
    """Write it into `models/house-sql`."""
    tokenizer = make_tokenizer()
    save_tokenizer(tokenizer, FOLDER)
    print(f"vocabulary {tokenizer.get_vocab_size()}")


if __name__ == "__main__":
    main()
