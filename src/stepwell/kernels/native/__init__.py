"""Compiled CPU code: what every numba kernel here shares.

Owns: vector building blocks (`vector`), raw memory access (`memory`), the on-disk cache of
compiled code (`compiled`), and running one kernel on all CPU threads (`team`).
Does not own: any kernel; those live with their operation.
"""
