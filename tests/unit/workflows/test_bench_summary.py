import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixbct.errors import ResultError
from mixbct.report.bench import bench_table, failures, render_bench, to_markdown
from mixbct.report.tables import TRENDS
from mixbct.schemas.bench import BenchCell, BenchSummary, Choice, Score, Trial
from mixbct.schemas.record import read_record
from mixbct.schemas.result import Estimate
from mixbct.workflows.bench.draws import read_draws, write_draws
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.bench.run import choose
from mixbct.workflows.bench.summary import summarise

MINI = Path(__file__).parents[3] / "recipes/bench/mini.toml"


BEHIND = "cca: new/old"
GAINS = ("new/old − old/old", "new/new − independent/independent", f"{BEHIND} − old/old")
RECIPE = load_bench(
    MINI,
    ['old.o={model={dim=32},head={name="softmax"},optimizer={name="sgd"},train={epochs=1}}'],
)


def summary_of(cells: list[BenchCell], earlier: BenchSummary | None = None) -> BenchSummary:
    return summarise(RECIPE, cells, (), "mixbct bench <x>", {"source": "a & b"}, earlier)


@pytest.fixture
def cells(make_cell: Callable[..., BenchCell]) -> list[BenchCell]:
    ours = {"new/old": 0.7, "new/new": 0.8, BEHIND: 0.75}
    free = {"old/old": 0.6, "new/new": 0.8, "whiten/old": 0.65}
    # the first seed gains on each test, the second loses; behind cca both gain
    gains = {1: (0.1, 0.02, 0.15), 2: (-0.1, 0.02, 0.15)}
    return [
        *(make_cell("independent", s, **free) for s in (1, 2)),
        *(
            make_cell("mixbct", s, **ours, **dict(zip(GAINS, gains[s], strict=True)))
            for s in (1, 2)
        ),
        make_cell("l2", 1, **{"new/old": 0.65, "new/new": 0.7}),
        make_cell("l2", 2, error="it diverged"),
    ]


def test_means_and_intervals_are_those_of_a_slow_computation(cells: list[BenchCell]) -> None:
    table = summary_of(cells).tables[0]
    free, ours = cells[:2], cells[2:4]
    row = next(row for row in table.rows if row.method == "mixbct")
    for metric in ("mAP", "TAR@1e-4"):
        means = [
            sum(
                ours[s].drawn[f"new/old {metric}"][r] - free[s].drawn[f"old/old {metric}"][r]
                for s in range(2)
            )
            / 2
            for r in range(200)
        ]
        gain = row.cross_gain[metric]
        values = [
            ours[s].figures["new/old"][metric].value - free[s].figures["old/old"][metric].value
            for s in range(2)
        ]
        assert gain.seeds == pytest.approx(values, abs=1e-6)
        assert gain.mean.value == pytest.approx(sum(values) / 2, abs=1e-6)
        assert gain.mean.low == pytest.approx(np.percentile(means, 2.5), abs=1e-6)
        assert gain.mean.high == pytest.approx(np.percentile(means, 97.5), abs=1e-6)
    assert row.seeds == (1, 2)
    assert row.gates_passed == 1
    assert row.cost is not None
    assert (row.cost.cpu_seconds, row.cost.peak_memory) == (10.5, 2 * 2**20)
    assert not row.behind


def test_a_failed_cell_is_shown_and_its_seed_left_out(cells: list[BenchCell]) -> None:
    summary = summary_of(cells)
    row = next(row for row in summary.tables[0].rows if row.method == "l2")
    assert (row.seeds, row.failed) == ((1,), {2: "it diverged"})
    assert summary.failed == 1
    assert failures(summary.tables[0]) == ["l2, seed 2: it diverged"]
    assert "l2, seed 2: it diverged" in to_markdown(summary)
    assert "it diverged" in render_bench(summary)
    # against ours by the seed that there is
    ours = cells[2].figures["new/old"]["mAP"].value - cells[4].figures["new/old"]["mAP"].value
    assert row.behind["cross mAP"].mean.value == pytest.approx(ours, abs=1e-6)


def test_a_method_without_any_cell_is_a_row_that_says_why(
    cells: list[BenchCell], make_cell: Callable[..., BenchCell]
) -> None:
    broken = [*cells[:4], make_cell("l2", 1, error="no room"), cells[5]]
    summary = summary_of(broken)
    assert "failed: no room" in to_markdown(summary)
    assert bench_table(summary, summary.tables[0]).row_count == 4


