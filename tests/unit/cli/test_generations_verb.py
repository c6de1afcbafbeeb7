"""Models of three generations and dimensions, as a person uses them: train, judge, switch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mixbct.backbones.model import load_model, save_with_query_map
from mixbct.cli.verbs import app
from mixbct.data import open_source
from mixbct.data.source import Source
from mixbct.errors import BadImageError, ContractError, DataError, FeatureError, ModelError
from mixbct.evaluation.gate import edge_from, judge
from mixbct.features.extract import extract
from mixbct.schemas.gate import GateOutcome
from mixbct.schemas.generations import GenerationsResult
from mixbct.schemas.result import Result
from mixbct.workflows.rows import open_rows

DIMS = {"v1": 8, "v2": 12, "v3": 6}
RECIPE = """
name = "{name}"
data = {{ path = "data", split = "split", part = "{part}" }}
model = {{ dim = {dim}, size = 16, channels = 1, options = {{ width = 2 }} }}
head = {{ name = "arcface", scale = 8.0, margin = 0.1 }}
method = {method}
optimizer = {{ name = "sgd", lr = 0.1 }}
train = {{ epochs = 3, batch = 8, threads = 1 }}
"""


def run(*arguments: object, expect: int = 0) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == expect, found.output
    return found.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with images, a split, and three models, each trained against the last."""
    folder = tmp_path_factory.mktemp("generations")
    rng = np.random.default_rng(0)
    for name in range(14):
        (folder / "data" / f"class{name:02}").mkdir(parents=True)
        base = rng.integers(0, 200, (16, 16))
        for i in range(6):
            pixels = (base + rng.integers(0, 56, base.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "data" / f"class{name:02}" / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run("data", "split", "data", "--out", "split", "--test-classes", "5")
        method = '{ name = "independent" }'
        for name, dim in DIMS.items():
            recipe = folder / f"{name}.toml"
            recipe.write_text(RECIPE.format(name=name, dim=dim, method=method, part="new_train"))
            run("train", recipe, "--out", name)
            run("extract", name, "--data", "data", "--split", "split", "--out", f"{name}.bank")
            run("denoise", f"{name}.bank")
            method = f'{{ name = "mixbct", bank = "{name}.bank", query_map = "projection" }}'
    return folder


@pytest.fixture(autouse=True)
def inside(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


TEST = ("--data", "data", "--split", "split")


def test_the_matrix_of_three_generations(tmp_path: Path) -> None:
    out = tmp_path / "generations.json"
    words = ("generations", "v1", "v2", "v3", *TEST, "--out", out, "--replicates", 100)
    shown = run(*words)
    found = GenerationsResult.model_validate_json(out.read_bytes())
    assert [m.dim for m in found.models] == [8, 12, 6]
    assert found.mapped == (False, True, True)
    assert [(p.query, p.gallery) for p in found.pairs] == [
        (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3),
    ]  # fmt: skip
    for metric in ("mAP", "rank-1", "TAR@1e-3"):
        assert metric in shown
    assert "compatible pairs" in shown
    assert "next: mixbct eval --old v2 --new v3" in shown
    printed = json.loads(run(*words, "--json"))
    assert printed["summary"] == json.loads(out.read_text())["summary"]

    # the cross-test of neighbours is that of `eval`
    run("eval", "--old", "v2", "--new", "v3", *TEST, "--out", tmp_path / "result.json")
    result = Result.model_validate_json((tmp_path / "result.json").read_bytes())
    cross = result.combinations["new/old"]
    for metric, figure in found.pair(3, 2).metrics.items():
        assert figure.value == cross.metric(metric).value

    # and v3's edge to v1 is that of both maps, so that a gallery of three versions can be served
    far = ("eval", "--old", "v1", "--new", "v3", "--via", "v2", *TEST)
    run(*far, "--out", tmp_path / "far.json")
    result = Result.model_validate_json((tmp_path / "far.json").read_bytes())
    assert result.query_map is not None
    assert (result.query_map.source_dim, result.query_map.target_dim) == (6, 8)
    for metric, figure in found.pair(3, 1).metrics.items():
        served = result.combinations["new/old"].metric(metric).value
        assert served == pytest.approx(figure.value, abs=1e-6)
    before = (tmp_path / "far.json").read_bytes()
    run(*far, "--out", tmp_path / "far.json", "--resume")
    assert (tmp_path / "far.json").read_bytes() == before


def test_versions_that_do_not_follow_each_other_are_refused(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "g.json")
    for versions, error, says in (
        (("v2",), DataError, "name at least 2 versions"),
        (("v1", "v3"), ContractError, r"query map of v3 .* leads to v2 .*, not to v1"),
        (("v3", "v1"), FeatureError, r"version 2 reach 8 dimensions, but version 1 has 6"),
    ):
        with pytest.raises(error, match=says):
            run("generations", *versions, *TEST, *out)
    with pytest.raises(ContractError, match=r"query map of v3 .* leads to v2 .*, not to v1"):
        run("eval", "--old", "v1", "--new", "v3", *TEST, *out)


def test_a_gallery_is_switched_to_a_model_of_another_dimension(tmp_path: Path) -> None:
    """From the evaluation over the gate's edge to a search of rows of two dimensions."""
    run("eval", "--old", "v1", "--new", "v2", *TEST, "--out", tmp_path / "result.json")
    result = Result.model_validate_json((tmp_path / "result.json").read_bytes())
    new = load_model(Path("v2"))
    assert new.query_map is not None
    assert result.query_map == new.query_map.map
    # as a gate that passed would: so small a test set cannot pass it
    passed = GateOutcome(passed=True, checks=(), result_digest=judge(result).result_digest)
    edge = tmp_path / "edge.json"
    edge.write_text(edge_from(result, passed).to_json())

    gallery = tmp_path / "gallery"
    run("gallery", "init", gallery, "--model", "v1")
    run("gallery", "enrol", gallery, *TEST)
    run("gallery", "use-model", gallery, "v2", "--edge", edge)
    image = "data/class00/0.png"
    hits = json.loads(run("gallery", "search", gallery, image, "-k", 3, "--json"))
    rows, _ = open_rows(Path("data"), new.preprocessing, Path("split"), "gallery")
    stored = extract(load_model(Path("v1")), rows, tmp_path / "stored", dtype="float32")
    one, _ = open_rows(Path("data"), new.preprocessing)
    place = one.keys().index("class00/0.png")
    vector = new.embed(torch.from_numpy(one.read(np.array([place])))).numpy()[0]
    mapped = (vector / np.linalg.norm(vector)) @ new.query_map.map.arrays[0]
    scores = stored.all() @ (mapped / np.linalg.norm(mapped))
    best = np.argsort(-scores)[:3]
    found = hits["queries"][0]["hits"]
    assert [hit["key"] for hit in found] == [stored.keys()[i] for i in best]
    assert [hit["score"] for hit in found] == pytest.approx(scores[best].tolist(), abs=1e-5)

    run("gallery", "enrol", gallery, *TEST, "--part", "query")
    contracts = json.loads(run("gallery", "status", gallery, "--json"))["contracts"]
    assert {c["contract"]["dim"] for c in contracts} == {8, 12}
    assert run("gallery", "search", gallery, image)
    assert "a query map of 12 to 8" in " ".join(run("gallery", "status", gallery).split())


@pytest.mark.parametrize("adapter", ["procrustes", "ridge"])
def test_a_fitted_map_makes_a_model_that_can_be_judged(tmp_path: Path, adapter: str) -> None:
    """v1 has 8 dimensions, v3 six: the map of a frozen v1 leads into a space it knew nothing of."""
    out = tmp_path / "mapped"
    words = ("fit-map", "v1", "--old", "v3", "--data", "data", "--split", "split", "--out", out)
    assert "next: mixbct eval --old v3" in run(*words, "--adapter", adapter)
    mapped, plain = load_model(out), load_model(Path("v1"))
    assert mapped.contract == plain.contract
    assert mapped.query_map is not None
    assert mapped.query_map.to == load_model(Path("v3")).contract
    run("eval", "--old", "v3", "--new", out, "--independent", "v1", *TEST,
        "--out", tmp_path / "r.json", "--adapter", adapter)  # fmt: skip
    result = Result.model_validate_json((tmp_path / "r.json").read_bytes())
    served, row = (result.combinations[f"{name}/old"] for name in ("new", adapter))
    for metric, figure in row.metrics().items():
        assert served.metric(metric).value == pytest.approx(figure.value, abs=1e-3)
    with pytest.raises(ModelError, match="already there"):
        run(*words)


def test_maps_that_a_model_cannot_carry_are_refused(tmp_path: Path) -> None:
    words = ("fit-map", "v1", "--old", "v3", "--data", "data", "--out", tmp_path / "m")
    with pytest.raises(ModelError, match="'mlp': choose one of procrustes, ridge"):
        run(*words, "--adapter", "mlp")
    query_map = load_model(Path("v2")).query_map
    assert query_map is not None
    with pytest.raises(ModelError, match="a map from 12 dimensions does not fit v1"):
        save_with_query_map(Path("v1"), tmp_path / "m", query_map)


def test_a_model_is_not_judged_on_classes_that_it_was_trained_on(
    made: Path, tmp_path: Path
) -> None:
    run("data", "split", "data", "--out", tmp_path / "other", "--test-classes", "5", "--seed", "9")
    other = ("--data", "data", "--split", tmp_path / "other")
    out = tmp_path / "result.json"
    known = r"\d of the 5 test classes \(class\d\d.* among those that (old|v1) \(v1 "
    with pytest.raises(DataError, match=known):
        run("eval", "--old", "v1", "--new", "v2", *other, "--out", out)
    assert not out.exists()
    with pytest.raises(DataError, match=known):
        run("generations", "v1", "v2", *other, "--out", out)
    words = ("eval", "--old", "v1", "--new", "v2", "--out", out)
    assert "were declared to be others" in run(*words, *other, "--other-classes")
    assert json.loads(out.read_text())["trained_apart"] == {"old": "declared", "new": "declared"}

    # of a bank nobody knows it, and the gate says so
    run("extract", "v1", "--data", "data", "--out", tmp_path / "bank")
    said = run("eval", "--old", tmp_path / "bank", "--new", "v2", *TEST, "--out", out)
    assert "what the old model was trained on cannot be known" in " ".join(said.split())
    assert json.loads(out.read_text())["trained_apart"] == {"old": "unknown", "new": "apart"}
    gate = " ".join(run("gate", out, expect=1).split())
    assert "what the old model was trained on cannot be known" in gate
    assert "try next, for impostor pairs" in gate
    run("report", out)
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "what the old model was trained on cannot be known" in page


def test_skip_bad_leaves_the_same_images_out_of_every_comparison(
    made: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree("data", data)
    tested = open_rows(Path("data"), None, Path("split"), "query")[0].classes()[0]
    bad = data / tested / "3.png"
    bad.write_bytes(bad.read_bytes()[:60])
    # made of what is there now, by someone who looked at no image
    run("data", "split", data, "--out", tmp_path / "split", "--test-classes", "5", "--unchecked")
    words = ("eval", "--old", "v1", "--new", "v1", "--data", data, "--split", tmp_path / "split")
    words = (*words, "--out", tmp_path / "result.json", "--replicates", 100)
    with pytest.raises(BadImageError, match=r"3\.png"):
        run(*words)
    run(*words, "--skip-bad")
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["data"]["images left out"] == 1
    assert found["data"]["queries"] + found["data"]["gallery"] == 5 * 6 - 1


def test_a_source_is_opened_once_for_models_of_one_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def count(*arguments: object) -> Source:
        opened.append(arguments)
        return open_source(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("mixbct.workflows.evaluate.open_source", count)
    out = ("--out", tmp_path / "result.json", "--replicates", 100)
    run("eval", "--old", "v1", "--new", "v2", "--independent", "v2", *TEST, *out)
    assert len(opened) == 1
