"""Encoders of texts, and the banks that they make: contracts, refusals, resuming."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from mixbct.cli import main
from mixbct.data import bank_writer
from mixbct.data.bank import FeatureBank
from mixbct.data.texts import TextSource
from mixbct.errors import BankError, ModelError
from mixbct.features.encoder import TextEncoder
from mixbct.features.extract import extract

TEXTS = [f"text {'of ' * (row % 5)}{row}" for row in range(23)]


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("o") + 1, 1] for text in texts], np.float32)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return a module that can be imported, with a version and a factory."""
    made = ModuleType("their_encoders")
    made.__spec__ = __spec__
    made.__version__ = "3"  # type: ignore[attr-defined]
    made.make = lambda: lengths  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_encoders", made)
    return made


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "texts.tsv"
    rows = (f"{row}\t{text}\t{'abcdef'[row % 6]}\n" for row, text in enumerate(TEXTS))
    path.write_text("key\ttext\tlabel\n" + "".join(rows))
    return path


def test_the_contract_names_factory_and_version(module: Any) -> None:
    encoder = TextEncoder("their_encoders:make")
    contract = encoder.contract
    assert (contract.name, contract.dim) == ("their_encoders:make@3", 3)
    np.testing.assert_array_equal(encoder.embed(np.array(TEXTS, object)), lengths(TEXTS))
    module.__version__ = "4"
    assert TextEncoder("their_encoders:make").contract.id != contract.id

    def versioned(texts: list[str]) -> np.ndarray:
        return lengths(texts)

    versioned.version = "weights 9"  # type: ignore[attr-defined]
    module.make = lambda: versioned
    assert TextEncoder("their_encoders:make").contract.name == "their_encoders:make@weights 9"
    del module.__version__
    module.make = lambda: lengths
    with pytest.raises(ModelError, match=r"__version__.*--contract"):
        TextEncoder("their_encoders:make")
    assert TextEncoder("their_encoders:make", "mine").contract.weights == "declared: mine"


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: None, "gave None"),
        (lambda: lambda texts: [[1.0, 2.0]] * 3, r"gave \[3, 2\] for 1 texts"),
        (lambda: lambda texts: np.ones(len(texts)), r"gave \[1\] for 1 texts"),
        (lambda: lambda texts: np.ones((len(texts), 0)), r"gave \[1, 0\]"),
        (lambda: lambda texts: "text", "fails: "),
        (lambda: 1 / 0, "factory 'their_encoders:make' fails: ZeroDivisionError"),
    ],
)
def test_what_is_no_encoder(module: Any, made: Any, said: str) -> None:
    module.make = made
    with pytest.raises(ModelError, match=said):
        TextEncoder("their_encoders:make")
    for name in ("their_encoders:none", "no_such_module:f", "their_encoders", "their_encoders:x.y"):
        with pytest.raises(ModelError, match="cannot be imported"):
            TextEncoder(name)


class Panic(BaseException):
    """As extensions in Rust raise it."""


@pytest.mark.parametrize("end", [SystemExit("text"), SystemExit(0), SystemExit(1), Panic("deep")])
def test_a_factory_cannot_end_the_command(
    module: Any,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: BaseException,
) -> None:
    def ending(*texts: object) -> Any:
        raise end

    asked = ["extract", "--encoder", "their_encoders:make", "--data", table, "--out", tmp_path]
    for what, made in (("encoder factory", ending), ("encoder", lambda: ending)):
        module.make = made
        assert run(monkeypatch, *asked) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: the {what} ")
        assert f"their_encoders:make{chr(39) * (made is ending)} ended with {end!r}" in said
        assert "Traceback" not in said


