"""From a checkpoint to logits over paged memory.

Owns: finding and loading a checkpoint (transformers does the work), the attention function that
transformers' models call in our place, what each attention layer looks like (`probe`), the layout
of the KV pool, the check of an architecture nobody has tested here, and the tokenizer.
Does not own: which tokens run when (`engine/scheduler`), which block holds what (`cache`), or how
attention is computed (`kernels`).
"""
