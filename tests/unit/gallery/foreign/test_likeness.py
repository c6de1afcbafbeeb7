"""Vectors under a name that a gallery knows already: of the same model, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from mixbct.cli.gallery import app
from mixbct.errors import ContractError, MixbctError
from mixbct.gallery import Gallery
from mixbct.gallery.foreign import likeness
from mixbct.gallery.foreign.screening import Screening

ROWS, DIM = 1200, 16
RNG = np.random.default_rng(0)
# a cone, as that of many a network
VECTORS = (RNG.normal(size=(2 * ROWS, DIM)) + 2 * RNG.normal(size=DIM)).astype(np.float32)
ROTATION = np.linalg.qr(RNG.normal(size=(DIM, DIM)))[0].astype(np.float32)
OLD, MORE = slice(ROWS), slice(ROWS, 2 * ROWS)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    run(tmp_path / "g", VECTORS[OLD], 0, people=100)
    return tmp_path / "g"


def run(gallery: Path, vectors: np.ndarray, first: int, *words: Any, people: int = 0) -> None:
    """Import vectors whose keys count from `first`, of so many people, or of unknown ones."""
    source = gallery.parent / "source.npz"
    keys = np.array([f"item {first + i}" for i in range(len(vectors))])
    labels = {"labels": np.array([f"p{i % people}" for i in range(len(keys))])} if people else {}
    np.savez(source, vectors=vectors, keys=keys, **labels)
    asked = ["import", str(gallery), str(source), "--contract", "OLD", *words]
    done = CliRunner().invoke(app, asked)
    if isinstance(done.exception, MixbctError):
        raise done.exception
    assert done.exit_code == 0, done.output


def digest(gallery: Path) -> str:
    with Gallery.open(gallery) as opened:
        return opened.vectors_digest()


def test_rows_of_another_model_are_refused_before_one_is_stored(gallery: Path) -> None:
    before = digest(gallery)
    turned = VECTORS @ ROTATION
    with pytest.raises(ContractError, match=r"'OLD': the cosine of their means .*--same-model"):
        run(gallery, turned[MORE], ROWS, "--batch", "7", people=100)
    for words in ((), ("--replace",)):
        with pytest.raises(
            ContractError, match=r"the median cosine over 1,200 items that both hold"
        ):
            run(gallery, turned[OLD], 0, *words)
    assert digest(gallery) == before
    run(gallery, turned[MORE], ROWS, "--same-model")
    assert digest(gallery) != before


def test_rows_of_the_same_model_are_taken(gallery: Path) -> None:
    # the import goes on, with what is there first and at any scale
    run(gallery, 4 * VECTORS, 0, people=100)
    # items that changed, each of them somewhat and some of them wholly
    changed = VECTORS[OLD] + RNG.normal(size=(ROWS, DIM)).astype(np.float32)
    changed[:50] = RNG.normal(size=(50, DIM))
    run(gallery, changed, 0, "--replace", people=100)


def test_few_rows_say_nothing(gallery: Path, tmp_path: Path) -> None:
    few = RNG.normal(size=(9, DIM)).astype(np.float32)
    run(gallery, few, ROWS, people=9)
    run(gallery, few, 0, "--replace", people=9)
    # a day of a few people, who lie elsewhere than the others on the whole
    with pytest.raises(ContractError):
        run(gallery, -VECTORS[OLD], 5 * ROWS, people=25)
    run(gallery, -VECTORS[:900], 2 * ROWS)
    run(gallery, -VECTORS[OLD], 3 * ROWS, people=24)
    (tmp_path / "new").mkdir()
    run(tmp_path / "new/g", few, 0)
    run(tmp_path / "new/g", VECTORS, 9)


def test_a_sample_of_the_source_is_read_and_bad_rows_of_it_are_passed_over(
    gallery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likeness, "_SAMPLE", 40)
    monkeypatch.setattr(likeness, "_MANY", 30)
    more = VECTORS[MORE].copy()
    more[3], more[5, 1] = 0, np.nan
    run(gallery, more, ROWS, "--skip-bad")
    asked: list[int] = []
    batches = Screening.batches

    def counted(self: Any, rows: int, progress: Any) -> Any:
        for batch in batches(self, rows, progress):
            asked.append(len(batch.keys))
            yield batch

    monkeypatch.setattr(Screening, "batches", counted)
    with pytest.raises(ContractError):
        run(gallery, (VECTORS @ ROTATION)[MORE], 2 * ROWS, people=100)
    assert asked == [40]


def test_rows_of_nobody_knows_whom_are_taken_with_a_warning(
    gallery: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be sorted, and the first ones be one person's."""
    run(gallery, (VECTORS @ ROTATION)[MORE], ROWS)
    assert "perhaps" in caplog.text
    assert "stop, and choose another --contract" in caplog.text
    with Gallery.open(gallery) as opened:
        assert opened.status().rows == 2 * ROWS
