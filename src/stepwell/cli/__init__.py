"""The `stepwell` command: one file per verb, each with a Typer `app`.

Verb modules import only typer and `base` at the top; torch, the engine and the server are
imported inside the verb, so that `--help` and `version` answer at once.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
"""
