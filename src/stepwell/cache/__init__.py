"""The brain: which block holds what, for whom, and which goes first when room is needed.

Pure bookkeeping over integers and keys: events and questions in, answers and orders out. It owns
the block table of every sequence, the reference counts, the prefix index and the choice of
victims. It never touches a tensor, a thread, a clock or a file; the engine carries out its orders
and reports back. What the bytes of a block look like is not known here.
"""
