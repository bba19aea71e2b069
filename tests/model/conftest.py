"""Checkpoints of random weights for the tests of this folder."""

from tests.checkpoints import checkpoint

__all__ = ["checkpoint"]
