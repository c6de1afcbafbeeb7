"""Models of three generations and dimensions, as a person uses them: train, judge, switch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mixbct.backbones.model import load_model, save_with_bridge
from mixbct.cli.verbs import app
from mixbct.data import open_source
from mixbct.data.source import Source
from mixbct.errors import (
    BadImageError,
    ContractError,
    DataError,
    FeatureError,
    ModelError,
    ResultError,
)
from mixbct.evaluation.gate import edge_from, judge
from mixbct.features.extract import extract
from mixbct.schemas.bridge import load_bridge
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
    assert result.bridge is not None
    assert result.bridge.problem(load_model(Path("v3")).contract, result.models["old"]) is None
    assert (result.bridge.query.source_dim, result.bridge.query.target_dim) == (6, 8)
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
        (("v1", "v3"), ContractError, r"bridge of v3 .* leads to v2 .*, not to v1"),
        (
            ("v3", "v1"),
            FeatureError,
            r"version 2 of dimension 8 cannot be compared directly with vectors of version 1",
        ),
    ):
        with pytest.raises(error, match=says):
            run("generations", *versions, *TEST, *out)
    with pytest.raises(ContractError, match=r"bridge of v3 .* leads to v2 .*, not to v1"):
        run("eval", "--old", "v1", "--new", "v3", *TEST, *out)


def test_a_gallery_is_switched_to_a_model_of_another_dimension(tmp_path: Path) -> None:
    """From the evaluation over the gate's edge to a search of rows of two dimensions."""
    run("eval", "--old", "v1", "--new", "v2", *TEST, "--out", tmp_path / "result.json")
    result = Result.model_validate_json((tmp_path / "result.json").read_bytes())
    new = load_model(Path("v2"))
    assert new.bridge is not None
    assert result.bridge == new.bridge
    # as a gate that passed would: so small a test set cannot pass it
    passed = GateOutcome(passed=True, checks=(), result_digest=judge(result).result_digest)
    edge = tmp_path / "edge.json"
    edge.write_text(edge_from(result, passed).to_json())

    gallery = tmp_path / "gallery"
    run("gallery", "init", gallery, "--model", "v1")
    run("gallery", "enrol", gallery, *TEST)
    run("upgrade", "apply", gallery, "v2", "--edge", edge)
    image = "data/class00/0.png"
    hits = json.loads(run("gallery", "search", gallery, image, "-k", 3, "--json"))
    rows, _ = open_rows(Path("data"), new.preprocessing, Path("split"), "gallery")
    stored = extract(load_model(Path("v1")), rows, tmp_path / "stored", dtype="float32")
    one, _ = open_rows(Path("data"), new.preprocessing)
    place = one.keys().index("class00/0.png")
    vector = new.embed(torch.from_numpy(one.read(np.array([place])))).numpy()[0]
    mapped = (vector / np.linalg.norm(vector)) @ new.bridge.query.arrays[0]
    scores = stored.all() @ (mapped / np.linalg.norm(mapped))
    best = np.argsort(-scores)[:3]
    found = hits["queries"][0]["hits"]
    assert [hit["key"] for hit in found] == [stored.keys()[i] for i in best]
    assert [hit["score"] for hit in found] == pytest.approx(scores[best].tolist(), abs=1e-5)

    run("gallery", "enrol", gallery, *TEST, "--part", "query")
    contracts = json.loads(run("gallery", "status", gallery, "--json"))["contracts"]
    assert {c["contract"]["dim"] for c in contracts} == {8, 12}
    assert run("gallery", "search", gallery, image)
    assert "queries go through a map of 12 to 8" in " ".join(
        run("gallery", "status", gallery).split()
    )


