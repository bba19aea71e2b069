"""Tests of `stepwell doctor`."""
