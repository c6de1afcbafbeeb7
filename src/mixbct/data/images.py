"""From an image file to pixels: decode, turn upright, bring to size and number of channels."""

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing

try:
    import simplejpeg
except ImportError:  # no wheel for this machine: Pillow decodes, more slowly
    simplejpeg = None

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MOST_PIXELS = 100_000_000
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


class _QuietPillow:
    """Ignore Pillow's warnings while at least one thread decodes.

    `warnings.catch_warnings` changes the whole process, so threads that enter and leave it in
    turn would restore each other's filters; here the first one in sets them and the last one out
    restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved = contextlib.ExitStack()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._saved.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._saved.close()


_quiet_pillow = _QuietPillow()


def decode(path: Path, preprocessing: Preprocessing) -> UInt8[np.ndarray, "h w c"]:
    """Read one JPEG, PNG, BMP or WebP file; see `decode_bytes`.

    Raises:
        BadImageError: the file cannot be read, or see `decode_bytes`. `keys` is the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadImageError(f"{path} cannot be read: {error.strerror}", [str(path)]) from error
    return decode_bytes(data, preprocessing, str(path))


def decode_bytes(
    data: bytes,
    preprocessing: Preprocessing,
    name: str,
    out: UInt8[np.ndarray, "h w c"] | None = None,
) -> UInt8[np.ndarray, "h w c"]:
    """Decode the content of one JPEG, PNG, BMP or WebP file.

    The image is turned as its EXIF orientation says, laid over white where it is transparent,
    reduced to 8 bits, and scaled (bilinear, antialiased, aspect ratio not kept) to the size that
    `preprocessing` asks for. One channel is luma, three are RGB. Of an animation, the first frame.

    Args:
        data: the file's content.
        preprocessing: the size and number of channels that are wanted.
        name: what the image is called, for errors.
        out: where to put the pixels; None for a new array.

    Returns:
        [size, size, channels] uint8; `out`, if it was given.

    Raises:
        BadImageError: the image is truncated or damaged, or has more than `MOST_PIXELS` pixels.
            `keys` is `name`.
    """
    size, channels = preprocessing.size, preprocessing.channels
    try:
        pixels = _decode_plain_jpeg(data, preprocessing, out)
        if pixels is None:
            with _quiet_pillow():
                pixels = np.asarray(_decode_any(data, preprocessing))
        pixels = pixels.reshape(*pixels.shape[:2], channels)
        if pixels.shape[:2] != (size, size):
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            resized = image.resize((size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(resized).reshape(size, size, channels)
    # damaged files make Pillow's parsers fail with anything from KeyError to struct.error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadImageError(f"{name} is not a readable image: {reason}", [name]) from error
    if out is None or out is pixels:
        return pixels
    out[...] = pixels
    return out


def suffix_of(data: bytes) -> str:
    """Return the suffix of a file with this content, of `SUFFIXES`; '' for none of them."""
    if data.startswith(b"\xff\xd8"):
        return ".jpg"
    if data.startswith(b"\x89PNG"):
        return ".png"
    if data.startswith(b"BM"):
        return ".bmp"
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def to_png(data: bytes, name: str) -> bytes:
    """Return the first frame of an image file as a PNG with the same pixels.

    Raises:
        BadImageError: it cannot be decoded. `keys` is `name`.
    """
    out = io.BytesIO()
    try:
        with _quiet_pillow(), Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            _refuse_bomb(opened.height, opened.width)
            opened.save(out, "PNG")
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadImageError(f"{name} is not a readable image: {reason}", [name]) from error
    return out.getvalue()


def decode_unscaled(path: Path, channels: Literal[1, 3]) -> UInt8[np.ndarray, "h w c"]:
    """Read one image file as `decode` does, in the size that it has.

    Raises:
        BadImageError: see `decode`.
    """
    # so large that no decoder halves the image on its way
    unscaled = Preprocessing(size=MOST_PIXELS, channels=channels)
    try:
        data = path.read_bytes()
        pixels = _decode_plain_jpeg(data, unscaled, None)
        if pixels is None:
            with _quiet_pillow():
                pixels = np.asarray(_decode_any(data, unscaled))
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadImageError(f"{path} is not a readable image: {reason}", [str(path)]) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _refuse_bomb(height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{width} × {height} pixels are more than the {MOST_PIXELS:,} that are allowed; "
            "scale it down first"
        )


def _decode_plain_jpeg(
    data: bytes, preprocessing: Preprocessing, out: UInt8[np.ndarray, "size size c"] | None
) -> UInt8[np.ndarray, "h w c"] | None:
    """Decode a JPEG that needs nothing special; None where Pillow has to look at it.

    One that has the size that is wanted is decoded into `out`, if that is given.
    """
    # orientation is in the EXIF block; a false alarm only costs the slower path
    if simplejpeg is None or not data.startswith(b"\xff\xd8") or b"Exif\0" in data:
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    _refuse_bomb(height, width)
    # the decoder may halve, quarter … a large image on its way; twice the size that is wanted
    # stays, so that the last step still averages
    least = 2 * preprocessing.size
    colours = "GRAY" if preprocessing.channels == 1 else "RGB"
    try:
        if out is not None and height == width == preprocessing.size:
            simplejpeg.decode_jpeg(data, colours, buffer=out)
            return out
        pixels: np.ndarray = simplejpeg.decode_jpeg(
            data,
            colours,
            min_height=least,
            min_width=least,
            min_factor=2,
        )
    except ValueError:
        return None
    return pixels


def _decode_any(data: bytes, preprocessing: Preprocessing) -> Image.Image:
    """Decode with Pillow: every format, mode and orientation."""
    mode = "L" if preprocessing.channels == 1 else "RGB"
    with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
        _refuse_bomb(opened.height, opened.width)
        # for JPEG what min_height does above, for the rest nothing
        opened.draft(mode, (2 * preprocessing.size, 2 * preprocessing.size))
        opened.load()
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits in one channel; convert() would clip them
        values = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
