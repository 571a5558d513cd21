"""The written shards go into sentence-transformers' trainers as they are: loaded by `datasets`, one step each."""

from __future__ import annotations

import math

import pytest
from write_cases import Case

from raymine.write import FORMATS
from raymine.write.stage import Counts, training_rows, write_rows

NUM_NEGATIVES = 3


def written(folder, name, scores):
    """A format's file, loaded as a trainer's user does."""
    import datasets

    case = Case(0, n=NUM_NEGATIVES, gaps=False)
    tables = training_rows(case.block(), FORMATS[name], "teacher" if scores else None, Counts())
    path = write_rows(str(folder / "shard"), FORMATS[name], tables).path
    loaded = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(folder / "cache"))
    assert loaded.to_list() == [*case.rows(name, scores)]
    return loaded


def arguments(kind, folder):
    """Training arguments for one step on a CPU, without reports."""
    return kind(
        output_dir=str(folder / "run"),
        max_steps=1,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


@pytest.mark.parametrize(
    "name, scores, loss",
    [
        ("triplet", False, "MultipleNegativesRankingLoss"),
        ("triplet", False, "TripletLoss"),
        ("triplet", True, "MarginMSELoss"),
        ("n-tuple", False, "MultipleNegativesRankingLoss"),
        ("n-tuple", True, "MarginMSELoss"),
        ("n-tuple", True, "DistillKLDivLoss"),
    ],
)
def test_bi_encoders_train(tmp_path, static_model, name, scores, loss):
    """Columns are found by position and labels by name: the loss of the step is a number."""
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    model = SentenceTransformer(static_model, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(SentenceTransformerTrainingArguments, tmp_path),
        train_dataset=written(tmp_path, name, scores),
        loss=getattr(losses, loss)(model),
    )
    assert math.isfinite(trainer.train().training_loss)


@pytest.mark.parametrize(
    "name, scores, loss",
    [
        ("labeled-pair", False, "BinaryCrossEntropyLoss"),
        ("labeled-pair", True, "BinaryCrossEntropyLoss"),
        ("labeled-pair", True, "MSELoss"),
        ("labeled-list", False, "LambdaLoss"),
        ("labeled-list", True, "LambdaLoss"),
        ("labeled-list", False, "ListNetLoss"),
        ("labeled-list", True, "ListNetLoss"),
        ("labeled-list-all", False, "LambdaLoss"),
        ("labeled-list-all", False, "ListMLELoss"),
        ("labeled-list-all", True, "ListNetLoss"),
        ("triplet", True, "MarginMSELoss"),
    ],
)
def test_cross_encoders_train(tmp_path, cross_encoder_model, name, scores, loss):
    """Pairs and lists, by labels and by the teacher's scores."""
    from sentence_transformers.cross_encoder import CrossEncoder, losses
    from sentence_transformers.cross_encoder.trainer import CrossEncoderTrainer
    from sentence_transformers.cross_encoder.training_args import CrossEncoderTrainingArguments

    model = CrossEncoder(cross_encoder_model, device="cpu")
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments(CrossEncoderTrainingArguments, tmp_path),
        train_dataset=written(tmp_path, name, scores),
        loss=getattr(losses, loss)(model),
    )
    assert math.isfinite(trainer.train().training_loss)


def test_flagembedding_lines_train(tmp_path, static_model):
    """As FlagEmbedding's own data set reads a line: the query, one positive, a group of negatives."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )

    case = Case(0, n=NUM_NEGATIVES, gaps=False)
    tables = training_rows(case.block(), FORMATS["flagembedding"], "teacher", Counts())
    path = write_rows(str(tmp_path / "shard"), FORMATS["flagembedding"], tables).path
    loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    groups = [
        {"query": row["query"], "pos": row["pos"][0], **{f"neg_{i}": text for i, text in enumerate(row["neg"])}}
        for row in loaded
        if len(row["neg"]) == NUM_NEGATIVES
    ]
    assert groups and all(len(row["neg"]) == len(row["neg_scores"]) for row in loaded)
    model = SentenceTransformer(static_model, device="cpu")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(SentenceTransformerTrainingArguments, tmp_path / "out"),
        train_dataset=datasets.Dataset.from_list(groups),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    assert math.isfinite(trainer.train().training_loss)
