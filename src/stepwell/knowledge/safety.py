"""What may not come in: secrets are refused, SQL that is no query too; injection, personal data,
hidden characters and triggers that fire on everything keep an entry from being confirmed.

Patterns find what is obvious, not everything: entries are quoted as data in any case (`render`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from stepwell.knowledge.entry import Entry
from stepwell.knowledge.errors import UnsafeEntry
from stepwell.knowledge.payload import Metric, Template, texts
from stepwell.knowledge.sql import forbidden_call, is_expression
from stepwell.knowledge.words import content_words

_SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bgithub_pat_\w{30,}|\bsk-[A-Za-z0-9_-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{35}\b"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]+|\w+://[^\s:/@]+:[^\s/@]{3,}@\S+"
    r"|(?i:\b(?:password|passwd|secret|api[_-]?key|access[_-]?token)\b\s*[:=]\s*['\"]?[^\s'\"]{6,})"
)
_INJECTION = re.compile(
    r"\b(?:ignore|disregard|forget|override)\b[^.\n]{0,40}\b(?:instruction|prompt|rule|above"
    r"|previous|context|guideline)|\byou (?:are|must) now\b|\bsystem (?:prompt|message)\b"
    r"|\bnew instructions?\b"
    r"|<\|?(?:im_start|im_end|system|assistant|user|endoftext)\|?>|\[/?INST\]"
    r"|^\s*(?:system|assistant)\s*:"
    r"|\b(?:do not|don't|never) (?:tell|inform|reveal|mention)\b[^.\n]{0,20}\buser\b"
    r"|\bact as\b|\bjailbreak"
    r"|\b(?:call|run|execute|use) the [\w ]{0,20}\b(?:tool|function|command|shell)\b"
    r"|\b(?:curl|wget) https?:|\b(?:send|post|upload|exfiltrate)\b[^.\n]{0,60}https?://",
    re.IGNORECASE | re.MULTILINE,
)
_PERSONAL = re.compile(
    r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b|\b\d{3}-\d{2}-\d{4}\b"
    r"|(?<!\d)\+\d{1,3}[ -]?(?:\(?\d{1,4}\)?[ -]?){2,5}\d{2,4}(?!\d)",
    re.IGNORECASE,
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<!\d)(?:\d[ -]?){13,19}(?!\d)")


def hidden(text: str) -> bool:
    """Characters that are not seen: zero width, direction overrides, tags, controls."""
    return any(
        unicodedata.category(char) in ("Cf", "Cc", "Co") and char not in "\n\t\r" for char in text
    )


def visible(text: str) -> str:
    """Without them, and with look-alikes folded, for the patterns to match on."""
    folded = unicodedata.normalize("NFKC", text)
    return "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Co"))


def mixed_scripts(text: str) -> bool:
    """A word of Latin and of Cyrillic or Greek letters: look-alikes."""
    for word in re.findall(r"[^\W\d_]+", text):
        scripts = {unicodedata.name(char, "?").split(" ")[0] for char in word}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "GREEK"}:
            return True
    return False


def refuse_secrets(parts: Iterable[str]) -> None:
    """Raises UnsafeEntry. The message does not repeat the secret."""
    for part in parts:
        if _SECRETS.search(visible(part)):
            raise UnsafeEntry("the text holds what looks like a secret.", hint="Remove it first.")


def refuse_calls(sql: str) -> None:
    """Raises UnsafeEntry for functions that read files, write files or call out."""
    if name := forbidden_call(sql):
        raise UnsafeEntry(f"the query calls {name}().", hint="A plain SELECT.", param="sql")


def lint(entry: Entry) -> tuple[str, ...]:
    """Codes of what keeps the entry from being confirmed; raises UnsafeEntry for what may not be
    stored at all."""
    parts = [*texts(entry.payload).values(), *entry.triggers, *(d.name for d in entry.depends_on)]
    refuse_secrets(parts)
    if isinstance(entry.payload, Template):
        refuse_calls(entry.payload.sql)
    codes = set(_codes(parts, entry.triggers))
    if isinstance(entry.payload, Metric):
        refuse_calls(f"SELECT {entry.payload.expression}")
        if not is_expression(entry.payload.expression):
            codes.add("no_expression")
    return tuple(sorted(codes))


def lint_texts(parts: Sequence[str]) -> tuple[str, ...]:
    """`lint` for texts that are no entry."""
    refuse_secrets(parts)
    return tuple(sorted(set(_codes(parts, ()))))


def _codes(parts: Iterable[str], triggers: Iterable[str]) -> Iterator[str]:
    for part in parts:
        plain = visible(part)
        if hidden(part) or mixed_scripts(part):
            yield "hidden_characters"
        if _INJECTION.search(plain):
            yield "injection"
        if _PERSONAL.search(plain) or _IBAN.search(plain) or any(map(_luhn, _CARD.findall(plain))):
            yield "personal_data"
    for trigger in triggers:
        if not "".join(content_words(trigger)).strip() or len(trigger.strip()) < 2:
            yield "broad_trigger"


def _luhn(digits: str) -> bool:
    """The check digit of payment cards."""
    total = 0
    for place, char in enumerate(reversed([c for c in digits if c.isdigit()])):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0
