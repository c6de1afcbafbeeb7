"""The map that a model, a result and an edge carry: right numbers, or none at all."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mixbct.errors import FeatureError
from mixbct.schemas.linear_map import LinearMap

RNG = np.random.default_rng(0)
MATRIX, OFFSET = RNG.normal(size=(5, 3)), RNG.normal(size=3)
FEATURES = RNG.normal(size=(7, 5)).astype(np.float32)


@pytest.mark.parametrize("offset", [None, OFFSET])
def test_it_maps_as_the_formula_says_also_after_a_round_trip(offset: np.ndarray | None) -> None:
    record = LinearMap.of(MATRIX, offset)
    assert (record.source_dim, record.target_dim) == (5, 3)
    again = LinearMap.model_validate_json(record.model_dump_json())
    assert again == record
    slow = np.zeros((7, 3))
    for n in range(7):
        for e in range(3):
            slow[n, e] = 0.0 if offset is None else offset[e]
            for d in range(5):
                slow[n, e] += FEATURES[n, d] * MATRIX[d, e]
    np.testing.assert_allclose(again.apply(FEATURES), slow, rtol=1e-5, atol=1e-6)


def test_the_bytes_are_little_endian_row_by_row() -> None:
    record = LinearMap.of(np.array([[1.0, 2.0]]))
    assert record.matrix == b"\x00\x00\x80\x3f\x00\x00\x00\x40"


def test_the_digest_tells_maps_apart() -> None:
    digests = {
        LinearMap.of(matrix, offset).digest
        for matrix in (MATRIX, MATRIX + 1, MATRIX.reshape(3, 5))
        for offset in (None, np.ones(matrix.shape[1]), np.full(matrix.shape[1], 2.0))
    }
    assert len(digests) == 9


def test_an_offset_of_zeros_is_none() -> None:
    """So that what is linear can follow another map."""
    record = LinearMap.of(MATRIX, np.zeros(MATRIX.shape[1]))
    assert record == LinearMap.of(MATRIX)


NAN = base64.b64encode(np.full(15, np.nan, "<f4").tobytes()).decode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"matrix": "no base64!"}, "numbers, not"),
        ({"matrix": base64.b64encode(bytes(56)).decode()}, r"\[15, 3\] numbers, not \[14"),
        ({"offset": base64.b64encode(bytes(16)).decode()}, r"\[15, 3\] numbers, not \[15, 4"),
        ({"target_dim": 5}, "numbers, not"),
        ({"source_dim": 0}, "greater than 0"),
        ({"matrix": base64.b64encode(bytes(60)).decode()}, "damaged"),
        ({"source_dim": 3, "target_dim": 5, "offset": None}, "damaged"),
        ({"matrix": NAN}, "damaged"),
        ({"more": 1}, "Extra inputs"),
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, Any], says: str) -> None:
    content = json.loads(LinearMap.of(MATRIX, OFFSET).model_dump_json()) | change
    with pytest.raises(ValidationError, match=says):
        LinearMap.model_validate_json(json.dumps(content))


def test_numbers_that_are_none_are_refused() -> None:
    for bad in (np.nan, np.inf, 1e39):
        with pytest.raises(FeatureError, match="5 to 3 dimensions holds NaN or infinity"):
            LinearMap.of(np.full((5, 3), bad))
        with pytest.raises(FeatureError, match="holds NaN"):
            LinearMap.of(MATRIX, np.full(3, bad))


def test_another_dimension_is_refused() -> None:
    with pytest.raises(FeatureError, match="vectors of dimension 5, not 4"):
        LinearMap.of(MATRIX).apply(FEATURES[:, :4])


def test_equality_does_not_depend_on_what_was_computed() -> None:
    used, fresh = LinearMap.of(MATRIX), LinearMap.of(MATRIX)
    used.apply(FEATURES)
    assert used == fresh
    fresh.apply(FEATURES)
    assert used == fresh
    assert hash(used) == hash(fresh)
    assert used != LinearMap.of(2 * MATRIX)
    assert used != "a map"
    assert used.model_dump_json() == fresh.model_dump_json()


@pytest.mark.parametrize("offset", [None, OFFSET])
def test_two_maps_make_one(offset: np.ndarray | None) -> None:
    first, second = LinearMap.of(MATRIX, offset), LinearMap.of(RNG.normal(size=(3, 4)))
    middle = first.apply(FEATURES)
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    expected, found = second.apply(middle), first.then(second).apply(FEATURES)
    lengths = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in (expected, found)]
    np.testing.assert_allclose(found / lengths[1], expected / lengths[0], atol=1e-6)
    with pytest.raises(FeatureError, match="offset cannot follow"):
        first.then(LinearMap.of(np.eye(3), OFFSET))
    with pytest.raises(FeatureError, match="3 dimensions cannot be followed by one from 5"):
        first.then(first)
