"""Reading: documents, queries and judgements from files into shards."""

from __future__ import annotations

from raymine.corpus.base import Reader
from raymine.corpus.beir import BeirReader
from raymine.corpus.hf import HfReader
from raymine.corpus.jsonl import JsonlReader
from raymine.corpus.parquet import ParquetReader

READERS: dict[str, Reader] = {
    "jsonl": JsonlReader(),
    "parquet": ParquetReader(),
    "beir": BeirReader(),
    "hf": HfReader(),
}
