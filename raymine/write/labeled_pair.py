"""sentence-transformers' labeled-pair: one row per (query, document).

Columns: anchor, positive (the document, whatever it is) and `label` (1 or 0) or `score`. For a CrossEncoder with
BinaryCrossEntropyLoss. Each positive of a query comes once, then each negative once; a negative is a negative of the
query here, so filters `against: each` do not part it from any positive.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from raymine.write.base import Format, Formatted, Group, texts


def make(group: Group, scores: bool) -> Formatted:
    """Rows by query, positives first; a query without negatives still gives its positives."""
    queries = np.concatenate([group.positives.query, group.negatives.query])
    order = np.argsort(queries, kind="stable")
    documents = pa.concat_arrays([group.positives.text, group.negatives.text])
    columns = {"anchor": texts(group.queries, queries[order]), "positive": texts(documents, order)}
    if scores:
        all_scores = np.concatenate([group.positives.score, group.negatives.score])
        columns["score"] = pa.array(all_scores[order], pa.float32())
    else:
        columns["label"] = pa.array((order < len(group.positives)).astype(np.int64))
    return Formatted(pa.table(columns), 0)


LABELED_PAIR = Format("parquet", make)
