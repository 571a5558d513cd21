"""Indexes over the documents: exact and ivfpq for vectors, bm25 for words. Each searches parts; parts merge exactly."""