def test_costs_name_their_device_where_a_table_has_several(cells: list[BenchCell]) -> None:
    def made_on(devices: dict[str, str]) -> BenchSummary:
        return summary_of(
            [c.model_copy(update={"versions": {"device": devices[c.method]}}) for c in cells]
        )

    one = made_on(dict.fromkeys(("independent", "mixbct", "l2"), "CPU X"))
    assert one.versions["device"] == "CPU X"
    assert "on CPU X" not in to_markdown(one)
    two = made_on({"independent": "CPU X", "mixbct": "GPU Y", "l2": "CPU X"})
    assert two.versions["device"] == "CPU X, GPU Y"
    lines = to_markdown(two).splitlines()
    assert "on GPU Y" in next(line for line in lines if line.startswith("| **mixbct**"))
    assert "on CPU X" in next(line for line in lines if line.startswith("| independent"))


def test_pages_escape_and_refer_to_nothing_outside(cells: list[BenchCell]) -> None:
    page = render_bench(summary_of(cells))
    assert "bench &lt;x&gt;" in page
    assert "a &amp; b" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "<svg" in page


NAME = "<script>alert(1)</script>|`*_x_*[a](b)\u202egnp"


def test_names_mean_nothing_in_markdown_and_on_the_page(cells: list[BenchCell]) -> None:
    summary = summary_of(cells)
    renamed = BenchSummary.model_validate_json(
        summary.model_dump_json()
        .replace("mixbct", json.dumps(NAME)[1:-1])
        .replace("it diverged", json.dumps(f"{NAME}\\n# head")[1:-1].replace("\\\\n", "\\n"))
    )
    renamed = renamed.model_copy(
        update={
            "title": NAME,
            "choices": (
                Choice(
                    method=NAME,
                    trial=0,
                    trials=(Trial(settings={"a": NAME}, cross=0.5, own=None),),
                ),
            ),
        }
    )
    text, page = to_markdown(renamed), render_bench(renamed)
    shown = r"&lt;script&gt;alert(1)&lt;/script&gt;\|\`\*\_x\_\*\[a\](b)gnp"
    lines = text.splitlines()
    assert lines[0] == f"# {shown}"
    assert any(line.startswith(f"| **{shown}** |") for line in lines)
    setting = NAME.replace("|", r"\|").replace("\u202e", "")
    assert f"| {shown} | `` a = {setting} `` | 50.0 | failed | chosen |" in lines
    outside = re.sub(r"(`+) .*? \1", "", text)
    assert "<script" not in outside
    assert "# head" not in lines
    assert "\u202e" not in text + page
    assert "<script" not in page
    assert "<h1>&lt;script&gt;" in page
    columns = {line.count("|") - line.count(r"\|") for line in lines if line.startswith("| ")}
    assert columns == {6, 11}


@pytest.mark.parametrize("name", ["glyphs", "omniglot"])
def test_what_is_published_is_what_its_summary_says(name: str) -> None:
    folder = MINI.parents[2] / "docs/results" / name
    summary = read_record(folder / "summary.json", BenchSummary, ResultError, "summary")
    assert to_markdown(summary) == (folder / "README.md").read_text(encoding="utf-8")
    assert render_bench(summary) == (folder / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["glyphs", "omniglot"])
def test_a_published_bench_is_summed_up_again_from_what_is_published(name: str) -> None:
    folder = MINI.parents[2] / "docs/results" / name
    published = read_record(folder / "summary.json", BenchSummary, ResultError, "summary")
    cells = [
        cell.model_copy(update={"drawn": read_draws(folder / "draws" / cell.id)})
        for path in sorted((folder / "cells").iterdir())
        if (cell := read_record(path, BenchCell, ResultError, "cell")).part == "test"
    ]
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) < 3_000_000
    recipe = load_bench(MINI.with_name(f"{name}.toml"))
    again = summarise(
        recipe, cells, published.choices, published.command, published.data, published
    )
    assert again.cpu_hours == pytest.approx(published.cpu_hours)
    assert again.model_copy(update={"cpu_hours": published.cpu_hours}) == published


def test_earlier_intervals_serve_figures_that_have_no_replicates(cells: list[BenchCell]) -> None:
    published = summary_of(cells)
    bare = [c if "mixbct" in c.id else c.model_copy(update={"drawn": {}}) for c in cells]
    again = summary_of(bare, published)
    # what is paired with the others' replicates cannot be made again
    rows = {row.method: row for row in published.tables[0].rows}
    assert rows.keys() == {"independent", "mixbct", "mixbct, cca", "l2"}
    for row in again.tables[0].rows:
        assert row == rows[row.method].model_copy(update={"behind": row.behind})
        assert not row.behind or row.method == "mixbct, cca"
    # a mean over other seeds, or of other figures, needs the replicates
    with pytest.raises(ResultError, match=r"without its bootstrap replicates.*add --replicates"):
        summary_of([cell for cell in bare if cell.seed == 1], published)
    changed = bare[1].model_copy(update={"figures": bare[0].figures})
    with pytest.raises(ResultError, match="add --replicates"):
        summary_of([bare[0], changed, *bare[2:]], published)
    with pytest.raises(ResultError, match="add --replicates"):
        summary_of(bare)


