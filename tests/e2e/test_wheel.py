"""From the wheel alone: built, installed into an environment of its own, and walked through."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import pytest
from nursery import EVERY_VERB
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CLEAN = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
SHORTER = ["--set", "train.epochs=1", "--set", "train.batch=16", "--set", "model.size=32"]


NOT_OURS = (
    ".git",
    ".venv",
    "runs",
    "site",
    "build",
    "dist",
    "__pycache__",
    "*.egg-info",
    ".*_cache",
)


def quietly(*command: object) -> None:
    """Run a command; fail with what it says."""
    words = list(map(str, command))
    done = subprocess.run(words, env=CLEAN, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of the tree, and what was built of it: dist, and from-tree."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", symlinks=True, ignore=shutil.ignore_patterns(*NOT_OURS))
    build = [sys.executable, "-m", "build", "--no-isolation", folder / "tree", "--outdir"]
    quietly(*build, folder / "dist")  # the wheel from the source archive
    quietly(*build, folder / "from-tree", "--wheel")
    return folder


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_archive_and_wheel_hold_what_they_should(built: Path) -> None:
    (archive,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {name.partition("/")[2] for name in opened.getnames()}
    missing = files_in(built / "tree") - packed
    assert {name for name in missing if not name.startswith((".", "build/"))} == set()

    wheels = [next((built / where).glob("*.whl")) for where in ("dist", "from-tree")]
    contents = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as opened:
            contents.append({entry.filename: entry.CRC for entry in opened.infolist()})
            described = next(name for name in opened.namelist() if name.endswith("/METADATA"))
            metadata = opened.read(described).decode()
    assert contents[0] == contents[1]
    inside = {name for name in contents[0] if name.startswith("mixbct/")}
    assert inside == {f"mixbct/{name}" for name in files_in(built / "tree/src/mixbct")}
    assert {"mixbct/py.typed", "mixbct/recipes/new.toml", "mixbct/report/page.html.j2"} <= inside

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    version = settings["version"]  # the one place; metadata, `__version__` and names follow
    assert f"Version: {version}\n" in metadata
    assert all(f"mixbct-{version}-py3-none-any" == wheel.stem for wheel in wheels)
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\n" in cited
    assert f"\nlicense: {settings['license']}\n" in cited


def needed(name: str, known: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """Return what an installed distribution requires, without extras, and what that requires."""
    known = {} if known is None else known
    for line in distribution(name).requires or ():
        required = Requirement(line)
        key = canonicalize_name(required.name)
        if key not in known and (required.marker is None or required.marker.evaluate()):
            known[key] = distribution(key)
            needed(key, known)
    return known


@pytest.fixture(scope="module")
def program(built: Path) -> Path:
    """Return the command that an installed wheel brings along.

    Beside it the environment has what the wheel requires and nothing else, as links to files
    that are installed here, since a gigabyte takes a minute to unpack once more.
    """
    (wheel,) = (built / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    venv.create(built / "env", with_pip=False)
    python = built / "env" / "bin" / "python"
    here, there = (
        Path(sysconfig.get_path("purelib", vars={"base": base, "platbase": base}))
        for base in (sys.prefix, str(built / "env"))
    )
    for each in needed("mixbct").values():
        for file in each.files or ():
            source, target = here / file, there / file
            if ".." not in file.parts and source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(source, target)
    quietly(*pip, "--python", python, "install", "--no-deps", wheel)
    quietly(*pip, "--python", python, "check")  # as new as the wheel asks for, and all there
    return built / "env" / "bin" / "mixbct"


def link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


FORKED = """
words, folder = json.loads(line)
os.chdir(folder)
sys.argv = ["mixbct", *words]
for number, name in ((1, "stdout"), (2, "stderr")):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
if words == ["where"]:
    sys.exit(print(mixbct.__file__))
main()
"""


@pytest.mark.timeout(900)
def test_a_walk_without_the_repository(
    program: Path, photos: Path, nursery: Callable[..., Any]
) -> None:
    (photos / "recipes").unlink()
    done = subprocess.run([program, "recipes", "list"], env=CLEAN, capture_output=True, text=True)
    assert "ms1mv3/new-mixbct" in done.stdout, done.stderr
    before = "import json, torch._dynamo, mixbct\nfrom mixbct.cli import main"
    born = nursery(EVERY_VERB + before, FORKED, program.with_name("python"))

    def run(words: str, *more: str, expect: int = 0) -> str:
        born.fork(json.dumps([[*words.split(), *more], str(photos)]))
        code, said = born.code(), (photos / "stdout").read_text()
        assert code == expect, f"{words}: {code}\n{said}{(photos / 'stderr').read_text()}"
        return said

    assert Path(run("where").strip()).is_relative_to(program.parents[1])
    # each command but the first is one that the one before named, its words in capitals filled in
    said = run("data split photos --out runs/split")
    assert "next: mixbct recipes copy old --data photos --split runs/split" in said
    assert "next: mixbct train old.toml" in run("recipes copy old --data photos --split runs/split")
    run("train old.toml --out runs/old", *SHORTER)
    run("extract runs/old --data photos --split runs/split --out runs/bank")
    assert "next: mixbct recipes copy new --data DATA --bank runs/bank" in run("denoise runs/bank")
    run("recipes copy new --data photos --split runs/split --bank runs/bank")
    run("train new.toml --out runs/new", *SHORTER)
    run(
        "eval --old runs/old --new runs/new --data photos --split runs/split --out runs/result.json"
    )
    run("report runs/result.json")
    run("gate runs/result.json", expect=1)
    run("gallery init runs/gallery --model runs/old")
    run("gallery enrol runs/gallery --data photos --split runs/split --part gallery")
    assert "class-00" in run("gallery search runs/gallery photos/class-00/0.png -k 3")
