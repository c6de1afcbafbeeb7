"""`mixbct gallery …` and `mixbct upgrade …` with a URL, whose password nobody ever sees."""

import json
import shlex
import sys
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
import torch

from mixbct.backbones.model import build_backbone, contract_of, save_model
from mixbct.cli import verbs
from mixbct.data.bank import FeatureBank
from mixbct.gallery import Gallery
from mixbct.schemas.bridge import Bridge
from mixbct.schemas.gate import Edge
from mixbct.schemas.linear_map import LinearMap
from mixbct.schemas.model import ModelManifest, Preprocessing

SECRET = "p4ssw0rd-of-nobody"


@pytest.fixture
def url(postgres_url):
    """Return the URL of a database for a role that is asked for its password, with it."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute(
            "DROP ROLE IF EXISTS clerk; "
            f"CREATE ROLE clerk LOGIN PASSWORD '{SECRET}'; "
            f"GRANT CREATE ON DATABASE {admin.info.dbname} TO clerk; "
            "GRANT CREATE ON SCHEMA public TO clerk"
        )
        if admin.execute("SELECT FROM pg_roles WHERE rolname = 'guarded'").fetchone() is None:
            admin.execute("CREATE ROLE guarded")
        admin.execute("GRANT guarded TO clerk")
        parts = urlsplit(postgres_url)
        host = parts.netloc.rpartition("@")[2]
        yield parts._replace(netloc=f"clerk:{SECRET}@{host}").geturl()
        admin.execute("DROP OWNED BY clerk; DROP ROLE clerk")


@pytest.fixture
def run(capfd, monkeypatch, tmp_path):
    """Run a command; return its code and all that it printed, which never holds the password."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mixbct", *map(str, words)])
        code = verbs.run(lambda: None)
        said = capfd.readouterr()
        assert SECRET not in said.out + said.err, words
        written = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in written if SECRET.encode() in path.read_bytes()]
        return code, said.out, said.err

    return run


@pytest.fixture
def banks(run, tmp_path):
    """Return two banks of the same twelve items, of two encoders."""
    rng = np.random.default_rng(0)
    (tmp_path / "keys.txt").write_text("".join(f"k{i}\n" for i in range(12)))
    for name in ("old", "new"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(12, 8)).astype(np.float32))
        code, _, err = run(
            *f"data bank --features {name}.npy --keys keys.txt --labels keys.txt".split(),
            *f"--contract {name} --out {name}.bank".split(),
        )
        assert code == 0, err
    return [FeatureBank(tmp_path / f"{name}.bank") for name in ("old", "new")]


def test_every_verb_takes_a_url(run, url, banks, tmp_path):
    old, new = (bank.manifest.contract for bank in banks)
    side = LinearMap.of(np.random.default_rng(1).normal(size=(8, 8)))
    bridge = Bridge(kind="test", source=new, target=old, gallery=side)
    edge = Edge(
        from_contract=new,
        to_contract=old,
        result_digest="0" * 64,
        threshold=0.5,
        far=1e-3,
        bridge=bridge,
    )
    (tmp_path / "edge.json").write_text(edge.to_json())
    Gallery.create(url, old).close()
    place = url.replace(f":{SECRET}", "")
    for words, says in (
        (f"gallery enrol {url} --bank old.bank", "12 items added"),
        (f"gallery search {url} --bank old.bank --row 3", "k3"),
        (f"gallery status {url} --verify", "every row and record is as it was stored"),
        (f"upgrade plan {url} new.bank --edge edge.json", "12"),
        (f"upgrade apply {url} new.bank --edge edge.json", place),
        (f"gallery search {url} --bank new.bank --row 3 --json", '"exact": true'),
        (f"gallery reindex {url} --index pgvector-hnsw", "not exact, recall at 10 of 1.0000"),
        (f"gallery search {url} --bank new.bank --row 3 --json", '"exact": false'),
        (f"gallery status {url}", "searched by pgvector-hnsw; the gate judged exact search"),
        (f"gallery export {url} --out files", "12 rows of 1 contracts, as numpy"),
        (f"gallery export {url} --to {url} --table mine --column v", "12 rows written"),
        (f"upgrade status {url}", place),
        (f"upgrade rollback {url}", place),
        (f"gallery reindex {url} --index exact --json", '"recall": 1.0'),
        (f"gallery remove {url} k3", place),
        (f"gallery prune {url}", place),
    ):
        code, out, err = run(*shlex.split(words))
        assert code == 0, (words, err)
        assert says in out, (words, out)
    manifest = json.loads((tmp_path / "files" / "manifest.json").read_text())
    assert manifest["gallery"] == place


def test_a_gallery_is_made_at_a_url_with_its_index(run, url, tmp_path):
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=32, channels=1)
    backbone = build_backbone("small", 8, preprocessing, {"width": 2})
    contract = contract_of("model", backbone, preprocessing, 8)
    manifest = ModelManifest(backbone="small", options={"width": 2}, contract=contract)
    save_model(tmp_path / "model", manifest, backbone)
    index = f"milvus:{tmp_path}/vectors.db?index=FLAT"
    code, out, err = run("gallery", "init", url, "--model", "model", "--index", index, "--json")
    assert code == 0, err
    assert json.loads(out)["searched_by"] == index
    code, _, err = run("gallery", "init", url, "--model", "model")
    assert code == 2
    assert "already" in err
    code, _, err = run("gallery", "init", "folder", "--model", "model", "--index", "pgvector-hnsw")
    assert code == 2
    assert "always searches exactly" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("gallery status postgresql://u:{0}@127.0.0.1:1/db", "cannot be reached"),
        ("gallery status postgresql://u:{0}@x@127.0.0.1:1/db", "cannot be read"),
        ("gallery status mysql://u:{0}@127.0.0.1:1/db", "names no store"),
        ("train postgresql://u:{0}@h/db --out run", "no recipe"),
        ("gallery enrol postgresql://u:{0}@h/db --bank postgresql://u:{0}@h/db", "h/db"),
        ("gallery export folder --out x --form postgresql://u:{0}@h/db", "numpy"),
        ("gallery postgresql://u:{0}@h/db", "No such command"),
        ("gallery reindex folder --index milvus://u:{0}@h:19530", "folder"),
    ],
)
def test_what_fails_shows_no_password(run, words, says):
    code, _, err = run(*words.format(SECRET).split())
    assert code == 2, err
    assert says in err


def test_a_wrong_password_is_not_shown(run, url):
    code, _, err = run("gallery", "status", url.replace(SECRET, SECRET + "-wrong"))
    assert (code, "password is wrong" in err) == (2, True)


def test_a_fault_is_reported_without_a_password(run, url, monkeypatch, tmp_path):
    def fail(*_):
        raise KeyError(f"connect to {url}")

    monkeypatch.setattr("mixbct.cli.gallery.Gallery.open", fail)
    code, _, _ = run("gallery", "status", url)
    assert code == 4
    (report,) = tmp_path.glob("mixbct-fault-*.txt")
    assert "clerk:***@" in report.read_text()
