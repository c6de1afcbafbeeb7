"""Foreign text, TOML and arrays, written byte by byte as other programs write them."""

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import DataError, FeatureError, RecipeError
from mixbct.reading import (
    expected_instead,
    meant,
    open_array,
    parse_toml,
    read_bytes,
    read_lines_of,
    read_toml,
)


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"anna\nbert\n", ["anna", "bert"]),
        (b"\xef\xbb\xbfanna\nbert", ["anna", "bert"]),
        (b"anna\r\nbert\r\n\r\n\n", ["anna", "bert"]),
        (b"anna  \n\tbert \n \n", ["anna", "bert"]),
        (b"\xef\xbb\xbfanna\r\n\xef\xbb\xbfbert\r\n \xef\xbb\xbf", ["anna", "bert"]),
        (b"anna\n\nbert\n", ["anna", "", "bert"]),
        ("a\u0085b\nc\u2028d\n".encode(), ["a\u0085b", "c\u2028d"]),
        ("\u5c71\u3000\u7530\n".encode(), ["\u5c71\u3000\u7530"]),
        (b"", []),
    ],
)
def test_lines_are_what_somebody_meant(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_lines_of(tmp_path / "labels.txt", "list of labels") == lines


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"anna\nb\xf6rt\n", "line 2: expected a list of labels in UTF-8, found the byte 0xf6"),
        (b"\xef\xbb\xbfanna\nb\xf6rt\n", "line 2: .*found the byte 0xf6; save the file as UTF-8"),
        (b"anna\nbert\nc\0d\n", "line 3: expected a list of labels as text, found a NUL"),
        ("anna\n".encode("utf-16"), "line 1: expected a list of labels in UTF-8"),
    ],
)
def test_text_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_lines_of(tmp_path / "labels.txt", "list of labels")


def test_names_that_stand_for_none() -> None:
    names = ["anna ", "\ufeff", " -1\r", ""]
    assert [expected_instead(meant(name), "key") is None for name in names] == [1, 0, 1, 0]
    assert [expected_instead(meant(name), "label") is None for name in names] == [1, 0, 0, 0]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "long").write_bytes(b"x" * 11)
    for path, says in [
        (tmp_path / "none", "there is no list at"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is no regular file"),
        (tmp_path / "loop", "cannot be read as a list: Too many levels of symbolic links"),
        (tmp_path / ("x" * 5000), "cannot be read as a list: File name too long"),
        (tmp_path / "a\0b", "cannot be read as a list: .*null byte"),
        (tmp_path / "long", "has 11 bytes, too many for a list"),
    ]:
        with pytest.raises(DataError, match=says) as error:
            read_bytes(path, "list", DataError, most=10)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a = " + b"9" * 5000, "more than 400 digits"),
        (b"a = " + b"[" * 10**6, "nested too deep|not valid TOML"),
        (b"a = 'x\0y'", "not valid TOML"),
        (b"a = \xff", "not valid TOML"),
    ],
)
def test_toml_that_is_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(RecipeError, match=says):
        read_toml(tmp_path / "r.toml", "recipe", RecipeError)


def test_toml_of_an_editor_on_another_system(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n[b]\r\nc = 'd'\r\n")
    assert read_toml(tmp_path / "r.toml", "recipe", RecipeError) == {"a": 1, "b": {"c": "d"}}
    assert parse_toml("a = 1\r\n") == {"a": 1}


def npy(header: str, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a .npy file, padded as NumPy pads it."""
    size = 2 if version == (1, 0) else 4
    padded = (
        header.encode("latin1").ljust(-(-(len(header) + 9 + size) // 64) * 64 - 9 - size) + b"\n"
    )
    length = struct.pack("<H" if size == 2 else "<I", len(padded))
    return b"\x93NUMPY" + bytes(version) + length + padded + body


def described(descr: str = "'<f4'", shape: str = "(2, 3)", fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


NUMBERS = np.arange(6, dtype="<f4")


def test_arrays_of_every_header(tmp_path: Path) -> None:
    rows = NUMBERS.reshape(2, 3)
    for name, content, expected in [
        ("one", npy(described(), NUMBERS.tobytes()), rows),
        ("two", npy(described(), NUMBERS.tobytes(), (2, 0)), rows),
        ("columns", npy(described(fortran=True), NUMBERS.tobytes()), NUMBERS.reshape(3, 2).T),
        ("none", npy(described(shape="(0, 3)"), b""), np.empty((0, 3), "<f4")),
    ]:
        (tmp_path / name).write_bytes(content)
        opened = open_array(tmp_path / name, "features", FeatureError, ["float32"], ndim=2)
        np.testing.assert_array_equal(opened, expected)
        with pytest.raises(ValueError, match="read-only"):
            opened[:] = 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as features: it is empty"),
        (b"1.0 2.0\n", "cannot be read as features: it is no .npy file"),
        (npy(described(), NUMBERS.tobytes()[:-1]), "takes 24 bytes, but 23 follow"),
        (npy(described(), NUMBERS.tobytes() + b"x"), "takes 24 bytes, but 25 follow"),
        (npy(described(shape="(10**15, 3)"), b""), "cannot be read as features"),
        (npy(described(shape="(1000000000000000, 3)"), b"1234"), "but 4 follow"),
        (
            npy(described(shape="(-2, -3)"), NUMBERS.tobytes()),
            "cannot be read as features: .*negative",
        ),
        (npy(described("'|O'"), NUMBERS.tobytes()), "Python objects, which are never loaded"),
        (
            npy(described("'<i8'", "(3,)"), NUMBERS.tobytes()),
            "holds int64 .*; expected features as",
        ),
        (npy(described(shape="(6,)"), NUMBERS.tobytes()), "expected features as float32"),
        (npy(described("'>f4'"), NUMBERS.tobytes()), "holds >f4 .*expected features as float32"),
        (npy(described(), NUMBERS.tobytes(), (9, 0)), "cannot be read as features"),
        (npy("(" * 3000, b""), "cannot be read as features"),
        (npy("{'descr': __import__('os')}", b""), "cannot be read as features"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "cannot be read as features"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "new.npy").write_bytes(content)
    with pytest.raises(FeatureError, match=says):
        open_array(tmp_path / "new.npy", "features", FeatureError, ["float32"], ndim=2)


def test_an_archive_of_arrays_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "new.npy", "w") as archive:
        archive.writestr("a.npy", npy(described(), NUMBERS.tobytes()))
    with pytest.raises(FeatureError, match=r"read as features: it is a zip archive \(.npz\)"):
        open_array(tmp_path / "new.npy", "features", FeatureError)
    with pytest.raises(FeatureError, match="there is no file of features at"):
        open_array(tmp_path / "gone.npy", "features", FeatureError)
    with pytest.raises(FeatureError, match="cannot be read as a file of features: it is a folder"):
        open_array(tmp_path, "features", FeatureError)
