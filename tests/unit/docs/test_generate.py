"""What the documentation site makes at build time says what the package and the results say."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from docs.generate import figures, hooks
from docs.generate.commands import command_pages
from docs.generate.python_names import python_page
from docs.generate.recipe_keys import bench_page, meaning, recipe_page
from pydantic import BaseModel

import mixbct
from mixbct import recipe as recipes
from mixbct.cli.verbs import VERBS
from mixbct.recipe import Settings
from mixbct.workflows.bench import recipe as benches


def test_every_verb_has_a_page_with_its_options() -> None:
    pages = command_pages()
    assert list(pages) == list(VERBS)
    assert "## mixbct gallery import\n" in pages["gallery"]
    assert "| `--far <float>` | False-accept rate to accept at [the edge's]. |" in pages["gallery"]
    assert "[default: 0.015]" in pages["gate"]
    assert "mixbct gate [OPTIONS] {result}" in pages["gate"]
    for page in pages.values():
        table = [line for line in page.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in table)


SECTIONS = [
    section
    for module in (recipes, benches)
    for section in vars(module).values()
    if isinstance(section, type)
    and issubclass(section, Settings)
    and section.__module__ == module.__name__
]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_meaning(section: type[BaseModel]) -> None:
    for key, schema in section.model_json_schema().get("properties", {}).items():
        inherited = key not in section.__annotations__
        if not inherited and "const" not in schema and "$ref" not in str(schema):
            assert meaning(section, key), key


def test_recipe_keys_have_type_default_and_bounds() -> None:
    page = recipe_page()
    for row in (
        "| `margin` | number, ≥ 0, < 1.5707 | `0.5` | radians |",
        "| `path` | path | required | a folder of class folders, an image array, or a feature bank",
        "| `flip` | true or false | `false` | random horizontal flip |",
        "| `whiten` | number, > 0, ≤ 1 | none |",
        '| `start` | `"auto"`, `"procrustes"`, `"ridge"`, `"random"` | `"auto"` |',
        "| `refresh` | list of whole number, ≥ 0 | `[1, 5, 10, 20]` |",
    ):
        assert row in page
    assert page.count("| `bank` |") == 1, "what methods share stands once"
    assert page.count("### ") == 0
    for name in ("arcface", "softmax", "unibct", "mixbct", "adamw"):
        assert f'name = "{name}"' in page
    assert "## `[[matrix]]`" in bench_page()
    assert "## `[old.NAME]`" in bench_page()


def test_every_public_name_is_on_the_page() -> None:
    page = python_page()
    for name in mixbct.__all__:
        assert (f"heading: {name}\n" in page) == (not name.startswith("_"))
    assert "::: mixbct.gallery.gallery.Gallery\n" in page


def test_figures_are_those_of_the_summary() -> None:
    summary = json.loads((figures.RESULTS / "glyphs/summary.json").read_text())
    (table,) = (
        t for t in summary["tables"] if (t["old"], t["scenario"]) == ("softmax-128", "open-class")
    )
    (row,) = (r for r in table["rows"] if r["method"] == "nccl")
    wanted = f"{100 * row['cross']['mAP']['mean']['value']:.1f}"
    assert figures.fill_in('{{ cross("open-class", "nccl") }} %\n') == f"{wanted} %\n"
    assert figures.base("open-class") == f"{100 * table['base']['mAP']['mean']['value']:.1f}"
    assert figures.gates("open-class", "nccl") == f"{row['gates_passed']} of 3"
    line = next(x for x in figures.places("nccl").splitlines() if x.startswith("| open-class"))
    better = sum(
        other["cross"]["mAP"]["mean"]["value"] > row["cross"]["mAP"]["mean"]["value"]
        for other in table["rows"]
        if other["cross"]
    )
    assert f"| {wanted} ({better + 1}/" in line
    assert f"| `nccl` | {wanted} [" in figures.compared("open-class", "nccl")
    published = (figures.RESULTS / "faces.md").read_text()
    assert f"| ridge | {figures.faces('ridge')} [" in published
    assert f"| both queries | {figures.faces('both queries')} [" in published


@pytest.mark.parametrize("text", ['{{ cross("open-class", "no such") }}', "{{ nothing }}"])
def test_a_figure_that_is_not_there_stops_the_build(text: str) -> None:
    with pytest.raises(Exception, match=r"no such|nothing"):
        figures.fill_in(text)


def test_what_is_of_the_repository_alone_is_named_and_not_linked() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="how-to/x.md"), meta={})
    text = "[a](../onnx.md), [the example](../../examples/onnx_search.py), ![p](../demo.png)"
    assert hooks.on_page_markdown(text, page, None, None) == (  # type: ignore[arg-type]
        "[a](../onnx.md), the example (`examples/onnx_search.py`), ![p](../demo.png)"
    )


def test_the_site_fetches_nothing() -> None:
    shim = (Path(hooks.__file__).parents[1] / "javascripts/iframe-worker.js").read_text()
    assert "http" not in shim
    settings = (Path(hooks.__file__).parents[2] / "mkdocs.yml").read_text()
    assert "font: false" in settings
    assert "iframe-worker" in settings, "else the theme takes one from a network"
    assert "http" not in settings
