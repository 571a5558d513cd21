"""A query block with its selected negatives, made by chance, and the rows of each format as loops would make them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa

from raymine import schemas
from raymine.write.stage import Block

Row = dict[str, Any]


class Case:
    """Queries with one to three positives and up to `n` negatives, some short, dropped, without score or forbidden.

    Args:
        seed: of the case.
        n: negatives asked for.
        num_queries: in the block.
        first_row: query_row of the first.
        gaps: whether queries are short or dropped, scores unknown and pairs forbidden.
    """

    def __init__(self, seed: int, n: int = 3, num_queries: int = 7, first_row: int = 50, gaps: bool = True) -> None:
        rng = random.Random(seed)
        self.n, self.num_queries, self.first_row = n, num_queries, first_row
        self.positives: dict[int, list[int]] = {}
        self.negatives: dict[int, list[int]] = {}
        self.score: dict[tuple[int, int], float | None] = {}
        self.forbidden: set[tuple[int, int, int]] = set()
        self.dropped: set[int] = set()
        for query in range(first_row, first_row + num_queries):
            docs = rng.sample(range(200), 3 + n)
            self.positives[query] = sorted(docs[: rng.randint(1, 3)])
            self.negatives[query] = docs[3 : 3 + (rng.choice([0, n - 1, n, n]) if gaps else n)]
            if gaps and rng.random() < 0.15:
                self.dropped.add(query)
                self.negatives[query] = []
            for doc in docs:
                known = not gaps or rng.random() > 0.1
                self.score[query, doc] = float(np.float32(rng.uniform(-5, 5))) if known else None
            for positive in self.positives[query]:
                for negative in self.negatives[query]:
                    if gaps and len(self.positives[query]) > 1 and rng.random() < 0.1:
                        self.forbidden.add((query, positive, negative))

    def text(self, doc: int) -> str:
        return f"document {doc}: heart valve {'cell ' * (doc % 5)}über"

    def query(self, query: int) -> str:
        return f"query {query} market"

    def block(self) -> Block:
        """The case as tables; the score is the teacher's."""
        queries = range(self.first_row, self.first_row + self.num_queries)
        verdicts = [
            {"query_row": q, "doc_row": d, "relevance": 1 if d in self.positives[q] else None, "teacher_score": s}
            for (q, d), s in sorted(self.score.items())
        ]
        negatives = [
            {
                "query_row": q,
                "doc_row": d,
                "slot": slot,
                "kind": "hard",
                "sources": [],
                "teacher_score": self.score[q, d],
            }
            for q in queries
            for slot, d in enumerate(self.negatives[q])
        ]
        shortfall = [
            {
                "query_row": q,
                "num_negatives": len(self.negatives[q]),
                "num_missing": self.n - len(self.negatives[q]),
                "num_candidates": 9,
                "is_emitted": q not in self.dropped,
            }
            for q in queries
        ]
        forbidden = [dict(zip(schemas.FORBIDDEN.names, triple, strict=True)) for triple in sorted(self.forbidden)]
        docs = sorted({d for q in queries if q not in self.dropped for d in self.positives[q] + self.negatives[q]})
        texts = [{"doc_row": d, "doc_id": str(d), "text": self.text(d)} for d in reversed(docs)]
        return Block(
            queries=schemas.query_table([str(q) for q in queries], [self.query(q) for q in queries]),
            first_row=self.first_row,
            verdicts=pa.Table.from_pylist(verdicts, schema=schemas.verdicts([])),
            negatives=pa.Table.from_pylist(negatives, schema=schemas.negatives([])),
            shortfall=pa.Table.from_pylist(shortfall, schema=schemas.SHORTFALL),
            forbidden=pa.Table.from_pylist(forbidden, schema=schemas.FORBIDDEN),
            texts=pa.Table.from_pylist(texts, schema=schemas.TEXTS),
        )

    def rows(self, name: str, scores: bool) -> list[Row]:
        """The training rows of a format."""
        made = []
        for query in range(self.first_row, self.first_row + self.num_queries):
            if query in self.dropped:
                continue
            positives, negatives = (
                [doc for doc in side[query] if not scores or self.score[query, doc] is not None]
                for side in (self.positives, self.negatives)
            )
            if name == "labeled-pair":
                made += [self._pair(query, doc, doc in positives, scores) for doc in positives + negatives]
            elif name == "flagembedding":
                made += self._flag(query, positives, negatives, scores)
            else:
                for positive in positives:
                    beside = [doc for doc in negatives if (query, positive, doc) not in self.forbidden]
                    made += getattr(self, "_" + name.replace("-", "_"))(query, positive, beside, scores)
        return made

    def _scores(self, query: int, docs: list[int]) -> list[float | None]:
        return [self.score[query, doc] for doc in docs]

    def _triplet(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        return [
            {"anchor": self.query(query), "positive": self.text(positive), "negative": self.text(doc)}
            | ({"scores": self._scores(query, [positive, doc])} if scores else {})
            for doc in beside
        ]

    def _n_tuple(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        if len(beside) < self.n:
            return []
        negatives = {f"negative_{i}": self.text(doc) for i, doc in enumerate(beside, 1)}
        row = {"anchor": self.query(query), "positive": self.text(positive), **negatives}
        return [row | ({"scores": self._scores(query, [positive, *beside])} if scores else {})]

    def _labeled_list(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        if not beside:
            return []
        row = {"anchor": self.query(query), "positive": [self.text(doc) for doc in [positive, *beside]]}
        if scores:
            return [row | {"scores": self._scores(query, [positive, *beside])}]
        return [row | {"labels": [1] + [0] * len(beside)}]

    def _pair(self, query: int, doc: int, is_positive: bool, scores: bool) -> Row:
        row: Row = {"anchor": self.query(query), "positive": self.text(doc)}
        return row | ({"score": self.score[query, doc]} if scores else {"label": int(is_positive)})

    def _flag(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> list[Row]:
        if not positives or not negatives:
            return []
        row: Row = {
            "query": self.query(query),
            "pos": [self.text(doc) for doc in positives],
            "neg": [self.text(doc) for doc in negatives],
        }
        if scores:
            row |= {"pos_scores": self._scores(query, positives), "neg_scores": self._scores(query, negatives)}
        return [row]
