"""Whether a process leaks: watches its memory, threads and files from outside, and its tensors and
containers from inside, and says «grows» only where the evidence suffices.

`process` reads the system, `trend` is the statistics, `watch` the loop, `audit` the look from
inside. Linux only for what comes from the system. Never changes what it watches.
"""