def test_a_model_behind_a_bridge_is_a_row_of_its_own(cells: list[BenchCell]) -> None:
    (table,) = summary_of(cells).tables
    plain, behind = (
        next(row for row in table.rows if row.method == name) for name in ("mixbct", "mixbct, cca")
    )
    wanted = [cell.figures[BEHIND]["mAP"].value for cell in cells[2:4]]
    assert behind.cross["mAP"].seeds == pytest.approx(wanted, abs=1e-6)
    assert behind.own == plain.own
    assert (behind.mixed, behind.cost) == ({}, None)
    assert (plain.gates_passed, behind.gates_passed) == (1, 2)
    gain = plain.cross["mAP"].mean.value - behind.cross["mAP"].mean.value
    assert behind.behind["cross mAP"].mean.value == pytest.approx(gain, abs=1e-6)
    assert behind.behind["self mAP"].mean.value == 0
    assert table.whitened["mAP"].mean.value == pytest.approx(0.65, abs=0.01)


def test_gates_are_judged_by_todays_rules(
    cells: list[BenchCell], monkeypatch: pytest.MonkeyPatch
) -> None:
    def passed(of: list[BenchCell]) -> dict[str, int]:
        rows = summary_of(of).tables[0].rows
        return {row.method: row.gates_passed for row in rows}

    assert passed(cells)["mixbct"] == 1
    failed = [c.model_copy(update={"gate_failed": ("cca: carried-over threshold",)}) for c in cells]
    assert (passed(failed)["mixbct"], passed(failed)["mixbct, cca"]) == (1, 0)
    failed = [c.model_copy(update={"gate_failed": ("carried-over threshold",)}) for c in cells]
    assert (passed(failed)["mixbct"], passed(failed)["mixbct, cca"]) == (0, 2)
    few = RECIPE.data.model_copy(update={"test_classes": 29})
    monkeypatch.setitem(globals(), "RECIPE", RECIPE.model_copy(update={"data": few}))
    assert not any(passed(cells).values())


def test_replicates_come_back_within_a_byte(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {"new/old mAP": rng.normal(0.6, 0.01, 400), "x": np.full(400, 0.5)}
    values["new/old mAP"][7] = np.nan
    write_draws(tmp_path / "a", values)
    found = read_draws(tmp_path / "a")
    assert found.keys() == values.keys()
    step = np.ptp(np.delete(values["new/old mAP"], 7)) / 254
    for name, one in values.items():
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(one))
        assert np.nanmax(np.abs(found[name] - one)) <= 0.51 * step
    assert read_draws(tmp_path / "b") == {}
    whole = (tmp_path / "a").read_bytes()
    assert len(whole) < 2500
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        cut = bytes(broken[: len(whole) - int(rng.integers(2) * rng.integers(len(whole)))])
        (tmp_path / "a").write_bytes(cut)
        with contextlib.suppress(ResultError):
            read_draws(tmp_path / "a")


@pytest.mark.parametrize(
    ("low", "high", "seeds", "wanted"),
    [
        (0.01, 0.03, (0.01, 0.02), "up"),
        (0.01, 0.03, (-0.01, 0.05), "level"),
        (-0.01, 0.03, (0.01, 0.02), "level"),
        (-0.03, -0.01, (-0.01, -0.02), "down"),
    ],
)
def test_a_win_needs_the_interval_and_every_seed(low, high, seeds, wanted) -> None:
    mean = Estimate(value=(low + high) / 2, low=low, high=high)
    assert TRENDS[Score(mean=mean, seeds=seeds).sign] == wanted


def test_the_trial_with_the_highest_sum_is_chosen(make_cell: Callable[..., BenchCell]) -> None:
    trials = [
        make_cell("l2", 1, **{"new/old": 0.9, "new/new": 0.1}),
        make_cell("l2", 2, **{"new/old": 0.6, "new/new": 0.6}),
        make_cell("l2", 3, error="it diverged"),
    ]
    choice = choose("l2", [{}, {"a": 1}, {"a": 2}], trials)
    assert choice.trial == 1
    assert choice.trials[2].cross is None
    assert choose("l2", [{}], trials[2:]).trial == 0
