"""What stands beside a new model, on banks of made-up spaces in which the order is known."""

from pathlib import Path

import numpy as np
import pytest

from mixbct.data.bank import FeatureBank, normalise
from mixbct.data.bank_writer import BankWriter
from mixbct.data.split import make_split
from mixbct.evaluation.gate import edge_from, judge
from mixbct.evaluation.worth import worth
from mixbct.features.bridged import both_queries
from mixbct.features.extract import StoredVectors
from mixbct.schemas.data import BankManifest
from mixbct.schemas.model import Contract
from mixbct.schemas.result import Result
from mixbct.workflows import evaluate
from mixbct.workflows.evaluate import HeldOutSet, evaluate_models

CLASSES, EACH, DIM = 90, 8, 12
LABELS = np.repeat(np.arange(CLASSES), EACH)
RIVALS = {"whiten/old", "new+old/old"}
SWAPS = {"ridge/old", "chosen/old", "chosen+old/old"}


def space(seed: int, noise: float, turn: int | None = None, uneven: bool = False) -> np.ndarray:
    """Return items around their classes, as one model sees them; `turn`: in a space of its own."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).standard_normal((CLASSES, DIM))
    spread = noise * (np.linspace(0.1, 2, DIM) if uneven else np.ones(DIM))
    seen = centres[LABELS] + spread * rng.standard_normal((len(LABELS), DIM))
    if turn is not None:
        seen = seen @ np.linalg.qr(np.random.default_rng(turn).standard_normal((DIM, DIM)))[0]
    return normalise(seen)


def bank(path: Path, features: np.ndarray, rows: np.ndarray | None = None) -> FeatureBank:
    rows = np.arange(len(LABELS)) if rows is None else rows
    contract = Contract(name=path.name, weights=path.name, preprocessing=None, dim=DIM)
    manifest = BankManifest(
        contract=contract,
        data_digest="these items",
        rows=len(rows),
        dim=DIM,
        dtype="float32",
        classes=tuple(f"c{i}" for i in range(CLASSES)),
    )
    keys = [f"k{i}" for i in rows]
    writer = BankWriter(path, manifest, LABELS[rows], keys, resume=False)
    writer.write(range(len(rows)), features[rows], keys)
    return writer.finish()


@pytest.fixture
def models(tmp_path: Path) -> dict[str, StoredVectors]:
    spaces = {
        "old": space(2, 0.9, uneven=True),
        "new": space(3, 0.6),
        "independent": space(4, 0.6, turn=9),
    }
    return {role: StoredVectors(bank(tmp_path / role, vectors)) for role, vectors in spaces.items()}


@pytest.fixture
def data(tmp_path: Path, models: dict[str, StoredVectors]) -> HeldOutSet:
    source = FeatureBank(tmp_path / "new")
    make_split(source, tmp_path / "split", test_classes=40)
    return HeldOutSet(tmp_path / "new", tmp_path / "split")


def evaluated(data: HeldOutSet, models: dict[str, StoredVectors], **more: object) -> Result:
    return evaluate_models(
        data, *models.values(), title="", replicates=100, adapters=("ridge",), **more
    )


def mean(result: Result, name: str) -> float:
    return result.combinations[name].mean_average_precision.value


def test_what_is_to_be_had_without_a_compatible_model(data, models) -> None:
    result = evaluated(data, models)
    assert result.combinations.keys() >= RIVALS | SWAPS
    assert not result.left_out
    assert result.classes == 40
    # whitening knows in which directions the old model is noisy
    assert mean(result, "whiten/old") > mean(result, "old/old") + 0.02
    # a stranger's queries need a map, and the choice is no worse than a map that was named
    assert mean(result, "independent/old") < 0.2
    assert mean(result, "chosen/old") >= mean(result, "ridge/old")
    assert result.chosen in ("ridge", "cca", "ridge_cca")
    # two queries know more than one
    assert mean(result, "new+old/old") > mean(result, "new/old")
    assert mean(result, "chosen+old/old") > mean(result, "chosen/old")
    assert result.old_queries in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    pairs = {(each.of, each.minus) for each in result.differences}
    assert {("new/old", "whiten/old"), ("whiten/old", "old/old")} <= pairs
    # and all of it reaches the gate, its edge, and a reader
    again = Result.model_validate_json(result.to_json())
    assert again.digest() == result.digest()
    outcome = judge(again)
    assert "whiten/old" in outcome.beside[0].says
    passed = outcome.model_copy(update={"passed": True})
    assert edge_from(again, passed).old_queries == result.old_queries


def test_the_same_without_an_independent_model(data, models, monkeypatch) -> None:
    del models["independent"]
    opened = []
    open_source = evaluate.open_source
    monkeypatch.setattr(
        evaluate, "open_source", lambda *words: (opened.append(words), open_source(*words))[1]
    )
    result = evaluated(data, models)
    assert len(opened) == 1
    assert result.combinations.keys() >= RIVALS
    assert not SWAPS & result.combinations.keys()
    assert result.chosen is None


def test_nothing_is_fitted_on_what_is_judged(data, models, monkeypatch) -> None:
    seen = []
    fit = evaluate.HeldOutSet.items

    def noted(self, *words):
        paired = fit(self, *words)
        seen.append(paired.pairs.source.shape[0])
        return paired

    monkeypatch.setattr(evaluate.HeldOutSet, "items", noted)
    evaluated(data, models)
    tested = {
        name for part in ("query", "gallery") for name in data.part(models["old"], part).classes()
    }
    fitted = set(data.part(models["old"], evaluate.FITTING).classes())
    assert not tested & fitted
    assert set(seen) == {(CLASSES - 40) * EACH}


def test_no_more_training_items_are_embedded_than_count(data, models, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "MOST_FITTED", 100)
    items = data.items(models["independent"], models["old"])
    assert items.pairs.source.shape[0] == 96
    assert items.pairs.target.shape[0] == 96
    labels, counts = np.unique(items.pairs.labels, return_counts=True)
    assert (len(labels), set(counts)) == (12, {EACH})


def test_what_was_not_stored_is_left_out_with_the_reason(tmp_path, data, models) -> None:
    tested = np.concatenate([data.part(models["old"], p).rows for p in ("query", "gallery")])
    stored = bank(tmp_path / "tested", space(2, 0.9, uneven=True), np.sort(tested))
    result = evaluated(data, models | {"old": StoredVectors(stored)})
    assert result.left_out.keys() == RIVALS | SWAPS
    assert not result.left_out.keys() & result.combinations.keys()
    assert "vectors of new_train by tested" in result.left_out["whiten/old"]
    assert "were not stored" in result.left_out["chosen/old"]
    assert judge(result).beside == ()


def test_too_few_items_leave_them_out(data, models, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "MOST_FITTED", DIM - 1)
    result = evaluated(data, models)
    assert result.left_out.keys() == RIVALS | SWAPS
    assert "the 8 items of new_train do not determine" in result.left_out["whiten/old"]


def test_too_few_classes_leave_out_what_is_chosen_by_them(data, models, monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "MOST_FITTED", 5 * EACH)
    result = evaluated(data, models)
    assert {"new+old/old", "chosen+old/old"} <= result.left_out.keys()
    assert "too few classes to choose a share by" in result.left_out["new+old/old"]
    assert {"whiten/old", "ridge/old"} <= result.combinations.keys()
    assert result.old_queries is None


def test_a_result_with_all_rows_is_taken_up_and_one_without_is_not(tmp_path, data, models) -> None:
    path = tmp_path / "result.json"
    result = evaluated(data, models)
    path.write_text(result.to_json())
    assert evaluated(data, models, earlier=path).created == result.created
    without = {n: c for n, c in result.combinations.items() if n != "whiten/old"}
    path.write_text(result.model_copy(update={"combinations": without}).to_json())
    assert "whiten/old" in evaluated(data, models, earlier=path).combinations
    # a row that could not be had is not tried again
    reason = {"left_out": {"whiten/old": "so it was"}, "combinations": without}
    path.write_text(result.model_copy(update=reason).to_json())
    assert evaluated(data, models, earlier=path).left_out == {"whiten/old": "so it was"}


def test_orders_of_a_backfill_and_flips_by_name(tmp_path, data, models) -> None:
    path = tmp_path / "result.json"
    plain = evaluated(data, models)
    path.write_text(plain.to_json())
    result = evaluated(data, models, backfill=True, earlier=path)
    assert plain.backfill is None
    # a gallery of classes of one size does not order by them
    assert [curve.order for curve in result.backfill.curves] == ["random", "credible"]
    assert result.combinations == plain.combinations
    path.write_text(result.to_json())
    assert evaluated(data, models, backfill=True, earlier=path).created == result.created
    named = {one.name for one in result.flips.worst}
    assert named
    assert named <= set(data.part(models["new"], "query").classes())
    assert result.flips.negative.value == result.negative_flips
    assert result.worth == worth(result)
    assert Result.model_validate_json(result.to_json()) == result


def test_both_queries_as_one() -> None:
    old, new = np.eye(3, dtype=np.float32)[[0, 1]], np.eye(3, dtype=np.float32)[[1, 1]]
    mixed = both_queries(old, new, 0.75)
    assert np.allclose(mixed[0] * np.sqrt(10), [1, 3, 0])
    assert np.allclose(mixed[1], [0, 1, 0])
    assert np.allclose(both_queries(old, new, 0.0), old)
    assert np.allclose(both_queries(old, new, 1.0), new)
