"""Builders of tiny real models, offline: a WordPiece tokenizer trained on a few texts, and weights drawn from a seed.

They embed and score nothing sensible, but they are what sentence-transformers saves and loads, so a test can compare
raymine's output with the library's own. Their texts share words, so that scores differ between pairs.
"""

from __future__ import annotations

import random
from typing import Any

WORDS = """
heart valve pressure sodium protein enzyme receptor antibody mouse tissue cell growth factor theory field quantum
graph colour tree search index query vector matrix sparse kernel spectrum galaxy star dust orbit mass photon decay
market price bank credit loan rate policy tax river basin flood soil crop wheat yield storm wind cloud ocean
"""
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MAX_POSITIONS = 64


def texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    """`count` texts of 1 to `longest` words, of very different lengths."""
    draw, words = random.Random(seed), WORDS.split()
    return [" ".join(draw.choices(words, k=draw.randint(1, longest))) for _ in range(count)]


def wordpiece(corpus: list[str] | None = None) -> Any:
    """A `tokenizers.Tokenizer`: lower case, WordPiece trained on `corpus`, the special tokens of BERT."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    corpus, vocab_size = (texts(200), 300) if corpus is None else (corpus, 8000)
    lower = normalizers.Lowercase()
    # Named beforehand, pieces of single characters have fixed numbers: the trainer's own order of them is random.
    alphabet = sorted({character for text in corpus for character in lower.normalize_str(text)} - {" ", "\n", "\t"})
    named = [*SPECIAL, *alphabet, *(f"##{character}" for character in alphabet)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size + len(named), special_tokens=named, show_progress=False)
    trained = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    trained.normalizer, trained.pre_tokenizer = lower, pre_tokenizers.BertPreTokenizer()
    trained.train_from_iterator(corpus, trainer)
    tokenizer = Tokenizer(models.WordPiece(trained.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = lower, pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def save_static(
    folder: str, dim: int = 16, similarity: str | None = None, seed: int = 0, corpus: list[str] | None = None
) -> str:
    """A StaticEmbedding model (mean of token vectors), as `SentenceTransformer.save` writes it.

    Returns:
        The folder.
    """
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import StaticEmbedding

    tokenizer = wordpiece(corpus)
    weights = np.random.default_rng(seed).standard_normal((tokenizer.get_vocab_size(), dim), dtype=np.float32)
    module = StaticEmbedding(tokenizer, embedding_weights=weights)
    SentenceTransformer(modules=[module], device="cpu", similarity_fn_name=similarity).save(folder)
    return folder


def save_moved(folder: str, moved: str, noise: float, shift: float = 0.0, seed: int = 0) -> str:
    """What save_static saved, trained on, so to speak: every token's vector is moved.

    Args:
        folder: of the model.
        moved: folder to save in.
        noise: length of the random part of a move, per dimension.
        shift: along the first token's vector, by so many times its length.
        seed: of the noise.

    Returns:
        `moved`.
    """
    import numpy as np
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    weights = model[0].embedding.weight.data
    drawn = np.random.default_rng(seed).standard_normal(tuple(weights.shape), dtype=np.float32)
    weights += noise * weights.new_tensor(drawn) + shift * weights[0].clone()
    model.save(moved)
    return moved


def save_bert(
    folder: str, dim: int = 32, similarity: str | None = None, prompts: dict[str, str] | None = None, seed: int = 0
) -> str:
    """A randomly initialised two-layer BERT with mean pooling, as a SentenceTransformer.

    Returns:
        The folder.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertModel

    inner = f"{folder}/transformer"
    _save_transformer(inner, BertModel, dim, seed)
    modules = [Transformer(inner, max_seq_length=MAX_POSITIONS), Pooling(dim)]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts, similarity_fn_name=similarity)
    model.save(f"{folder}/model")
    return f"{folder}/model"


def save_cross_encoder(
    folder: str, dim: int = 32, num_labels: int = 1, seed: int = 0, corpus: list[str] | None = None
) -> str:
    """A randomly initialised two-layer BertForSequenceClassification, loadable as a CrossEncoder.

    Returns:
        The folder.
    """
    from transformers import BertForSequenceClassification

    _save_transformer(folder, BertForSequenceClassification, dim, seed, corpus, num_labels=num_labels)
    return folder


def save_decoder(folder: str, dim: int = 32, seed: int = 0) -> str:
    """A randomly initialised two-layer Llama that pads at the left and pools the last token.

    Returns:
        The folder.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import LlamaConfig, LlamaModel

    tokenizer = fast_tokenizer(padding_side="left")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
    )
    _save_seeded(LlamaModel, config, f"{folder}/transformer", seed)
    tokenizer.save_pretrained(f"{folder}/transformer")
    modules = [Transformer(f"{folder}/transformer"), Pooling(dim, "lasttoken")]
    SentenceTransformer(modules=modules, device="cpu").save(f"{folder}/model")
    return f"{folder}/model"


def fast_tokenizer(corpus: list[str] | None = None, **settings: Any) -> Any:
    """The `wordpiece` tokenizer as transformers has it."""
    from transformers import PreTrainedTokenizerFast

    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    settings = {"model_max_length": MAX_POSITIONS, **names, **settings}
    return PreTrainedTokenizerFast(tokenizer_object=wordpiece(corpus), **settings)


def _save_transformer(
    folder: str, architecture: Any, dim: int, seed: int, corpus: list[str] | None = None, **settings: Any
) -> None:
    from transformers import BertConfig

    tokenizer = fast_tokenizer(corpus, model_input_names=["input_ids", "token_type_ids", "attention_mask"])
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=dim,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        max_position_embeddings=MAX_POSITIONS,
        # Large enough that a random model's outputs differ clearly between texts.
        initializer_range=0.2,
        **settings,
    )
    _save_seeded(architecture, config, folder, seed)
    tokenizer.save_pretrained(folder)


def _save_seeded(architecture: Any, config: Any, folder: str, seed: int) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(config)
    model.save_pretrained(folder)
