"""Kernel tests run with two threads, whatever the rest of the suite does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from stepwell.kernels import registry


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Races need more than one thread to show."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A registry that has decided nothing yet, before and after."""
    registry.forget()
    yield monkeypatch
    monkeypatch.undo()
    registry.forget()
