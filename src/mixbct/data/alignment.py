"""Face alignment: five points to their reference places by a similarity transform.

Both eyes, the tip of the nose and both corners of the mouth, (x, y) with the centre of the first
pixel at (0, 0), are brought as near as a turn, a scale and a shift can bring them (Umeyama,
"Least-squares estimation of transformation parameters between two point patterns", 1991, Eq. 40
to 42) to where ArcFace expects them in 112 × 112 pixels.
"""

import numpy as np
from jaxtyping import Float, Float64, UInt8
from PIL import Image

from mixbct.data.images import image_of
from mixbct.errors import DataError

REFERENCE_SIZE = 112
_REFERENCE_X = (38.2946, 73.5318, 56.0252, 41.5493, 70.7299)
_REFERENCE_Y = (51.6963, 51.5014, 71.7366, 92.3655, 92.2041)


def reference_points(size: int = REFERENCE_SIZE) -> Float64[np.ndarray, "5 2"]:
    """Return where the points belong in size × size pixels: those of 112 × 112, scaled."""
    return np.column_stack([_REFERENCE_X, _REFERENCE_Y]) * (size / REFERENCE_SIZE)


def similarity_transform(
    source: Float[np.ndarray, "p 2"], target: Float[np.ndarray, "p 2"]
) -> Float64[np.ndarray, "2 3"]:
    """Return the similarity, without reflection, that brings `source` nearest to `target`.

    Returns:
        [2, 3] matrix (sR | t) that minimises Σ ‖sR·source + t − target‖².

    Raises:
        DataError: the source points coincide or are not finite.
    """
    start, end = source.astype(np.float64), target.astype(np.float64)
    start_mean, end_mean = start.mean(axis=0), end.mean(axis=0)
    start, end = start - start_mean, end - end_mean
    variance = (start**2).sum()
    if not np.isfinite(variance) or variance < 1e-12:
        raise DataError(f"no alignment is possible by the points {source.tolist()}")
    u, singular, vt = np.linalg.svd(end.T @ start)
    # the smaller axis is turned over where the best match would be a mirror image
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    scaled = (u * sign) @ vt * (singular @ sign / variance)
    return np.column_stack([scaled, end_mean - scaled @ start_mean])


def align(
    image: UInt8[np.ndarray, "h w c"], points: Float[np.ndarray, "5 2"], size: int = REFERENCE_SIZE
) -> UInt8[np.ndarray, "s s c"]:
    """Return the face at its reference place; bilinear, black outside the image.

    Values between two whole numbers are cut to the lower, as Pillow does.

    Args:
        image: 1 or 3 channels.
        points: in pixels of `image`.
        size: height and width of what is returned.

    Raises:
        DataError: the points coincide or are not finite.
    """
    forward = similarity_transform(points, reference_points(size))
    if image.shape[:2] == (size, size) and np.allclose(forward, np.eye(2, 3), atol=1e-3):
        return image
    back = np.linalg.inv(forward[:, :2])
    # Pillow counts from the corner of a pixel, half a pixel off
    shift = -back @ forward[:, 2] + 0.5 - 0.5 * back.sum(axis=1)
    numbers = tuple(np.column_stack([back, shift]).ravel().tolist())
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    warped = image_of(image).transform((size, size), affine, numbers, bilinear)
    return np.asarray(warped).reshape(size, size, image.shape[2])
