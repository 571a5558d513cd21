"""FlagEmbedding's own data set: prints a JSON array of its rows, each drawn until every text has come.

python read_flagembedding.py FOLDER
"""

import json
import random
import sys
import tempfile

from FlagEmbedding.abc.finetune.embedder import AbsEmbedderDataArguments, AbsEmbedderTrainDataset

DRAWS = 60  # of 3 positives or 4 negatives one is missed once in 10 million rows


def row(draws):
    """What came first is the positive; the scores stand in the texts' order."""
    pairs = [list(zip(texts, scores, strict=True)) for _, texts, scores in draws]
    return {
        "query": draws[0][0],
        "positives": dict(drawn[0] for drawn in pairs),
        "negatives": dict(pair for drawn in pairs for pair in drawn[1:]),
    }


random.seed(0)
with tempfile.TemporaryDirectory() as cache:
    arguments = AbsEmbedderDataArguments(
        train_data=[sys.argv[1]], cache_path=cache, train_group_size=5, knowledge_distillation=True
    )
    data = AbsEmbedderTrainDataset(arguments, tokenizer=None)
    print(json.dumps([row([data[item] for _ in range(DRAWS)]) for item in range(len(data))]))
