"""docs/licences.md says of every dependency what its installed metadata declares."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(name: str) -> str:
    """Return the licence that a package declares: its expression, or else its classifiers."""
    found = metadata(name)
    every = found.get_all("Classifier") or []
    named = [each.rpartition(" :: ")[2] for each in every if each.startswith("License :: OSI")]
    return str(found.get("License-Expression") or " AND ".join(named) or found.get("License"))


def names_of(requirements: Iterable[str]) -> list[str]:
    names = [re.split(r"[\[<>=]", each)[0] for each in requirements]
    return [name for name in names if name != "mixbct"]


def test_every_dependency_stands_there_with_its_licence() -> None:
    needed = {"Needed": PROJECT["dependencies"]}
    for extra, requirements in PROJECT["optional-dependencies"].items():
        needed[f"Extra `{extra}`" if extra != "dev" else "For work on mixbct itself"] = requirements
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(sections) == len(needed)
    seen = 0
    for title, requirements in needed.items():
        (section,) = (each for each in sections if each.startswith(title))
        rows = dict(re.findall(r"^\| (\S+) \| (.+) \|$", section, re.MULTILINE)[2:])
        assert list(rows) == names_of(requirements), title
        for name, licence in rows.items():
            try:
                assert licence == declared(name), name
            except PackageNotFoundError:
                continue  # an extra that tests do without
            seen += 1
    assert seen > 25
