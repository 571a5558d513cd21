"""Embedding of one shard of documents or block of queries: texts in, vectors out.

Reading and tokenising one shard overlaps with encoding another (two calls in flight, one at a time on the device).
Empty texts get no row. The same bytes come out whoever runs a shard: its batches depend on its texts alone.

Cost: the shard's texts, tokens (4 bytes each and feature) and vectors in memory, twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raymine import schemas, storage
from raymine.artifacts import Record, Task
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


def embed_texts(texts: Sequence[str | None], encoder: Encoder, store: str) -> Embedded:
    """Embeds texts in their order; empty ones are left out.

    Args:
        texts: one per row; empty or blank ones get no vector.
        encoder: the loaded model.
        store: number format of the vectors, float16 or float32.
    """
    no_text = [row for row, text in enumerate(texts) if text is None]
    rows = np.array([row for row, text in enumerate(texts) if text is not None and text.strip()], dtype=np.int64)
    if not len(rows):
        empty = schemas.vector_table(rows, np.empty((0, encoder.dim), dtype=store))
        return Embedded(empty, 0, 0, 0.0, no_text, [])
    tokens = encoder.tokenize([texts[row] or "" for row in rows])
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

    Raises:
        ConfigError: the model cannot be loaded or used as the config asks.
    """

    VERSION = 2
    calls_in_flight = 2

    def __init__(self, config: EmbedConfig, side: Side, model_fingerprint: str) -> None:
        self.config, self.side, self.model_fingerprint = config, side, model_fingerprint
        self.encoder: Encoder = SentenceTransformerEncoder(config, side)

    def __call__(self, task: Task) -> Record:
        return self.embed(task)[0]

    def embed(self, task: Task) -> tuple[Record, pa.Table]:
        """Does one task; also gives the table it wrote, for whoever goes on with it (no rows where it found faults)."""
        texts = storage.read_table(task.inputs["table"], columns=["text"])
        embedded = embed_texts(texts["text"].to_pylist(), self.encoder, self.config.store)
        if embedded.no_text or embedded.non_finite:
            return Record(problems=self._problems(task.inputs["table"], embedded)), embedded.table.slice(0, 0)
        table = embedded.table.replace_schema_metadata(self._metadata())
        record = Record(
            outputs=[storage.write_arrow(f"{task.output}.arrow", table)],
            rows_in=texts.num_rows,
            rows_out=table.num_rows,
            tokens=embedded.num_tokens,
            bytes_in=texts.nbytes,
            device=self.encoder.device,
            device_s=embedded.device_s,
            info={"num_truncated": embedded.num_truncated},
        )
        return record, table

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
