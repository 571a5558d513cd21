"""Makes the models that the benchmarks use: static embedders, cross-encoders, untrained ones; nothing is fetched.

    python benchmarks/models.py --data ../shared/data --set squad --out /tmp/squad-static

A StaticEmbedding model: 256 dimensions, a WordPiece tokenizer trained on the corpus, MultipleNegativesRankingLoss, two
epochs on the training pairs. For squad: 155 CPU seconds, 5 minutes on two cores busy with other work.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DIM = 256
VOCABULARY = 30_000
HEAD_WIDTH = 32  # MiniLM's: 12 heads of 384
BATCH, LEAST_STEPS = 1024, 16  # an epoch of few pairs has smaller batches
LEARNING_RATE = 0.2  # token vectors start random and are rarely touched: far higher than for a transformer
BERT: dict[str, int] = {"layers": 2, "width": 128, "max_length": 48}  # trained from scratch
BERT_BATCH, BERT_LEARNING_RATE = 128, 1e-3
TEACHER_WIDTH, TEACHER_NEAREST = 96, 100
DEFAULT_DATA = Path(os.environ.get("RAYMINE_DATA", "../shared/data"))


def lines(folder: Path, name: str) -> Iterator[str]:
    """Lines of a file of a set, plain or gzipped."""
    path = folder / name
    with path.open(encoding="utf-8") if path.exists() else gzip.open(f"{path}.gz", "rt", encoding="utf-8") as file:
        yield from file


def documents(folder: Path) -> dict[str, str]:
    """Texts of a set's corpus by id, titles first."""
    rows = map(json.loads, lines(folder, "corpus.jsonl"))
    return {row["_id"]: f"{row.get('title') or ''} {row['text']}".strip() for row in rows}


def queries(folder: Path) -> dict[str, str]:
    """Texts of a set's queries by id."""
    return {row["_id"]: row["text"] for row in map(json.loads, lines(folder, "queries.jsonl"))}


def judgements(folder: Path, split: str) -> list[tuple[str, str]]:
    """Pairs (query id, document id) of a split that are relevant."""
    rows = csv.DictReader(lines(folder, f"qrels/{split}.tsv"), delimiter="\t")
    return [(row["query-id"], row["corpus-id"]) for row in rows if int(row["score"]) > 0]


def write_texts(path: Path, texts: Mapping[str, str]) -> None:
    """Documents or queries by id, as a file of a BEIR folder."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"_id": each, "text": text}) + "\n" for each, text in texts.items())


def write_judgements(path: Path, pairs: Iterable[tuple[str, str]]) -> None:
    """Relevant pairs (query id, document id), as a file of a BEIR folder."""
    rows = [f"{query}\t{document}\t1" for query, document in pairs]
    path.write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]) + "\n", encoding="utf-8")


def wordpiece(texts: Iterable[str], special: Sequence[str]) -> Any:
    """A WordPiece tokenizer trained on texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(special), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_bert(out: Path, texts: Iterable[str], layers: int, width: int, max_length: int, seed: int = 0) -> Path:
    """Saves a BERT with mean pooling as a SentenceTransformer: weights from a seed, a tokenizer trained on texts."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertModel

    _save_transformer(out / "transformer", BertModel, texts, layers, width, max_length, seed)
    modules = [Transformer(str(out / "transformer"), max_seq_length=max_length), Pooling(width)]
    SentenceTransformer(modules=modules, device="cpu").save(str(out))
    return out


def save_cross_encoder(out: Path, texts: Iterable[str], layers: int, width: int, max_length: int) -> Path:
    """Saves a BERT with one label that a CrossEncoder loads: weights from a seed, a tokenizer trained on texts."""
    from transformers import BertForSequenceClassification

    _save_transformer(out, BertForSequenceClassification, texts, layers, width, max_length, seed=0, num_labels=1)
    return out


def _save_transformer(
    out: Path,
    architecture: Any,
    texts: Iterable[str],
    layers: int,
    width: int,
    max_length: int,
    seed: int,
    **settings: Any,
) -> None:
    import torch
    from tokenizers import processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    trained = wordpiece(texts, list(names.values()))
    ends = [(name, trained.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    trained.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained, model_max_length=max_length, model_input_names=inputs, **names
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD_WIDTH,
        intermediate_size=4 * width,
        initializer_range=0.1,  # so that an untrained model's outputs differ clearly between texts
        **settings,
    )
    architecture(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def train_static(folder: Path, out: Path, seed: int = 0, split: str = "train") -> Path:
    """Trains the static embedder on a set's training pairs and saves it, unless it is there already.

    Args:
        folder: of the set.
        out: where the model is saved.
        seed: of the order of the pairs and of the first weights.
        split: of the judgements that it learns from.
    """
    if (out / "modules.json").exists():
        return out
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    tokenizer = wordpiece(documents(folder).values(), ["[PAD]", "[UNK]"])
    torch.manual_seed(seed)
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=DIM)], device="cpu")
    pairs = _pairs(folder, split, seed)
    _train_embedder(model, pairs, min(BATCH, len(pairs) // LEAST_STEPS), LEARNING_RATE, seed)
    model.save(str(out))
    return out


def train_transformer(folder: Path, out: Path, seed: int = 0, split: str = "train") -> Path:
    """Trains a small BERT from weights of a seed on a set's training pairs, and saves it, unless it is there already.

    Args:
        folder, out, seed, split: as of train_static.
    """
    if (out / "modules.json").exists():
        return out
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as scratch:
        save_bert(Path(scratch), documents(folder).values(), **BERT, seed=seed)
        model = SentenceTransformer(scratch, device="cpu")
        _train_embedder(model, _pairs(folder, split, seed), BERT_BATCH, BERT_LEARNING_RATE, seed)
        model.save(str(out))
    return out


def _pairs(folder: Path, split: str, seed: int) -> list[tuple[str, str]]:
    """Texts of queries and documents, in the order in which they are learned from."""
    texts, asked = documents(folder), queries(folder)
    pairs = [(asked[query], texts[document]) for query, document in judgements(folder, split)]
    random.Random(seed).shuffle(pairs)
    return pairs


def _train_embedder(model: Any, pairs: Sequence[tuple[str, str]], batch: int, learning_rate: float, seed: int) -> None:
    """Two epochs of MultipleNegativesRankingLoss."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments, losses

    dataset = Dataset.from_dict({"anchor": [query for query, _ in pairs], "positive": [text for _, text in pairs]})
    with tempfile.TemporaryDirectory() as scratch:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=scratch,
            num_train_epochs=2,
            per_device_train_batch_size=batch,
            learning_rate=learning_rate,
            warmup_steps=0.1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=seed,
            disable_tqdm=True,
        )
        loss = losses.MultipleNegativesRankingLoss(model)
        SentenceTransformerTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss).train()


