"""Batches of clusters: every row once, one cluster each, the same for the same seed and epoch."""

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymine.errors import InputError
from raymine.online import ClusterBatches
from raymine.online.clusters import ClusterBatchSampler, cluster_numbers


def whole_epoch(sampler):
    """The batches of an epoch: every row once, and only the last batch may be short, or left out."""
    batches, num_rows, size = list(sampler), len(sampler.clusters), sampler.batch_size
    assert len(batches) == len(sampler)
    rows = [row for batch in batches for row in batch]
    left_out = num_rows % size if sampler.drop_last else 0
    assert len(rows) == len(set(rows)) == num_rows - left_out and set(rows) <= set(range(num_rows))
    assert all(len(batch) == size for batch in batches[:-1])
    return batches


@given(
    clusters=st.lists(st.integers(-3, 5), max_size=60),
    batch_size=st.integers(1, 9),
    drop_last=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_every_row_once_in_batches_of_one_cluster(clusters, batch_size, drop_last, epoch):
    """As many batches of one cluster as fit; what is left follows, and only the last batch may be short."""
    sampler = ClusterBatchSampler(np.array(clusters, np.int64), batch_size, drop_last, seed=4)
    sampler.set_epoch(epoch)
    batches = whole_epoch(sampler)
    pure = sum(len({clusters[row] for row in batch}) == 1 for batch in batches if len(batch) == batch_size)
    assert pure >= sum(clusters.count(cluster) // batch_size for cluster in set(clusters))


@given(
    clusters=st.lists(st.integers(0, 5), max_size=60),
    group_size=st.integers(1, 4),
    groups_per_batch=st.integers(1, 4),
    drop_last=st.booleans(),
)
def test_batches_of_groups(clusters, group_size, groups_per_batch, drop_last):
    """Every row once; as many groups of one cluster as fit stand whole in the batches, which mix clusters."""
    batch_size = group_size * groups_per_batch
    sampler = ClusterBatchSampler(np.array(clusters, np.int64), batch_size, drop_last, 4, group_size)
    batches = whole_epoch(sampler)
    rows = [row for batch in batches for row in batch]
    groups = [rows[start : start + group_size] for start in range(0, len(rows), group_size)]
    pure = sum(len(group) == group_size and len({clusters[row] for row in group}) == 1 for group in groups)
    assert (
        pure
        >= sum(clusters.count(cluster) // group_size for cluster in set(clusters))
        - (len(clusters) - len(rows)) // group_size
    )


def test_groups_of_clusters_are_mixed():
    """Of 400 rows in 5 clusters a batch of 8 groups has more than one cluster; without groups it has one."""
    clusters = np.arange(400) % 5
    of_groups, whole = (list(ClusterBatchSampler(clusters, 32, True, 0, size)) for size in (4, None))
    assert all(len({clusters[row] for row in batch}) > 1 for batch in of_groups)
    pure = sum(len({clusters[row] for row in batch}) == 1 for batch in whole)
    assert pure == 5 * (80 // 32)


def test_groups_without_rows_are_an_error():
    with pytest.raises(InputError, match="group_size=0"):
        ClusterBatches(np.arange(2), np.zeros(2, np.int64), group_size=0)


def test_seed_and_epoch_decide():
    """Two samplers agree (each process of a distributed run makes its own); epochs and seeds differ."""
    clusters = np.arange(400) % 5
    samplers = [ClusterBatchSampler(clusters, 8, False, seed) for seed in (1, 1, 2)]
    first = [list(sampler) for sampler in samplers]
    assert first[0] == first[1] == list(samplers[0]) != first[2]
    samplers[0].set_epoch(1)
    second = list(samplers[0])
    assert second != first[0]
    assert {frozenset(batch) for batch in second} != {frozenset(batch) for batch in first[0]}


def dataset(query_rows):
    return datasets.Dataset.from_dict({"anchor": ["a"] * len(query_rows), "label": [[q, 7] for q in query_rows]})


def test_clusters_go_with_the_queries():
    """A data set that was shuffled and cut still is batched by its own queries' clusters."""
    batches = ClusterBatches(np.arange(40), np.arange(40) // 10)
    shuffled = dataset(list(range(40)) * 2).shuffle(seed=3).select(range(72))
    sampler = batches(shuffled, batch_size=6, drop_last=True, valid_label_columns=["label"], generator=None, seed=1)
    assert sampler.batch_size == 6
    queries = [label[0] for label in shuffled["label"]]
    pure = sum(len({queries[row] // 10 for row in batch}) == 1 for batch in sampler)
    assert pure == sum(sum(query // 10 == cluster for query in queries) // 6 for cluster in range(4))


def test_a_query_without_a_cluster_is_an_error():
    with pytest.raises(InputError, match="1 of 3 rows"):
        ClusterBatches(np.arange(2), np.zeros(2, np.int64))(dataset([0, 1, 2]), 2, False)


def test_k_means_finds_the_groups_there_are():
    """Vectors about four axes; the same seed gives the same clusters."""
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 4, 300)
    vectors = (np.eye(4, 8)[groups] + rng.normal(0, 0.05, (300, 8))).astype(np.float32)
    found = cluster_numbers(vectors, 4, seed=1)
    assert len({(group, cluster) for group, cluster in zip(groups.tolist(), found.tolist(), strict=True)}) == 4
    assert np.array_equal(found, cluster_numbers(vectors, 4, seed=1))
    assert set(cluster_numbers(vectors[:3], 9).tolist()) <= {0, 1, 2}


def test_vectors_cluster_the_rows_queries():
    """One cluster per 200 rows unless told; rows of one query share the first one's."""
    rows = dataset([i // 2 for i in range(600)])
    vectors = np.random.default_rng(1).normal(size=(600, 6)).astype(np.float32)
    batches = ClusterBatches.of_vectors(rows, vectors)
    assert len(set(batches.clusters.tolist())) == 3
    of_groups = ClusterBatches.of_vectors(rows, vectors, group_size=40)
    assert len(set(of_groups.clusters.tolist())) == 3 and of_groups(rows, 80, False).group_size == 40
    sampler = batches(rows, 4, False)
    assert np.array_equal(sampler.clusters[::2], sampler.clusters[1::2])
