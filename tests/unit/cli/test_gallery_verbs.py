"""`mixbct gallery …`, as a person types it."""

import contextlib
import io
import json
import shutil
import sqlite3
from base64 import b64encode

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mixbct.backbones.model import build_backbone, contract_of, load_model, save_model
from mixbct.cli.gallery import app as gallery_app
from mixbct.cli.given import read_given
from mixbct.cli.upgrade import app as upgrade_app
from mixbct.data import open_source
from mixbct.data.bank import FeatureBank
from mixbct.data.split import make_split
from mixbct.errors import (
    BadImageError,
    BankError,
    ContractError,
    FeatureError,
    GalleryError,
    MixbctError,
)
from mixbct.features.extract import extract
from mixbct.gallery import Gallery
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.gate import Edge, GateCheck, GateOutcome
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import ModelManifest, Preprocessing

PREPROCESSING = Preprocessing(size=32, channels=1)
CLASSES, IMAGES = 5, 4


def make_model(path, seed):
    torch.manual_seed(seed)
    backbone = build_backbone("small", 8, PREPROCESSING, {"width": 2})
    contract = contract_of(path.name, backbone, PREPROCESSING, 8)
    manifest = ModelManifest(backbone="small", options={"width": 2}, contract=contract)
    save_model(path, manifest, backbone)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two models, a folder of images, and the banks of both models."""
    folder = tmp_path_factory.mktemp("made")
    old, new = make_model(folder / "old", 1), make_model(folder / "new", 2)
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (folder / "data" / f"class{name}").mkdir(parents=True)
        for i in range(IMAGES):
            pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "data" / f"class{name}" / f"{i}.png")
    source = open_source(folder / "data", PREPROCESSING)
    for model in (old, new):
        extract(load_model(model), source, folder / f"{model.name}.bank", dtype="float32")
    edge = Edge(
        from_contract=load_model(new).contract,
        to_contract=load_model(old).contract,
        result_digest="0" * 64,
        threshold=-2.0,
        far=1e-3,
    )
    (folder / "edge.json").write_text(edge.to_json())
    return folder


@pytest.fixture
def run():
    """Run a verb; raise what it raises."""

    def call(*arguments):
        app, words = gallery_app, arguments
        if arguments[0] == "upgrade":
            app, words = upgrade_app, arguments[1:]
        result = CliRunner().invoke(app, [str(word) for word in words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def run_json(run):
    return lambda *arguments: json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def gallery(tmp_path, made, run):
    """A gallery that the old model's bank filled."""
    path = tmp_path / "gallery"
    run("init", path, "--model", made / "old")
    run("enrol", path, "--bank", made / "old.bank")
    return path


def image(made, name, i):
    return made / "data" / f"class{name}" / f"{i}.png"


def test_from_init_to_the_switch(tmp_path, made, run, run_json):
    path = tmp_path / "gallery"
    status = run_json("init", path, "--model", made / "old")
    assert (status["rows"], status["query_model"]["name"]) == (0, "old")
    report = run_json("enrol", path, "--bank", made / "old.bank")
    assert (report["added"], report["replaced"], report["rows"]) == (20, 0, 20)
    found = run_json("search", path, image(made, 3, 1), image(made, 0, 2), "-k", 2)
    assert [len(query["hits"]) for query in found["queries"]] == [2, 2]
    best = [query["hits"][0] for query in found["queries"]]
    assert [(hit["label"], hit["rank"], hit["accepted"]) for hit in best] == [
        ("class3", 1, None),
        ("class0", 1, None),
    ]
    assert [hit["score"] for hit in best] == pytest.approx([1, 1], abs=1e-4)

    with pytest.raises(ContractError, match=r"old \(.*mixbct gate"):
        run("upgrade", "apply", path, made / "new")
    status = run_json("upgrade", "apply", path, made / "new", "--edge", made / "edge.json")
    assert (status["rows"], status["query_model"]["name"]) == (20, "new")
    assert len(status["edges"]) == 1
    hits = run_json("search", path, image(made, 3, 1))["queries"][0]["hits"]
    assert [hit["accepted"] for hit in hits] == [True] * 5

    report = run_json("enrol", path, "--bank", made / "new.bank", "--replace")
    assert (report["added"], report["replaced"], report["rows"]) == (0, 20, 20)
    hits = run_json("search", path, image(made, 3, 1))["queries"][0]["hits"]
    assert hits[0]["label"] == "class3"
    assert hits[0]["accepted"] is None
    assert [c["contract"]["name"] for c in run_json("status", path)["contracts"]] == ["new"]


