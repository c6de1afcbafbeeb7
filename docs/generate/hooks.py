"""What mkdocs calls while it builds the site: generated pages, figures, links that leave docs/."""

import posixpath
import re
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs.generate.commands import command_pages
from docs.generate.figures import RESULTS, fill_in
from docs.generate.python_names import python_page
from docs.generate.recipe_keys import bench_page, recipe_page

COMMANDS = "reference/commands"
UNSEARCHED = ("design.md", "log.md")
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the verbs' pages where the navigation has `Commands`."""
    _fill(config.nav or [], [f"{COMMANDS}/{name}.md" for name in command_pages()])
    return config


def _fill(nav: list[Any], pages: list[str]) -> None:
    for entry in nav:
        for title, content in entry.items() if isinstance(entry, dict) else ():
            if isinstance(content, list):
                _fill(content, pages)
            elif title == "Commands":
                entry[title] = pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated, and each bench's own HTML page under another name."""
    pages = {f"{COMMANDS}/{name}.md": page for name, page in command_pages().items()}
    pages["reference/recipe.md"] = recipe_page()
    pages["reference/bench-recipe.md"] = bench_page()
    pages["reference/python.md"] = python_page()
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for page in RESULTS.glob("*/index.html"):
        place = f"results/{page.parent.name}/figures.html"
        files.append(File.generated(config, place, abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Fill in figures, and turn links to files that are not of the site into their names."""
    path = page.file.src_uri
    if path.startswith(("methods/", "results/", "concepts/expect")):
        page.meta["hide"] = ["toc"]  # wide tables and formulas
    if path in UNSEARCHED:
        page.meta["search"] = {"exclude": True}
    elif path.startswith(("concepts/", "methods/")):
        markdown = fill_in(markdown)
    elif path.startswith("results/"):
        markdown = markdown.replace("/index.html)", "/figures.html)")
    return _LINK.sub(lambda link: _kept(link, posixpath.dirname(path)), markdown)


def _kept(link: re.Match[str], folder: str) -> str:
    """Return a link as it stands, or the name of a file of the repository that it leads to."""
    target = posixpath.normpath(posixpath.join(folder, link[2]))
    if not target.startswith("../"):
        return link[0]
    place = f"`{target.removeprefix('../')}`"
    return place if link[1] in (place, place.strip("`")) else f"{link[1]} ({place})"
