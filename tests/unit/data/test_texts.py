"""Tables of texts as other programs write them, and as nobody should."""

import contextlib
import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from mixbct.data.source import Selection, Source
from mixbct.data.texts import TextSource
from mixbct.errors import DataError

ROWS = [
    {"id": "17", "body": 'a "quoted", text\nof two lines', "kind": "b"},
    {"id": "18", "body": "字と字", "kind": "a"},
    {"id": "x\ty", "body": " kept as it is ", "kind": "b"},
]


def write_csv(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_tsv(path: Path, rows: list[dict[str, str]]) -> Path:
    return write_csv(path, rows, "\t")


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    whole = [{**row, "id": int(row["id"]) if row["id"].isdigit() else row["id"]} for row in rows]
    path.write_text("\n\n".join(map(json.dumps, whole)), encoding="utf-8")
    return path


def write_parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    more = {"vector": pyarrow.array([[1.0]] * len(rows))}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pyarrow.parquet.write_table(pyarrow.table({**columns, **more}), path)
    return path


WRITERS = {"csv": write_csv, "tsv": write_tsv, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
def test_each_format_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"t.{kind}", ROWS)
    source = TextSource(path, "id", "body", "kind")
    assert isinstance(source, Source)
    assert source.keys() == ["17", "18", "x\ty"]
    assert source.classes() == ("a", "b")
    assert source.labels().tolist() == [1, 0, 1]
    assert source.read(np.array([2, 0, 2])).tolist() == [ROWS[i]["body"] for i in (2, 0, 2)]
    assert source.read(np.array([], np.int64)).shape == (0,)
    assert str(path) in str(source)
    chosen = Selection(source, np.array([2, 1]))
    assert chosen.read(np.array([1])).tolist() == [ROWS[1]["body"]]
    # the format is not part of the content, its order and every column are
    assert source.digest() == TextSource(write_csv(tmp_path / "o.csv", ROWS), *ROWS[0]).digest()
    for change in (
        ROWS[:2],
        ROWS[::-1],
        [*ROWS[:2], {**ROWS[2], "body": "kept as it is"}],
        [*ROWS[:2], {**ROWS[2], "kind": "a"}],
    ):
        other = TextSource(write_csv(tmp_path / "c.csv", change), *ROWS[0])
        assert other.digest() != source.digest()


def test_labels_are_those_of_the_column_label_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("key,text,label\n1,one,x\n")
    (tmp_path / "b.csv").write_text("key,text,kind\n1,one,\n")
    assert TextSource(tmp_path / "a.csv").classes() == ("x",)
    without = TextSource(tmp_path / "b.csv")
    assert (without.classes(), len(without)) == ((), 1)
    with pytest.raises(DataError, match=r"no column 'label'.*name that of the labels with --label"):
        TextSource(tmp_path / "b.csv", label="label")
    with pytest.raises(DataError, match=r"no column 'body', but key, text, kind.*--text"):
        TextSource(tmp_path / "b.csv", text="body")


def bad_csv(path: Path) -> Path:
    path = path / "t.csv"
    rows = [
        b"key,text,label",
        b"a,one,x",
        b",no key,x",  # 3
        b"b,  ,x",  # 4
        b"a,again,x",  # 5
        b"c,half \xff a text,x",  # 6
        b"d,no label,",  # 7
        b"e",  # 8
        b"f,more,x,y",  # 9
        b'"g\n",a key of two lines,x',  # 10 and 11
        b"h,two,y",
    ]
    path.write_bytes(b"\r\n".join(rows) + b"\r\n")
    return path


def bad_jsonl(path: Path) -> Path:
    path = path / "t.jsonl"
    rows = [
        "[1, 2]",
        '{"key": "a", "text": "one", "label": 3}',
        '{"key": true, "text": "one", "label": 3}',
        '{"key": 1.5, "text": "one", "label": 3}',
        '{"key": "b", "text": null, "label": 3}',
        '{"key": "b", "text": "\\ud800", "label": 3}',
        '{"key": "b", "text": ["one"], "label": 3}',
        '{"key": "b", "text": "one"}',
        '{"key": "b", "text": "one"',
        "[" * 100_000,
        '{"key": "h", "text": "two", "label": "y", "more": {}}',
    ]
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize(
    ("write", "lines"),
    [(bad_csv, [3, 4, 5, 6, 7, 8, 9, 11]), (bad_jsonl, [1, 3, 4, 5, 6, 7, 8, 9, 10])],
)
def test_bad_rows_are_named_and_left_out(
    write: Callable[[Path], Path], lines: list[int], tmp_path: Path
) -> None:
    path = write(tmp_path)
    with pytest.raises(DataError, match=rf"{len(lines)} rows of .*line {lines[0]}: .*--skip-bad"):
        TextSource(path)
    source = TextSource(path, skip_bad=True)
    assert source.keys() == ["a", "h"]
    assert len(source.classes()) == 2
    assert [int(line.split(":")[0].removeprefix("line ")) for line in source.skipped] == lines


MARK = b"\xef\xbb\xbf"


def parquet_of(**columns: list[object]) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "t.csv",
            MARK
            + b"key,text,label\r\nk1 , one ,anna\r\n"
            # as `cat` puts a file behind another
            + MARK
            + b'"k2","\xef\xbb\xbftwo\n\xef\xbb\xbf",anna \r\n\r\n'
            + MARK
            + b"k3,three,\xef\xbb\xbfanna\r\n",
        ),
        (
            "t.tsv",
            b'key\ttext\tlabel\nk1\t one \t anna\n k2\t"\xef\xbb\xbftwo\n\xef\xbb\xbf"\tanna\n'
            b"k3\tthree\tanna\n",
        ),
        (
            "t.jsonl",
            MARK + b'{"key": "k1\\t", "text": " one ", "label": "anna"}\r\n'
            b'{"key": "k2", "text": "\\ufefftwo\\n\\ufeff", "label": "anna "}\r\n'
            + MARK
            + b'{"key": "k3", "text": "three", "label": "\\ufeffanna\\r"}\r\n'
            + MARK,
        ),
        (
            "t.parquet",
            parquet_of(
                key=["k1 ", "\ufeffk2", "k3"],
                text=[" one ", "\ufefftwo\n\ufeff", "three"],
                label=["anna", "anna ", "\ufeffanna"],
            ),
        ),
    ],
)
def test_keys_and_labels_are_what_somebody_meant(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    source = TextSource(tmp_path / name)
    assert source.keys() == ["k1", "k2", "k3"]
    assert source.classes() == ("anna",)
    # a text stays as it is
    assert source.read(np.arange(3)).tolist() == [" one ", "\ufefftwo\n\ufeff", "three"]


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("t.csv", b"key,text,label\nk1,one,%s\n k1,two,b\n", "line"),
        ("t.tsv", b"key\ttext\tlabel\nk1\tone\t%s\nk1 \ttwo\tb\n", "line"),
        (
            "t.ndjson",
            b'\n{"key": "k1", "text": "one", "label": "%s"}\n'
            b'{"key": "k1 ", "text": "two", "label": "b"}\n',
            "line",
        ),
        ("t.parquet", None, "row"),
    ],
)
@pytest.mark.parametrize("label", ["-1", " -1 ", "", " ", "\ufeff"])
def test_labels_that_name_nobody(
    name: str, content: bytes | None, place: str, label: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is None:
        path.write_bytes(parquet_of(key=["k0", "k1"], text=["a", "b"], label=["b", label]))
    else:
        path.write_bytes(content % label.encode())
    with pytest.raises(DataError) as caught:
        TextSource(path)
    said = f"{place} 2: expected a label (leave out rows that have none), found {label!r} in column"
    assert f"1 rows of {path} cannot be embedded: {said} 'label'" in str(caught.value)
    assert TextSource(path, skip_bad=True).classes() == ("b",)


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("t.csv", b"key,text\nk5,one\nk5 ,two\n", "k5"),
        ("t.csv", b"key,text\nk5,one\n\n" + MARK + b"k5,two\n", "k5"),
        ("t.jsonl", b'{"key": 5, "text": "one"}\n{"key": "5 ", "text": "two"}\n', "5"),
        ("t.parquet", parquet_of(key=["k5", "k5\t"], text=["one", "two"]), "k5"),
    ],
)
def test_a_key_is_there_once_whatever_stands_beside_it(
    name: str, content: bytes, key: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"1 rows .*: the key '{key}' was there before"):
        TextSource(tmp_path / name)


