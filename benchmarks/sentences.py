"""Makes corpora of short documents, of any size: real sentences, the same for the same seed.

    python benchmarks/sentences.py --data ../shared/data --documents 500000 --queries 100000 --out /tmp/short-500k

Documents are the sentences of the texts of arxiv, squad, medquad, wordnet and tldr, each once, in a seeded order: some
1.3 million. Where more are asked for, the others are made of two halves, each half of a different sentence: real words
in real order, and no two alike. Queries are questions of squad and titles of arxiv; a query's positive is one sentence
of its own document, drawn by the seed. Written as a BEIR folder: corpus.jsonl, queries.jsonl, qrels/train.tsv.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import models

SETS = ("arxiv", "squad", "medquad", "wordnet", "tldr")
QUERY_SETS = ("squad", "arxiv")
END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
SHORTEST, LONGEST = 30, 400  # characters


def sentences_of(text: str) -> list[str]:
    """The sentences of a text that are neither headings nor lists."""
    found = (sentence.strip() for sentence in END_OF_SENTENCE.split(text.replace("\n", " ")))
    return [sentence for sentence in found if SHORTEST <= len(sentence) <= LONGEST]


def judged(data: Path, seed: int) -> list[tuple[str, str]]:
    """Pairs (query, a sentence of its positive), in a seeded order; a query occurs once."""
    rng = random.Random(seed)
    pairs: dict[str, str] = {}
    for name in QUERY_SETS:
        texts, asked = models.documents(data / name), models.queries(data / name)
        for query, document in models.judgements(data / name, "train"):
            sentences = sentences_of(texts[document])
            if sentences:
                pairs.setdefault(asked[query], rng.choice(sentences))
    found = list(pairs.items())
    rng.shuffle(found)
    return found


def all_sentences(data: Path) -> list[str]:
    """The sentences of all sets, each once, in the order of the sets."""
    texts = (text for name in SETS for text in models.documents(data / name).values())
    return list(dict.fromkeys(sentence for text in texts for sentence in sentences_of(text)))


def documents(sentences: Sequence[str], first: Sequence[str], count: int, seed: int) -> Iterator[str]:
    """`count` texts, no two alike, in a seeded order: `first` are among them, then sentences, then joined halves.

    Args:
        sentences: real ones, each once.
        first: that must be among them (positives).
        count: at least as many as there are in `first`.
        seed: of the order and of the halves.
    """
    rng = random.Random(seed)
    known = dict.fromkeys(first)
    others = [sentence for sentence in sentences if sentence not in known]
    rng.shuffle(others)
    chosen = [*known, *others[: count - len(known)]]
    rng.shuffle(chosen)
    yield from chosen
    halves = [sentence.split() for sentence in sentences]
    made: set[int] = set()
    while len(chosen) + len(made) < count:
        left, right = rng.randrange(len(halves)), rng.randrange(len(halves))
        key = left * len(halves) + right
        if left != right and key not in made:
            made.add(key)
            left_words, right_words = halves[left], halves[right]
            yield " ".join([*left_words[: len(left_words) // 2], *right_words[len(right_words) // 2 :]])


def write(data: Path, out: Path, num_documents: int, num_queries: int, seed: int = 0) -> Path:
    """Writes the set into a BEIR folder, unless it is there already."""
    if (out / "qrels" / "train.tsv").exists():
        return out
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    pairs = judged(data, seed)[:num_queries]
    if len(pairs) < num_queries:
        raise SystemExit(f"there are {len(pairs)} queries, not {num_queries}")
    rows: dict[str, int] = dict.fromkeys((positive for _, positive in pairs), -1)
    with (out / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for row, text in enumerate(documents(all_sentences(data), list(rows), num_documents, seed)):
            if text in rows:
                rows[text] = row
            file.write(json.dumps({"_id": f"d{row}", "text": text}, ensure_ascii=False) + "\n")
    models.write_texts(out / "queries.jsonl", {f"q{number}": query for number, (query, _) in enumerate(pairs)})
    answers = [(f"q{number}", f"d{rows[positive]}") for number, (_, positive) in enumerate(pairs)]
    models.write_judgements(out / "qrels" / "train.tsv", answers)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=models.DEFAULT_DATA)
    parser.add_argument("--documents", type=int, default=500_000)
    parser.add_argument("--queries", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(write(arguments.data, arguments.out, arguments.documents, arguments.queries, arguments.seed))


if __name__ == "__main__":
    main()
