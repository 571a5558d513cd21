"""A small cross-encoder that ranks, trained from nothing in a minute: a two-layer BERT that is born comparing words.

From random weights such a model learned nothing of use in the time: after 30,000 pairs (hard negatives, softmax loss,
one run each) its loss was where it began, with the embedder's vectors for its tokens or without.
So its first weights already compute a soft match of words, in the manner
of late interaction, and training refines that:

- token vectors: the embedder's, reduced to their first principal directions. The dimensions left over hold a constant,
  the side (query or document), and room for the result.
- layer 1: attention compares token vectors, with a penalty for the own side, so that a word of the query looks for its
  likes in the document. What it finds is subtracted. Of a word that is there little is left, and layer normalisation
  blows the constant up; of a word that is missing all is left, and the constant stays small.
- layer 2: [CLS] averages that constant over the words of the query, and the pooler reads it.

It is a second opinion, not a better ranker. Re-ranking the embedder's 30 best documents for 1,500 test queries that no
choice was made on, its mean reciprocal rank is 0.401 to the embedder's 0.410 (difference -0.009, 95 % interval -0.027
to 0.009), and a random document it puts below the positive in 0.96 of the cases, the embedder in 0.99. More queries,
more random negatives and a width of 128 did not change that. Among only the embedder's best wrong documents it looks
far better (0.74 to 0.61), but those are the embedder's errors by choice, so that figure says nothing.

Training: binary cross-entropy with up to four negatives per positive, so that the sigmoid is a probability, and a share
of the positive's a threshold that means something.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymine.demo.embedder import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNKNOWN, Collection, Ids

if TYPE_CHECKING:
    import torch

# 128 takes half as long again and was not measurably better (one seed each).
HIDDEN = 96
RESERVED = 8
# Reserved dimensions, counted from the end: the constant, the side, and where layer 2 puts the mean.
CONSTANT, SIDE, RESULT = -8, -7, -6
# Half of the documents fit in whole. 64 looked worse on 300 queries (one seed each).
MAX_TOKENS = 96
POSITIONS = 128
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
SIDE_VALUE, CONSTANT_VALUE = 2.0, 2.0
OWN_SIDE_PENALTY = 25.0
QUERY_SIDE_WEIGHT = 0.3
QUERIES_PER_BATCH = 24
NUM_RANDOM, NUM_NEAR, NEAREST = 1, 3, 60
LEARNING_RATE, TOKEN_LEARNING_RATE = 5e-4, 2e-3
WARMUP_SHARE = 0.1


def build_teacher(weights: torch.Tensor, hidden: int, seed: int) -> Any:
    """The untrained model.

    Args:
        weights: f32 [vocabulary, dim] token vectors of the embedder, dim >= hidden - RESERVED.
        hidden: width of the model.
        seed: of the small random part of the weights.

    Returns:
        A `BertForSequenceClassification` with one label.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=len(weights),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=1,
        intermediate_size=hidden,
        num_labels=1,
        max_position_embeddings=POSITIONS,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
        _set_embeddings(model.bert.embeddings, weights)
        for layer in model.bert.encoder.layer:
            attention = layer.attention
            for linear in (attention.self.query, attention.self.key, attention.self.value, attention.output.dense):
                linear.weight.mul_(0.5)
            layer.output.dense.weight.mul_(0.5)
        _set_matching(model.bert.encoder.layer[0].attention, hidden)
        _set_averaging(model.bert.encoder.layer[1].attention, hidden)
        model.bert.pooler.dense.weight[0, RESULT] = 0.5
        model.bert.pooler.dense.bias[0] = -0.5
        model.classifier.weight[0, 0] = 2.0
    return model


def _set_embeddings(embeddings: Any, weights: torch.Tensor) -> None:
    import torch

    tokens = embeddings.word_embeddings.weight
    size = tokens.shape[1] - RESERVED
    directions = torch.linalg.svd(weights, full_matrices=False).Vh[:size]
    reduced = torch.nn.functional.normalize(weights @ directions.T, dim=1) * size**0.5
    reduced[: len(SPECIAL_TOKENS)] = torch.randn(len(SPECIAL_TOKENS), size)
    tokens.zero_()
    tokens[:, :size] = reduced
    tokens[:, CONSTANT] = CONSTANT_VALUE
    embeddings.position_embeddings.weight.mul_(0.1)
    embeddings.token_type_embeddings.weight.zero_()
    embeddings.token_type_embeddings.weight[:, SIDE] = torch.tensor([SIDE_VALUE, -SIDE_VALUE])


def _set_matching(attention: Any, hidden: int) -> None:
    """Looks for the own word on the other side, and subtracts what is found."""
    import torch

    words = torch.arange(hidden - RESERVED)
    attention.self.query.weight[words, words] += 1.0
    attention.self.key.weight[words, words] += 1.0
    attention.self.query.weight[SIDE, SIDE] = -OWN_SIDE_PENALTY
    attention.self.key.weight[SIDE, SIDE] = 1.0
    attention.self.value.weight[words, words] += 1.0
    attention.output.dense.weight[words, words] -= 1.0


def _set_averaging(attention: Any, hidden: int) -> None:
    """Averages the constant, mostly over the query's side."""
    attention.self.query.bias[SIDE] = QUERY_SIDE_WEIGHT * hidden**0.5
    attention.self.key.weight[SIDE, SIDE] = 1.0
    attention.self.value.weight[RESULT, CONSTANT] = 1.0
    attention.output.dense.weight[RESULT, RESULT] = 0.5


