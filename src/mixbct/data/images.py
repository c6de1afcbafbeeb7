"""From an image file to pixels: decode, turn upright, bring to size and number of channels.

The same bytes give the same pixels whether simplejpeg, which is faster, or Pillow decodes them. So
simplejpeg is given only what both decode alike: a JPEG in grey or YCbCr whose metadata name no
orientation, without a flaw. A JPEG that is at least four times as large as what is wanted is
reduced while it is decoded, by the largest of 2, 4 and 8 that leaves twice the size; both do that
bit by bit alike. Whether an image can be read is for Pillow to say.

An image is turned as its EXIF orientation says or, where EXIF has none, that in its XMP.
"""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mixbct.errors import BadImageError, DataError
from mixbct.reading import read_bytes
from mixbct.schemas.model import Preprocessing

try:
    import simplejpeg
except ImportError:  # no wheel for this machine: Pillow decodes, more slowly
    simplejpeg = None

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp")
MOST_PIXELS = 100_000_000
_MOST_BYTES = 2**30
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_KIND = "JPEG, PNG, BMP or WebP image"

Pixels = UInt8[np.ndarray, "h w c"]


_lock = threading.Lock()
_inside: list[None] = []
_filters = contextlib.ExitStack()


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Ignore Pillow's warnings while at least one thread decodes.

    `warnings.catch_warnings` changes the whole process, so threads that enter and leave it in
    turn would restore each other's filters; here the first one in sets them and the last one out
    restores them.
    """
    with _lock:
        if not _inside:
            _filters.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _filters.close()


def read_image(path: Path, key: str) -> bytes:
    """Return the content of an image file.

    Raises:
        BadImageError: it cannot be read. `keys` is `key`.
    """
    try:
        return read_bytes(path, _KIND, DataError, most=_MOST_BYTES)
    except DataError as error:
        raise BadImageError(str(error), [key]) from error


def decode(path: Path, preprocessing: Preprocessing) -> Pixels:
    """Read one JPEG, PNG, BMP or WebP file; see `decode_bytes`.

    Raises:
        BadImageError: the file cannot be read, or see `decode_bytes`. `keys` is the path.
    """
    return decode_bytes(read_image(path, str(path)), preprocessing, str(path))


def decode_bytes(
    data: bytes, preprocessing: Preprocessing, name: str, most: int | None = None
) -> Pixels:
    """Decode the content of one JPEG, PNG, BMP or WebP file.

    The image is turned as its orientation says, laid over white where it is transparent,
    reduced to 8 bits, and scaled (bilinear, antialiased, aspect ratio not kept) to the size that
    `preprocessing` asks for. One channel is luma, three are RGB. Of an animation, the first frame.

    Args:
        data: the file's content.
        preprocessing: the size and number of channels that are wanted.
        name: what the image is called, for errors.
        most: pixels that it may have; None: `MOST_PIXELS`.

    Returns:
        [size, size, channels] uint8.

    Raises:
        BadImageError: the image is truncated or damaged, or has too many pixels.
            `keys` is `name`.
    """
    size, channels = preprocessing.size, preprocessing.channels
    with _named(name, data):
        pixels = _pixels(data, preprocessing, most)
        if pixels.shape[:2] != (size, size):
            resized = image_of(pixels).resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized).reshape(size, size, channels)
    return pixels


def suffix_of(data: bytes) -> str:
    """Return the suffix of a file with this content, of `SUFFIXES`; '' for none of them."""
    if data[:4] == b"RIFF":
        return ".webp" if data[8:12] == b"WEBP" else ""
    starts = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"BM": ".bmp"}
    return next((suffix for start, suffix in starts.items() if data.startswith(start)), "")


def to_png(data: bytes, name: str) -> bytes:
    """Return the first frame of an image file, upright, as a PNG with the same pixels.

    Raises:
        BadImageError: it cannot be decoded. `keys` is `name`.
    """
    with _named(name, data), _quiet_pillow(), _opened(data) as opened:
        return png_of(ImageOps.exif_transpose(opened))


def thumbnail(data: bytes, name: str, side: int) -> bytes:
    """Return an image file, upright and at most `side` pixels wide and high, as a PNG.

    Raises:
        BadImageError: it cannot be decoded, or has too many pixels. `keys` is `name`.
    """
    with _named(name, data), _quiet_pillow(), _opened(data) as opened:
        opened.draft("RGB", (2 * side, 2 * side))
        image = ImageOps.exif_transpose(opened)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        image.thumbnail((side, side))
        return png_of(image)


def png_of(image: Image.Image, optimize: bool = False) -> bytes:
    """Return the content of a PNG file of an image."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=optimize)
    return file.getvalue()


