"""A context as the server makes it, without a server: for training, and for arms of a bench that
give a model something else than its knowledge base would."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.knowledge.entry import ALWAYS, Provenance, Source, new_entry
from stepwell.knowledge.payload import Metric, Payload, Relationship
from stepwell.knowledge.render import PREAMBLE, render

SEPARATOR = "\n"
"""Between a context and a question: an empty line, as the server puts it."""
_NOBODY = Provenance(source=Source.USER, by="", at="")
_PACKED = Relationship | Metric


def context_of(payloads: Sequence[Payload], area: str) -> str:
    """The pack's kinds first, then the others, each in canonical order, as released entries."""
    packed = [payload for payload in payloads if isinstance(payload, _PACKED)]
    chosen = [payload for payload in payloads if not isinstance(payload, _PACKED)]
    return PREAMBLE + _rendered(packed, area) + _rendered(chosen, area)


def _rendered(payloads: Sequence[Payload], area: str) -> str:
    return render(
        new_entry(
            payload, area=area, triggers=(), depends_on=(), validity=ALWAYS, provenance=_NOBODY,
            parents=(),
        )
        for payload in payloads
    )  # fmt: skip