def test_a_model_trained_against_the_whitened_bank_is_put_into_service(tmp_path: Path) -> None:
    """Its gallery map goes from the training over eval, report and edge into the search."""
    recipe = tmp_path / "white.toml"
    method = '{ name = "mixbct", bank = "v1.bank", whiten = 0.3 }'
    recipe.write_text(RECIPE.format(name="white", dim=8, method=method, part="new_train"))
    run("train", recipe, "--out", tmp_path / "white")
    new, old = load_model(tmp_path / "white"), load_model(Path("v1"))
    assert new.bridge.query is None
    out = tmp_path / "result.json"
    run("eval", "--old", "v1", "--new", tmp_path / "white", *TEST, "--out", out)
    result = Result.model_validate_json(out.read_bytes())
    assert result.bridge == new.bridge
    run("report", out)
    passed = GateOutcome(passed=True, checks=(), result_digest=judge(result).result_digest)
    (tmp_path / "edge.json").write_text(edge_from(result, passed).to_json())
    gallery = tmp_path / "gallery"
    run("gallery", "init", gallery, "--model", "v1")
    run("gallery", "enrol", gallery, *TEST)
    run("upgrade", "apply", gallery, tmp_path / "white", "--edge", tmp_path / "edge.json")
    hits = json.loads(run("gallery", "search", gallery, "data/class00/0.png", "-k", 3, "--json"))
    rows, _ = open_rows(Path("data"), old.preprocessing, Path("split"), "gallery")
    matrix, offset = new.bridge.gallery.arrays
    stored = extract(old, rows, tmp_path / "stored", dtype="float32").all() @ matrix + offset
    one, _ = open_rows(Path("data"), new.preprocessing)
    place = one.keys().index("class00/0.png")
    query = new.embed(torch.from_numpy(one.read(np.array([place])))).numpy()[0]
    scores = stored @ query / np.linalg.norm(stored, axis=1) / np.linalg.norm(query)
    found = hits["queries"][0]["hits"]
    best = np.argsort(-scores)[:3]
    assert [hit["key"] for hit in found] == [rows.keys()[i] for i in best]
    assert [hit["score"] for hit in found] == pytest.approx(scores[best].tolist(), abs=1e-5)
    # the face protocols and the generations know it, too
    run("generations", "v1", tmp_path / "white", *TEST, "--replicates", 100,
        "--out", tmp_path / "g.json")  # fmt: skip
    again = GenerationsResult.model_validate_json((tmp_path / "g.json").read_bytes())
    assert again.mapped == (False, True)
    cross = result.combinations["new/old"].metric("mAP").value
    assert again.pair(2, 1).metrics["mAP"].value == pytest.approx(cross, abs=1e-9)


ADAPT = ("adapt", "--from", "v1", "--to", "v3", "--data", "data", "--split", "split")


@pytest.mark.parametrize("kind", ["procrustes", "ridge_gallery", "cca", "ridge_cca", "whiten_cca"])
def test_a_fitted_bridge_makes_a_model_that_can_be_judged(tmp_path: Path, kind: str) -> None:
    """v1 has 8 dimensions, v3 six: the bridge of a frozen v1 leads to rows it knew nothing of."""
    out = tmp_path / "mapped"
    words = (*ADAPT, kind, "--out", tmp_path / "bridge.json", "--model-out", out)
    shown = run(*words)
    assert "queries are those of v1" in shown
    assert "stored are those of v3" in shown
    assert "next: mixbct eval --old v3" in shown
    mapped, plain, bridge = load_model(out), load_model(Path("v1")), load_bridge(words[-3])
    assert mapped.contract == plain.contract
    assert mapped.bridge == bridge
    assert bridge.target == load_model(Path("v3")).contract
    assert bridge.fit.items > 40
    # carried by the model, or named beside it: the same, and that of the independent model
    results = []
    for new, more in ((out, ()), ("v1", ("--bridge", tmp_path / "bridge.json"))):
        file = tmp_path / "r.json"
        run("eval", "--old", "v3", "--new", new, *more, "--independent", "v1", *TEST,
            "--out", file, "--adapter", kind, "--replicates", 100)  # fmt: skip
        results.append(Result.model_validate_json(file.read_bytes()))
        before = file.read_bytes()
        run("eval", "--old", "v3", "--new", new, *more, "--independent", "v1", *TEST, "--resume",
            "--out", file, "--adapter", kind, "--replicates", 100)  # fmt: skip
        assert file.read_bytes() == before
    assert results[0].combinations == results[1].combinations
    assert results[0].bridge == results[1].bridge == bridge
    served, row = (results[0].combinations[f"{name}/old"] for name in ("new", kind))
    for metric, figure in row.metrics().items():
        assert served.metric(metric).value == pytest.approx(figure.value, abs=1e-3)
    with pytest.raises(ModelError, match="there already"):
        run(*words)