@dataclass(frozen=True)
class LabelledPairs:
    """What a teacher is trained on.

    Args:
        queries: texts.
        documents: texts.
        positives: per query, the number of a relevant document.
        groups: per document; a document of the positive's group is never taken for a negative.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    positives: Sequence[int]
    groups: Sequence[int]


def train_teacher(embedder: Path, pairs: LabelledPairs, out: Path, seed: int = 0) -> Path:
    """Trains the demo's small cross-encoder, born with a static embedder's vectors, unless it is there already.

    Args:
        embedder: folder of a static embedder; its vocabulary and vectors are the first ones of the teacher.
        pairs: queries in the order in which they are learned from, each once.
        out: where the model is saved, as a CrossEncoder with a sigmoid.
        seed: of first weights, order and negatives.
    """
    if (out / "config.json").exists():
        return out
    import numpy as np

    from raymine.demo import embedder as demo_embedder
    from raymine.demo import teacher as demo_teacher

    tokenizer, vectors = _pair_tokenizer(embedder)
    collection = demo_embedder.Collection(
        documents=demo_embedder.tokenize(tokenizer, pairs.documents),
        queries=demo_embedder.tokenize(tokenizer, pairs.queries),
        positives=np.asarray(pairs.positives),
        text_numbers=np.asarray(pairs.groups),
    )
    near = demo_embedder.nearest(vectors, collection, TEACHER_NEAREST)
    model = demo_teacher.build_teacher(vectors, TEACHER_WIDTH, seed)
    scorer = demo_teacher.PairScorer(model, tokenizer, collection)
    demo_teacher.train_teacher(scorer, near, len(pairs.queries), seed)
    demo_teacher.save_teacher(model, tokenizer, out)
    return out


def _pair_tokenizer(embedder: Path) -> tuple[Any, Any]:
    """The tokenizer of a static embedder with the special tokens of pairs in front, and its vectors in that order."""
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer, models, processors

    from raymine.demo.embedder import CLS, SEP, SPECIAL_TOKENS, UNKNOWN

    module = SentenceTransformer(str(embedder), device="cpu")[0]
    known = module.tokenizer.get_vocab()
    words = [word for word in sorted(known, key=known.__getitem__) if word not in SPECIAL_TOKENS]
    vocabulary = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *words])}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    made.normalizer, made.pre_tokenizer = module.tokenizer.normalizer, module.tokenizer.pre_tokenizer
    made.add_special_tokens(list(SPECIAL_TOKENS))
    made.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(token, vocabulary[token]) for token in (CLS, SEP)],
    )
    weights = module.embedding.weight.detach()
    special = torch.zeros(len(SPECIAL_TOKENS), weights.shape[1])
    return made, torch.cat([special, weights[[known[word] for word in words]]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--set", default="squad")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(train_static(arguments.data / arguments.set, arguments.out))


if __name__ == "__main__":
    main()
