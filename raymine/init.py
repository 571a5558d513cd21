"""Writes a commented config for the data that a folder holds.

What it looks for: a BEIR folder (corpus.jsonl, queries.jsonl, qrels/), one file of query and positive texts.
Where it cannot tell, it says what it looked for.
"""

from __future__ import annotations

import json
from pathlib import Path

from raymine.errors import InputError
from raymine.recipes import recipe

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
QUERY_COLUMNS = ("query", "question", "anchor", "title")
POSITIVE_COLUMNS = ("positive", "answer", "document", "passage", "text", "abstract")

MODEL, TEACHER = "sentence-transformers/all-MiniLM-L6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"

HEAD = """\
# What raymine mines from, and how. Paths are relative to this file. Mine with: raymine mine {name}
seed: 0
"""

TAIL = """\
embed:                                  # the model that is being trained (its latest checkpoint)
  model: {model}
  # query_prompt: "query: "             # put before each query; document_prompt likewise
retrieve:                               # where candidates come from, and how many per query
  dense: {{k: 200}}                       # the embedder's own nearest documents
  bm25: {{k: 100}}                        # the same words
  random: {{k: 10}}                       # anything at all
# rescore: {{model: cross-encoder/ms-marco-MiniLM-L6-v2}}   # a teacher finds likely false negatives; needs its files
select:
  # With a teacher, leave `filters` out: what it puts above the lowest 3 of 10 known positives then goes.
  filters:                              # each drop is recorded with its reason
    # nearly as good as the positive: likely relevant, unless drawn by chance
    - {{kind: max_relative_score, of_positive: 0.95, spare_random: true}}
    - {{kind: skip_top, n: 5}}                              # the first ranks of the embedder are the riskiest
  sample: {{n: 8, strategy: top}}         # negatives per query
write: {{formats: [triplet]}}             # or n-tuple, flagembedding, tevatron, dpr ...; scores: true adds scores
# cost: {{gpu_hour_usd: 2.5, cpu_hour_usd: 0.04}}           # prices for the account of what a round cost
"""


def write_config(folder: Path, recipe_name: str | None = None) -> tuple[Path, list[str]]:
    """Writes `mine.yaml` into a folder with data.

    Args:
        folder: with the data.
        recipe_name: of raymine.recipes; None: raymine's own choice.

    Returns:
        The config's path, and a line per thing that was found.

    Raises:
        InputError: the folder is not there, holds nothing that can be mined, or has a mine.yaml already.
        ConfigError: there is no such recipe.
    """
    tail = TAIL.format(model=MODEL) if recipe_name is None else filled(recipe(recipe_name))
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder", expected="a folder with a corpus, queries and positives")
    path = folder / "mine.yaml"
    if path.exists():
        raise InputError(f"{path} exists", expected="a folder without one", fix="edit it, or remove it first")
    lines, notes = _beir(folder) or _pairs(folder) or _nothing(folder)
    path.write_text(HEAD.format(name=path) + "\n".join(lines) + "\n" + tail, encoding="utf-8")
    return path, notes


def filled(text: str) -> str:
    """A recipe with models in it."""
    return text.replace("MODEL", MODEL).replace("TEACHER", TEACHER) + "write: {formats: [triplet]}\n"


def _find(folder: Path, stem: str) -> Path | None:
    return next((folder / (stem + suffix) for suffix in SUFFIXES if (folder / (stem + suffix)).exists()), None)


def _beir(folder: Path) -> tuple[list[str], list[str]] | None:
    corpus, queries = _find(folder, "corpus"), _find(folder, "queries")
    qrels = sorted(path for path in (folder / "qrels").glob("*.tsv*")) if (folder / "qrels").is_dir() else []
    train = next((path for path in qrels if path.name.startswith("train")), qrels[0] if qrels else None)
    if corpus is None or queries is None or train is None:
        return None
    others = [path for path in qrels if path != train]
    lines = [
        f"corpus: {{path: {corpus.name}}}",
        f"queries: {{path: {queries.name}}}",
        f"positives: {{path: qrels/{train.name}}}",
    ]
    if others:
        listed = ", ".join(f"qrels/{path.name}" for path in others)
        lines.append(f"exclude: [{listed}]   # evaluation judgements: never mined")
    notes = [f"corpus: {corpus.name}", f"queries: {queries.name}", f"positives: qrels/{train.name}"]
    return lines, notes + [f"evaluation judgements, kept out: qrels/{path.name}" for path in others]


def _pairs(folder: Path) -> tuple[list[str], list[str]] | None:
    for path in sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES)):
        columns = _columns(path)
        query = next((name for name in QUERY_COLUMNS if name in columns), None)
        positive = next((name for name in POSITIVE_COLUMNS if name in columns and name != query), None)
        if query and positive:
            columns_line = f"query_column: {query}, positive_column: {positive}"
            note = f"queries and positives: {path.name}, columns {query} and {positive} (of {', '.join(columns)})"
            return [f"positives: {{path: {path.name}, {columns_line}}}"], [note]
    return None


def _columns(path: Path) -> list[str]:
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    from raymine.corpus.lines import lines

    for _, line in lines(str(path)):
        row = json.loads(line)
        return list(row) if isinstance(row, dict) else []
    return []


def _nothing(folder: Path) -> tuple[list[str], list[str]]:
    names = sorted(path.name for path in folder.iterdir())
    raise InputError(
        f"{folder}: nothing there that can be mined",
        got=", ".join(names[:20]) or "an empty folder",
        expected="corpus.jsonl, queries.jsonl and qrels/train.tsv (BEIR; .gz, .zst or .parquet as well), or one file "
        f"with a column of queries ({', '.join(QUERY_COLUMNS)}) and one of positives ({', '.join(POSITIVE_COLUMNS)})",
        fix="name the files so, or write the config by hand: the README shows one",
    )
