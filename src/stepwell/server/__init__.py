"""The OpenAI-compatible HTTP edge over one engine: parse, route, stream, account, stop.

Owns: API keys and limits, the translation between JSON and `GenerationRequest`/`Delta`, the
metrics page, and the life of the HTTP process. Async lives only here; the engine is reached
through `ports.EngineLike`, so that this package imports neither torch nor the engine.
Does not own: scheduling, memory, sampling, chat templates, detokenization.

Read in this order: `app` (routes), `protocol` (body -> request), `async_engine` (engine thread ->
event loop), `generate` (one request to its one reply), `reply` (Delta -> JSON), `lifecycle`.
"""
