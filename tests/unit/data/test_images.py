import io
import random
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mixbct.data import images
from mixbct.data.images import decode
from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing

GREY8 = Preprocessing(size=8, channels=1)
RGB8 = Preprocessing(size=8, channels=3)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """A gradient that differs in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    return np.stack([red, green, (red + green) / 2], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp"])
def test_lossless_formats_give_the_exact_pixels(tmp_path: Path, suffix: str) -> None:
    pixels = noise(8, 8, 3)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    np.testing.assert_array_equal(decode(tmp_path / f"a.{suffix}", RGB8), pixels)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_equals_pillow(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth(16, 16)).save(path, quality=95)
    got = decode(path, Preprocessing(size=16, channels=channels))
    want = np.asarray(Image.open(path).convert("L" if channels == 1 else "RGB"))
    assert got.shape == (16, 16, channels)
    assert got.dtype == np.uint8
    np.testing.assert_allclose(
        got.astype(int), want.reshape(got.shape).astype(int), atol=2 if channels == 1 else 0
    )


@pytest.mark.parametrize("preprocessing", [RGB8, GREY8])
def test_without_simplejpeg_pillow_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing
) -> None:
    shades = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
    Image.fromarray(shades).save(tmp_path / "a.jpg", quality=95)
    before = decode(tmp_path / "a.jpg", preprocessing)
    monkeypatch.setattr(images, "simplejpeg", None)
    found = decode(tmp_path / "a.jpg", preprocessing)
    np.testing.assert_allclose(found.astype(int), before.astype(int), atol=3)


def test_grey_image_as_rgb_and_back(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", GREY8)[..., 0], pixels)
    np.testing.assert_array_equal(
        decode(tmp_path / "a.png", RGB8), np.repeat(pixels[..., None], 3, axis=2)
    )


@pytest.mark.parametrize("exif", [False, True])
def test_large_jpeg_is_scaled_with_antialiasing(tmp_path: Path, exif: bool) -> None:
    pixels = np.repeat(np.repeat(noise(8, 8, 3), 64, axis=0), 64, axis=1)
    fine = np.indices((512, 512)).sum(0) % 2 * 60  # a chequerboard that must average out
    pixels = np.clip(pixels // 2 + fine[..., None], 0, 255).astype(np.uint8)
    orientation = Image.Exif()
    if exif:
        orientation[0x0112] = 1
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=98, subsampling=0, exif=orientation)
    whole = Image.fromarray(pixels).resize((8, 8), Image.Resampling.BILINEAR)
    got = decode(tmp_path / "a.jpg", RGB8)
    np.testing.assert_allclose(got.astype(int), np.asarray(whole).astype(int), atol=12)


@pytest.mark.parametrize(("suffix", "tolerance"), [("jpg", 12), ("png", 0)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(
    tmp_path: Path, orientation: int, suffix: str, tolerance: int
) -> None:
    upright = smooth(8, 8)
    # what a camera stores for each orientation: the inverse of the turn a viewer must make
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(
        path, exif=exif, **({"quality": 100, "subsampling": 0} if suffix == "jpg" else {})
    )
    np.testing.assert_allclose(decode(path, RGB8).astype(int), upright.astype(int), atol=tolerance)


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    pixels = noise(8, 8, 4)
    pixels[..., 3] = np.where(np.arange(8) < 4, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    got = decode(tmp_path / "a.png", RGB8)
    assert (got[:, :4] == 255).all()
    np.testing.assert_array_equal(got[:, 4:], pixels[:, 4:, :3])


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray((np.indices((8, 8)).sum(0) % 2).astype(np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    got = decode(tmp_path / "a.png", RGB8)
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[0, 1].tolist() == [40, 50, 60]


def test_sixteen_bits_keep_their_upper_half(tmp_path: Path) -> None:
    values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(values).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", GREY8)[..., 0], values >> 8)


def test_one_bit_and_cmyk(tmp_path: Path) -> None:
    bits = np.indices((8, 8)).sum(0) % 2 == 0
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(decode(tmp_path / "a.png", GREY8)[..., 0], bits * 255)
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    np.testing.assert_allclose(decode(tmp_path / "a.jpg", RGB8)[0, 0], [255, 0, 0], atol=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
def test_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"half.{suffix}"
    Image.fromarray(noise(64, 64, 3)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImageError, match=r"half\.") as caught:
        decode(path, RGB8)
    assert caught.value.keys == [str(path)]


@pytest.mark.parametrize("content", [b"", b"text", b"\xff\xd8", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_is_a_bad_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(BadImageError, match=r"a\.jpg is not a readable image: \S"):
        decode(tmp_path / "a.jpg", RGB8)


def test_formats_beyond_the_four_are_refused_whatever_the_suffix(tmp_path: Path) -> None:
    # Pillow would start other programs for some of them
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", "TIFF")
    with pytest.raises(BadImageError):
        decode(tmp_path / "a.png", RGB8)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", "BMP")
    assert decode(tmp_path / "a.png", RGB8).shape == (8, 8, 3)


def test_missing_file_and_folder_are_bad_images(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(BadImageError):
            decode(path, RGB8)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_decompression_bomb_is_an_error(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MOST_PIXELS", 15 * 16)
    Image.new("RGB", (16, 16)).save(tmp_path / f"a.{suffix}")
    with pytest.raises(BadImageError, match="16 × 16 pixels, more than 240"):
        decode(tmp_path / f"a.{suffix}", RGB8)


def test_a_header_that_claims_a_huge_image_is_refused_unread(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[18:26] = (60_000).to_bytes(4, "little") * 2
    (tmp_path / "a.bmp").write_bytes(data)
    with pytest.raises(BadImageError, match="pixels"):
        decode(tmp_path / "a.bmp", RGB8)


def mutations(data: bytes, count: int, seed: int) -> list[bytes]:
    rng = random.Random(seed)
    changed = []
    for _ in range(count):
        mutant = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(mutant))
            match rng.randrange(4):
                case 0:
                    mutant[at] = rng.randrange(256)
                case 1:
                    mutant[at] ^= 1 << rng.randrange(8)
                case 2:
                    del mutant[at : at + rng.randint(1, 16)]
                case 3:
                    mutant[at:at] = rng.randbytes(rng.randint(1, 16))
            if not mutant:
                mutant = bytearray(b"\0")
        changed.append(bytes(mutant))
    return changed


@pytest.mark.parametrize("suffix", ["jpg", "exif.jpg", "png", "palette.png", "bmp", "webp"])
def test_mutated_files_give_an_image_or_a_bad_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    image = Image.fromarray(smooth(24, 24))
    exif = Image.Exif()
    if suffix == "exif.jpg":
        exif[0x0112] = 6
    if suffix == "palette.png":
        image = image.quantize(16)
    image.save(path, exif=exif)
    count = 500 if suffix.endswith(("jpg", "png")) else 150
    outcomes = {"image": 0, "bad": 0}
    for mutant in mutations(path.read_bytes(), count, seed=1):
        path.write_bytes(mutant)
        try:
            assert decode(path, GREY8).shape == (8, 8, 1)
            outcomes["image"] += 1
        except BadImageError:
            outcomes["bad"] += 1
    assert min(outcomes.values()) > 0, outcomes


def test_no_warning_leaks_and_filters_are_restored(tmp_path: Path) -> None:
    # Pillow warns about this one: an animation without frames
    file = io.BytesIO()
    Image.fromarray(noise(8, 8)).save(file, "PNG")
    chunk = b"acTL" + bytes(8)
    chunk = (8).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    data = file.getvalue()
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(tmp_path / "a.png").close()
    (tmp_path / "b.png").write_bytes(b"no image")
    before = list(warnings.filters)

    def work() -> None:
        for _ in range(50):
            decode(tmp_path / "a.png", GREY8)
            with pytest.raises(BadImageError):
                decode(tmp_path / "b.png", GREY8)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
