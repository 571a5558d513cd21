"""The teacher's pass over one document shard: its pairs in, their scores out, bucketed by query block.

The shard is read once, the queries by block; a pair of texts that the cache knows is not scored again, and the same
pair of texts is scored once however many rows have it. The teacher is loaded when the first unknown pair comes, so a
pass that the cache answers loads nothing. Unknown pairs go to the teacher in chunks, ordered by their texts' hashes:
bounded memory, and batches that depend on the pairs alone.

Cost: 100 bytes per pair of the shard, the texts of its unknown pairs, and the tokens of one chunk of them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage
from raymine.artifacts import Record, Task
from raymine.config import RescoreConfig
from raymine.rescore import cache as known_scores
from raymine.rescore.base import Teacher
from raymine.rescore.cross_encoder import CrossEncoderTeacher
from raymine.rescore.pairs import QueryBlocks, ShardPairs, shard_pairs

# Pairs tokenised at once: 16,384 pairs of 512 tokens are 0.2 GB of tokens.
CHUNK_PAIRS = 16384


@dataclass
class Scored:
    """Scores of pairs, and what they took.

    Args:
        scores: float32 [n].
        num_tokens: tokens scored.
        device_s: seconds that the device was held.
        problems: what cannot be scored, one line each; then the scores say nothing.
    """

    scores: NDArray[np.float32]
    num_tokens: int = 0
    device_s: float = 0.0
    problems: list[str] = field(default_factory=list)


def score_pairs(
    queries: Sequence[str], documents: Sequence[str], teacher: Teacher, chunk_pairs: int = CHUNK_PAIRS
) -> Scored:
    """Scores n pairs of texts, a chunk at a time.

    Args:
        queries: n texts.
        documents: n texts.
        teacher: the loaded model.
        chunk_pairs: pairs tokenised at once.
    """
    scored = Scored(np.empty(len(queries), np.float32))
    for begin in range(0, len(queries), chunk_pairs):
        chunk = slice(begin, begin + chunk_pairs)
        tokens = teacher.tokenize(list(zip(queries[chunk], documents[chunk], strict=True)))
        scored.scores[chunk], device_s = teacher.score(tokens)
        scored.num_tokens += tokens.num_tokens
        scored.device_s += device_s
    return scored


class Rescore:
    """Scores the pairs of one document shard. task.inputs: `corpus` (path), `first_row`, `bucket`, `shard_sha256`.

    Args:
        config: the teacher.
        model_fingerprint: content hash of the teacher.
        pairs: bucketed files of pairs, batch i for document shard i.
        queries: query blocks.
        block_starts: first query row of each block.
        cache: folder of this teacher's known scores.
    """

    VERSION = 1
    calls_in_flight = 2

    def __init__(
        self,
        config: RescoreConfig,
        model_fingerprint: str,
        pairs: Sequence[str],
        queries: Sequence[str],
        block_starts: Sequence[int],
        cache: str,
    ) -> None:
        self.config, self.model_fingerprint = config, model_fingerprint
        self.pairs, self.block_starts, self.cache = pairs, block_starts, cache
        self.queries = QueryBlocks(queries, block_starts)
        self._teacher: Teacher | None = None
        self._loading = threading.Lock()

    @property
    def teacher(self) -> Teacher:
        """The teacher, loaded at first use."""
        with self._loading:
            if self._teacher is None:
                self._teacher = CrossEncoderTeacher(self.config)
            return self._teacher

    def __call__(self, task: Task) -> Record:
        table = storage.read_buckets(self.pairs, task.inputs["bucket"], schemas.PAIRS)
        pairs = shard_pairs(table, self.queries, task.inputs["corpus"], task.inputs["first_row"])
        folder = storage.join(self.cache, task.inputs["shard_sha256"])
        known = known_scores.read(storage.list_files(folder, ".parquet"), self.model_fingerprint)
        scores, found = known_scores.look_up(*known, pairs.keys)
        record = Record(
            rows_in=table.num_rows,
            bytes_in=table.nbytes,
            cache_hits=int(found[pairs.key_of].sum()),
            info={"activation": self.config.activation},
        )
        if not found.all():
            scored = self._score(task, pairs, pairs.example[~found])
            if scored.problems:
                return Record(problems=scored.problems)
            scores[~found] = scored.scores
            record.tokens, record.device_s, record.device = scored.num_tokens, scored.device_s, self.teacher.device
            self._remember(storage.join(folder, f"{task.key}.parquet"), pairs.keys[~found], scored.scores)
        buckets = storage.split_by(pairs.query_rows, self.block_starts, pairs.table(scores))
        record.outputs = [storage.write_buckets(f"{task.output}.arrow", schemas.TEACHER_SCORES, buckets)]
        record.rows_out = record.rows_in
        return record

    def _score(self, task: Task, pairs: ShardPairs, members: NDArray[np.int64]) -> Scored:
        """Scores some of a shard's pairs."""
        query_rows, query_of = np.unique(pairs.query_rows[members], return_inverse=True)
        docs, doc_of = np.unique(pairs.doc_rows[members] - task.inputs["first_row"], return_inverse=True)
        corpus = storage.read_table(task.inputs["corpus"], ["doc_id", "text"]).take(pa.array(docs))
        queries, documents = self.queries.take(query_rows, "text").to_pylist(), corpus["text"].to_pylist()

        def named(at: int) -> str:
            query_id = self.queries.take(query_rows[query_of[at]][None], "query_id")[0].as_py()
            return f"query {query_id!r}, document {corpus['doc_id'][doc_of[at]].as_py()!r}"

        if None in queries or None in documents:
            textless = [i for i in range(len(members)) if queries[query_of[i]] is None or documents[doc_of[i]] is None]
            problems = [f"{named(at)}: the teacher needs both texts, and one is missing" for at in textless]
            return Scored(np.empty(0, np.float32), problems=problems)
        scored = score_pairs([queries[i] for i in query_of], [documents[i] for i in doc_of], self.teacher)
        not_finite = np.flatnonzero(~np.isfinite(scored.scores)).tolist()
        scored.problems = [f"{named(at)}: the teacher's score is not finite" for at in not_finite]
        return scored

    def _remember(self, path: str, keys: NDArray[np.bytes_], scores: NDArray[np.float32]) -> None:
        """Adds scores to this task's own cache file (which is there already if the task ran before, knowing more)."""
        if storage.exists(path):
            own_keys, own_scores = known_scores.read([path], self.model_fingerprint)
            keys, scores = np.concatenate([own_keys, keys]), np.concatenate([own_scores, scores])
        known_scores.write(path, keys, scores, self.model_fingerprint)
