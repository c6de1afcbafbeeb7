"""The transform against slow least squares and scikit-image, the pixels against it and scipy."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.optimize import least_squares
from skimage.transform import SimilarityTransform, warp

from mixbct.data.alignment import align, reference_points, similarity_transform
from mixbct.errors import DataError


def slow_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Minimise over (a, b, x, y), which spans the similarities without reflection."""

    def matrix(p: np.ndarray) -> np.ndarray:
        return np.array([[p[0], -p[1], p[2]], [p[1], p[0], p[3]]])

    def residual(p: np.ndarray) -> np.ndarray:
        m = matrix(p)
        return (source @ m[:, :2].T + m[:, 2] - target).ravel()

    return matrix(least_squares(residual, [1.0, 0, 0, 0], xtol=1e-15, ftol=1e-15).x)


@pytest.mark.parametrize("seed", range(8))
def test_the_transform_is_the_least_squares_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = reference_points() * rng.uniform(0.5, 3) + rng.normal(0, 8, (5, 2))
    if seed % 2:
        source[:, 0] *= -1  # a mirror image, whose best reflection must not be taken
    found = similarity_transform(source, reference_points())
    np.testing.assert_allclose(found, slow_similarity(source, reference_points()), atol=1e-5)
    assert np.linalg.det(found[:, :2]) > 0


def test_a_known_turn_scale_and_shift_is_found() -> None:
    angle, scale = 0.4, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = reference_points() @ turn.T + (10, -4)
    found = similarity_transform(reference_points(), moved)
    np.testing.assert_allclose(found, np.column_stack([turn, [10, -4]]), atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [112, 64])
def test_pixels_against_scipy(channels: int, size: int) -> None:
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.uniform(0, 255, (200, 160, channels)), (2, 2, 0))
    image = np.clip((noise - 127) * 4 + 127, 0, 255).astype(np.uint8)
    angle = 0.2
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (reference_points() @ turn.T * 0.9 + (35, 25)).astype(np.float32)
    found = align(image, points, size)
    assert found.shape == (size, size, channels)
    forward = similarity_transform(points, reference_points(size))
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    # scipy's coordinates are (row, column)
    rows = back[[1, 0]][:, [1, 0, 2]]
    for channel in range(channels):
        expected = affine_transform(
            image[..., channel].astype(float), rows[:, :2], rows[:, 2], (size, size), order=1
        )
        np.testing.assert_allclose(found[2:-2, 2:-2, channel], expected[2:-2, 2:-2], atol=1)


@pytest.mark.parametrize("seed", range(4))
def test_alignment_against_scikit_image(seed: int) -> None:
    """Umeyama's estimate and a bilinear warp are what the field's scripts align faces with."""
    rng = np.random.default_rng(seed)
    noise = gaussian_filter(rng.uniform(0, 255, (180, 150, 3)), (2, 2, 0))
    image = np.clip((noise - 127) * 4 + 127, 0, 255).astype(np.uint8)
    points = reference_points() * rng.uniform(0.8, 1.2) + (15, 25) + rng.normal(0, 4, (5, 2))
    theirs = SimilarityTransform.from_estimate(points, reference_points())
    ours = similarity_transform(points, reference_points())
    np.testing.assert_allclose(ours, theirs.params[:2], atol=1e-8)
    expected = warp(
        image, theirs.inverse, output_shape=(112, 112), order=1, preserve_range=True, cval=0
    )
    # pixels that lie partly outside the image are left out: black begins elsewhere
    inside = warp(np.ones(image.shape[:2]), theirs.inverse, output_shape=(112, 112)) > 1 - 1e-9
    assert inside.mean() > 0.6
    difference = align(image, points).astype(float)[inside] - expected[inside]
    assert np.abs(difference).max() < 2
    assert np.abs(difference).mean() < 0.6  # values are cut, not rounded: a half on average


def test_an_aligned_image_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(align(image, np.round(reference_points(64), 4), 64), image)
    moved = align(image, reference_points(64) + np.array([3, 0]), 64)
    # values are cut, not rounded
    np.testing.assert_allclose(moved[:, :-3].astype(int), image[:, 3:].astype(int), atol=1)
    assert (moved[:, -3:] == 0).all()


def test_points_that_coincide_or_are_not_finite() -> None:
    for points in (np.ones((5, 2)), np.full((5, 2), np.nan)):
        with pytest.raises(DataError, match="no alignment is possible"):
            similarity_transform(points, reference_points())
