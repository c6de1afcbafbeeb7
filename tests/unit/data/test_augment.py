import numpy as np
import pytest
import torch

from mixbct.data.augment import augment
from mixbct.recipe import DataSettings


def settings(shift: int = 0, flip: bool = False) -> DataSettings:
    return DataSettings(path="x", shift=shift, flip=flip)  # type: ignore[arg-type]


def images(batch: int, height: int = 6, width: int = 5, channels: int = 2) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (batch, height, width, channels), dtype=np.uint8))


Pixels = list[list[list[int]]]


def moved(image: Pixels, down: int, right: int, flip: bool) -> Pixels:
    """Move one image, pixel by pixel; what comes in repeats the border."""
    height, width = len(image), len(image[0])
    out: Pixels = []
    for y in range(height):
        out.append([])
        for x in range(width):
            from_y = min(max(y - down, 0), height - 1)
            at = width - 1 - x if flip else x
            from_x = min(max(at - right, 0), width - 1)
            out[-1].append(image[from_y][from_x])
    return out


def found_moves(
    image: torch.Tensor, result: torch.Tensor, reach: int, flips: tuple[bool, ...]
) -> list[tuple[int, int, bool]]:
    span = range(-reach, reach + 1)
    before, after = image.tolist(), result.tolist()
    return [
        (down, right, flip)
        for down in span
        for right in span
        for flip in flips
        if moved(before, down, right, flip) == after
    ]


@pytest.mark.parametrize(("shift", "flip"), [(2, False), (1, True), (0, True)])
def test_each_image_is_a_move_of_itself_and_every_move_occurs(shift: int, flip: bool) -> None:
    batch = images(400)
    result = augment(batch, settings(shift, flip), torch.Generator().manual_seed(0))
    assert result.shape == batch.shape
    assert result.dtype == torch.uint8
    flips = (False, True) if flip else (False,)
    seen: dict[tuple[int, int, bool], int] = {}
    for image, moved_image in zip(batch, result, strict=True):
        moves = found_moves(image, moved_image, shift, flips)
        assert len(moves) == 1  # noise: no two moves look alike
        seen[moves[0]] = seen.get(moves[0], 0) + 1
    possible = (2 * shift + 1) ** 2 * len(flips)
    assert len(seen) == possible
    share = 400 / possible
    assert all(abs(count - share) < 5 * share**0.5 for count in seen.values())


def test_a_shift_beyond_the_image_repeats_the_border() -> None:
    batch = images(20, 2, 2)
    result = augment(batch, settings(shift=5), torch.Generator().manual_seed(1))
    for image, moved_image in zip(batch, result, strict=True):
        assert found_moves(image, moved_image, 5, (False,))


def test_flip_alone_mirrors_half() -> None:
    batch = images(1000)
    result = augment(batch, settings(flip=True), torch.Generator().manual_seed(2))
    flipped = [torch.equal(r, i.flip(1)) for i, r in zip(batch, result, strict=True)]
    kept = [torch.equal(r, i) for i, r in zip(batch, result, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 420 < sum(flipped) < 580


def test_it_is_a_function_of_the_generator() -> None:
    batch = images(50)
    one, same, other = (
        augment(batch, settings(2, True), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_nothing_asked_nothing_done() -> None:
    batch = images(5)
    before = batch.clone()
    assert torch.equal(augment(batch, settings(), torch.Generator()), batch)
    augment(batch, settings(1, True), torch.Generator())
    assert torch.equal(batch, before)  # the input is left alone
