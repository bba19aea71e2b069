"""The brain under virtual time: a trace is replayed against the very policies that serve.

Owns: trace readers, the virtual clock and devices of a hardware profile, the clairvoyant ceiling,
and the report. It pretends to be a body: it answers the brain's orders with reports after the time
that they would have taken. Nothing here touches a tensor or a real tier.
"""
