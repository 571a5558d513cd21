"""Training shards in the formats that trainers read, from one set of verdicts.

Adding a format: one file, one line in FORMATS, its name in raymine/config.py, one test.
"""

from __future__ import annotations

from raymine.write.base import Format
from raymine.write.flagembedding import FLAGEMBEDDING
from raymine.write.labeled_list import LABELED_LIST
from raymine.write.labeled_pair import LABELED_PAIR
from raymine.write.n_tuple import N_TUPLE
from raymine.write.triplet import TRIPLET

FORMATS: dict[str, Format] = {
    "triplet": TRIPLET,
    "n-tuple": N_TUPLE,
    "labeled-pair": LABELED_PAIR,
    "labeled-list": LABELED_LIST,
    "flagembedding": FLAGEMBEDDING,
}
