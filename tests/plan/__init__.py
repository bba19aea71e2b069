"""Tests of `stepwell plan`."""