def test_a_number_of_none_is_no_label(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(parquet_of(key=[1, 2], text=["a", "b"], label=[7, -1]))
    with pytest.raises(DataError, match=r"row 2: expected a label .*found '-1'"):
        TextSource(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", MARK + b"key,text,text\r\na,one,two\r\n"),
        ("t.tsv", b"\n" + b"text\tkey\ttext\n" + b"one\ta\ttwo\n"),
        ("t.jsonl", b'{"key": "a", "text": "one"}\n{"text": "1", "key": "b", "text": "2"}\n'),
    ],
)
def test_a_column_that_is_there_twice_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    line = 1 if name == "t.csv" else 2
    says = rf"{name}.* line {line}: the column 'text' is there 2 times: leave one, or rename"
    with pytest.raises(DataError, match=says):
        TextSource(tmp_path / name)


def test_a_parquet_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    arrays = [pyarrow.array([name]) for name in "abc"]
    table = pyarrow.Table.from_arrays(arrays, ["key", "text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: the column 'text' is there 2 times"):
        TextSource(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"key,text,,,more,more\r\na,one,,,1,2\r\n"),  # as spreadsheets end lines
        ("t.jsonl", b'{"key": "a", "text": "one", "more": {"key": 1, "key": 2}}\n'),
    ],
)
def test_other_columns_may_be_there_twice(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert TextSource(tmp_path / name).keys() == ["a"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize(
    ("name", "text"), [("t.csv", "key,text\r\na,one\r\n"), ("t.jsonl", '{"key": "a"}\n')]
)
def test_another_encoding_is_named(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=rf"{name}, line 1: expected .* UTF-8, .* save the file as"):
        TextSource(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "holds no text"),
        ("t.csv", b"key,text\n", "holds no text"),
        ("t.csv", b'key,text\na,"never closed', "cannot be read as texts"),
        ("t.parquet", b"PAR1 and no more", "cannot be read as texts"),
        ("t.txt", b"a text", r"expected one of \.csv, \.tsv, \.jsonl"),
    ],
)
def test_what_is_no_table(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        TextSource(tmp_path / name)
    with pytest.raises(DataError, match="there is no table of texts at"):
        TextSource(tmp_path / f"none-{name}".replace(".txt", ".csv"))


@pytest.mark.parametrize("kind", WRITERS)
def test_damaged_files_end_in_a_named_error(kind: str, tmp_path: Path) -> None:
    whole = WRITERS[kind](tmp_path / f"t.{kind}", ROWS).read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / f"d.{kind}"
    for _ in range(60):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for place in rng.integers(0, len(damaged), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(DataError):  # and nothing else
            TextSource(path, "id", "body", "kind", skip_bad=True)