def test_a_bridge_of_the_wrong_way_is_refused_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "backward.json"
    run("adapt", "ridge", "--from", "v3", "--to", "v1", *TEST, "--out", file)
    wrong = "fitted the wrong way round: it takes queries by v3 .* stored rows of v1 .* --from"
    with pytest.raises(ContractError, match=wrong):
        run("eval", "--old", "v3", "--new", "v1", "--bridge", file, *TEST)
    with pytest.raises(ContractError, match=wrong):
        run("generations", "v3", "v1", "--bridge", file, *TEST)
    with pytest.raises(ContractError, match="bridge is for other models"):
        run("generations", "v1", "v2", "--bridge", file, *TEST)
    with pytest.raises(ContractError, match="bridge is for other models"):
        save_with_bridge(Path("v1"), tmp_path / "m", load_bridge(file))
    # and in a record, whoever wrote it
    found = tmp_path / "result.json"
    run("eval", "--old", "v1", "--new", "v3", "--bridge", file, *TEST, "--out", found)
    content = json.loads(found.read_text())
    content["models"]["new"], content["models"]["old"] = (
        content["models"][role] for role in ("old", "new")
    )
    found.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="the wrong way round"):
        run("gate", found)


def test_generations_behind_bridges_that_map_both_sides(tmp_path: Path) -> None:
    files = []
    for new, old in (("v2", "v1"), ("v3", "v2"), ("v3", "v1")):
        files.append(tmp_path / f"{new}-{old}.json")
        run("adapt", "cca", "--from", new, "--to", old, *TEST, "--out", files[-1])
    out = tmp_path / "g.json"
    words = ("generations", "v1", "v2", "v3", *TEST, "--replicates", 100, "--out", out)
    run(*words, *(w for file in files for w in ("--bridge", file)))
    found = GenerationsResult.model_validate_json(out.read_bytes())
    for (new, old), file in zip(((2, 1), (3, 2), (3, 1)), files, strict=True):
        run("eval", "--old", f"v{old}", "--new", f"v{new}", "--bridge", file, *TEST,
            "--replicates", 100, "--out", tmp_path / "r.json")  # fmt: skip
        result = Result.model_validate_json((tmp_path / "r.json").read_bytes())
        for metric, figure in found.pair(new, old).metrics.items():
            assert figure.value == result.combinations["new/old"].metric(metric).value
    # without the last, v3 does not reach v1 by way of v2, whose rows were mapped
    with pytest.raises(FeatureError, match=r"mapped rows of v2 .* fit a bridge from v3"):
        run(*words, *(w for file in files[:2] for w in ("--bridge", file)))
    # procrustes maps queries alone, so that what was fitted step by step leads all the way
    for new, old in (("v2", "v1"), ("v3", "v2")):
        run("adapt", "procrustes", "--from", new, "--to", old, *TEST,
            "--out", tmp_path / f"{new}.json")  # fmt: skip
    steps = [w for new in ("v2", "v3") for w in ("--bridge", tmp_path / f"{new}.json")]
    run(*words[:-1], tmp_path / "steps.json", *steps)
    run(*words[:-1], tmp_path / "own.json")
    first, own = (
        GenerationsResult.model_validate_json((tmp_path / name).read_bytes())
        for name in ("steps.json", "own.json")
    )
    assert first.pair(3, 1).metrics != own.pair(3, 1).metrics
    # the same where they are carried by the models
    for new, file in (("v2", files[0]), ("v3", files[1])):
        save_with_bridge(Path(new), tmp_path / new, load_bridge(file))
    with pytest.raises(FeatureError, match=r"mapped rows of v2 .* fit a bridge from v3"):
        run("generations", "v1", tmp_path / "v2", tmp_path / "v3", *TEST)
    run("generations", "v1", tmp_path / "v2", tmp_path / "v3", *TEST, "--replicates", 100,
        "--bridge", files[2], "--out", tmp_path / "h.json")  # fmt: skip
    again = GenerationsResult.model_validate_json((tmp_path / "h.json").read_bytes())
    assert again.pairs == found.pairs


def test_what_adapt_cannot_do_is_said(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "b.json")
    with pytest.raises(ModelError, match=r"v3 is a model: name the images .*--data"):
        run("adapt", "--from", "v1.bank", "--to", "v3", *out)
    with pytest.raises(ModelError, match=r"v1\.bank is a feature bank: to write"):
        run("adapt", "--from", "v1.bank", "--to", "v2.bank", *out, "--model-out", tmp_path / "m")
    with pytest.raises(
        FeatureError, match="ridge takes no shrinkage; cca, ridge_cca, whiten_cca, whiten do"
    ):
        run("adapt", "ridge", "--from", "v1.bank", "--to", "v2.bank", *out, "--shrinkage", 0.2)
    with pytest.raises(FeatureError, match=r"queries of 8 dimensions with rows of 12: fit cca"):
        run("adapt", "whiten", "--from", "v1.bank", "--to", "v2.bank", *out)
    assert not (tmp_path / "b.json").exists()


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
