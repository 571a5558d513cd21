"""Training shards in the formats that trainers read, from one set of verdicts.

Adding a format: one function in one file, one line in FORMATS, its name in raymine/config.py, one test.
"""

from __future__ import annotations

from raymine.write.ance import ANCE, SIMANS
from raymine.write.arctic import ARCTIC
from raymine.write.automodel import AUTOMODEL, AUTOMODEL_CORPUS
from raymine.write.base import Format
from raymine.write.dpr import DPR
from raymine.write.flagembedding import FLAGEMBEDDING
from raymine.write.gpl import GPL, GPL_MARGINS
from raymine.write.labeled_list import LABELED_LIST, LABELED_LIST_ALL
from raymine.write.labeled_pair import LABELED_PAIR
from raymine.write.listwise import LISTWISE, PYLATE
from raymine.write.margin import MARGIN
from raymine.write.ms_swift import MS_SWIFT
from raymine.write.msmarco import MSMARCO
from raymine.write.n_tuple import N_TUPLE
from raymine.write.runs import TEVATRON_RUN, TREC
from raymine.write.simlm import SIMLM
from raymine.write.tevatron import TEVATRON, TEVATRON_V2
from raymine.write.triplet import TRIPLET

FORMATS: dict[str, Format] = {
    "triplet": TRIPLET,
    "n-tuple": N_TUPLE,
    "labeled-pair": LABELED_PAIR,
    "labeled-list": LABELED_LIST,
    "labeled-list-all": LABELED_LIST_ALL,
    "margin": MARGIN,
    "listwise": LISTWISE,
    "flagembedding": FLAGEMBEDDING,
    "tevatron": TEVATRON,
    "tevatron-v2": TEVATRON_V2,
    "tevatron-run": TEVATRON_RUN,
    "dpr": DPR,
    "gpl": GPL,
    "gpl-margins": GPL_MARGINS,
    "pylate": PYLATE,
    "automodel": AUTOMODEL,
    "automodel-corpus": AUTOMODEL_CORPUS,
    "arctic": ARCTIC,
    "simlm": SIMLM,
    "ms-swift": MS_SWIFT,
    "ance": ANCE,
    "simans": SIMANS,
    "msmarco": MSMARCO,
    "trec": TREC,
}
