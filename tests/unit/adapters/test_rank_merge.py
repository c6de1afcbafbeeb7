import numpy as np
import pytest

from mixbct.adapters.rank_merge import ABSENT, merge_ranks


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
    found = [
        np.array(one, dtype=np.int64).reshape(20, k) for one, k in zip(lists, lengths, strict=True)
    ]
    merged = merge_ranks(*found, 9)
    for query in range(20):
        expected = slow_merge(lists[0][query], lists[1][query])
        for item in range(9):
            place = expected.index(item) if item in expected else ABSENT
            assert merged[query, item] == place


def test_galleries_of_different_items_are_interleaved() -> None:
    merged = merge_ranks(np.array([[2, 0, 1]]), np.array([[4, 3]]), 5)
    assert np.argsort(merged[0]).tolist() == [2, 4, 0, 3, 1]
