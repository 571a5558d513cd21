"""Candidates per query block: merging of hits, exact re-scoring, random draws, the union, and notes on documents."""
