"""What does exact search cost where documents are embedded on a GPU? And against torch.topk on full blocks of scores?

    python benchmarks/gpu.py                   # needs one GPU, no network, no data; some minutes
    python benchmarks/gpu.py --device cpu      # on CPU tensors, so small that it only shows that all of it runs

No Ray: the round's own steps through the local executor. The texts are the docstrings of the installed packages, beyond
their number with their words in another order; the model is a transformer with random weights (12 layers of 768 by
default, bfloat16), so nothing is downloaded. Reported are

    peak        FLOP/s of one large half-precision product, in this run
    embedding   tokens/s of the step, and 2 x weights x tokens as a share of the peak (the products of attention itself
                and the token table are not counted)
    search      seconds that the step takes longer when its workers also search (medians of interleaved runs), and what
                the ledger says of it
    against     the same search of the same vectors by torch.topk of each block of scores, merged; shards begin in main
                memory for the running top-k, and on the device for torch.topk
    checks      hits of some queries equal those of index.exact on the CPU; the largest error of a product, as a share
                of the bound that the search relies on

Writes benchmarks/results/gpu.json (not with --device cpu).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import measure
import numpy as np

REPEATS = 3
NUM_CHECKED = 64
MAX_TOKENS = 256
# (documents, queries, documents of a shard, queries of a block, layers, width, vocabulary, side of the peak's matrices)
SIZES = {"cuda": (200_000, 100_000, 16384, 8192, 12, 768, 30_000, 8192), "cpu": (300, 40, 128, 16, 2, 32, 500, 256)}
NAMES = ("documents", "queries", "shard", "block", "layers", "width", "vocabulary", "side")


def peak_flops(device: str, side: int) -> float:
    """FLOP/s of products of two [side, side] matrices: float16 on a GPU, float32 on a CPU."""
    import torch

    dtype = torch.float16 if device == "cuda" else torch.float32
    left, right = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    seconds = [timed(device, lambda: left @ right) for _ in range(20)]
    return 2 * side**3 / min(seconds)


def timed(device: str, work: Callable[[], Any]) -> float:
    """Seconds until the device has done it."""
    import torch

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begin


def make_texts(entries: Sequence[str], count: int) -> list[str]:
    """`count` different texts: the entries, then the entries again with their words in another order."""
    made = list(entries[:count])
    draw = random.Random(0)
    while len(made) < count:
        words = entries[len(made) % len(entries)].split()
        draw.shuffle(words)
        made.append(" ".join(words))
    return made


def save_model(folder: str, texts: Sequence[str], sizes: dict[str, int]) -> int:
    """A BERT of random weights with mean pooling.

    Returns:
        Number of its weights without the tables of tokens and positions: each is multiplied once per token.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    from raymine.demo.embedder import train_tokenizer

    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, sizes["vocabulary"]), model_max_length=MAX_TOKENS, **names
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=max(1, sizes["width"] // 64),
        intermediate_size=4 * sizes["width"],
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.1,  # large enough that texts differ clearly
    )
    model = BertModel(config, add_pooling_layer=False)
    model.save_pretrained(f"{folder}/transformer")
    tokenizer.save_pretrained(f"{folder}/transformer")
    modules = [Transformer(f"{folder}/transformer", max_seq_length=MAX_TOKENS), Pooling(sizes["width"])]
    SentenceTransformer(modules=modules, device="cpu", similarity_fn_name="cosine").save(f"{folder}/model")
    return sum(weights.numel() for weights in model.encoder.parameters())


def write_inputs(folder: str, sizes: dict[str, int]) -> int:
    """Writes the model, the documents' shards and the queries' blocks; gives the model's weights (save_model)."""
    import pyarrow as pa

    from raymine import schemas, storage
    from raymine.demo import docstrings

    entries = docstrings.collect(docstrings.default_roots(), min(sizes["documents"], docstrings.MAX_DOCUMENTS))
    documents = make_texts([entry.text for entry in entries], sizes["documents"])
    queries = make_texts([entry.summary or entry.signature for entry in entries], sizes["queries"])
    for name, texts, step in (("documents", documents, sizes["shard"]), ("queries", queries, sizes["block"])):
        for begin in range(0, len(texts), step):
            part = texts[begin : begin + step]
            table: pa.Table = schemas.corpus_table([f"{name}-{begin + i}" for i in range(len(part))], part)
            storage.write_table(f"{folder}/{name}/{begin:09d}.parquet", table)
    return save_model(folder, documents[:5000], sizes)


