"""Rotary position embedding of query and key heads, in place, after an optional norm of each head:
the truth (`reference`) and compiled code (`cpu`).

Owns the arithmetic. Does not own frequencies: cosines and sines come from the model.
"""
