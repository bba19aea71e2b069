"""The look from inside: containers that grow, tensors that keep a graph."""

from __future__ import annotations

import gc
from collections import OrderedDict, deque

import pytest

from stepwell.doctor.leaks.audit import LARGE, audit, watch

KEPT_BY_MODULE: list[object] = []
MANY = 300 * LARGE  # the largest of this process, whatever ran before: an audit lists so many only


class Server:
    def __init__(self) -> None:
        self.finished_requests: list[int] = []
        self.names: dict[int, str] = {}
        self.latest: OrderedDict[int, None] = OrderedDict()


class Slotted:
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: set[int] = set()


def test_a_list_that_grows_is_named() -> None:
    server = Server()
    with watch() as watched:
        server.finished_requests.extend(range(2 * LARGE))
    (grown,) = [item for item in watched.grown if item.items == 2 * LARGE]
    assert (grown.kind, grown.owner) == ("list", "Server.finished_requests")


@pytest.mark.parametrize("kind", ["dict", "set", "ordered", "module"])
def test_other_containers_are_named(kind: str) -> None:
    server, slotted = Server(), Slotted()
    with watch() as watched:
        if kind == "dict":
            server.names.update((n, str(n)) for n in range(MANY))
        elif kind == "set":
            slotted.seen.update(range(MANY))
        elif kind == "ordered":
            server.latest.update((n, None) for n in range(MANY))
        else:
            KEPT_BY_MODULE.extend(range(MANY))
    owners = {item.owner for item in watched.grown if item.items == MANY}
    expected = {"dict": "Server.names", "set": "Slotted.seen", "ordered": "Server.latest",
                "module": f"{__name__}.KEPT_BY_MODULE"}  # fmt: skip
    assert owners == {expected[kind]}
    KEPT_BY_MODULE.clear()


def test_what_was_hidden_from_the_collector_is_named() -> None:
    server = Server()
    gc.freeze()
    try:
        with watch() as watched:
            server.finished_requests.extend(range(MANY))
            KEPT_BY_MODULE.extend(range(MANY + 1))
        owners = {item.items: item.owner for item in watched.grown if item.items >= MANY}
    finally:
        KEPT_BY_MODULE.clear()
        gc.unfreeze()
    assert owners[MANY] == "Server.finished_requests"
    assert owners[MANY + 1] == f"{__name__}.KEPT_BY_MODULE"


def test_what_is_dropped_or_bounded_is_not_reported() -> None:
    bounded: deque[int] = deque(maxlen=LARGE + 5)
    bounded.extend(range(LARGE + 5))
    with watch() as watched:
        bounded.extend(range(50 * LARGE))
        made = list(range(10 * LARGE))
        del made
    assert not watched.grown
    assert watched.new_graph_tensors == 0


def test_a_page_lists_the_largest_first() -> None:
    large, larger = list(range(5 * LARGE)), list(range(9 * LARGE))
    sizes = [item["items"] for item in audit().as_dict()["containers"]]
    assert sizes == sorted(sizes, reverse=True)
    assert len(large) in sizes and len(larger) in sizes


def test_tensors_that_keep_a_graph_are_counted() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.ones(64, 64, requires_grad=True)
    kept = []
    with watch() as watched:
        for _ in range(20):
            kept.append((weight @ weight).sum())  # the mistake: not .item() or .detach()
    assert watched.new_graph_tensors == 20
    assert watched.after is not None and watched.after.tensors is not None
    assert watched.after.tensors.parameters >= 1


def test_inference_mode_keeps_no_graph() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.ones(64, 64, requires_grad=True)
    with watch() as watched, torch.inference_mode():
        kept = [(weight @ weight).sum() for _ in range(20)]
    assert len(kept) == 20 and watched.new_graph_tensors == 0