def image_of(pixels: Pixels) -> Image.Image:
    """Return pixels, grey or RGB, as an image of Pillow's."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def decode_unscaled(data: bytes, channels: Literal[1, 3], name: str) -> Pixels:
    """Decode the content of an image file as `decode_bytes` does, in the size that it has."""
    with _named(name, data):
        # so large that no decoder halves the image on its way
        return _pixels(data, Preprocessing(size=MOST_PIXELS, channels=channels))


@contextlib.contextmanager
def _named(name: str, data: bytes) -> Iterator[None]:
    """Turn whatever goes wrong with an image's content into an error that names the image."""
    try:
        yield
    # damaged files make Pillow's parsers fail with anything from KeyError to struct.error
    except Exception as error:
        why = str(error) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = f"it begins with {data[:8]!r}; expected a {_KIND}" if data else "it is empty"
        raise BadImageError(f"{name} is not a readable image: {why}", [name]) from error


def _opened(data: bytes, most: int | None = None) -> Image.Image:
    opened = Image.open(io.BytesIO(data), formats=_FORMATS)
    _refuse_bomb(opened.height, opened.width, most or MOST_PIXELS)
    return opened


def _refuse_bomb(height: int, width: int, most: int) -> None:
    if height * width > most:
        raise ValueError(f"{width} × {height} pixels, more than {most:,}; scale it down")


def _pixels(data: bytes, preprocessing: Preprocessing, most: int | None = None) -> Pixels:
    """Decode an image, reduced where it is a large JPEG."""
    pixels = _decode_plain_jpeg(data, preprocessing, most or MOST_PIXELS)
    if pixels is None:
        with _quiet_pillow():
            pixels = np.asarray(_decode_any(data, preprocessing, most))
    return pixels.reshape(*pixels.shape[:2], preprocessing.channels)


def _decode_plain_jpeg(data: bytes, preprocessing: Preprocessing, most: int) -> np.ndarray | None:
    """Decode a JPEG that needs nothing special; None where Pillow has to look at it."""
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or _may_be_turned(data):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        if space not in ("Gray", "YCbCr"):
            return None
        _refuse_bomb(height, width, most)
        # as Pillow's `draft` reckons; the decoder would take other factors, such as 8/3, as well
        ratio = min(height, width) // (2 * preprocessing.size)
        factor = 8 if ratio >= 8 else 4 if ratio >= 4 else 2 if ratio >= 2 else 1
        mode = "GRAY" if preprocessing.channels == 1 else "RGB"
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data, mode, min_height=-(-height // factor), min_width=-(-width // factor)
        )
    except ValueError:
        return None
    return pixels


def _may_be_turned(data: bytes) -> bool:
    """Return whether a JPEG's metadata name an orientation, or its segments are out of order."""
    at = 2
    while at + 4 < len(data) and data[at] == 0xFF and 0xC0 <= data[at + 1] < 0xFF:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if marker == 0xDA:  # what follows are pixels
            return False
        turned = data.startswith(b"Exif", at + 4) or data.find(b"tiff:Orientation", at, end) >= 0
        if marker == 0xE1 and turned:
            return True
        at = end
    return True


def _decode_any(data: bytes, preprocessing: Preprocessing, most: int | None) -> Image.Image:
    """Decode with Pillow: every format, mode and orientation."""
    mode = "L" if preprocessing.channels == 1 else "RGB"
    with _opened(data, most) as opened:
        # for JPEG what min_height does above, for the rest nothing
        opened.draft(mode, (2 * preprocessing.size, 2 * preprocessing.size))
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits in one channel; convert() would clip them
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
