"""What a model needs and what a machine gives, before anything is bought or started.

Owns the arithmetic of memory (weights, KV, state, workspace), the roofline, the facts about models
and the recommendation. Pure Python: no torch, no network, answers in under a second. Does not
measure anything (`hardware`, `evaluate`) and looks at no live server (`doctor`).
"""
