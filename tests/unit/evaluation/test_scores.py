import numpy as np
import pytest
import torch

from mixbct.errors import FeatureError
from mixbct.evaluation.scores import Embeddings, Pair, genuine_counts, pair_blocks


def test_blocks_hold_every_pair_once_on_its_side(clustered):
    query, gallery = clustered()
    scores = query.features @ gallery.features.T
    same = query.labels[:, None] == gallery.labels
    seen = []
    for (block,) in pair_blocks([Pair(query, gallery)], budget=20_000):
        for i, row in enumerate(block.rows):
            for kept, wanted in (
                (block.genuine, scores[row][same[row]]),
                (block.impostor, scores[row][~same[row]]),
            ):
                values = kept[i][kept[i] > -torch.inf].numpy()
                np.testing.assert_allclose(np.sort(values), np.sort(wanted), atol=1e-6)
        seen += block.rows.tolist()
    assert sorted(seen) == list(range(len(query)))
    # class by class
    assert (np.diff(query.labels[seen]) >= 0).all()
    np.testing.assert_array_equal(genuine_counts(query, gallery), same.sum(axis=1))


def test_blocks_obey_the_budget_and_share_one_buffer(clustered):
    query, gallery = clustered(queries=700, gallery=900)
    budget = 2**20
    buffers, rows = set(), []
    for (block,) in pair_blocks([Pair(query, gallery)], budget=budget):
        buffers.add(block.impostor.data_ptr())
        rows.append(len(block.impostor))
        assert block.impostor.nbytes + block.genuine.nbytes <= budget
    assert len(buffers) == 1
    assert len(rows) > 3
    # and make use of it
    assert 4 * rows[0] * len(gallery) > budget / 4


def test_a_budget_below_one_row_still_takes_one(clustered):
    query, gallery = clustered(queries=3)
    assert [len(block.impostor) for (block,) in pair_blocks([Pair(query, gallery)], budget=1)] == [
        1,
        1,
        1,
    ]


def test_a_block_is_capped_where_the_gallery_is_tiny(clustered):
    query, gallery = clustered(queries=3000, gallery=20)
    assert max(len(block.impostor) for (block,) in pair_blocks([Pair(query, gallery)])) <= 1024


def test_sides_of_different_dimension_are_refused(clustered):
    query, _ = clustered(dim=16)
    _, gallery = clustered(dim=8)
    with pytest.raises(FeatureError, match=r"16 .* 8"):
        next(pair_blocks([Pair(query, gallery)]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5, 0.0])
def test_rows_that_are_not_unit_vectors_are_refused(value):
    features = np.eye(3, dtype=np.float32)
    features[1, 1] = value
    with pytest.raises(FeatureError, match="row 1"):
        Embeddings(features, np.arange(3))


@pytest.mark.parametrize(("rows", "labels"), [(3, 2), (0, 0)])
def test_counts_that_differ_or_are_zero_are_refused(rows, labels):
    with pytest.raises(FeatureError, match=f"{rows} features with {labels} labels"):
        Embeddings(np.eye(3, dtype=np.float32)[:rows], np.arange(labels))
