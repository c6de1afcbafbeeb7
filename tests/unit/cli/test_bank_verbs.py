"""`mixbct data bank`, `extract` and `data verify` on banks, as a person types them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mixbct.backbones.model import build_backbone, contract_of, save_model
from mixbct.cli.verbs import app
from mixbct.data import bank_writer
from mixbct.data.bank import FeatureBank
from mixbct.errors import BadImageError, BankError, DataError, FeatureError
from mixbct.schemas.model import ModelManifest, Preprocessing

PREPROCESSING = Preprocessing(size=16, channels=1)
CLASSES, IMAGES = 4, 6
Run = Callable[..., Any]


@pytest.fixture
def run() -> Run:
    """Run a verb; raise what it raises."""

    def call(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (tmp_path / f"data/c{name}").mkdir(parents=True)
        for i in range(IMAGES):
            pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"data/c{name}/{i}.png")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    options = {"width": 2}
    backbone = build_backbone("small", 4, PREPROCESSING, options)
    contract = contract_of("m", backbone, PREPROCESSING, 4)
    manifest = ModelManifest(backbone="small", options=options, contract=contract)
    save_model(tmp_path / "m", manifest, backbone)
    return tmp_path / "m"


def test_what_extract_advises_works(
    run: Run, images: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that cannot be read, in the middle: the advice, word by word, and nothing lost."""
    monkeypatch.setattr(bank_writer, "CHUNK", 5)
    words = ["extract", model, "--data", images, "--batch", 5, "--dtype", "float32"]
    assert run(*words, "--out", images.parent / "whole").exit_code == 0
    whole = FeatureBank(images.parent / "whole")
    bad = "c2/1.png"
    (images / bad).write_bytes((images / bad).read_bytes()[:-30])
    out = images.parent / "bank"
    with pytest.raises(BadImageError, match="leave them out with --skip-bad"):
        run(*words, "--out", out)
    assert len(list((images.parent / "bank.partial/done").iterdir())) == 2
    written: list[range] = []
    write = bank_writer.BankWriter.write

    def count(self, chunk, *rest):  # type: ignore[no-untyped-def]
        written.append(chunk)
        write(self, chunk, *rest)

    monkeypatch.setattr(bank_writer.BankWriter, "write", count)
    done = run(*words, "--out", out, "--skip-bad")
    assert done.exit_code == 0
    assert bad in done.stderr
    assert [chunk.start for chunk in written] == [10, 15, 20]
    bank = FeatureBank(out)
    left = [row for row, key in enumerate(whole.keys()) if key != bad]
    assert bank.keys() == [whole.keys()[row] for row in left]
    np.testing.assert_array_equal(bank.features, whole.features[left])
    assert not (images.parent / "bank.partial").exists()
    # and the same again changes nothing
    assert run(*words, "--out", out, "--skip-bad").exit_code == 0


def test_a_part_of_no_split(run: Run, images: Path, model: Path, tmp_path: Path) -> None:
    data = ["--data", images, "--part", "query"]
    with pytest.raises(DataError, match="part 'query' is one of a split: name the split as well"):
        run("extract", model, *data, "--out", tmp_path / "no")
    with pytest.raises(DataError, match="is one of a split"):
        run("adapt", "--from", model, "--to", model, *data, "--out", tmp_path / "no")
    run("gallery", "init", tmp_path / "g", "--model", model)
    with pytest.raises(DataError, match="is one of a split"):
        run("gallery", "enrol", tmp_path / "g", *data)


def test_float16_that_would_turn_vectors_round(run: Run, tmp_path: Path) -> None:
    words = write_arrays(tmp_path, np.random.default_rng(0).normal(size=(8, 64)) * 1e-7)
    with pytest.raises(FeatureError, match=r"8 of 8 .*too small.*\(k0, .*--dtype float32"):
        run(*words, "--out", tmp_path / "bank", "--dtype", "float16")
    assert run(*words, "--out", tmp_path / "bank", "--dtype", "float32").exit_code == 0
    assert "are as they were written" in run("data", "verify", tmp_path / "bank").stdout
    path = tmp_path / "bank/features.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(BankError, match=r"features\.npy is not what was written"):
        run("data", "verify", tmp_path / "bank")


def write_arrays(folder: Path, vectors: np.ndarray, name: str = "OLD") -> list[object]:
    np.save(folder / "v.npy", vectors)
    lines = "".join(f"k{i}\r\n" for i in range(len(vectors)))
    (folder / "k.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    files = ["--features", folder / "v.npy", "--keys", folder / "k.txt"]
    return ["data", "bank", *files, "--contract", name]


def test_another_model_under_the_same_name(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first = write_arrays(tmp_path, rng.normal(size=(30, 8)))
    assert run(*first, "--out", tmp_path / "a").exit_code == 0
    second = write_arrays(tmp_path, rng.normal(size=(30, 8)))
    out = ["--out", tmp_path / "elsewhere/b"]
    with pytest.raises(BankError, match=r"holds other vectors .* 'OLD': the mean cosine"):
        run(*second, "--out", tmp_path / "b")
    with pytest.raises(BankError, match="choose another --contract"):
        run(*second, *out, "--like", tmp_path / "a")
    assert run(*second, "--out", tmp_path / "b", "--same-model").exit_code == 0
    # two of the name are there by now, and neither is like this one
    assert run(*second, *out).exit_code == 0
    help_text = " ".join(run("data", "bank", "--help").stdout.replace("│", " ").split())
    assert "vectors of one name are compared without question" in help_text
    (tmp_path / "k.txt").write_text("".join(f"k{i}\n" for i in range(29)))
    (tmp_path / "l.txt").write_text("x\n" * 30)
    with pytest.raises(DataError, match="30 features, 30 labels and 29 keys"):
        run(*second, "--labels", tmp_path / "l.txt", "--out", tmp_path / "c")
