"""Negatives that are chosen while a model trains, by what mining found out: pieces for a SentenceTransformerTrainer.

    import raymine, raymine.online as online

    round_ = raymine.mine(raymine.load_config("mine.yaml"), workspace="ws")
    rows = online.training_set(round_, num_negatives=4)
    model = SentenceTransformer("models/embedder")
    anchors = model.encode_query(rows["anchor"])
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            "out", batch_sampler=online.ClusterBatches.of_vectors(rows, anchors), per_device_train_batch_size=64
        ),
        train_dataset=rows,
        loss=online.MaskedInBatchLoss(model, online.false_negatives(round_), negatives=online.Hardest(16)),
    )
    trainer.train()

Every document of a batch is a negative of all queries but its own; what raymine's verdicts say may be an answer of one
of them is masked. `ClusterBatches` puts queries that resemble each other into one batch, all of them or a few at a time
(`group_size`), so that these negatives are hard; `MemoryBankLoss` adds the documents of past batches. Each piece works
without the others.
"""

from __future__ import annotations

from raymine.online.clusters import ClusterBatches
from raymine.online.false_negatives import FalseNegatives
from raymine.online.in_batch import MaskedInBatchLoss
from raymine.online.memory_bank import MemoryBank, MemoryBankLoss
from raymine.online.negatives import Hardest, SemiHard, all_negatives
from raymine.online.training_set import training_set
from raymine.online.verdicts import false_negatives

__all__ = [
    "ClusterBatches",
    "FalseNegatives",
    "Hardest",
    "MaskedInBatchLoss",
    "MemoryBank",
    "MemoryBankLoss",
    "SemiHard",
    "all_negatives",
    "false_negatives",
    "training_set",
]