def pack(pairs: Sequence[tuple[Ids, Ids]], cls: int, sep: int) -> dict[str, torch.Tensor]:
    """Batches `[CLS] query [SEP] document [SEP]`, cut to MAX_TOKENS and padded to the longest.

    Returns:
        input_ids, token_type_ids and attention_mask, int64 [len(pairs), tokens].
    """
    import torch

    room = MAX_TOKENS - 3
    rows = []
    for query, document in pairs:
        query = query[: room // 2]
        left, right = [cls, *query, sep], [*document[: room - len(query)], sep]
        rows.append(([*left, *right], len(left)))
    shape = (len(rows), max(len(ids) for ids, _ in rows))
    tokens, sides, mask = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    for row, (ids, length) in enumerate(rows):
        tokens[row, : len(ids)] = ids
        sides[row, length : len(ids)] = 1
        mask[row, : len(ids)] = 1
    return {name: torch.from_numpy(array) for name, array in zip(INPUTS, (tokens, sides, mask), strict=True)}


class PairScorer:
    """A teacher with the collection whose pairs it scores.

    Args:
        model: as build_teacher makes it.
        tokenizer: of both models.
        collection: queries and documents; pairs are (query, document) numbers in it.
    """

    def __init__(self, model: Any, tokenizer: Any, collection: Collection) -> None:
        self.model, self.collection = model, collection
        self.cls, self.sep = tokenizer.token_to_id(CLS), tokenizer.token_to_id(SEP)

    def logits(self, pairs: NDArray[np.int64]) -> torch.Tensor:
        """f32 [n] for int64 pairs [n, 2]."""
        texts = [(self.collection.queries[query], self.collection.documents[doc]) for query, doc in pairs]
        logits: torch.Tensor = self.model(**pack(texts, self.cls, self.sep)).logits[:, 0]
        return logits

    def scores(self, pairs: NDArray[np.int64], batch: int = 128) -> NDArray[np.float32]:
        """The same without gradients, in batches."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            parts = [self.logits(pairs[start : start + batch]) for start in range(0, len(pairs), batch)]
        return torch.cat(parts).numpy()


def train_teacher(scorer: PairScorer, hits: NDArray[np.int64], num_queries: int, seed: int) -> None:
    """Trains the model in place.

    Args:
        scorer: with the training half's queries.
        hits: int64 [num_queries, k]: the embedder's nearest documents of each query.
        num_queries: how many queries are learned from, each once.
        seed: of their order and of the negatives.
    """
    import torch
    from torch.nn import functional

    random = np.random.default_rng(seed)
    tokens = scorer.model.bert.embeddings.word_embeddings.weight
    others = [parameter for parameter in scorer.model.parameters() if parameter is not tokens]
    rates = (LEARNING_RATE, TOKEN_LEARNING_RATE)
    optimizer = torch.optim.AdamW([{"params": others}, {"params": [tokens]}], lr=LEARNING_RATE)
    order = random.permutation(len(scorer.collection.queries))[:num_queries]
    batches = [order[start : start + QUERIES_PER_BATCH] for start in range(0, len(order), QUERIES_PER_BATCH)]
    scorer.model.train()
    for step, queries in enumerate(batches):
        done = step / len(batches)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, done / WARMUP_SHARE + 0.02) * (1 - done)
        pairs, labels = training_pairs(scorer.collection, hits, queries, random)
        loss = functional.binary_cross_entropy_with_logits(scorer.logits(pairs), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(scorer.model.parameters(), 1.0)
        optimizer.step()


def training_pairs(
    collection: Collection, hits: NDArray[np.int64], queries: NDArray[np.int64], random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Each query with its positive, random documents and near ones, none of which equals the positive.

    Returns:
        int64 pairs [n, 2] and float32 labels [n].
    """
    pairs, labels = [], []
    for query in queries:
        positive = collection.positives[query]
        pairs.append((query, positive))
        labels.append(1.0)
        drawn = [
            *random.integers(len(collection.documents), size=NUM_RANDOM),
            *random.choice(hits[query], size=NUM_NEAR),
        ]
        for document in drawn:
            if collection.text_numbers[document] != collection.text_numbers[positive]:
                pairs.append((query, document))
                labels.append(0.0)
    return np.array(pairs, dtype=np.int64), np.array(labels, dtype=np.float32)


def reciprocal_ranks(scorer: PairScorer, hits: NDArray[np.int64]) -> tuple[float, float]:
    """Mean reciprocal rank of the positive (or its equal) among the embedder's hits, re-ranked and as they were.

    Every query counts; one whose positive is not among its hits counts 0 for both. (Comparing only on wrong documents
    that the embedder ranked high would hold its own errors against it.)

    Args:
        scorer: with queries that nothing was trained on.
        hits: int64 [num_queries, k]: the embedder's nearest documents of each query, best first.

    Returns:
        The teacher's mean, and the embedder's.
    """
    numbers, positives = scorer.collection.text_numbers, scorer.collection.positives[: len(hits)]
    is_positive = numbers[hits] == numbers[positives][:, None]
    queries = np.repeat(np.arange(len(hits)), hits.shape[1])
    scores = scorer.scores(np.stack([queries, hits.ravel()], axis=1)).reshape(hits.shape)
    reranked = np.take_along_axis(is_positive, np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return _mean_reciprocal_rank(reranked), _mean_reciprocal_rank(is_positive)


def _mean_reciprocal_rank(is_positive: NDArray[np.bool_]) -> float:
    return float(np.where(is_positive.any(axis=1), 1 / (1 + is_positive.argmax(axis=1)), 0.0).mean())


def save_teacher(model: Any, tokenizer: Any, folder: Path) -> None:
    """Saves a model that `sentence_transformers.CrossEncoder` loads; its own activation is the sigmoid."""
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        model_input_names=list(INPUTS),  # without it transformers 5 leaves the sides out
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
    )
    model.save_pretrained(str(folder))
    wrapped.save_pretrained(str(folder))
