"""The same bytes give the same pixels, or the same refusal, whichever library decodes them.

The files are made as other programs write them, segment by segment.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from mixbct.data import images
from mixbct.data.images import decode_bytes, to_png
from mixbct.errors import BadImageError
from mixbct.schemas.model import Preprocessing

XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>%s</x:xmpmeta>"
ATTRIBUTE = XMP % b'<rdf:Description tiff:Orientation="6"/>'
ELEMENT = XMP % b"<tiff:Orientation>6</tiff:Orientation>"
MUTANTS = 100  # of each of six kinds


def scene(height: int = 40, width: int = 40) -> np.ndarray:
    """Blocks of noise, with another colour in each corner."""
    rng = np.random.default_rng(3)
    blocks = rng.integers(60, 200, (-(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width].copy()
    for at, colour in (
        ((slice(8), slice(8)), (255, 0, 0)),
        ((slice(8), slice(-8, None)), (0, 255, 0)),
        ((slice(-8, None), slice(8)), (0, 0, 255)),
    ):
        pixels[at] = colour
    return pixels


def jpeg(pixels: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """Put segments behind the start of a JPEG, in front of its own."""
    return data[:2] + b"".join(segments) + data[2:]


def exif(orientation: int | None, order: str = ">") -> bytes:
    """Return an EXIF segment as a camera writes it; without an orientation it has a width."""
    tag, value = (0x0112, orientation) if orientation is not None else (0x0100, 40)
    start = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8)
    entry = struct.pack(f"{order}HHHIHHI", 1, tag, 3, 1, value, 0, 0)
    return segment(0xE1, b"Exif\0\0" + start + entry)


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def without_app(data: bytes) -> bytes:
    """Drop the APPn segments that Pillow wrote."""
    kept, at = data[:2], 2
    while data[at + 1] != 0xDA:
        length = 2 + int.from_bytes(data[at + 2 : at + 4])
        if not 0xE0 <= data[at + 1] <= 0xEF:
            kept += data[at : at + length]
        at += length
    return kept + data[at:]


def png(bits: int, colour: int, rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Write a PNG whose rows are bytes already."""
    height, width = rows.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def pictures() -> dict[str, bytes]:
    plain = jpeg(scene())
    ycck = jpeg(scene(), "CMYK")
    multi = io.BytesIO()
    second = Image.fromarray(scene()[::-1].copy())
    Image.fromarray(scene()).save(multi, "MPO", save_all=True, append_images=[second])
    sixteen = (scene().astype(np.uint16) * 256 + 99).astype(">u2")
    places = (np.indices((40, 40)).sum(0) // 9 % 3).astype(np.uint8)
    return {
        "baseline": plain,
        "bare": without_app(plain),
        "progressive": jpeg(scene(), progressive=True),
        "444": jpeg(scene(), subsampling=0),
        "422": jpeg(scene(), subsampling=1),
        "grey": jpeg(scene(), "L"),
        "grey progressive": jpeg(scene(), "L", progressive=True),
        "restarts": jpeg(scene(), restart_marker_blocks=2),
        "RGB": with_segments(without_app(jpeg(scene(), subsampling=0)), adobe(0)),
        "CMYK": ycck,
        "YCCK": with_segments(without_app(ycck), adobe(2)),
        "EXIF": with_segments(plain, exif(6)),
        "EXIF little-endian": with_segments(plain, exif(8, "<")),
        "EXIF behind": with_segments(plain, segment(0xFE, b"a comment"), exif(3)),
        "EXIF out of range": with_segments(plain, exif(9)),
        "XMP": with_segments(plain, segment(0xE1, ATTRIBUTE)),
        "XMP element": with_segments(plain, segment(0xE1, ELEMENT)),
        "EXIF and XMP": with_segments(plain, exif(8), segment(0xE1, ATTRIBUTE)),
        "EXIF without it, XMP": with_segments(plain, exif(None), segment(0xE1, ATTRIBUTE)),
        "a comment about it": with_segments(plain, segment(0xFE, b"Exif\0 tiff:Orientation")),
        "EXIF behind fill bytes": plain[:2] + b"\xff\xff" + exif(6) + plain[2:],
        "EXIF behind a profile": with_segments(
            plain, segment(0xE2, b"ICC_PROFILE\0\1\1" + b"\xff\xda" * 99), exif(6)
        ),
        "multi-picture": multi.getvalue(),
        "bytes behind": plain + b"\0" * 1000 + plain,
        "truncated at its end": plain[:-2],
        "truncated": plain[: len(plain) // 2],
        "truncated in the head": plain[:100],
        "two bytes short": plain[:-4] + plain[-2:],
        "large": jpeg(scene(480, 330)),
        "three eighths": jpeg(scene(47, 50)),  # 3/8 would leave more than twice the size
        "wanted size": jpeg(scene(8, 8)),
        "16 bit grey": png(16, 0, sixteen[..., 0]),
        "16 bit RGB": png(16, 2, sixteen),
        "palette": png(
            8, 3, places, (b"PLTE", bytes([9, 8, 7, 250, 9, 9, 0, 99, 0])), (b"tRNS", b"\0\x80")
        ),
        "grey with a transparent value": png(8, 0, scene()[..., 0], (b"tRNS", b"\0\0")),
        "zero bytes": b"",
    }


def outcome(data: bytes, preprocessing: Preprocessing) -> np.ndarray | str:
    try:
        return decode_bytes(data, preprocessing, "x")
    except BadImageError as error:
        return str(error)


@pytest.fixture
def without_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> Callable[..., np.ndarray | str]:
    """Return `outcome` as it is on a machine that has Pillow alone."""

    def alone(data: bytes, preprocessing: Preprocessing) -> np.ndarray | str:
        with monkeypatch.context() as patch:
            patch.setattr(images, "simplejpeg", None)
            return outcome(data, preprocessing)

    return alone


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", pictures())
def test_both_decoders_give_the_same(
    name: str, channels: int, without_simplejpeg: Callable[..., np.ndarray | str]
) -> None:
    for size in (8, 13, 40):
        wanted = Preprocessing(size=size, channels=channels)
        fast = outcome(pictures()[name], wanted)
        np.testing.assert_array_equal(fast, without_simplejpeg(pictures()[name], wanted))
        assert isinstance(fast, str) == (name.startswith("truncated") or name == "zero bytes")


@pytest.mark.parametrize("name", ["baseline", "progressive", "grey", "CMYK", "EXIF", "restarts"])
def test_both_decoders_refuse_the_same_damaged_files(
    name: str, without_simplejpeg: Callable[..., np.ndarray | str]
) -> None:
    rng = random.Random(5)
    wanted = Preprocessing(size=8, channels=3)
    readable = 0
    for _ in range(MUTANTS):
        data = bytearray(pictures()[name])
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        fast = outcome(bytes(data), wanted)
        np.testing.assert_array_equal(fast, without_simplejpeg(bytes(data), wanted))
        readable += not isinstance(fast, str)
    assert 0 < readable < MUTANTS


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        ("EXIF", -1),
        ("EXIF little-endian", 1),
        ("EXIF behind fill bytes", -1),
        ("EXIF behind a profile", -1),
        ("XMP", -1),
        ("XMP element", -1),
        ("EXIF and XMP", 1),
        ("EXIF without it, XMP", -1),
        ("EXIF out of range", 0),
    ],
)
def test_an_image_is_turned_upright(name: str, turns: int) -> None:
    """Both EXIF and XMP can say so; EXIF comes first. 6 is a quarter turn clockwise."""
    wanted = Preprocessing(size=40, channels=3)
    expected = np.rot90(outcome(pictures()["baseline"], wanted), turns)
    np.testing.assert_array_equal(outcome(pictures()[name], wanted), expected)


