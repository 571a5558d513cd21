"""A query block with its selected negatives, made by chance, and the rows of each format as loops would make them."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa

from raymine import schemas
from raymine.write.stage import Block

Row = dict[str, Any]
RUNS = ("trec", "tevatron-run")
PER_QUERY = (
    "flagembedding", "listwise", "pylate", "tevatron", "tevatron-v2", "dpr", "gpl", "automodel", "automodel-corpus",
    "simlm", "simans", "msmarco", "labeled-list-all",
)  # fmt: skip


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

    def rows(self, name: str, scores: bool, of_positives: bool = False) -> list[Row]:
        """The training rows of a format; of the positives, where it has them apart."""
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
            elif name in RUNS:
                made += self._run(name, query, positives if of_positives else negatives, scores)
            elif name == "arctic":
                made += self._arctic(query, positives, negatives, scores)
            elif name in PER_QUERY:
                if positives and negatives:
                    made.append(getattr(self, "_" + name.replace("-", "_"))(query, positives, negatives, scores))
            else:
                for positive in positives:
                    beside = [doc for doc in negatives if (query, positive, doc) not in self.forbidden]
                    made += getattr(self, "_" + name.replace("-", "_"))(query, positive, beside, scores)
        return made

    def _scores(self, query: int, docs: list[int]) -> list[float | None]:
        return [self.score[query, doc] for doc in docs]

    def _short(self, query: int, doc: int) -> float:
        """A score with as few digits as the float32 needs."""
        return float(str(np.float32(self.score[query, doc])))

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

    def _labeled_list_all(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        both = positives + negatives
        row = {"anchor": self.query(query), "positive": [self.text(doc) for doc in both]}
        if scores:
            return row | {"scores": self._scores(query, both)}
        return row | {"labels": [1] * len(positives) + [0] * len(negatives)}

    def _pair(self, query: int, doc: int, is_positive: bool, scores: bool) -> Row:
        row: Row = {"anchor": self.query(query), "positive": self.text(doc)}
        return row | ({"score": self.score[query, doc]} if scores else {"label": int(is_positive)})

    def _flagembedding(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        row: Row = {
            "query": self.query(query),
            "pos": [self.text(doc) for doc in positives],
            "neg": [self.text(doc) for doc in negatives],
        }
        if scores:
            row |= {"pos_scores": self._scores(query, positives), "neg_scores": self._scores(query, negatives)}
        return row

    def _run(self, name: str, query: int, docs: list[int], scores: bool) -> list[Row]:
        of = {doc: self._short(query, doc) if scores else self.n - slot for slot, doc in enumerate(docs)}
        ranked = sorted(docs, key=lambda doc: -of[doc])
        scored = [(str(query), str(doc), rank, of[doc]) for rank, doc in enumerate(ranked, 1)]
        if name == "trec":
            return [{"line": f"{qid} Q0 {docid} {rank} {score} raymine"} for qid, docid, rank, score in scored]
        return [{"qid": qid, "docid": docid, "score": score} for qid, docid, _, score in scored]

    def _arctic(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> list[Row]:
        signed = [(doc, 1) for doc in positives] + [(doc, -1) for doc in negatives]
        return [
            {"QUERY_ID": str(query), "DOCUMENT_ID": str(doc), "RELEVANCE": sign}
            | ({"SCORE": self.score[query, doc]} if scores else {})
            for doc, sign in signed
        ]

    def _margin(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        rows = self._triplet(query, positive, beside, False)
        return [row | {"label": self._difference(query, positive, doc)} for row, doc in zip(rows, beside, strict=True)]

    def _gpl_margins(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        return [
            {
                "qid": str(query),
                "pos": str(positive),
                "neg": str(doc),
                "margin": self._difference(query, positive, doc),
            }
            for doc in beside
        ]

    def _difference(self, query: int, positive: int, doc: int) -> float:
        return float(self.score[query, positive] or 0) - float(self.score[query, doc] or 0)

    def _ance(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        row: Row = {"qid": str(query), "pos": str(positive), "neg": ",".join(map(str, beside))}
        if scores:
            row["pos_score"] = self._short(query, positive)
            row["neg_scores"] = ",".join(str(self._short(query, doc)) for doc in beside)
        return [row] if beside else []

    def _ms_swift(self, query: int, positive: int, beside: list[int], scores: bool) -> list[Row]:
        def message(text: str) -> list[Row]:
            return [{"role": "user", "content": text}]

        row: Row = {
            "messages": message(self.query(query)),
            "positive_messages": [message(self.text(positive))],
            "negative_messages": [message(self.text(doc)) for doc in beside],
        }
        if scores:
            row["positive_scores"] = self._scores(query, [positive])
            row["negative_scores"] = self._scores(query, beside)
        return [row] if beside else []

    def _listwise(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        both = positives + negatives
        row = {"query": self.query(query), "documents": [self.text(doc) for doc in both]}
        return row | {"scores": self._scores(query, both), "num_positives": len(positives)}

    def _pylate(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        both = positives + negatives
        ids = [str(doc) for doc in both]
        return {"query_id": str(query), "document_ids": ids, "scores": self._scores(query, both)}

    def _tevatron(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def passages(docs: list[int]) -> list[Row]:
            scored = {doc: {"score": self.score[query, doc]} if scores else {} for doc in docs}
            return [{"docid": str(doc), "text": self.text(doc)} | scored[doc] for doc in docs]

        row = {"query_id": str(query), "query": self.query(query)}
        return row | {"positive_passages": passages(positives), "negative_passages": passages(negatives)}

    def _tevatron_v2(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        row: Row = {"query_id": str(query), "query_text": self.query(query)}
        for side, docs in (("positive", positives), ("negative", negatives)):
            row[f"{side}_document_ids"] = [str(doc) for doc in docs]
        if scores:
            row["positive_document_scores"] = self._scores(query, positives)
            row["negative_document_scores"] = self._scores(query, negatives)
        return row

    def _dpr(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def contexts(docs: list[int]) -> list[Row]:
            return [
                {
                    "title": "",
                    "text": self.text(doc),
                    "score": self.score[query, doc] if scores else 0.0,
                    "title_score": 0.0,
                    "passage_id": str(doc),
                }
                for doc in docs
            ]

        row = {"question": self.query(query), "answers": [], "positive_ctxs": contexts(positives)}
        return row | {"negative_ctxs": [], "hard_negative_ctxs": contexts(negatives)}

    def _gpl(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        pos, neg = ([str(doc) for doc in side] for side in (positives, negatives))
        row: Row = {"qid": str(query), "pos": pos, "neg": {"raymine": neg}}
        if scores:
            row |= {"pos_scores": self._scores(query, positives)}
            row |= {"neg_scores": {"raymine": self._scores(query, negatives)}}
        return row

    def _automodel(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        pos, neg = ([self.text(doc) for doc in side] for side in (positives, negatives))
        row: Row = {"question": self.query(query), "pos_doc": pos, "neg_doc": neg}
        if scores:
            row |= {"pos_scores": self._scores(query, positives), "neg_scores": self._scores(query, negatives)}
        return row

    def _automodel_corpus(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def documents(docs: list[int]) -> list[Row]:
            return [{"id": str(doc)} | ({"score": self.score[query, doc]} if scores else {}) for doc in docs]

        row = {"question_id": str(query), "question": self.query(query), "corpus_id": "raymine"}
        return row | {"pos_doc": documents(positives), "neg_doc": documents(negatives)}

    def _simlm(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def documents(docs: list[int]) -> Row:
            values = self._scores(query, docs) if scores else [0.0] * len(docs)
            return {"doc_id": [str(doc) for doc in docs], "score": values}

        row = {"query_id": str(query), "query": self.query(query), "answers": []}
        return row | {"positives": documents(positives), "negatives": documents(negatives)}

    def _simans(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def joined(docs: list[int]) -> str:
            return ",".join(f"{doc} {self._short(query, doc)}" for doc in docs)

        row = {"qid": str(query), "query": self.query(query)}
        return row | {"pos": joined(positives), "neg": joined(negatives)}

    def _msmarco(self, query: int, positives: list[int], negatives: list[int], scores: bool) -> Row:
        def scored(docs: list[int]) -> list[Any]:
            if not scores:
                return [str(doc) for doc in docs]
            return [{"pid": str(doc), "ce-score": self.score[query, doc]} for doc in docs]

        return {"qid": str(query), "pos": scored(positives), "neg": {"raymine": scored(negatives)}}
