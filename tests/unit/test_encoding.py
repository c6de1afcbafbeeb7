"""Files are UTF-8 whatever the locale: every place that opens text says so."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mixbct
from mixbct.data import open_source
from mixbct.data.split import make_split

ROOT = Path(mixbct.__file__).parent


def unnamed(tree: ast.AST) -> Iterator[str]:
    """Yield the calls that open text in the encoding of whatever locale there is."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        words = [ast.unparse(a) for a in node.args]
        if "encoding" in given:
            continue
        if name == "write_text" or (name == "read_text" and not words):
            yield ast.unparse(node)
        mode = given.get("mode") or next((w for w in words if w.strip("'rwaxb+") == ""), None)
        opens = name == "open" and (isinstance(node.func, ast.Name) or mode or not words)
        if opens and "b" not in (mode or ""):
            yield ast.unparse(node)
        if {"text", "universal_newlines"} & given.keys():
            yield ast.unparse(node)


def test_every_text_file_is_opened_as_utf_8() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {call}"
        for path in sorted(ROOT.rglob("*.py"))
        for call in unnamed(ast.parse(path.read_text("utf-8")))
    }
    assert found == set()


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("p.read_text()", True),
        ("p.read_text('utf-8')", False),
        ("p.write_text(x)", True),
        ("p.write_text(x, encoding='utf-8')", False),
        ("p.open()", True),
        ("p.open('w')", True),
        ("p.open('rb')", False),
        ("open(p)", True),
        ("open(p, 'a', encoding='utf-8')", False),
        ("Gallery.open(path)", False),
        ("subprocess.run(c, text=True)", True),
        ("subprocess.run(c)", False),
    ],
)
def test_the_check_sees_what_it_should(code: str, wrong: bool) -> None:
    assert bool(list(unnamed(ast.parse(code)))) is wrong


def test_a_verb_in_a_locale_that_is_not_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kanji for class names, from the command line to files and back to the terminal."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.normal(size=(40, 4)).astype(np.float32))
    names = [name for name in "亜唖娃阿哀愛挨姶逢葵" for _ in range(4)]
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    keys = "\n".join(f"{name}/{i}" for i, name in enumerate(names))
    (tmp_path / "keys.txt").write_text(keys, encoding="utf-8")
    # no locale but C, and without the mode that makes Python use UTF-8 in it
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment |= {"PYTHONPATH": str(ROOT.parent)}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", "from mixbct.cli import main; main()", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8")

    bank = ["--features", "v.npy", "--labels", "labels.txt", "--keys", "keys.txt"]
    run("data", "bank", *bank, "--contract", "old", "--out", "bank")
    monkeypatch.chdir(tmp_path)
    make_split(open_source(Path("bank")), Path("split"), test_classes=3, query_share=0.5)
    words = ["eval", "--old", "bank", "--new", "bank", "--data", "bank", "--split", "split"]
    run(*words, "--replicates", "100")
    result = tmp_path / "result.json"
    text = result.read_text("utf-8").replace('"title": "bank"', '"title": "古い"')
    result.write_text(text, encoding="utf-8")
    # the result as it is, to a terminal that says it knows no kanji
    assert "古い" in run(*words, "--replicates", "100", "--resume", "--json")
