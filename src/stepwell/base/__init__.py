"""Nouns that every part shares: errors, settings, decisions, requests, units.

Owns no behaviour beyond checking its own fields. Needs neither torch nor threads, and imports
nothing else of the package.
"""