def test_what_a_person_reads_ends_with_the_next_command(tmp_path, made, run):
    path = tmp_path / "a gallery"
    verbs = [
        (("init", path, "--model", made / "old"), "an empty gallery", "enrol"),
        (("status", path), "size: 0.", "enrol"),
        (("enrol", path, "--bank", made / "old.bank"), "20 items added", "search"),
        (("search", path, image(made, 1, 0)), "class1", "status"),
        (
            ("upgrade", "apply", path, made / "new", "--edge", made / "edge.json"),
            "before by old",
            "search",
        ),
        (("search", path, image(made, 1, 0)), "yes", "status"),
        (("status", path), "threshold -2.0000", "search"),
    ]
    for arguments, says, following in verbs:
        result = run(*arguments)
        assert says in result.stdout
        assert result.stdout.splitlines()[-1].startswith(
            f"next: mixbct gallery {following} '{path}'"
        )
    assert (
        "enrolling 20 items" in run("enrol", path, "--bank", made / "new.bank", "--replace").stderr
    )


def test_enrolling_images_equals_enrolling_their_bank(tmp_path, made, run, run_json, gallery):
    path = tmp_path / "other"
    run("init", path, "--model", made / "old")
    report = run_json("enrol", path, "--data", made / "data")
    assert report["rows"] == 20
    query = image(made, 2, 2)
    (here,) = run_json("search", path, query)["queries"]
    (there,) = run_json("search", gallery, query)["queries"]
    assert [(h["key"], h["label"]) for h in here["hits"]] == [
        (h["key"], h["label"]) for h in there["hits"]
    ]


def test_enrolling_one_part_of_a_split(tmp_path, made, run, run_json):
    source = open_source(made / "data", PREPROCESSING)
    make_split(source, tmp_path / "split", test_classes=2, old_share=0.5)
    path = tmp_path / "gallery"
    run("init", path, "--model", made / "old")
    report = run_json("enrol", path, "--data", made / "data", "--split", tmp_path / "split")
    assert 0 < report["rows"] < 8


def test_bad_images_are_named_and_left_out_on_request(tmp_path, made, run, run_json):
    shutil.copytree(made / "data", tmp_path / "data")
    (tmp_path / "data" / "class1" / "bad.png").write_bytes(b"no image")
    path = tmp_path / "gallery"
    run("init", path, "--model", made / "old")
    with pytest.raises(BadImageError, match=r"class1/bad\.png"):
        run("enrol", path, "--data", tmp_path / "data")
    assert run_json("status", path)["rows"] == 0
    assert run_json("enrol", path, "--data", tmp_path / "data", "--skip-bad")["rows"] == 20


def test_searching_with_rows_of_a_bank(made, run, run_json, gallery):
    bank = made / "old.bank"
    queries = run_json("search", gallery, "--bank", bank, "--row", 7, "--row", 0)["queries"]
    assert [query["hits"][0]["key"] for query in queries] == [q["query"] for q in queries]
    assert len(run_json("search", gallery, "--bank", bank)["queries"]) == 20
    with pytest.raises(BankError, match="no row 20; its last is 19"):
        run("search", gallery, "--bank", bank, "--row", 20)
    with pytest.raises(ContractError, match="embedded by new"):
        run("search", gallery, "--bank", made / "new.bank")


