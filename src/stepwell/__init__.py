"""Stepwell serves LLMs from a managed memory hierarchy.

The package is read in the order data flows: `cli`, `server`, `engine`, `model`, `kernels`,
`cache`, `base`; see `docs/architecture.md`. Importing `stepwell` imports none of them.
"""

__version__ = "0.1.0"
