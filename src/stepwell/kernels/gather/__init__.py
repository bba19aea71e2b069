"""Rows of a table by number, such as embeddings and rotary tables: the truth (`reference`) and
compiled code (`cpu`), as a part of a program; alone, torch's own is as good.

Owns the copying. Does not own the tables.
"""
