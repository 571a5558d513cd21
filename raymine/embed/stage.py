"""Embedding of one shard of documents or block of queries: texts in, vectors out.

Reading and tokenising one shard overlaps with encoding another (two calls in flight, one at a time on the device).
Tokens depend on the tokenizer and not on the weights, so where they are kept a later checkpoint finds them made.
Empty texts get no row. The same bytes come out whoever runs a shard: its batches depend on its texts alone.

Cost: the shard's texts, tokens (4 bytes each and feature) and vectors in memory, twice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymine import schemas, storage, stored_tokens
from raymine.artifacts import Record, Task
from raymine.batching import Tokens
from raymine.config import EmbedConfig
from raymine.embed.base import Encoder
from raymine.embed.sentence_transformer import SentenceTransformerEncoder, Side, describe

ID_COLUMNS: dict[Side, str] = {"query": "query_id", "document": "doc_id"}


@dataclass(frozen=True)
class Embedded:
    """Vectors of a table of texts.

    Args:
        table: schemas.embeddings; `row` is the position in the table of texts.
        num_tokens: tokens encoded, prompts included.
        num_truncated: texts cut at the model's max_length (one that just fills it counts as cut).
        device_s: seconds that the device was held.
        no_text: positions that have no text at all (null).
        non_finite: positions whose stored vector has a number that is not finite.
    """

    table: pa.Table
    num_tokens: int
    num_truncated: int
    device_s: float
    no_text: list[int]
    non_finite: list[int]


@dataclass(frozen=True)
class Tokenized:
    """Tokens of a table of texts.

    Args:
        rows: int64 [n], positions of those that have any text.
        tokens: of these; None where there are none.
        num_texts: in all.
        no_text: positions that have no text at all (null).
        num_bytes: of the texts, or of what stood for them.
        is_known: they were stored.
    """

    rows: NDArray[np.int64]
    tokens: Tokens | None
    num_texts: int
    no_text: list[int]
    num_bytes: int
    is_known: bool = False


def tokenize_texts(texts: pa.Array | pa.ChunkedArray, encoder: Encoder) -> Tokenized:
    """Tokenises texts in their order; empty or blank ones have no tokens."""
    given = texts.to_pylist()
    no_text = [row for row, text in enumerate(given) if text is None]
    rows = np.array([row for row, text in enumerate(given) if text is not None and text.strip()], dtype=np.int64)
    tokens = encoder.tokenize([given[row] for row in rows]) if len(rows) else None
    return Tokenized(rows, tokens, len(given), no_text, texts.nbytes)


def embed_tokens(tokenized: Tokenized, encoder: Encoder, store: str) -> Embedded:
    """Embeds what has tokens.

    Args:
        tokenized: a table of texts; those without tokens get no vector.
        encoder: the loaded model.
        store: number format of the vectors, float16 or float32.
    """
    rows, tokens, no_text = tokenized.rows, tokenized.tokens, tokenized.no_text
    if tokens is None:
        empty = schemas.vector_table(rows, np.empty((0, encoder.dim), dtype=store))
        return Embedded(empty, 0, 0, 0.0, no_text, [])
    vectors, device_s = encoder.encode(tokens)
    with np.errstate(over="ignore"):  # a number too large for float16 is found below
        stored = vectors.astype(store)
    non_finite = rows[~np.isfinite(stored).all(axis=1)].tolist()
    num_truncated = int((tokens.lengths >= encoder.max_length).sum()) if encoder.max_length is not None else 0
    table = schemas.vector_table(rows, stored)
    return Embedded(table, tokens.num_tokens, num_truncated, device_s, no_text, non_finite)


class DescribeEmbedder:
    """Loads the model once and says what a round needs to know of it, before anything expensive is begun.

    One task without inputs or outputs; info is a Description. A step of its own, so that neither torch nor the weights
    are loaded by the driver, and a round that goes on need not load them again.

    Args:
        config: names the model.
    """

    VERSION = 1
    calls_in_flight = 1

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config

    def __call__(self, task: Task) -> Record:
        return Record(info=dict(describe(self.config)))


class EmbedShard:
    """Embeds one shard. task.inputs: `table`, a corpus shard or query block.

    Args:
        config: the embedder.
        side: query or document.
        model_fingerprint: content hash of the model, for the output's metadata.
        tokens: folder in which the tokens of each shard are kept and found, by the task's key; None: they are not kept.

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """

    VERSION = 2
    calls_in_flight = 2

    def __init__(self, config: EmbedConfig, side: Side, model_fingerprint: str, tokens: str | None = None) -> None:
        self.config, self.side, self.model_fingerprint, self.tokens = config, side, model_fingerprint, tokens
        self.encoder: Encoder = SentenceTransformerEncoder(config, side)

    def __call__(self, task: Task) -> Record:
        return self.embed(task)[0]

    def embed(self, task: Task) -> tuple[Record, pa.Table]:
        """Does one task; also gives the table it wrote, for whoever goes on with it (no rows where it found faults)."""
        return self._embedded(task, self._tokenized(task))

    def _embedded(self, task: Task, tokenized: Tokenized) -> tuple[Record, pa.Table]:
        embedded = embed_tokens(tokenized, self.encoder, self.config.store)
        if embedded.no_text or embedded.non_finite:
            return Record(problems=self._problems(task.inputs["table"], embedded)), embedded.table.slice(0, 0)
        table = embedded.table.replace_schema_metadata(self._metadata())
        record = Record(
            outputs=[storage.write_arrow(f"{task.output}.arrow", table)],
            rows_in=tokenized.num_texts,
            rows_out=table.num_rows,
            tokens=embedded.num_tokens,
            bytes_in=tokenized.num_bytes,
            cache_hits=len(tokenized.rows) if tokenized.is_known else 0,
            device=self.encoder.device,
            device_s=embedded.device_s,
            info={"num_truncated": embedded.num_truncated},
        )
        return record, table

    def _tokenized(self, task: Task) -> Tokenized:
        """The tokens of a shard: those that an earlier checkpoint with the same tokenizer left, or made now."""
        table = self._kept(task.key)
        if table is not None:
            rows, num_texts = table[stored_tokens.ROW].to_numpy(), stored_tokens.num_texts(table)
            return Tokenized(rows, self.encoder.restored(table), num_texts, [], table.nbytes, is_known=True)
        texts = storage.read_table(task.inputs["table"], columns=["text"])["text"]
        tokenized = tokenize_texts(texts, self.encoder)
        if self.tokens and tokenized.tokens is not None and not tokenized.no_text:
            made = stored_tokens.to_table(tokenized.tokens, tokenized.rows, tokenized.num_texts)
            if made is not None:
                storage.write_arrow(self._tokens_path(task.key), made)
        return tokenized

    def _kept(self, shard: str) -> pa.Table | None:
        """The tokens that are kept of a shard, named by its checksum; None where there are none."""
        if not self.tokens or not storage.exists(self._tokens_path(shard)):
            return None
        return storage.read_arrow(self._tokens_path(shard))

    def _tokens_path(self, shard: str) -> str:
        return storage.join(self.tokens or "", f"{shard}.arrow")

    def _metadata(self) -> dict[str, str]:
        return {
            "model": self.model_fingerprint,
            "dim": str(self.encoder.dim),
            "normalized": str(self.encoder.normalized).lower(),
            "prompt": self.encoder.prompt,
        }

    def _problems(self, path: str, embedded: Embedded) -> list[str]:
        ids = storage.read_table(path, columns=[ID_COLUMNS[self.side]]).column(0)
        advice = "try embed.dtype: float32" if self.config.store == "float32" else "try embed.store: float32"
        return [
            *(f"{self.side} {ids[row].as_py()!r} has no text to embed" for row in embedded.no_text),
            *(
                f"{self.side} {ids[row].as_py()!r}: the model's vector is not finite in {self.config.store} ({advice})"
                for row in embedded.non_finite
            ),
        ]
