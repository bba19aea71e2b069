"""What a tenant's requests have taught, gated, versioned and rendered for the prefix cache.

Owns entries and their markdown, the released truth in git, the index that is rebuilt from it,
candidates and evidence, retrieval, rendering, releases and erasure. `base.Knowledge` is the way
in. Runs no model and no SQL, opens no socket, and knows neither the server nor the cache. No torch.
"""
