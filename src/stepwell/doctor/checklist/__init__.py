"""The production checklist of a deployment: pass, fail or unknown, each with its evidence.

Evidence comes from the live server (its pages, and with --probe two short requests), from a
settings file, and from result files of benches; `evidence` gathers it, the `*_checks` judge. What
none of them says is unknown, never assumed.
"""
