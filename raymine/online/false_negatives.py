"""FalseNegatives: which documents must not be negatives of which queries, as a mask over a batch.

Queries and documents that have the same text are one to it: a twin of a positive is masked whether or not it was ever
a candidate. Rows become numbers of texts, and a masked pair one int64 key (query, document), sorted. A batch takes the
range of keys of each of its queries and looks those up among its documents: O(b (masked per query) log m + b m), and
8 bytes of memory per masked pair, on the device of the loss.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raymine.lookup import Rows, distinct, positions

# Rows and the number of each one's text, int64 [n] each: equal numbers where the texts are equal.
Texts = tuple[Rows, Rows]

BEHIND_ALL = np.iinfo(np.int64).max  # ends every sorted table, so that a search in it always finds a place


class FalseNegatives(nn.Module):
    """Pairs that must not stand against each other in a batch.

    Its tables are buffers, so they move with the loss to its device; they are no part of its state_dict.

    Args:
        query_rows: int64 [n], of the pairs; none: nothing is masked.
        doc_rows: int64 [n].
        queries: texts of the queries; all of `query_rows` are among them. None: no two have the same.
        documents: texts of the documents that may come in a batch; all of `doc_rows` are among them. None: as above.

    Raises:
        ValueError: a row of a pair has no text.
    """

    known_queries: Tensor
    query_numbers: Tensor
    known_documents: Tensor
    document_numbers: Tensor
    keys: Tensor

    def __init__(
        self, query_rows: Rows, doc_rows: Rows, queries: Texts | None = None, documents: Texts | None = None
    ) -> None:
        super().__init__()
        query = self._keep("queries", "query_numbers", queries or _own_texts(query_rows), query_rows)
        document = self._keep("documents", "document_numbers", documents or _own_texts(doc_rows), doc_rows)
        self.span = 1 + int(self.document_numbers.max())
        keys = distinct(query * self.span + document)
        self.register_buffer("keys", torch.from_numpy(keys), persistent=False)

    def _keep(self, side: str, numbers: str, texts: Texts, rows: Rows) -> Rows:
        """Registers the sorted table of one side's rows; returns the numbers of `rows`."""
        where = positions(texts[0], rows)
        if (where < 0).any():
            raise ValueError(f"{int((where < 0).sum())} of the pairs' {side} have no text")
        order = np.argsort(texts[0])
        tables = {f"known_{side}": (texts[0][order], BEHIND_ALL), numbers: (texts[1][order], 0)}
        for name, (table, last) in tables.items():
            self.register_buffer(name, torch.from_numpy(np.append(table, last).astype(np.int64)), persistent=False)
        return np.asarray(texts[1][where])

    @property
    def num_pairs(self) -> int:
        """Distinct pairs of texts that are masked."""
        return len(self.keys)

    def forward(self, query_rows: Tensor, doc_rows: Tensor) -> Tensor:
        """The mask of a batch.

        Args:
            query_rows: int64 [b].
            doc_rows: int64 [m]; a row that no table knows (as -1) is masked for nobody.

        Returns:
            bool [b, m], True where the document must not be a negative of the query.
        """
        query = _numbers(self.known_queries, self.query_numbers, query_rows)
        texts, column = torch.unique(
            _numbers(self.known_documents, self.document_numbers, doc_rows), return_inverse=True
        )
        begin = torch.searchsorted(self.keys, query * self.span)
        count = torch.where(query >= 0, torch.searchsorted(self.keys, (query + 1) * self.span) - begin, 0)
        row = torch.repeat_interleave(torch.arange(len(query), device=query.device), count)
        within = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
        masked = self.keys[begin[row] + within] - query[row] * self.span
        place = torch.searchsorted(texts, masked).clamp(max=len(texts) - 1)
        found = texts[place] == masked
        mask = torch.zeros(len(query), len(texts), dtype=torch.bool, device=query.device)
        mask[row[found], place[found]] = True
        return mask[:, column]


def _own_texts(rows: Rows) -> Texts:
    known = distinct(rows)
    return known, np.arange(len(known), dtype=np.int64)


def _numbers(known: Tensor, numbers: Tensor, rows: Tensor) -> Tensor:
    """Numbers of the texts of some rows, -1 where a row is not known."""
    place = torch.searchsorted(known, rows.contiguous())
    return torch.where(known[place] == rows, numbers[place], -1)