def test_an_empty_gallery_says_so(tmp_path, made, run):
    path = tmp_path / "gallery"
    run("init", path, "--model", made / "old")
    assert "the gallery is empty" in run("search", path, image(made, 0, 0)).stdout


def test_a_model_that_is_gone_or_changed(tmp_path, made, run):
    path, model = tmp_path / "gallery", tmp_path / "model"
    shutil.copytree(made / "old", model)
    run("init", path, "--model", model)
    run("enrol", path, "--bank", made / "old.bank")
    shutil.rmtree(model)
    with pytest.raises(GalleryError, match=f"no longer at {model}.*upgrade apply"):
        run("search", path, image(made, 0, 0))
    shutil.copytree(made / "new", model)
    with pytest.raises(ContractError, match=r"now holds new .*, not the query model old "):
        run("enrol", path, "--data", made / "data")
    run("upgrade", "apply", path, made / "old")
    assert "class0" in run("search", path, image(made, 0, 0)).stdout


def test_another_model_is_refused_before_it_is_loaded(tmp_path, made, run, monkeypatch):
    path, model = tmp_path / "gallery", tmp_path / "model"
    shutil.copytree(made / "old", model)
    run("init", path, "--model", model)
    run("enrol", path, "--bank", made / "old.bank")
    manifest = json.loads((model / "model.json").read_text(encoding="utf-8"))
    manifest["backbone"] = "os:abort"
    manifest["contract"]["weights"] = "f" * 64
    (model / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
    monkeypatch.setattr("mixbct.cli.gallery.load_model", None)
    for verb in (["search", path, image(made, 0, 0)], ["enrol", path, "--data", made / "data"]):
        with pytest.raises(ContractError, match=r"now holds old .*, not the query model old"):
            run(*verb)


def test_a_search_says_where_it_embeds(made, run, gallery):
    assert "class0" in run("search", gallery, image(made, 0, 0), "--device", "cpu").stdout
    with pytest.raises(MixbctError, match="abacus"):
        run("search", gallery, image(made, 0, 0), "--device", "abacus")


def test_more_hits_than_rows(made, run_json, gallery):
    (found,) = run_json("search", gallery, image(made, 0, 0), "-k", 10**9)["queries"]
    assert len(found["hits"]) == 20


def test_hits_stand_on_one_line_and_long_keys_on_their_own(tmp_path, made, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    long = "Arnold_Schwarzenegger/Arnold_Schwarzenegger_of_Thal_by_Graz_0042.jpg"
    for key, label, lines in (
        (
            "class-00/0.png",
            "class-00",
            ["   1  1.0000  –    –         class-00/0.png  class-00  old"],
        ),
        ("漢字/一.png", "漢字", ["   1  1.0000  –    –         漢字/一.png  漢字   old"]),
        (long, "a label", [f"   1  1.0000  –    –         {long}", "      a label, old"]),
        ("\x1b[31m\u202ek", "l", ["   1  1.0000  –    –         \\x1b[31m\\u202ek  l      old"]),
    ):
        path = tmp_path / label
        run("init", path, "--model", made / "old")
        bank = FeatureBank(made / "old.bank")
        with Gallery.open(path) as opened:
            opened.enrol([key], [label], bank.features[:1], bank.manifest.contract)
        out = run("search", path, "--bank", made / "old.bank", "--row", 0).stdout.splitlines()
        assert out[2 + (len(lines) > 1) : -1] == lines


def test_verify_names_what_was_changed(made, run, run_json, gallery):
    assert (
        "verify: every row and record is as it was stored"
        in run("status", gallery, "--verify").stdout
    )
    assert run_json("status", gallery)["faults"] is None
    assert run_json("status", gallery, "--verify")["faults"] == []
    with contextlib.closing(sqlite3.connect(gallery / "gallery.sqlite")) as connection:
        connection.execute("UPDATE rows_1 SET label = 'class9' WHERE key = 'class3/1.png'")
        connection.commit()
    with pytest.raises(GalleryError, match="is damaged, 1 times"):
        run("status", gallery, "--verify")
    with pytest.raises(GalleryError, match=r"'class3/1\.png' is not as it was enrolled"):
        run("search", gallery, image(made, 3, 1))


def test_status_shows_a_bridge_in_words(tmp_path, made, run, run_json, gallery):
    side = LinearMap.of(np.eye(8) + 0.1)
    edge = Edge.model_validate_json((made / "edge.json").read_text(encoding="utf-8"))
    ends = {"source": edge.from_contract, "target": edge.to_contract}
    bridge = Bridge(kind="cca", query=side, gallery=side, **ends)
    mapped = edge.model_copy(update={"bridge": bridge})
    (tmp_path / "edge.json").write_text(mapped.to_json(), encoding="utf-8")
    status = run_json("upgrade", "apply", gallery, made / "new", "--edge", tmp_path / "edge.json")
    assert status["edges"][0]["bridge"] == str(bridge)
    assert b64encode(side.matrix).decode() not in run("status", gallery, "--json").stdout
    shown = " ".join(run("status", gallery).stdout.split())
    assert "stored rows go through a map of 8 to 8 dimensions (cca)" in shown


def test_a_gallery_that_is_not_there_says_how_to_make_one(tmp_path, made, run):
    with pytest.raises(GalleryError, match=r"make one with `mixbct gallery init .*--model"):
        run("upgrade", "apply", tmp_path / "none", made / "new", "--edge", made / "edge.json")


def test_a_gallery_of_a_model_that_is_known_by_a_name(tmp_path, made, run, run_json, monkeypatch):
    """Its vectors come from elsewhere: as files, by standard input, one at a time."""
    path, rng = tmp_path / "gallery", np.random.default_rng(5)
    status = run_json("init", path, "--contract", "shop-2019", "--dim", 6)
    assert status["query_model"]["name"] == "shop-2019"
    assert status["query_model"]["preprocessing"] is None
    rows = rng.normal(size=(4, 6))
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "one.npy", rows[0].astype(np.float16))
    added = run_json("enrol", path, tmp_path / "rows.npy", "--key", "a", "--key", "b",
                     "--key", "c", "--key", "d", "--contract", "shop-2019")  # fmt: skip
    assert added["added"] == 4
    assert run_json("enrol", path, tmp_path / "one.npy", "--label", "shoes")["added"] == 1
    hits = run_json("search", path, tmp_path / "one.npy")["queries"][0]["hits"]
    assert [(hit["key"], hit["label"]) for hit in hits[:2]] in (
        [("a", None), (str(tmp_path / "one.npy"), "shoes")],
        [(str(tmp_path / "one.npy"), "shoes"), ("a", None)],
    )
    assert {hit["far"] for hit in hits} == {None}
    (found,) = run_json("search", path, "--key", "c", "-k", 1)["queries"]
    assert (found["query"], found["hits"][0]["key"]) == ("c", "c")

    for given, says in (
        ((tmp_path / "one.npy").read_bytes(), None),
        (b"0.1 0.2", r"standard input cannot be read as vectors \(.npy\): "),
        (b"", r"standard input cannot be read as vectors \(.npy\): it is empty"),
    ):
        stdin = type("Input", (), {"buffer": io.BytesIO(given)})
        monkeypatch.setattr("mixbct.cli.given.sys.stdin", stdin)
        with contextlib.ExitStack() as stack:
            if says:
                stack.enter_context(pytest.raises(FeatureError, match=says))
            with monkeypatch.context():
                names, vectors = read_given(["-"], lambda: None)
            assert names == ["-"]
            np.testing.assert_allclose(vectors[0], rows[0], atol=1e-2)

    with pytest.raises(GalleryError, match=r"has no known folder.*or give its vectors"):
        run("search", path, image(made, 0, 0))
    with pytest.raises(GalleryError, match="2 keys, 4 labels and 4 vectors"):
        run("enrol", path, tmp_path / "rows.npy", "--key", "e", "--key", "f")
    with pytest.raises(ContractError, match="no contract 'shop-2020', but shop-2019"):
        run("search", path, tmp_path / "one.npy", "--contract", "shop-2020")
    np.save(tmp_path / "deep.npy", rng.normal(size=(2, 3, 6)))
    np.save(tmp_path / "short.npy", rng.normal(size=5))
    for file, says in (("deep", "expected a vector, or rows"), ("short", "5 dimensions, those of")):
        with pytest.raises(FeatureError, match=says):
            run("search", path, tmp_path / f"{file}.npy")
    with pytest.raises(FeatureError, match="vectors of different dimensions"):
        run("search", path, tmp_path / "short.npy", tmp_path / "one.npy")


def test_one_image_is_enrolled_and_both_models_search(made, run, run_json, gallery, tmp_path):
    report = run_json("enrol", gallery, image(made, 2, 1), "--key", "alone")
    assert report["added"] == 1
    (found,) = run_json("search", gallery, image(made, 2, 1), "-k", 2)["queries"]
    assert {hit["key"] for hit in found["hits"]} == {"alone", "class2/1.png"}
    edge = Edge.model_validate_json((made / "edge.json").read_text(encoding="utf-8"))
    mixed = tmp_path / "edge.json"
    mixed.write_text(edge.model_copy(update={"old_queries": 0.5}).to_json(), encoding="utf-8")
    with Gallery.open(gallery) as opened:
        opened.switch(edge.from_contract, Edge.model_validate_json(mixed.read_bytes()),
                      model=made / "new")  # fmt: skip
    words = ("search", gallery, image(made, 2, 1), "--old-model")
    (found,) = run_json(*words, made / "old", "-k", 1)["queries"]
    assert found["hits"][0]["key"] in {"alone", "class2/1.png"}
    with pytest.raises(ContractError, match="lead to: old"):
        run(*words, made / "new")


@pytest.mark.parametrize(
    "arguments",
    [
        ("enrol", "G"),
        ("enrol", "G", "--bank", "B", "--data", "D"),
        ("enrol", "G", "--bank", "B", "--split", "S"),
        ("enrol", "G", "one.png", "--bank", "B"),
        ("enrol", "G", "--bank", "B", "--label", "a"),
        ("enrol", "G", "one.png", "one.npy"),
        ("search", "G", "--key", "a", "one.png"),
        ("search", "G", "--key", "a", "--old-model", "."),
        ("init", "G"),
        ("init", "G", "--contract", "old"),
        ("init", "G", "--model", "m", "--contract", "old", "--dim", "8"),
        ("init", "G", "--bank", "b", "--dim", "8"),
        ("search", "G"),
        ("search", "G", "image.png", "--bank", "B"),
        ("search", "G", "image.png", "--row", "1"),
        ("search", "G", "image.png", "-k", "0"),
    ],
)
def test_bad_usage_exits_with_2(run, gallery, arguments):
    result = run(*(gallery if a == "G" else a for a in arguments))
    assert result.exit_code == 2
    assert "Usage" in result.stderr


def test_from_a_plan_to_the_way_back(tmp_path, made, run, run_json, gallery):
    """The whole walk of an upgrade, as a person types it."""
    edge = made / "edge.json"
    shutil.copy(edge, tmp_path / "edge.json")
    edge = tmp_path / "edge.json"
    with pytest.raises(ContractError, match=r"20 rows of old .*mixbct gate"):
        run("upgrade", "plan", gallery, made / "new")
    found = run_json("upgrade", "plan", gallery, made / "new", "--edge", edge)
    (rows,) = found["rows"]
    assert (rows["rows"], rows["threshold"], rows["far"], rows["bridge"]) == (20, -2.0, 1e-3, None)
    assert rows["index_bytes"] == 20 * (8 + 4 * 8)
    assert rows["seconds"] > 0
    assert (found["before"]["name"], found["query_model"]["name"]) == ("old", "new")
    assert not found["found_after_rollback"]
    assert found["gates"] == [None]
    # the verdict beside the edge is shown if it is about the same result
    for digest, shown in (("1" * 64, False), ("0" * 64, True)):
        check = GateCheck(name="mAP", value=0.2, bound=0, passed=True, says="mAP gained 0.2")
        verdict = GateOutcome(passed=True, checks=(check,), result_digest=digest)
        (tmp_path / "gate.json").write_text(verdict.to_json(), encoding="utf-8")
        out = run("upgrade", "plan", gallery, made / "new", "--edge", edge).stdout
        assert ("gate: pass  mAP gained 0.2" in out) == shown
        assert ("verdict is not beside" in out) == (not shown)
    last = out.splitlines()[-1]
    assert last == f"next: mixbct upgrade apply {gallery} {made / 'new'} --edge {edge}"
    assert run_json("status", gallery)["query_model"]["name"] == "old"  # it was looked at alone

    status = run_json("upgrade", "apply", gallery, made / "new", "--edge", edge)
    assert status["contracts"][0]["cached_rows"] == 20  # the index was built before
    run("enrol", gallery, "--bank", made / "new.bank", "--replace")
    out = run("upgrade", "status", gallery).stdout
    assert "searched by new" in out
    assert "20 of 20 rows are of new" in out
    assert "a rollback brings back old" in out
    assert out.splitlines()[-1] == f"next: mixbct upgrade rollback {gallery}"
    done = run_json("upgrade", "rollback", gallery)
    assert (done["query_model"]["name"], done["before"]["name"]) == ("old", "new")
    assert (done["given_back"], done["left_out"]) == (20, [])
    hits = run_json("search", gallery, image(made, 3, 1))["queries"][0]["hits"]
    assert hits[0]["label"] == "class3"
    switches = run_json("upgrade", "status", gallery)["switches"]
    assert [(s["model"]["contract"]["name"], s["before"], s["restores"]) for s in switches] == [
        ("old", None, None),
        ("new", 1, None),
        ("old", None, 1),
    ]
    assert "brings back switch 1" in run("upgrade", "status", gallery).stdout
    with pytest.raises(GalleryError, match="nothing to go back to"):
        run("upgrade", "rollback", gallery)


def test_rows_that_came_since_are_named_and_left_out_when_asked(tmp_path, made, run, run_json):
    path = tmp_path / "gallery"
    run("init", path, "--model", made / "old")
    bank = FeatureBank(made / "old.bank")
    with Gallery.open(path) as opened:
        opened.enrol(["a"], [None], bank.features[:1], bank.manifest.contract)
    run("upgrade", "apply", path, "--edge", made / "edge.json")  # whose folder is not known
    assert run_json("status", path)["model_folder"] is None
    run("upgrade", "apply", path, made / "new")
    run("enrol", path, "--bank", made / "new.bank")
    with pytest.raises(ContractError, match=r"20 items .*class0/0\.png, .*--leave-out"):
        run("upgrade", "rollback", path)
    assert run_json("status", path)["rows"] == 21
    backward = Edge.model_validate_json((made / "edge.json").read_text(encoding="utf-8"))
    backward = backward.model_copy(
        update={"from_contract": backward.to_contract, "to_contract": backward.from_contract}
    )
    (tmp_path / "back.json").write_text(backward.to_json(), encoding="utf-8")
    other = tmp_path / "other"
    shutil.copytree(path, other)
    done = run_json("upgrade", "rollback", other, "--edge", tmp_path / "back.json")
    assert done["left_out"] == []
    assert run_json("status", other)["rows"] == 21
    done = run_json("upgrade", "rollback", path, "--leave-out")
    assert len(done["left_out"]) == 20
    assert run_json("status", path)["rows"] == 1


def test_items_are_taken_out_and_forgotten(tmp_path, made, run, run_json, gallery):
    for wrong in (["nothing"], ["class1/0.png", "nothing"]):
        with pytest.raises(GalleryError, match=r"1 of . keys are not in the gallery \(nothing\)"):
            run("remove", gallery, *wrong)
    assert "1 items taken out" in run("remove", gallery, "class1/0.png").stdout
    (tmp_path / "keys.txt").write_text("class1/1.png\nclass1/2.png\n", encoding="utf-8")
    status = run_json("remove", gallery, "class1/3.png", "--keys", tmp_path / "keys.txt")
    assert status["rows"] == 16
    (found,) = run_json("search", gallery, image(made, 1, 0), "-k", 20)["queries"]
    assert {hit["label"] for hit in found["hits"]} == {f"class{i}" for i in (0, 2, 3, 4)}
    assert "4 earlier versions of items forgotten" in run("prune", gallery).stdout
    content = b"".join(path.read_bytes() for path in gallery.iterdir())
    assert b"class1/0.png" not in content
    assert b"class2/0.png" in content


def test_an_upgrade_needs_a_model_or_an_edge(run, gallery):
    for verb in ("plan", "apply"):
        with pytest.raises(GalleryError, match="an edge that leads from it"):
            run("upgrade", verb, gallery)


def test_a_bank_stands_for_a_model(made, run, run_json, gallery):
    run("upgrade", "apply", gallery, made / "new.bank", "--edge", made / "edge.json")
    status = run_json("status", gallery)
    assert (status["query_model"]["name"], status["model_folder"]) == ("new", None)


def test_a_backfill_while_hits_are_counted(tmp_path, made, gallery, run, run_json):
    run("upgrade", "apply", gallery, made / "new", "--edge", made / "edge.json")
    run("search", gallery, image(made, 1, 0), "-k", 2)
    with pytest.raises(GalleryError, match="--count-hits"):
        run("backfill", gallery, made / "data", "--order", "hits")
    found = run_json("search", gallery, image(made, 1, 0), "-k", 2, "--count-hits")
    keys = {hit["key"] for hit in found["queries"][0]["hits"]}
    report = run_json("backfill", gallery, made / "data", "--order", "hits", "--limit", 2)
    assert (report["replaced"], report["own_rows"], report["rows"]) == (2, 2, 20)
    with Gallery.open(gallery) as opened, opened.read() as snapshot:
        (block,) = snapshot.blocks(load_model(made / "new").contract)
    assert set(block.keys) == keys
    assert "embedded by the query model: 2 of 20 rows (10.0%)" in run("status", gallery).stdout

    images = tmp_path / "images"
    shutil.copytree(made / "data", images)
    (images / "class0" / "0.png").unlink()
    (images / "class1" / "1.png").write_bytes(b"no image")
    result = run("backfill", gallery, images, "--rate", "500/s", "--share", 0.5)
    assert "by new" in result.stdout
    assert "10 of 20 rows (50.0%)" in result.stdout
    result = run("backfill", gallery, images)
    assert "left out 1 images that cannot be read, whose items stay as they are: class1/1.png" in (
        result.stderr
    )
    assert "left out 1 items without an image, which stay as they are: class0/0.png" in (
        result.stderr
    )
    assert f"next: mixbct gallery status {gallery}" in result.stdout
    assert run_json("status", gallery)["own_rows"] == 18
    for rate in ("0", "-1/s", "fast", "nan", "inf"):
        assert run("backfill", gallery, images, "--rate", rate).exit_code == 2