def new_context(folder: str, workspace: str, device: str, k: int, batch_tokens: int) -> Any:
    """A round whose corpus and queries are read: what the steps of embedding and search need."""
    from raymine import storage
    from raymine.artifacts import Artifacts
    from raymine.config_file import make_config
    from raymine.executor.local import LocalExecutor
    from raymine.pipeline.base import Context, Tables, placed

    config = make_config(
        {
            "corpus": {"path": folder},
            "queries": {"path": folder},
            "positives": {"path": folder},
            "embed": {
                "model": f"{folder}/model",
                "dtype": "bfloat16" if device == "cuda" else "float32",
                "batch_tokens": batch_tokens,
            },
            "index": {"kind": "exact"},
            "retrieve": {"dense": {"k": k}},
        }
    )

    def shards(name: str) -> list[storage.Shard]:
        files = storage.list_files(f"{folder}/{name}")
        rows = [storage.read_table(path, []).num_rows for path in files]
        return placed([storage.Shard(p, n, 0, storage.sha256_of(p)) for p, n in zip(files, rows, strict=True)])

    artifacts = Artifacts(workspace, LocalExecutor(), {"run_id": "gpu", "round": 1})
    tables = Tables(corpus=shards("documents"), queries=shards("queries"))
    return Context(config, artifacts, storage.HashCache(), 1, "rounds/0001", tables)


def run_steps(context: Any, with_search: bool) -> dict[str, float]:
    """Embeds queries and documents, and searches on the way or not; figures of the documents' step."""
    from raymine.pipeline import embedding, fused

    embedder = embedding.describe(context)
    embedding.embed_queries(context, embedder)
    if with_search:
        fused.embed_and_search(context, embedder)
    else:
        embedding.embed_documents(context, embedder)
    results = {result.step.name: result for result in context.results}
    rows = {name: [done.ledger for done in result.done] for name, result in results.items()}
    embedded, searched = rows["embed_documents"], rows.get("search_shards", [])
    return {
        "wall_s": results["embed_documents"].wall_s,
        "tokens": sum(row["tokens"] for row in embedded),
        "device_s": sum(row["device_s"] for row in embedded),
        "ledger_embed_s": sum(row["wall_s"] for row in embedded),
        "ledger_search_s": sum(row["wall_s"] for row in searched),
        "hits": sum(row["rows_out"] for row in searched),
    }


def embedding_and_search(folder: str, device: str, k: int, batch_tokens: int) -> tuple[dict[str, Any], Any]:
    """Interleaved runs with and without search, each in a workspace of its own; medians, and the last context."""
    runs: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    context = None
    for number in range(REPEATS):
        for with_search in (False, True):
            context = new_context(folder, f"{folder}/ws-{number}-{with_search}", device, k, batch_tokens)
            runs[with_search].append(run_steps(context, with_search))
            print("with search" if with_search else "embedding alone", runs[with_search][-1], flush=True)

    def median(with_search: bool, name: str) -> float:
        return statistics.median(run[name] for run in runs[with_search])

    alone, both = median(False, "wall_s"), median(True, "wall_s")
    figures = {
        "tokens": median(False, "tokens"),
        "embed_s": alone,
        "embed_device_s": median(False, "device_s"),
        "extra_search_s": both - alone,
        "extra_search_percent": 100 * (both - alone) / alone,
        "ledger_search_s": median(True, "ledger_search_s"),
        "hits_per_query_and_k": median(True, "hits") / (context.tables.num_queries * k) if context else 0.0,
    }
    return figures, context


def full_topk(queries: Sequence[Any], shards: Sequence[Any], k: int) -> list[Any]:
    """torch.topk of each full block of scores, merged with what was best before; document rows [q, k] per block."""
    import torch

    from raymine.index.exact_torch import product

    found = []
    for block in queries:
        values, rows, first = block.new_empty((len(block), 0), dtype=torch.float32), None, 0
        for docs in shards:
            new, index = product(block, docs).topk(min(k, len(docs)), dim=1)
            rows = index + first if rows is None else torch.cat([rows, index + first], dim=1)
            values, kept = torch.cat([values, new], dim=1).topk(min(k, first + len(docs)), dim=1)
            rows, first = rows.gather(1, kept), first + len(docs)
        found.append(rows.cpu() if rows is not None else None)
    return found


def against_topk(context: Any, device: str, k: int) -> dict[str, float]:
    """Running top-k and full torch.topk on the stored vectors, from vectors in memory to hits; medians."""
    import torch

    from raymine.index.exact_torch import RunningTopk
    from raymine.vectors import read_vectors

    blocks = [read_vectors(shard.path).matrix for shard in context.tables.query_vectors]
    shards = [read_vectors(shard.path).matrix for shard in context.tables.corpus_vectors]
    on_device = [torch.tensor(shard, device=device) for shard in shards]

    def running(topk: RunningTopk) -> None:
        for number, matrix in enumerate(shards):
            docs = topk.documents(number, matrix)
            for block in range(len(blocks)):
                topk.search(block, docs)

    seconds: dict[str, list[float]] = {"running": [], "topk": []}
    for _ in range(REPEATS):
        topk = RunningTopk(blocks, k, device)
        seconds["running"].append(timed(device, partial(running, topk)))
        seconds["topk"].append(timed(device, partial(full_topk, topk.queries, on_device, k)))
    run, full = statistics.median(seconds["running"]), statistics.median(seconds["topk"])
    pairs = sum(map(len, blocks)) * sum(map(len, shards))
    rate = 2 * pairs * blocks[0].shape[1] / run
    return {"running_topk_s": run, "torch_topk_s": full, "ratio": full / run, "search_flops": rate}


