"""What stands where, read from the sources: levels of import, sizes, docstrings."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixbct

ROOT = Path(mixbct.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

LEVELS = {
    "errors": 1,
    "files": 1,
    "schemas": 1,
    "reading": 1,
    "recipe": 1,
    "recipe_parsing": 1,
    "distributed": 1,
    "data": 2,
    "backbones": 2,
    "features": 3,
    "heads": 3,
    "methods": 4,
    "adapters": 4,
    "evaluation": 4,
    "export": 4,
    "training": 5,
    "gallery": 5,
    "report": 5,
    "workflows": 6,
    "web": 7,
    "cli": 8,
}
"""Folder or top-level module → its level in docs/design.md."""

FORBIDDEN = {"torchvision", "mxnet", "pickle", "cPickle", "dill", "joblib"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Return the folder, or top-level module, that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of every module (or thing in it) that is imported, anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def refused_imports(part: str, tree: ast.AST) -> list[str]:
    """Return the imports from the package that a module of `part` may not have."""
    refused = []
    for name in imports_of(tree):
        words = name.split(".")
        if words[0] != "mixbct" or words[1:2] == ["__version__"]:
            continue
        # `import mixbct` alone gives the version, to those that show it
        if len(words) == 1:
            if part not in ("cli", "workflows"):
                refused.append(name)
            continue
        both_first = LEVELS[part] == LEVELS.get(words[1]) == 1
        if words[1] == part or both_first:
            continue
        if LEVELS.get(words[1], 99) >= LEVELS[part]:
            refused.append(name)
    return refused


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in FILES:
        yield path, ast.parse(path.read_text())


def test_every_part_has_a_level() -> None:
    parts = {part_of(path) for path in FILES} - {"__init__", "__main__"}
    assert parts == set(LEVELS)


def test_modules_import_from_below_alone() -> None:
    refused = {
        name_of(path): found
        for path, tree in trees()
        if part_of(path) in LEVELS and (found := refused_imports(part_of(path), tree))
    }
    assert refused == {}


@pytest.mark.parametrize(
    ("part", "line", "fine"),
    [
        ("training", "from mixbct.data.bank import FeatureBank", True),
        ("training", "from mixbct.training.run import stop_on_signal", True),
        ("schemas", "from mixbct.errors import MixbctError", True),
        ("data", "from mixbct import backbones", False),
        ("data", "import mixbct.backbones.model", False),
        ("training", "from mixbct.gallery.gallery import Gallery", False),
        ("heads", "from mixbct.methods import METHODS", False),
        ("recipe", "from mixbct.data.source import Source", False),
        ("data", "def f():\n    from mixbct.cli.verbs import app", False),
        ("data", "from mixbct.nowhere import x", False),
    ],
)
def test_the_check_sees_what_it_should(part: str, line: str, fine: bool) -> None:
    assert (refused_imports(part, ast.parse(line)) == []) is fine


def test_nothing_imports_what_is_forbidden() -> None:
    found = {
        f"{name_of(path)}: {name}"
        for path, tree in trees()
        for name in imports_of(tree)
        if name.split(".")[0] in FORBIDDEN
    }
    # whose reader of the standard library has its operations and names replaced
    assert found == {"data/plain_pickle.py: pickle"}


def unsafe_calls(tree: ast.AST) -> list[str]:
    """Return calls that would execute what a file says: pickles and the like."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        given = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if call == "torch.load" and given.get("weights_only") != "True":
            found.append(ast.unparse(node))
        if given.get("allow_pickle", "False") != "False" or call in ("eval", "exec"):
            found.append(ast.unparse(node))
    return found


def test_no_file_is_ever_executed() -> None:
    assert {name_of(p): found for p, tree in trees() if (found := unsafe_calls(tree))} == {}
    for line in (
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=1)",
    ):
        assert unsafe_calls(ast.parse(line))
    assert not unsafe_calls(ast.parse("torch.load(p, weights_only=True)"))


def test_modules_stay_small() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: count for name, count in lines.items() if count > 350} == {}


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Yield the public classes, functions and methods without a docstring."""

    def visit(body: list[ast.stmt], prefix: str) -> Iterator[str]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from visit(node.body, f"{prefix}{node.name}.")

    yield from visit(tree.body, "")


def test_everything_public_has_a_docstring() -> None:
    missing = [f"{name_of(p)}: {name}" for p, tree in trees() for name in undocumented(tree)]
    assert missing == []
    empty = [name_of(p) for p, tree in trees() if tree.body and ast.get_docstring(tree) is None]
    assert empty == []
    sample = "class A:\n    '''A.'''\n    def f(self): ...\n    def _g(self): ..."
    assert list(undocumented(ast.parse(sample))) == ["A.f"]
