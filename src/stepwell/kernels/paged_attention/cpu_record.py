"""What a step hands to the compiled attention kernels: one int64 record, and rows of a plan."""

from __future__ import annotations

# Fields of the record whose address the kernel gets. NEXT, WORKERS and what FINISHED points to must
# be 0 when it begins; strides and sizes are in bytes, NUMBERS holds two float32: scale and softcap.
NEXT, WORKERS, TASKS, PLAN, TILE, SCRATCH, QUERY, OUT, LSE = range(9)
KEY, VALUE, KEY_STRIDE, VALUE_STRIDE = range(9, 13)
TABLES, TABLE_STRIDE, KV_HEADS, BLOCK_SIZE, PART_TOKENS, WINDOW = range(13, 19)
SINKS, NUMBERS, PARTIALS, FINISHED, FIELDS = range(19, 24)

# Columns of a row of the plan: int32 numbers about one task. TOGETHER: how many tasks share the
# token's head, this one being NUMBER; their states begin at FIRST_PARTIAL.
SEQUENCE, HEAD, FIRST_ROW, TOKENS, POSITION, FIRST_PART, LAST_PART = range(7)
TOGETHER, NUMBER, FIRST_PARTIAL, COUNTER, COLUMNS = range(7, 12)

# Parts of a task of one new token, at most: each begins with an empty cache and ends with a state
# to be merged.
MOST_PARTS = 4
