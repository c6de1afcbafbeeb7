import numpy as np
import pytest

from mixbct.adapters.rank_merge import ABSENT, merge_ranks, ranks_of


def slow_merge(first: list[int], second: list[int]) -> list[int]:
    """Take from both lists in turn, and skip what is there already."""
    merged: list[int] = []
    for place in range(max(len(first), len(second))):
        for found in (first, second):
            if place < len(found) and found[place] not in merged:
                merged.append(found[place])
    return merged


@pytest.mark.parametrize("lengths", [(9, 9), (4, 7), (0, 3), (5, 0)])
def test_merged_ranks_equal_a_loop(lengths: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    lists = [[rng.permutation(9)[:k].tolist() for _ in range(20)] for k in lengths]
    ranks = [
        ranks_of(np.array(found, dtype=np.int64).reshape(20, k), 9)
        for found, k in zip(lists, lengths, strict=True)
    ]
    merged = merge_ranks(*ranks)
    for query in range(20):
        expected = slow_merge(lists[0][query], lists[1][query])
        for item in range(9):
            place = expected.index(item) if item in expected else ABSENT
            assert merged[query, item] == place


def test_galleries_of_different_items_are_interleaved() -> None:
    old = ranks_of(np.array([[2, 0, 1]]), 5)
    new = ranks_of(np.array([[4, 3]]), 5)
    assert np.argsort(merge_ranks(old, new)[0]).tolist() == [2, 4, 0, 3, 1]


def test_short_lists_are_padded() -> None:
    ranks = ranks_of(np.array([[3, ABSENT, ABSENT], [0, 1, ABSENT]]), 4)
    assert ranks.tolist() == [[-1, -1, -1, 0], [0, 1, -1, -1]]
