import json
from pathlib import Path
from typing import Any

import pytest

from mixbct.errors import BankError, DataError, ModelError
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract, ModelManifest, Preprocessing
from mixbct.schemas.record import made_of, read_record
from mixbct.schemas.result import tar_name

CONTRACT = Contract(
    name="new", weights="abc", preprocessing=Preprocessing(size=32, channels=3), dim=8
)


def changed(**update: Any) -> Contract:
    return CONTRACT.model_copy(update=update)


def test_the_contracts_id_ignores_its_name_alone() -> None:
    assert changed(name="other").id == CONTRACT.id
    pre = CONTRACT.preprocessing
    others = [
        changed(weights="abd"),
        changed(dim=9),
        changed(metric="euclidean"),
        *(
            changed(preprocessing=pre.model_copy(update=u))
            for u in (
                {"size": 33},
                {"channels": 1},
                {"mean": 127.0},
                {"std": 128.0},
                {"alignment": "eyes"},
            )
        ),
    ]
    # every field is covered: a new one must be added above
    assert set(Contract.model_fields) == {"name", "weights", "preprocessing", "dim", "metric"}
    assert set(Preprocessing.model_fields) == {"size", "channels", "mean", "std", "alignment"}
    ids = {CONTRACT.id, *(c.id for c in others)}
    assert len(ids) == 1 + len(others)


def test_a_contract_says_who_it_is() -> None:
    assert str(CONTRACT) == f"new ({CONTRACT.id})"
    assert len(CONTRACT.id) == 16
    # the identity is on disk in banks and galleries: it may not change from version to version
    assert CONTRACT.id == "6a46f1897f724f0c"


def test_a_record_survives_a_round_trip(tmp_path: Path) -> None:
    manifest = ModelManifest(
        backbone="small", options={"width": 8, "x": 0.5, "flag": True, "s": "t"}, contract=CONTRACT
    )
    (tmp_path / "model.json").write_text(manifest.to_json())
    again = read_record(tmp_path / "model.json", ModelManifest, ModelError, "model")
    assert again == manifest
    assert again.options["flag"] is True
    assert again.digest() == manifest.digest()
    assert manifest.to_json().endswith("}\n")


def test_records_are_frozen_and_strict(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        CONTRACT.dim = 3  # type: ignore[misc]
    content = json.loads(CONTRACT.to_json()) | {"surprise": 1}
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(BankError, match=r"(?s)c\.json is not a readable contract.*surprise"):
        read_record(tmp_path / "c.json", Contract, BankError, "contract")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"schema_version": 2}'])
def test_what_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"{path} is not a readable model"):
        read_record(path, ModelManifest, ModelError, "model")


def test_a_record_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model at"):
        read_record(tmp_path / "model.json", ModelManifest, ModelError, "model")
    with pytest.raises(ModelError, match="cannot be read as a model: it is a folder"):
        read_record(tmp_path, ModelManifest, ModelError, "model")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="cannot be read as a model"):
        read_record(tmp_path / "file" / "model.json", ModelManifest, ModelError, "model")


@pytest.mark.parametrize(
    ("far", "name"),
    [(1e-3, "TAR@1e-3"), (1e-6, "TAR@1e-6"), (0.1, "TAR@1e-1"), (2.5e-4, "TAR@2.5e-4")],
)
def test_tar_name(far: float, name: str) -> None:
    assert tar_name(far) == name


def test_a_name_that_is_no_text_is_a_named_error() -> None:
    odd = changed(name="\udce5\udc8f\udca4")
    for write in (odd.to_json, odd.digest):
        with pytest.raises(DataError, match=r"cannot be written down as text.*C\.UTF-8"):
            write()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', "null"])
def test_numbers_are_finite(tmp_path: Path, number: str) -> None:
    content = json.loads(ModelManifest(backbone="small", contract=CONTRACT).to_json())
    content["contract"]["preprocessing"]["mean"] = 5.25
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content).replace("5.25", number))
    with pytest.raises(ModelError, match=r"preprocessing\..*mean: Input should be a"):
        read_record(path, ModelManifest, ModelError, "model")
    with pytest.raises(ValueError, match="finite"):
        Preprocessing(size=1, channels=1, std=float("inf"))


@pytest.mark.parametrize("wrong", [{"mean": float("nan")}, {"std": 0.0}, {"size": -1}])
def test_what_a_person_asks_for_is_refused_by_name(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ModelError, match=rf"the input cannot be so: {name}: Input should be"):
        made_of(Preprocessing, ModelError, "the input", {"size": 1, "channels": 3} | wrong)


def test_a_bank_has_the_dimensions_of_its_contract() -> None:
    content = {"data_digest": "d", "rows": 1, "dtype": "float32", "classes": ()}
    assert BankManifest(contract=CONTRACT, dim=8, **content).dim == CONTRACT.dim  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the bank has 9 dimensions, but new \(.*\) has 8"):
        BankManifest(contract=CONTRACT, dim=9, **content)  # type: ignore[arg-type]
