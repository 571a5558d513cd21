"""ArcticTraining's mined pairs: Parquet of QUERY_ID, DOCUMENT_ID and RELEVANCE (int8, 1 or -1), a row per document.

With scores also SCORE, as its retrieval stage names it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Companions, Format, Formatted, Group, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query, positives first; a query without negatives still gives its positives."""
    queries = np.concatenate([group.positives.query, group.negatives.query])
    order = np.argsort(queries, kind="stable")
    columns = {
        "QUERY_ID": texts(group.query_ids, queries[order]),
        "DOCUMENT_ID": texts(pa.concat_arrays([group.positives.doc_id, group.negatives.doc_id]), order),
        "RELEVANCE": pa.array(np.where(order < len(group.positives), 1, -1).astype(np.int8)),
    }
    if scores:
        found = np.concatenate([group.positives.score, group.negatives.score])[order]
        columns["SCORE"] = pa.array(found, pa.float32())
    return Formatted(pa.table(columns), 0)


ARCTIC = Format(
    "parquet", make, needs_texts=False, companions=Companions(("DOCUMENT_ID", "TEXT"), ("QUERY_ID", "TEXT"))
)
