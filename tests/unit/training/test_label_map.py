from pathlib import Path

import numpy as np
import pytest
from vector_run import NEW, OLD, head_recipe, make_banks, source_of, vectors, write_bank

from mixbct.data.source import Selection
from mixbct.errors import BankError, CheckpointError, DataError, StoppedError
from mixbct.training.run import train
from mixbct.training.task import open_old_bank, read_label_map

OLD_NAMES = ("anna", "bert", "carl", "c1")


@pytest.fixture
def banks(tmp_path: Path) -> Path:
    make_banks(tmp_path)
    write_bank(
        tmp_path / "strangers", vectors(OLD, rows=12), "old", digest="others", classes=OLD_NAMES
    )
    return tmp_path


def write(folder: Path, text: str) -> Path:
    (folder / "map.tsv").write_text(text, encoding="utf-8")
    return folder / "map.tsv"


def test_strangers_take_part_by_the_map_alone(banks: Path) -> None:
    path = write(banks, "anna\tc3\n\ncarl\tc5\nbert\tc3\n")
    needs = frozenset({"old", "credible"})
    source = source_of(banks / "new")
    _, old = open_old_bank(banks / "strangers", source, OLD, needs, path)
    # c1 is a training class by chance: the map does not name it
    np.testing.assert_array_equal(old.labels, np.tile([3, 3, 5, -1], 3))
    assert not old.paired
    # the map may name classes of the data of which a part has no row
    part = Selection(source.source, np.flatnonzero(source.labels() == 5))
    _, old = open_old_bank(banks / "strangers", part, OLD, needs, path)
    np.testing.assert_array_equal(old.labels, np.tile([-1, -1, 0, -1], 3))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("anna\tc3\nbert c5\n", r"map\.tsv, line 2: expected an old class, one tab.*'bert c5'"),
        ("anna\tc3\tc4\n", r"line 1: expected an old class, one tab"),
        ("ana\tc3\n", r"line 1: the old bank has no class 'ana'; did you mean 'anna'\?"),
        ("anna\tc33\n", r"line 1: the training data has no class 'c33'; did you mean 'c3'\?"),
        ("anna\tc3\nanna\tc4\n", r"line 2: the old class 'anna' is named twice"),
        ("\n", "is empty"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read_label_map(write(tmp_path, text), OLD_NAMES, ("c1", "c3", "c4"))


def test_a_map_that_is_missing_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no label map at"):
        read_label_map(tmp_path / "none", OLD_NAMES, ())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"line 1: expected a label map in UTF-8.*0xff"):
        read_label_map(tmp_path / "bytes", OLD_NAMES, ())


@pytest.mark.parametrize(
    "content",
    [
        "anna\tc3\nbert\tc4\n",
        "anna\tc3\nbert\tc4",
        "\ufeffanna\tc3\r\nbert\tc4\r\n",
        "anna \tc3  \r\n\r\n bert\t c4\r\n\r\n",
    ],
)
def test_maps_as_other_programs_write_them(tmp_path: Path, content: str) -> None:
    (tmp_path / "map.tsv").write_bytes(content.encode())
    found = read_label_map(tmp_path / "map.tsv", OLD_NAMES, ("c1", "c3", "c4"))
    assert found == {"anna": "c3", "bert": "c4"}


def test_a_name_may_hold_what_is_no_line_break(tmp_path: Path) -> None:
    path = write(tmp_path, "an\x85na\tc\u2028\n")
    assert read_label_map(path, ("an\x85na",), ("c\u2028",)) == {"an\x85na": "c\u2028"}


def test_a_paired_bank_needs_no_map(banks: Path) -> None:
    path = write(banks, "c1\tc1\n")
    with pytest.raises(BankError, match=r"row by row: leave method\.label_map out"):
        open_old_bank(banks / "old", source_of(banks / "new"), OLD, frozenset({"old"}), path)


def test_a_head_trains_on_strangers_and_another_map_is_another_run(banks: Path) -> None:
    lines = [f"{name}\tc{i}" for i, name in enumerate(OLD_NAMES)]
    path = write(banks, "\n".join(lines))
    settings = [f"method.bank={banks / 'strangers'}", f"method.label_map={path}"]
    source = source_of(banks / "new")
    assert source.read(np.arange(2)).shape == (2, NEW)
    with pytest.raises(StoppedError):
        train(head_recipe(banks, *settings, "train.stop_after=5"), source, banks / "run")
    write(banks, "\n".join([*lines[:-1], "c1\tc4"]))
    with pytest.raises(CheckpointError, match="another data or old bank"):
        train(head_recipe(banks, *settings), source, banks / "run", resume=True)
    path = write(banks, "\n".join(lines))
    assert train(head_recipe(banks, *settings), source, banks / "run", resume=True).steps == 16
