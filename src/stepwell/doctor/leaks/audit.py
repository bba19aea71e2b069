"""A look from inside: live tensors, those that hold a graph, and containers that are large.

For tests and for a server's own debug page. Walks what Python's garbage collector knows, and holds
the GIL meanwhile; imports nothing: torch only counts where the program has imported it. Tensors
that only C++ holds are not seen.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType, ModuleType
from typing import Any

LARGE = 1000
"""Items from which on a container is listed."""

_CONTAINERS = frozenset({list, dict, set, deque, OrderedDict, defaultdict, Counter})
_CHUNK = 10_000
_MOST_LISTED = 200
_DEEPEST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorCount:
    """Live tensors seen from Python. `with_graph` have a grad_fn: each keeps the activations of
    the computation that made it. `parameters` require gradients and were not computed."""

    count: int = 0
    bytes: int = 0
    with_graph: int = 0
    with_graph_bytes: int = 0
    parameters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """A large container. `owner`: what refers to it, as far as found."""

    kind: str
    items: int
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """One look. `tensors` None: torch is not loaded. `containers` by the id of the object."""

    objects: int
    tensors: TensorCount | None
    containers: Mapping[int, Container]

    def as_dict(self) -> dict[str, Any]:
        """For a debug page."""
        tensors = self.tensors
        return {
            "objects": self.objects,
            "tensors": None if tensors is None else {
                "count": tensors.count,
                "bytes": tensors.bytes,
                "with_graph": tensors.with_graph,
                "with_graph_bytes": tensors.with_graph_bytes,
                "parameters": tensors.parameters,
            },
            "containers": [
                {"kind": item.kind, "items": item.items, "owner": item.owner}
                for item in sorted(self.containers.values(), key=lambda c: -c.items)
            ],
        }  # fmt: skip


@dataclass(slots=True)
class Watched:
    """What `watch` found. `before` and `after` are looks with garbage collected."""

    before: Audit
    after: Audit | None = None
    grown: list[Container] = field(default_factory=list)

    @property
    def new_graph_tensors(self) -> int:
        """Tensors with a graph that are left over."""
        now = self.after.tensors if self.after is not None else None
        then = self.before.tensors
        return (now.with_graph if now else 0) - (then.with_graph if then else 0)


@contextmanager
def watch(*, least_growth: int = LARGE) -> Iterator[Watched]:
    """Compare a look before with one after the block: `grown` lists containers that have at least
    `least_growth` items more than before (a new one counts from nothing)."""
    gc.unfreeze()  # so that what is garbage among the hidden is not found between the looks
    gc.collect()
    watched = Watched(audit())
    yield watched
    gc.collect()
    after = audit()
    watched.after = after
    known = watched.before.containers
    watched.grown = [
        item
        for key, item in after.containers.items()
        if item.items - (known[key].items if key in known else 0) >= least_growth
    ]


def audit(*, owners: bool = True) -> Audit:
    """Look now. `owners` False: without asking what refers to each container.

    What `gc.freeze` hid (the server does it after its imports) is given back to the collector for
    good: hidden objects are in no listing and named as no owner. Full collections look through a
    million objects more from then on, some tenths of a second each.
    """
    gc.unfreeze()
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", None)
    tensors: list[Any] = []
    large: list[Any] = []
    objects = gc.get_objects()
    skipped = {id(objects), id(tensors), id(large)}
    for item in objects:
        if type(item) in _CONTAINERS:
            if len(item) >= LARGE and id(item) not in skipped:
                large.append(item)
        elif tensor_type is not None and issubclass(type(item), tensor_type):
            tensors.append(item)
    count = len(objects)
    large += _untracked(objects)
    del objects  # it refers to everything, and would be every container's owner
    large.sort(key=len, reverse=True)
    large = large[:_MOST_LISTED]
    named = _owners(large, skip={id(large), id(tensors)}) if owners else {}
    found = {
        id(item): Container(
            kind=type(item).__name__, items=len(item), owner=named.get(id(item), "")
        )
        for item in large
    }
    return Audit(
        objects=count,
        tensors=None if tensor_type is None else _count(tensors),
        containers=found,
    )


def _untracked(objects: list[Any]) -> list[Any]:
    """Large dictionaries that the collector does not list, as they hold plain values only: found
    through what refers to them."""
    found: dict[int, Any] = {}
    for start in range(0, len(objects), _CHUNK):
        for item in gc.get_referents(*objects[start : start + _CHUNK]):
            if type(item) is dict and len(item) >= LARGE and not gc.is_tracked(item):
                found[id(item)] = item
    return list(found.values())


def _count(tensors: list[Any]) -> TensorCount:
    graphs = [tensor for tensor in tensors if _has_graph(tensor)]
    return TensorCount(
        count=len(tensors),
        bytes=sum(map(_bytes, tensors)),
        with_graph=len(graphs),
        with_graph_bytes=sum(map(_bytes, graphs)),
        parameters=sum(_is_leaf_with_grad(tensor) for tensor in tensors),
    )


def _has_graph(tensor: Any) -> bool:
    try:
        return tensor.grad_fn is not None
    except (RuntimeError, ReferenceError):
        return False


def _is_leaf_with_grad(tensor: Any) -> bool:
    try:
        return bool(tensor.requires_grad) and tensor.grad_fn is None
    except (RuntimeError, ReferenceError):
        return False


def _bytes(tensor: Any) -> int:
    """Of its elements: views of one storage are counted each."""
    try:
        return int(tensor.numel() * tensor.element_size())
    except (RuntimeError, ReferenceError, NotImplementedError):
        return 0


def _owners(items: list[Any], *, skip: set[int]) -> dict[int, str]:
    """`module.name` or `Class.attribute` of what refers to each item, by its id. One walk of the
    collector a level for all of them; what is held in another way has no entry."""
    owners: dict[int, str] = {}
    level = {id(item): [(id(item), "")] for item in items}
    held: list[Any] = items
    for _ in range(_DEEPEST):
        if not held:
            break
        referrers = gc.get_referrers(*held)
        skip = skip | {id(referrers), id(held)}
        above: dict[int, list[tuple[int, str]]] = {}
        for referrer in referrers:
            if id(referrer) not in skip:
                _note_owners(referrer, level, owners, above)
        held = [dictionary for dictionary in referrers if id(dictionary) in above]
        level = above
        del referrers
    return owners


def _note_owners(
    referrer: Any,
    level: dict[int, list[tuple[int, str]]],
    owners: dict[int, str],
    above: dict[int, list[tuple[int, str]]],
) -> None:
    """What one referrer says: an owner's name, or, of a plain dictionary, a path to go on with."""
    if isinstance(referrer, dict):
        found = _paths(referrer, level)
        module = referrer.get("__name__")
        if isinstance(module, str):
            _name(owners, module, found)
        elif found:
            above[id(referrer)] = [pair for pair in found if pair[0] not in owners]
    elif not isinstance(referrer, list | tuple | set | deque | FrameType | ModuleType):
        cls = type(referrer).__name__
        names = getattr(referrer, "__dict__", None)
        if isinstance(names, dict):
            found = level.get(id(names)) or _paths(names, level)
            _name(owners, cls, found)
        _name(owners, cls, _slots(referrer, level))


def _name(owners: dict[int, str], name: str, found: list[tuple[int, str]]) -> None:
    """The nearest owner stays: what is found on a longer way later does not replace it."""
    for root, path in found:
        owners.setdefault(root, name + path)


def _paths(names: dict[Any, Any], level: dict[int, list[tuple[int, str]]]) -> list[tuple[int, str]]:
    if len(names) > _CHUNK:
        return []
    return [
        (root, f".{key}{path}")
        for key, value in list(names.items())
        if isinstance(key, str)
        for root, path in level.get(id(value), ())
    ]


def _slots(owner: Any, level: dict[int, list[tuple[int, str]]]) -> list[tuple[int, str]]:
    found = []
    for cls in type(owner).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            try:
                value = getattr(owner, slot, None)
            except Exception:  # a descriptor of the program under watch may raise anything
                continue
            found += [(root, f".{slot}{path}") for root, path in level.get(id(value), ())]
    return found