def check(context: Any, device: str, k: int) -> dict[str, float]:
    """Compares with index.exact on the CPU, and the products with their bound; ends the program where they differ."""
    import torch

    from raymine.index import exact
    from raymine.index.exact_torch import RunningTopk, product, relative_error
    from raymine.topk import merge_topk
    from raymine.vectors import read_vectors

    queries = read_vectors(context.tables.query_vectors[0].path).matrix[:NUM_CHECKED]
    shards = [read_vectors(shard.path).matrix for shard in context.tables.corpus_vectors]
    topk, parts, first = RunningTopk([queries], k, device), [], 0
    for number, matrix in enumerate(shards):
        query_index, doc_index, scores = topk.search(0, topk.documents(number, matrix))
        parts.append((query_index, doc_index + first, scores))
        first += len(matrix)
    got = merge_topk(*(np.concatenate(column) for column in zip(*parts, strict=True)), k)
    expected = exact.search(queries, np.concatenate(shards).astype(np.float32), k)
    if not all(np.array_equal(left, right) for left, right in zip(got, expected, strict=True)):
        sys.exit("the hits of the device are not those of index.exact")
    left, right = (torch.tensor(side, device=device) for side in (queries, shards[0]))
    error = (product(left, right).double() - left.double() @ right.double().T).abs()
    norms = left.double().norm(dim=1)[:, None] * right.double().norm(dim=1).max()
    share = float((error / (relative_error(queries.shape[1], queries.dtype == np.float16) * norms)).max())
    if share > 1:
        sys.exit(f"a product is {share:.2f} times the bound away from the exact one")
    return {"checked_queries": len(queries), "largest_error_of_bound": share}


def report(result: dict[str, Any]) -> None:
    """Prints what matters."""
    print(f"\n{result['device']}, {result['peak_tflops']:.1f} TFLOP/s in a large product")
    print(
        f"embedding   {result['tokens_per_s']:,.0f} tokens/s, {result['embed_share_of_peak']:.1%} of the peak "
        f"({result['device_tokens_per_s']:,.0f} while the device was held)"
    )
    print(
        f"search      {result['extra_search_s']:.1f} s more for {result['sizes']['queries']:,} queries: "
        f"{result['extra_search_percent']:.1f} % of {result['embed_s']:.1f} s"
    )
    print(
        f"against     running top-k {result['running_topk_s']:.2f} s, torch.topk {result['torch_topk_s']:.2f} s: "
        f"{result['ratio']:.1f}x; {result['search_share_of_peak']:.1%} of the peak"
    )
    print(f"checks      hits equal index.exact; largest error {result['largest_error_of_bound']:.1%} of the bound")


def measured(device: str, sizes: dict[str, int], k: int, batch_tokens: int) -> dict[str, Any]:
    """All figures."""
    import torch

    peak = peak_flops(device, sizes["side"])
    with tempfile.TemporaryDirectory() as folder:
        weights = write_inputs(folder, sizes)
        figures, context = embedding_and_search(folder, device, k, batch_tokens)
        checks = check(context, device, k)
        compared = against_topk(context, device, k)
    tokens = figures["tokens"]
    return {
        "device": torch.cuda.get_device_name(0) if device == "cuda" else "cpu",
        "sizes": {**sizes, "k": k, "batch_tokens": batch_tokens, "weights": weights},
        "peak_tflops": peak / 1e12,
        **figures,
        "tokens_per_s": tokens / figures["embed_s"],
        "device_tokens_per_s": tokens / figures["embed_device_s"],
        "embed_share_of_peak": 2 * weights * tokens / figures["embed_s"] / peak,
        "search_share_of_peak": compared["search_flops"] / peak,
        **compared,
        **checks,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--batch-tokens", type=int, default=16384)
    for name in ("documents", "queries", "layers", "width"):
        parser.add_argument(f"--{name}", type=int, help=f"default: {SIZES['cuda'][NAMES.index(name)]:,}")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; run this on a machine with one, or see that it runs with --device cpu")
    sizes = dict(zip(NAMES, SIZES[arguments.device], strict=True))
    sizes |= {name: value for name in sizes if (value := getattr(arguments, name, None)) is not None}
    result = measured(arguments.device, sizes, min(arguments.k, sizes["documents"]), arguments.batch_tokens)
    report(result)
    if arguments.device == "cuda":
        measure.keep("gpu", result)


if __name__ == "__main__":
    main()
