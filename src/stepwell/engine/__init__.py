"""The engine: requests in, tokens out, one ragged step at a time.

The only place that knows all parts. `engine.py` runs the loop body
schedule -> copy -> forward -> sample -> commit -> emit; `loop.py` gives it a thread; `llm.py`
is the offline entrance. It owns the sequences and decides what runs (`scheduler`), but not which
block holds what (`cache`) nor how a layer computes (`model`, `kernels`). No asyncio here.
"""
