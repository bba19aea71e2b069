"""RMS normalization of rows: the truth (`reference`) and compiled code (`cpu`).

Owns the arithmetic. Does not own weights, nor which modules are replaced (model/swap.py).
"""