def test_sixteen_bits_and_transparency_come_out_as_they_are_meant() -> None:
    wanted = Preprocessing(size=40, channels=3)
    np.testing.assert_array_equal(outcome(pictures()["16 bit RGB"], wanted), scene())
    pixels = outcome(pictures()["palette"], wanted)
    assert not isinstance(pixels, str)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_allclose(pixels[0, 9], [252, 131, 131], atol=1)  # half over white
    assert pixels[0, 20].tolist() == [0, 99, 0]
    hidden = outcome(pictures()["grey with a transparent value"], wanted)
    assert not isinstance(hidden, str)
    assert (hidden[-8:, :8] == 255).all()


@pytest.mark.parametrize("suffix", ["webp", "bmp"])
def test_a_png_made_of_another_format_is_upright(suffix: str) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(scene()).save(file, suffix, exif=turned, lossless=True)
    wanted = Preprocessing(size=40, channels=3)
    np.testing.assert_array_equal(
        decode_bytes(to_png(file.getvalue(), "x"), wanted, "x"),
        decode_bytes(file.getvalue(), wanted, "x"),
    )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "x is not a readable image: it is empty"),
        (b"GIF89a\1\0", r"it begins with b'GIF89a.*'; expected a JPEG, PNG, BMP or WebP image"),
    ],
)
def test_what_is_no_image_is_said_in_words(data: bytes, says: str) -> None:
    with pytest.raises(BadImageError, match=says) as caught:
        decode_bytes(data, Preprocessing(size=8, channels=3), "x")
    assert "BytesIO" not in str(caught.value)
