"""Which layers look back how far, from the fields that configurations say it with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stepwell.plan.architecture import AttentionKind
from stepwell.plan.fields import Fields

_KINDS = {
    "full_attention": AttentionKind.FULL,
    "attention": AttentionKind.FULL,
    "sliding_attention": AttentionKind.SLIDING,
    "chunked_attention": AttentionKind.CHUNKED,
}


class WindowRule(StrEnum):
    """What `sliding_window` means where `layer_types` is not in the configuration."""

    NONE = "the field is ignored"
    ALL = "all layers, unless it is null"
    SWITCHED = "layers from max_window_layers on, if use_sliding_window"
    PATTERN = "all but every n-th layer, by sliding_window_pattern"
    CHUNKED = "attention_chunk_size, in layers whose no_rope_layers is 1"


@dataclass(frozen=True, slots=True)
class Reach:
    """One layer's kind and window in tokens."""

    kind: AttentionKind
    window: int = 0


def reaches(fields: Fields, rule: WindowRule, *, pattern: int | None = None) -> tuple[Reach, ...]:
    """Of every layer; `pattern`: of this kind of model where the configuration names none. Raises
    UnknownArchitecture for kinds of layers that are not attention."""
    count = fields.number("num_hidden_layers")
    types = fields.get("layer_types")
    if rule is not WindowRule.NONE and types is not None:
        if len(types) != count:
            raise fields.refused(f"layer_types names {len(types)} layers of {count}")
        return tuple(_reach(fields, str(name)) for name in types)
    if rule is WindowRule.CHUNKED:
        return _chunked(fields, count)
    window = None if rule is WindowRule.NONE else fields.optional("sliding_window")
    if not window:
        return (Reach(AttentionKind.FULL),) * count
    near = Reach(AttentionKind.SLIDING, window)
    if rule is WindowRule.ALL:
        return (near,) * count
    if rule is WindowRule.SWITCHED:
        if not fields.flag("use_sliding_window", False):
            return (Reach(AttentionKind.FULL),) * count
        first = fields.number("max_window_layers")
        return tuple(near if i >= first else Reach(AttentionKind.FULL) for i in range(count))
    every = fields.get("sliding_window_pattern", pattern)
    every = len(every) if isinstance(every, str) else every  # exaone4 writes LLLG
    if not isinstance(every, int) or every < 1:
        raise fields.refused("sliding_window_pattern is missing")
    return tuple(near if (i + 1) % every else Reach(AttentionKind.FULL) for i in range(count))


def _chunked(fields: Fields, count: int) -> tuple[Reach, ...]:
    every = fields.number("no_rope_layer_interval")
    flags = fields.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]
    size = fields.get("attention_chunk_size")
    far = Reach(AttentionKind.FULL)
    near = Reach(AttentionKind.CHUNKED, int(size)) if size else far
    return tuple(near if flag else far for flag in flags)


def _reach(fields: Fields, name: str) -> Reach:
    kind = _KINDS.get(name)
    if kind is None:
        raise fields.refused(f"layers of kind {name!r} are not known here")
    if kind is AttentionKind.FULL:
        return Reach(kind)
    field = "sliding_window" if kind is AttentionKind.SLIDING else "attention_chunk_size"
    return Reach(kind, fields.number(field))
