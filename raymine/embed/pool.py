"""Embedding of some documents of a shard: those of a pool, and a random probe of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage, stored_tokens
from raymine.artifacts import Record, Task
from raymine.embed.stage import EmbedShard, Tokenized, tokenize_texts


def probed(text_hashes: pa.ChunkedArray, share: float, seed: Sequence[int]) -> NDArray[np.bool_]:
    """A random choice of documents that depends on their texts and the seed alone, bool [n].

    Args:
        text_hashes: 16 bytes each, BLAKE2b of the text.
        share: of the documents that are chosen, from 0 to 1.
        seed: numbers from 0 on.
    """
    if not len(text_hashes):
        return np.zeros(0, np.bool_)
    flat = np.frombuffer(b"".join(text_hashes.to_pylist()), "<u8")[::2]
    mask = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    # The hash is uniform already; multiplying by an odd number of the seed's gives each seed a choice of its own.
    mixed = flat * (mask | np.uint64(1))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share)


class EmbedPool(EmbedShard):
    """Embeds the pool's documents of one shard, and the probe.

    Args:
        embed: keyword arguments of EmbedShard.
        probe: share of the other documents.
        seed: of the probe.
    """

    VERSION = 1
    calls_in_flight = EmbedShard.calls_in_flight

    def __init__(self, embed: dict[str, Any], probe: float, seed: Sequence[int]) -> None:
        super().__init__(**embed)
        self.probe, self.seed = probe, seed

    def __call__(self, task: Task) -> Record:
        """Writes embeddings, and DOC_ROWS of the probe.

        Args:
            task: inputs table (the shard), pool (DOC_ROWS of it), first_row (its first doc_row), shard_sha256.
        """
        hashes = storage.read_table(task.inputs["table"], ["text_hash"])["text_hash"]
        pool = storage.read_arrow(task.inputs["pool"])["doc_row"].to_numpy() - task.inputs["first_row"]
        is_probe = probed(hashes, self.probe, self.seed)
        is_probe[pool] = False
        chosen = np.sort(np.r_[pool, np.flatnonzero(is_probe)])
        record = self._embedded(task, self._tokenized_rows(task, chosen))[0]
        if record.problems:
            return record
        probe = pa.array(np.flatnonzero(is_probe) + task.inputs["first_row"])
        record.outputs.append(
            storage.write_arrow(f"{task.output}.probe.arrow", pa.table({"doc_row": probe}, schema=schemas.DOC_ROWS))
        )
        return record

    def _tokenized_rows(self, task: Task, chosen: NDArray[np.int64]) -> Tokenized:
        """Tokens of some rows of a shard: from those that are kept of all, else from their texts."""
        table = self._kept(task.inputs["shard_sha256"])
        if table is not None:
            table = table.filter(pa.array(np.isin(table[stored_tokens.ROW].to_numpy(), chosen))).combine_chunks()
            rows = table[stored_tokens.ROW].to_numpy()
            tokens = self.encoder.restored(table) if len(rows) else None
            return Tokenized(rows, tokens, len(chosen), [], table.nbytes, is_known=True)
        texts = storage.read_table(task.inputs["table"], columns=["text"])["text"].take(pa.array(chosen))
        made = tokenize_texts(texts, self.encoder)
        no_text = [int(chosen[row]) for row in made.no_text]
        return Tokenized(chosen[made.rows], made.tokens, len(chosen), no_text, made.num_bytes)
