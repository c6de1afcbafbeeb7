"""`mixbct eval-pairs`, `eval-ijb` and `data ijb-layout`, as a person types them."""

import json
import pickle
import re
import shutil
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save as safetensors
from typer.testing import CliRunner

from mixbct.adapters import ADAPTERS
from mixbct.backbones.model import (
    build_backbone,
    contract_of,
    load_model,
    save_model,
    save_with_bridge,
)
from mixbct.cli.features import Kind
from mixbct.cli.verbs import app
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank, normalise
from mixbct.data.ijb import IjbImages, read_layout
from mixbct.data.source import write_lines
from mixbct.errors import BankError, ContractError, DataError, FeatureError, ModelError
from mixbct.evaluation.protocols import pair_similarities, verification
from mixbct.features.extract import embed_source
from mixbct.schemas.bridge import load_bridge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import ModelManifest, Preprocessing
from mixbct.schemas.protocols import IjbResult, LayoutCounts, PairsResult
from mixbct.workflows.adapt import CHOOSE, adapt
from mixbct.workflows.protocols import PAIR_FARS, Sides, evaluate_ijb, evaluate_pairs, open_pairs

PERSONS, IMAGES = 8, 5


def make_model(path: Path, seed: int, dim: int = 8, size: int = 16) -> None:
    torch.manual_seed(seed)
    want = Preprocessing(size=size, channels=3)
    backbone = build_backbone("small", dim, want, {"width": 4})
    contract = contract_of(path.name, backbone, want, dim)
    manifest = ModelManifest(backbone="small", options={"width": 4}, contract=contract)
    save_model(path, manifest, backbone)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that want different sizes, a third of another dimension, and faces."""
    folder = tmp_path_factory.mktemp("made")
    make_model(folder / "old", 1, size=32)
    make_model(folder / "new", 2)
    make_model(folder / "wide", 3, dim=12)
    rng = np.random.default_rng(0)
    for person in range(PERSONS):
        (folder / "faces" / f"p{person}").mkdir(parents=True)
        base = rng.integers(0, 200, (32, 32, 3))
        for i in range(IMAGES):
            pixels = (base + rng.integers(0, 56, base.shape)).astype(np.uint8)
            Image.fromarray(pixels).save(
                folder / "faces" / f"p{person}" / f"p{person}_{i + 1:04}.png"
            )
    return folder


def run(*arguments: object) -> str:
    found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


@pytest.fixture(scope="module")
def layout(made: Path) -> Path:
    counts = run("data", "ijb-layout", made / "faces", made / "ijb", "--seed", 3, "--json")
    assert LayoutCounts.model_validate_json(counts).galleries == (4, 4)
    return made / "ijb"


def test_features_are_summed_with_those_of_the_flipped_image(made: Path) -> None:
    model = load_model(made / "new")
    source = open_source(made / "faces", model.preprocessing)
    images = source.read(np.arange(len(source)))
    found = embed_source(model, source, batch=7, flip=True)
    plain, flipped = (
        model.embed(torch.from_numpy(pixels)).numpy()
        for pixels in (images, images[:, :, ::-1].copy())
    )
    np.testing.assert_allclose(found, plain + flipped, atol=1e-5)
    assert np.abs(plain - flipped).max() > 1e-3


def test_ijb_self_and_cross(made: Path, layout: Path) -> None:
    ours = IjbResult.model_validate_json(
        run("eval-ijb", "--model", made / "new", "--data", layout, "--json")
    )
    assert ours.models["gallery"] == ours.models["query"] == load_model(made / "new").contract
    assert ours.data["images"] == PERSONS * IMAGES
    # persons are far apart and even a random network tells them
    assert ours.verification.auc > 0.9
    assert ours.identification.ranks["rank-1"] > 0.9
    assert [g.gallery for g in ours.identification.galleries] == ["G1", "G2"]
    out = made / "cross.json"
    run(
        *("eval-ijb", "--model", made / "new", "--gallery-model", made / "old"),
        *("--data", layout, "--flip", "--out", out),
    )
    cross = IjbResult.model_validate_json(out.read_bytes())
    assert cross.flip
    assert cross.models["gallery"] == load_model(made / "old").contract
    # two random networks share no space
    assert cross.verification.auc < ours.verification.auc - 0.1
    swapped = evaluate_ijb(
        layout, Sides(load_model(made / "old"), load_model(made / "new"), flip=True)
    )
    assert swapped.verification != cross.verification


def test_images_without_a_face_are_refused_or_left_out_and_counted(
    made: Path, layout: Path, tmp_path: Path
) -> None:
    """A negative score turned its vector round before."""
    shutil.copytree(layout, tmp_path / "ijb")
    path = tmp_path / "ijb" / "meta" / "ijbc_name_5pts_score.txt"
    table = (layout / "meta" / "ijbc_face_tid_mid.txt").read_text().splitlines()
    templates = [line.split()[1] for line in table]
    lost = next(t for t in templates if templates.count(t) == 2)
    several = next(t for t in templates if templates.count(t) == 3)
    lines = path.read_text().splitlines()
    one, two, _ = (row for row, template in enumerate(templates) if template == several)
    for row in (one, *(row for row, template in enumerate(templates) if template == lost)):
        lines[row] = " ".join([*lines[row].split()[:11], "-0.9"])
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "ijb" / "loose_crop" / lines[two].split()[0]).write_bytes(b"broken")
    words = ["eval-ijb", "--model", made / "new", "--data", tmp_path / "ijb"]
    with pytest.raises(DataError, match=r"5pts_score\.txt, line \d+: .*--skip-bad"):
        run(*words)
    found = CliRunner().invoke(app, [*map(str, words), "--skip-bad", "--json"])
    assert found.exit_code == 0
    result = IjbResult.model_validate_json(found.stdout)
    assert (result.data["images_left_out"], result.data["templates_left_out"]) == (4, 1)
    assert result.data["images"] == PERSONS * IMAGES - 4
    assert result.verification.auc > 0.9
    assert "left out 4 images without a face or that cannot be read: " in found.stderr
    assert re.search(rf"left out 1 templates, .*: {lost}\n", found.stderr)


def test_one_cross_pair_score_by_hand(made: Path, layout: Path) -> None:
    """The gallery side of the result is what the old model says of the first template."""
    found = read_layout(layout)
    sides = []
    for name in ("old", "new"):
        model = load_model(made / name)
        features = embed_source(model, IjbImages(found, model.preprocessing))
        sums = {t: features[found.templates == t].sum(0) for t in set(found.templates.tolist())}
        sides.append({t: s / np.linalg.norm(s) for t, s in sums.items()})
    scores = np.array([sides[0][a] @ sides[1][b] for a, b in found.pairs.tolist()])
    expected = verification(scores[found.same], scores[~found.same])
    got = evaluate_ijb(
        layout, Sides(load_model(made / "new"), load_model(made / "old"))
    ).verification
    assert got.auc == pytest.approx(expected.auc, abs=1e-3)
    for ours, theirs in zip(got.points, expected.points, strict=True):
        assert ours.threshold == pytest.approx(theirs.threshold, abs=1e-4)


def pair_rows() -> np.ndarray:
    """Return 4 folds of 12 genuine and 12 impostor pairs, rows of the folder; not all occur."""
    rng = np.random.default_rng(0)
    persons = [(p, p) for p in rng.integers(0, 6, 12 * 4)]
    others = [tuple(rng.choice(6, 2, replace=False)) for _ in persons]
    both = [*zip(np.split(np.array(persons), 4), np.split(np.array(others), 4), strict=True)]
    subjects = np.concatenate([part for fold in both for part in fold])
    return subjects * IMAGES + rng.integers(0, IMAGES, subjects.shape)


def write_list(path: Path, rows: np.ndarray) -> None:
    lines = ["4 12"]
    for place, row in enumerate(rows.tolist()):
        (a, i), (b, j) = (divmod(r, IMAGES) for r in row)
        genuine = place // 12 % 2 == 0
        lines.append(f"p{a} {i + 1} {j + 1}" if genuine else f"p{a} {i + 1} p{b} {j + 1}")
    path.write_text("\n".join(lines) + "\n")


def test_pairs_from_a_list_self_and_cross(made: Path, tmp_path: Path) -> None:
    rows = pair_rows()
    same = np.arange(96) // 12 % 2 == 0
    write_list(tmp_path / "pairs.txt", rows)
    common = ("--pairs", tmp_path / "pairs.txt", "--data", made / "faces", "--flip", "--json")
    text = run("eval-pairs", "--model", made / "new", "--gallery-model", made / "old", *common)
    found = PairsResult.model_validate_json(text)
    assert len(found.folds) == 4
    assert found.accuracy == pytest.approx(np.mean([f.accuracy for f in found.folds]))
    assert found.data["images"] == len(np.unique(rows))
    sides = []
    for name in ("old", "new"):
        model = load_model(made / name)
        faces = open_source(made / "faces", model.preprocessing)
        sides.append(embed_source(model, faces, flip=True))
    scores = pair_similarities(*sides, rows)
    expected = verification(scores[same], scores[~same], PAIR_FARS)
    assert found.verification.auc == pytest.approx(expected.auc, abs=1e-3)
    swapped = pair_similarities(*sides, rows[:, ::-1])
    assert abs(verification(swapped[same], swapped[~same]).auc - expected.auc) > 1e-2
    ours = json.loads(run("eval-pairs", "--model", made / "new", *common))
    assert ours["accuracy"] > 0.9
    assert ours["models"]["gallery"] == ours["models"]["query"]


def test_pairs_from_a_bin(made: Path, tmp_path: Path) -> None:
    files = sorted((made / "faces").rglob("*.png"))
    images = [files[row].read_bytes() for row in pair_rows().ravel()]
    same = [place // 12 % 2 == 0 for place in range(96)]
    (tmp_path / "set.bin").write_bytes(pickle.dumps((images, same)))
    text = run("eval-pairs", "--model", made / "new", "--pairs", tmp_path / "set.bin")
    assert text.startswith(("accuracy 0.9", "accuracy 1.0"))
    assert "over 10 folds" in text
    assert "TAR@1e-3" in text
    with pytest.raises(DataError, match="name the folder of the images with --data"):
        open_pairs(made / "pairs.txt", None, Preprocessing(size=16, channels=3))


def test_models_of_two_dimensions_need_a_map(made: Path, layout: Path) -> None:
    with pytest.raises(FeatureError, match=r"dimension 8 .* model's of dimension 12.*--bridge"):
        evaluate_ijb(layout, Sides(load_model(made / "new"), load_model(made / "wide")))


@pytest.fixture(scope="module")
def banks(made: Path) -> Path:
    for name in ("old", "new", "wide"):
        run("extract", made / name, "--data", made / "faces", "--out", made / f"{name}-bank")
    return made


@pytest.fixture(scope="module", params=["ridge", "ridge_gallery", "cca"])
def bridge(request: pytest.FixtureRequest, banks: Path) -> Path:
    """A bridge from `new` (8-d) to `wide` (12-d): of queries, of rows, of both."""
    out = banks / f"{request.param}.json"
    text = run(
        *("adapt", request.param, "--from", banks / "new-bank", "--to", banks / "wide-bank"),
        *("--out", out, "--json"),
    )
    found, file = json.loads(text), load_bridge(out)
    assert found["fit"]["items"] == file.fit.items == PERSONS * IMAGES
    assert (found["source"]["dim"], found["target"]["dim"]) == (8, 12)
    assert (file.source, file.target) == tuple(
        load_model(banks / name).contract for name in ("new", "wide")
    )
    sides = request.param != "ridge_gallery", request.param != "ridge"
    assert (file.query is not None, file.gallery is not None) == sides
    return out


def by_hand(side: LinearMap | None, unit: np.ndarray) -> np.ndarray:
    """Return vectors as one side of a bridge has them, in float64."""
    rows = unit.astype(np.float64)
    if side is not None:
        matrix, offset = side.arrays
        rows = rows @ matrix + (0 if offset is None else offset)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_pairs_through_a_bridge(made: Path, bridge: Path, tmp_path: Path) -> None:
    rows = pair_rows()
    same = np.arange(96) // 12 % 2 == 0
    write_list(tmp_path / "pairs.txt", rows)
    words = ("--pairs", tmp_path / "pairs.txt", "--data", made / "faces", "--flip", "--json")
    models = ("--model", made / "new", "--gallery-model", made / "wide")
    text = run("eval-pairs", *models, "--bridge", bridge, *words)
    found = PairsResult.model_validate_json(text)
    used = load_bridge(bridge)
    assert found.bridge == used.digest()
    sides = []
    for name, side in (("wide", used.gallery), ("new", used.query)):
        model = load_model(made / name)
        faces = open_source(made / "faces", model.preprocessing)
        sides.append(by_hand(side, normalise(embed_source(model, faces, flip=True))))
    scores = (sides[0][rows[:, 0]] * sides[1][rows[:, 1]]).sum(axis=1).astype(np.float32)
    expected = verification(scores[same], scores[~same], PAIR_FARS)
    assert found.verification.auc == pytest.approx(expected.auc, abs=1e-3)
    assert found.verification.auc > 0.7
    # a model that carries it needs no name for it
    save_with_bridge(made / "new", tmp_path / "carries", used)
    models = ("--model", tmp_path / "carries", "--gallery-model", made / "wide")
    again = PairsResult.model_validate_json(run("eval-pairs", *models, *words))
    assert (again.verification, again.bridge) == (found.verification, found.bridge)


def test_templates_through_a_bridge(made: Path, layout: Path, bridge: Path) -> None:
    text = run(
        *("eval-ijb", "--model", made / "new", "--gallery-model", made / "wide"),
        *("--bridge", bridge, "--data", layout, "--json"),
    )
    found = IjbResult.model_validate_json(text)
    used = load_bridge(bridge)
    assert found.bridge == used.digest()
    meta = read_layout(layout)
    sides = []
    for name, side in (("wide", used.gallery), ("new", used.query)):
        model = load_model(made / name)
        features = embed_source(model, IjbImages(meta, model.preprocessing))
        ids = np.unique(meta.templates)
        sums = normalise(np.stack([features[meta.templates == t].sum(0) for t in ids]))
        sides.append(dict(zip(ids.tolist(), by_hand(side, sums), strict=True)))
    scores = np.array([sides[0][a] @ sides[1][b] for a, b in meta.pairs.tolist()], np.float32)
    expected = verification(scores[meta.same], scores[~meta.same])
    assert found.verification.auc == pytest.approx(expected.auc, abs=1e-3)
    for ours, theirs in zip(found.verification.points, expected.points, strict=True):
        assert ours.threshold == pytest.approx(theirs.threshold, abs=1e-4)


def test_a_bridge_must_lie_between_the_models(banks: Path, layout: Path, tmp_path: Path) -> None:
    new, old, wide = (load_model(banks / name) for name in ("new", "old", "wide"))
    file, write = tmp_path / "b.json", tmp_path / "pairs.txt"
    write_list(write, pair_rows())
    # old and new have one dimension: only the contracts tell
    adapt(banks / "old-bank", banks / "new-bank", file, kind="ridge")
    with pytest.raises(FeatureError, match="name that with --gallery-model"):
        evaluate_ijb(layout, Sides(new, file=file))
    for judge in (
        lambda *models: evaluate_ijb(layout, Sides(*models, file=file)),
        lambda *models: evaluate_pairs(write, Sides(*models, file=file), banks / "faces"),
    ):
        with pytest.raises(ContractError, match=r"wrong way round: it takes queries by old"):
            judge(new, old)
        with pytest.raises(ContractError, match=r"for other models.*not queries by new .*wide"):
            judge(new, wide)
        judge(old, new)
    for content, says in (
        (None, "there is no bridge at"),
        (b"", "not a readable bridge"),
        (b"{}", "kind: Field required"),
        (safetensors({"weights": np.zeros((8, 12), np.float32)}), "map of an earlier version"),
        (safetensors({"rotation": np.zeros((8, 12), np.float32)}), "map of an earlier version"),
        (safetensors({"other": np.zeros((8, 12), np.float32)}), "not a readable bridge"),
    ):
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ModelError, match=says) as caught:
            evaluate_ijb(layout, Sides(new, wide, file=file))
        assert "\n" not in str(caught.value)


def part_of(bank: Path, out: Path, order: np.ndarray) -> FeatureBank:
    """Write some rows of a bank, in another order, as a bank."""
    whole = FeatureBank(bank)
    shutil.copytree(bank, out)
    np.save(out / "features.npy", whole.features[order])
    np.save(out / "labels.npy", whole.labels()[order])
    write_lines(out / "keys.txt", [whole.keys()[row] for row in order])
    update = {"rows": len(order), "digests": None, "norms": None}  # as an earlier version left it
    manifest = whole.manifest.model_copy(update=update)
    (out / "manifest.json").write_text(manifest.to_json())
    return FeatureBank(out)


def test_rows_are_paired_by_key(banks: Path, tmp_path: Path) -> None:
    """Other rows, in another order: the same map as of the shared rows alone."""
    order = np.random.default_rng(1).permutation(PERSONS * IMAGES)[:30]
    full, part = FeatureBank(banks / "new-bank"), tmp_path / "part"
    part_of(banks / "wide-bank", part, order)
    out = tmp_path / "b.json"
    found = adapt(full.path, part, out, kind="ridge")
    assert found == load_bridge(out)
    assert found.fit.items == 30
    shared = np.sort(order)
    x, y = full.read(shared), FeatureBank(banks / "wide-bank").read(shared)
    expected = ADAPTERS["ridge"](x, y, None)[0].arrays[0]
    np.testing.assert_allclose(found.query.arrays[0], expected, atol=1e-6)

    (part / "keys.txt").write_text("".join(f"other {i}\n" for i in range(30)))
    with pytest.raises(BankError, match="share no key"):
        adapt(full.path, part, out, kind="ridge")
    (part / "keys.txt").write_text("same\n" * 30)
    with pytest.raises(BankError, match="'same' occurs twice"):
        adapt(full.path, part, out, kind="ridge")


def test_banks_and_models_of_the_same_images_give_the_same_bridge(
    banks: Path, tmp_path: Path
) -> None:
    """Of a split's part, too, so that a test's people need not be in the fit."""
    run("data", "split", banks / "faces", "--out", tmp_path / "split", "--test-classes", "2")
    split = ("--split", tmp_path / "split")
    found = []
    for number, words in enumerate(
        (
            ("--from", banks / "new-bank", "--to", banks / "wide-bank"),
            ("--from", banks / "new", "--to", banks / "wide", "--data", banks / "faces"),
            ("--from", banks / "new", "--to", banks / "wide-bank", "--data", banks / "faces"),
        )
    ):
        out = tmp_path / f"{number}.json"
        run("adapt", "cca", *words, *split, "--out", out)
        found.append(load_bridge(out))
    assert all(each.fit.items == 6 * IMAGES for each in found)
    for each in found[1:]:
        assert (each.source, each.target) == (found[0].source, found[0].target)
        for side in ("query", "gallery"):
            one, other = (getattr(b, side).arrays[0] for b in (each, found[0]))
            np.testing.assert_allclose(np.abs(one), np.abs(other), atol=0.02)


def test_every_adapter_has_its_name_on_the_command_line() -> None:
    assert set(get_args(Kind)) == {CHOOSE, *ADAPTERS}


def test_what_a_person_reads(made: Path, layout: Path, tmp_path: Path) -> None:
    text = run("eval-ijb", "--model", made / "new", "--data", layout)
    for name in ("TAR@1e-6", "TPIR@1e-4", "TPIR@1e0", "rank-10", "next: mixbct eval-ijb"):
        assert name in text
    text = run("data", "ijb-layout", made / "faces", tmp_path / "out", "--impostors", 3)
    assert text.startswith("40 images of 8 subjects: galleries of 4 and 4 templates, ")
    assert f"next: mixbct eval-ijb --model MODEL --data {tmp_path / 'out'}" in text
