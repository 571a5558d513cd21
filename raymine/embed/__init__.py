"""Embedding: where vectors come from, by name."""

from raymine.embed.base import Encoder
from raymine.embed.pool import EmbedPool
from raymine.embed.precomputed import StoreVectors
from raymine.embed.sentence_transformer import Description, describe
from raymine.embed.stage import DescribeEmbedder, EmbedShard

__all__ = ["DescribeEmbedder", "Description", "EmbedPool", "EmbedShard", "Encoder", "StoreVectors", "describe"]
