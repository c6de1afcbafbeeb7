"""`mixbct doctor` on arrays that NumPy wrote, on galleries, and on images beside them."""

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mixbct.backbones.model import build_backbone, contract_of, save_model
from mixbct.cli import main
from mixbct.data.foreign_bank import declared_contract
from mixbct.gallery import Gallery
from mixbct.schemas.checkup import CheckupReport
from mixbct.schemas.model import ModelManifest, Preprocessing

DIM, CLASSES, PER = 24, 40, 6
RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(CLASSES, DIM))
OF = np.repeat(np.arange(CLASSES), PER)
# directions in which the images of one class differ are long: whitening helps
NOISE = RNG.normal(size=(len(OF), DIM)) * np.linspace(3, 0.2, DIM)
VECTORS = (CENTRES[OF] + NOISE).astype(np.float32)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mixbct", *words])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", VECTORS)
    (tmp_path / "keys.txt").write_text("".join(f"item {i}\n" for i in range(len(OF))))
    (tmp_path / "labels.txt").write_text("".join(f"person {c}\n" for c in OF))
    return tmp_path


def report_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> CheckupReport:
    assert run(monkeypatch, "doctor", *words, "--json") == 0
    return CheckupReport.model_validate_json(capsys.readouterr().out)


def test_an_array(
    arrays: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--keys", str(arrays / "keys.txt"), "--labels", str(arrays / "labels.txt")]
    report = report_of(monkeypatch, capsys, str(arrays / "v.npy"), *files)
    (found,) = report.found
    assert not report.gallery
    assert (found.rows, found.not_finite, found.zero, found.mixture) == (240, 0, 0, ())
    assert found.labels is not None
    assert (found.labels.labels, found.labels.median) == (CLASSES, PER)
    before, after = (each.mean_average_precision for each in found.whitening)
    assert after > before + 0.05
    assert found.norms is not None
    assert found.norms.largest == pytest.approx(np.linalg.norm(VECTORS, axis=1).max())

    assert run(monkeypatch, "doctor", str(arrays / "v.npy"), *files) == 0
    said = capsys.readouterr().out
    assert "whitened, tonight, for nothing: mAP" in said
    # the next command runs, once its words in capitals are filled in
    last = said.splitlines()[-1]
    assert last.startswith("next: mixbct gallery import GALLERY")
    words = last.removeprefix("next: mixbct ").split(" ")
    words = [{"GALLERY": str(arrays / "g"), "NAME": "old"}.get(word, word) for word in words]
    assert run(monkeypatch, *words) == 0
    assert len(list(arrays.iterdir())) == 4


def test_a_damaged_array(
    arrays: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = VECTORS.copy()
    vectors[3, 1], vectors[5] = np.nan, 0
    vectors[100:] *= 40
    np.save(arrays / "v.npy", vectors)
    words = [str(arrays / "v.npy"), "--keys", str(arrays / "keys.txt")]
    (found,) = report_of(monkeypatch, capsys, *words).found
    assert (found.not_finite, found.zero, found.faulty) == (1, 1, ("item 3", "item 5"))
    assert [sign.sign for sign in found.mixture] == ["norms"]
    assert found.labels is None
    assert found.whitening == ()
    assert run(monkeypatch, "doctor", *words) == 0
    said = capsys.readouterr().out
    assert "! 1 rows with NaN or infinity, 1 of zeros: item 3, item 5" in said
    assert "! perhaps two models in one column: the norms fall into two groups" in said
    assert said.rstrip().endswith("--skip-bad")


def test_a_gallery_of_two_contracts_and_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pre = Preprocessing(size=16, channels=3)
    torch.manual_seed(0)
    backbone = build_backbone("small", DIM, pre, {"width": 4})
    contract = contract_of("new", backbone, pre, DIM)
    manifest = ModelManifest(backbone="small", options={"width": 4}, contract=contract)
    save_model(tmp_path / "model", manifest, backbone)
    for i in range(12):
        place = tmp_path / "photos" / f"c{i % 3}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place)
    old = declared_contract("old", DIM)
    with Gallery.create(tmp_path / "g", old) as gallery:
        keys = [f"c{i % 3}/{i}.png" for i in range(len(OF))]
        labels = [None if i % 2 else f"p{c}" for i, c in enumerate(OF)]
        gallery.enrol(keys, labels, VECTORS, old)
    before = {path: path.read_bytes() for path in (tmp_path / "g").glob("*.sqlite")}
    words = ["--images", str(tmp_path / "photos"), "--model", str(tmp_path / "model")]
    report = report_of(monkeypatch, capsys, str(tmp_path / "g"), *words)
    (found,) = report.found
    assert report.gallery
    assert report.rate is not None
    assert (found.with_images, found.contract) == (12, old)
    assert found.labels is not None
    assert found.labels.unlabelled == 120
    assert run(monkeypatch, "doctor", str(tmp_path / "g"), *words) == 0
    said = capsys.readouterr().out
    assert "12 items (5%) have an image" in said
    assert "next: mixbct adapt --from NEW-BANK --to OLD-BANK" in said
    assert {path: path.read_bytes() for path in (tmp_path / "g").glob("*.sqlite")} == before


def test_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "doctor", str(tmp_path / "none.npy")) == 2
    assert "none.npy" in capsys.readouterr().err
    with Gallery.create(tmp_path / "g", declared_contract("old", 3)):
        pass
    assert (
        json.loads(report_of(monkeypatch, capsys, str(tmp_path / "g")).model_dump_json())["found"]
        == []
    )


def test_what_says_its_model_by_itself_needs_no_name(
    arrays: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = ["data", "bank", "--features", str(arrays / "v.npy"), "--keys", str(arrays / "keys.txt")]
    assert run(monkeypatch, *bank, "--contract", "resnet", "--out", str(arrays / "bank")) == 0
    with sqlite3.connect(arrays / "app.db") as database:
        database.execute("CREATE TABLE faces (id TEXT, model TEXT, v BLOB)")
        rows = ((f"item {i}", "resnet", row.tobytes()) for i, row in enumerate(VECTORS))
        database.executemany("INSERT INTO faces VALUES (?, ?, ?)", rows)
    table = ["--table", "faces", "--key", "id", "--vector", "v", "--contract-column", "model"]
    for words in ([str(arrays / "bank")], [str(arrays / "app.db"), *table]):
        capsys.readouterr()
        assert run(monkeypatch, "doctor", *words, "--json") == 0
        (found,) = CheckupReport.model_validate_json(capsys.readouterr().out).found
        assert found.contract.name == "resnet"
