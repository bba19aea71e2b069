"""Byte stores below the device, and the mover that carries chunks to and from them.

Owns: the host arena, the segments and index of the disk tier, the connection to the network tier,
the threads, deadlines and breakers of transfers. Every byte that comes back has been verified
against its checksum. Knows nothing of tokens, sessions, value or policy: the brain (`cache/`)
orders, and what the bytes mean is the codec's affair.
"""
