"""Indexes over the documents: exact, ivfflat and ivfpq for vectors, bm25 for words.

Each searches parts; parts merge exactly.
"""
