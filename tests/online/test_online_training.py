"""The whole way: mined, then trained by a SentenceTransformerTrainer with each loss and batches of clusters."""

import math

import numpy as np
import pytest
import torch

from raymine.online import (
    ClusterBatches,
    Hardest,
    MaskedInBatchLoss,
    MemoryBank,
    MemoryBankLoss,
    SemiHard,
    false_negatives,
    training_set,
)

LOSSES = {
    "all": lambda model, mask: MaskedInBatchLoss(model, mask),
    "semi-hard": lambda model, mask: MaskedInBatchLoss(model, mask, SemiHard()),
    "hardest": lambda model, mask: MaskedInBatchLoss(model, mask, Hardest(4)),
    "memory bank": lambda model, mask: MemoryBankLoss(model, mask, MemoryBank(16, 64, 5)),
    "made by the trainer": lambda model, mask: lambda given: MaskedInBatchLoss(given, mask),
}


def make_trainer(model, rows, loss, folder, **settings):
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "run"),
        max_steps=20,
        learning_rate=0.05,
        per_device_train_batch_size=8,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **settings,
    )
    return SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows.select(range(16)), loss=loss
    )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("num_negatives", [0, 2])
def test_a_model_learns(tmp_path, mined, static_model, name, num_negatives):
    """The loss of a fixed batch falls, and evaluation works with the same loss and sampler."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(static_model, device="cpu")
    rows, mask = training_set(mined, num_negatives), false_negatives(mined)
    batches = ClusterBatches.of_vectors(rows, model.encode_query(rows["anchor"]), num_clusters=4)
    trainer = make_trainer(model, rows, LOSSES[name](model, mask), tmp_path, batch_sampler=batches)
    features, labels = trainer.collect_features(trainer.data_collator([rows[i] for i in range(16)]))
    assert labels.dtype == torch.int64 and labels.shape == (16, 2 + num_negatives)

    def loss_of_batch():
        with torch.no_grad():
            return MaskedInBatchLoss(model, mask)([dict(each) for each in features], labels).item()

    before = loss_of_batch()
    assert math.isfinite(trainer.train().training_loss)
    assert loss_of_batch() < before
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_the_trainer_takes_the_batches_of_the_clusters(tmp_path, mined, static_model):
    """Epoch after epoch, from the trainer's own loader."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(static_model, device="cpu")
    rows = training_set(mined, 0)
    queries = np.array([label[0] for label in rows["label"]])
    batches = ClusterBatches(queries, queries % 3)
    loss = MaskedInBatchLoss(model, false_negatives(mined))
    loader = make_trainer(model, rows, loss, tmp_path, batch_sampler=batches).get_train_dataloader()
    seen = []
    for epoch in range(2):
        loader.set_epoch(epoch)
        drawn = [batch["label"][:, 0].tolist() for batch in loader]
        assert sorted(query for batch in drawn for query in batch) == sorted(queries.tolist())
        pure = sum(len({query % 3 for query in batch}) == 1 for batch in drawn if len(batch) == 8)
        assert pure >= sum((queries % 3 == cluster).sum() // 8 for cluster in range(3)) > 0
        seen.append(drawn)
    assert seen[0] != seen[1]


def test_a_bank_is_filled_while_training_and_left_alone_after(tmp_path, mined, static_model):
    """Its rows are documents of the training set; evaluation does not touch it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(static_model, device="cpu")
    rows = training_set(mined, 2)
    loss = MemoryBankLoss(model, false_negatives(mined), MemoryBank(16, 40, 5))
    trainer = make_trainer(model, rows, loss, tmp_path)
    trainer.train()
    documents = {row for label in rows["label"] for row in label[1:]}
    assert loss.bank.step == 20
    assert set(loss.bank.doc_rows.tolist()) - {-1} <= documents
    held = loss.bank.doc_rows.clone()
    trainer.evaluate()
    assert loss.bank.step == 20 and torch.equal(loss.bank.doc_rows, held)


def test_it_wraps_into_the_losses_that_wrap(tmp_path, mined, static_model):
    """MatryoshkaLoss asks the masked loss for each of its dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MatryoshkaLoss

    model = SentenceTransformer(static_model, device="cpu")
    loss = MatryoshkaLoss(model, MaskedInBatchLoss(model, false_negatives(mined)), [16, 8])
    trainer = make_trainer(model, training_set(mined, 1), loss, tmp_path)
    assert math.isfinite(trainer.train().training_loss)
