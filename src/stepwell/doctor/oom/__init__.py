"""Why memory ran out: reads a log, a message or a torch memory snapshot, and explains it.

`scan` finds messages in a log of any length, one reader a wording (`*_text`) turns each into an
`Explanation`: who holds what as far as the text says, when it happened, what to change and what
that brings. `snapshot` reads torch's memory snapshots without torch. Owns no wording of its own
invention: what no reader knows is reported as unknown.
"""
