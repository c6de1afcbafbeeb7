"""The README's pages: their commands run as they stand there, but for a shorter training."""

import re
import shlex
from pathlib import Path

from mixbct.schemas.gate import Edge
from mixbct.schemas.result import Result

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs/own-images.md").read_text()
SHORTER = ["--set", "train.epochs=2", "--set", "train.batch=16", "--set", "model.size=32"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def write_edge(folder: Path) -> None:
    """Write the edge that a passed gate would have written."""
    result = Result.model_validate_json((folder / "result.json").read_bytes())
    edge = Edge(
        from_contract=result.models["new"],
        to_contract=result.models["old"],
        result_digest=result.digest(),
        threshold=result.carried_threshold.threshold,
        far=result.carried_threshold.far,
    )
    (folder / "edge.json").write_text(edge.to_json())


def test_the_commands_on_ones_own_images(mixbct, photos: Path, monkeypatch) -> None:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 18
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "mixbct"
        if words[0] == "train":
            words += SHORTER
        if words[0] == "gate":
            # the gate must refuse a test set of so few pairs, and the gallery a missing edge
            refused = mixbct(*words, cwd=photos, expect=1)
            assert "impostor pairs" in refused.stdout
            assert not (photos / "runs/edge.json").exists()
        elif words[1] == "apply":
            assert "edge" in mixbct(*words, cwd=photos, expect=2).stderr
            write_edge(photos / "runs")
            mixbct(*words, cwd=photos)
        else:
            assert mixbct(*words, cwd=photos).stdout
    assert (photos / "runs/report.html").exists()

    # the Python of the page, on what the commands left
    monkeypatch.chdir(photos)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    assert len(names["hits"].of(0)) == 5  # type: ignore[attr-defined]


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere() -> None:
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs/results").glob("*.md"),
    ]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