def test_extraction_goes_on_where_it_was_stopped(
    module: Any, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank_writer, "CHUNK", 10)
    seen: list[str] = []
    stopped: list[bool] = []

    def failing(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        if TEXTS[12] in texts and not stopped:
            stopped.append(True)
            raise ConnectionError("gone")
        return lengths(texts)

    module.make = lambda: failing
    source, encoder = TextSource(table), TextEncoder("their_encoders:make")
    with pytest.raises(ModelError, match="fails: gone"):
        extract(encoder, source, tmp_path / "bank", dtype="float32", batch=4)
    with pytest.raises(BankError, match="--resume"):
        extract(encoder, source, tmp_path / "bank", dtype="float32", batch=4)
    seen.clear()
    bank = extract(encoder, source, tmp_path / "bank", dtype="float32", batch=4, resume=True)
    assert TEXTS[9] not in seen
    np.testing.assert_array_equal(bank.features, lengths(TEXTS))
    assert bank.manifest.classes == tuple("abcdef")
    assert bank.manifest.data_digest == source.digest()
    # other texts under the same keys are other data
    table.write_text(table.read_text().replace("of 3", "of three"))
    with pytest.raises(BankError, match="there already"):
        extract(encoder, TextSource(table), tmp_path / "bank", dtype="float32", resume=True)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mixbct", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command(
    module: Any,
    table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["extract", "--encoder", "their_encoders:make", "--data", table]
    with table.open("a") as file:
        file.write("24\n")
    assert run(monkeypatch, *asked, "--out", tmp_path / "one") == 2
    assert (
        "line 25: expected a text (leave out rows that have none), found None"
        in capsys.readouterr().err
    )
    assert run(monkeypatch, *asked, "--out", tmp_path / "one", "--skip-bad") == 0
    assert "left out 1 rows: line 25" in capsys.readouterr().err
    bank = FeatureBank(tmp_path / "one")
    assert (len(bank), bank.manifest.contract.name) == (23, "their_encoders:make@3")
    # a bank that lies beside it under the same name must be of the same model
    module.make = lambda: lambda texts: np.roll(lengths(texts), 1, axis=1) * [1, -3, 1]
    assert run(monkeypatch, *asked, "--out", tmp_path / "two", "--skip-bad") == 2
    assert "holds other vectors under the name" in capsys.readouterr().err
    assert run(monkeypatch, *asked, "--out", tmp_path / "two", "--skip-bad", "--same-model") == 0
    # a part of a split of the bank is one of the texts
    split, few = tmp_path / "split", ("--test-classes", 2, "--old-share", 0.5)
    assert run(monkeypatch, "data", "split", tmp_path / "one", "--out", split, *few) == 0
    part = ["--split", split, "--part", "query", "--contract", "other"]
    assert run(monkeypatch, *asked, *part, "--out", tmp_path / "part", "--skip-bad") == 0
    assert 0 < len(FeatureBank(tmp_path / "part")) < 23
    for wrong in (["extract", "--data", table, "--out", "x"], [*asked, "--out", "x", "model"]):
        assert run(monkeypatch, *wrong) == 2
        assert "either a model, or an --encoder" in capsys.readouterr().err


def test_a_module_in_the_current_folder_is_found_where_none_is_installed(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "json.py").write_text("raise SystemExit('the standard library comes first')")
    (tmp_path / "lying_here.py").write_text(
        "import json\n__version__ = '1'\n\ndef make():\n    return lambda t: [[len(x)] for x in t]"
    )
    assert TextEncoder("lying_here:make").contract.name == "lying_here:make@1"
    sys.modules.pop("lying_here")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny BERT of random weights and a vocabulary of letters."""
    pytest.importorskip("sentence_transformers", reason="the extra `text` is not installed")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_sentence_transformers(bert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, BertModel

    encoder = TextEncoder(f"sentence-transformers:{bert}")
    assert encoder.contract.name.startswith(f"sentence-transformers:{bert.name}@")
    found = encoder.embed(np.array(TEXTS[:3], object))
    # by transformers alone: the mean over the tokens
    tokens = AutoTokenizer.from_pretrained(bert)(TEXTS[:3], padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden = BertModel.from_pretrained(bert).eval()(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    expected = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    # elsewhere the same model is the same, and with other weights another
    moved = tmp_path / bert.name
    moved.mkdir()
    for file in bert.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    assert TextEncoder(f"sentence-transformers:{moved}").contract == encoder.contract
    weights = load_file(moved / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][7, 3] += 1
    save_file(weights, moved / "model.safetensors", {"format": "pt"})
    assert TextEncoder(f"sentence-transformers:{moved}").contract.id != encoder.contract.id
    with pytest.raises(ModelError, match="sentence-transformers cannot load"):
        TextEncoder(f"sentence-transformers:{tmp_path / 'none'}")
