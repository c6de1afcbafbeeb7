import io

import pytest
from rich.console import Console

from mixbct.report.names import enrolled_share, named_combinations
from mixbct.report.tables import (
    combinations_table,
    interval,
    percent,
    points,
    remedies,
    results_table,
    trend,
    verdict_line,
    visible,
)
from mixbct.schemas.gate import GateCheck, GateOutcome
from mixbct.schemas.result import Difference, Estimate


def printed(result, width):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(results_table(result))
    return console.file.getvalue()


def rows(result):
    return combinations_table(result).rows


def columns(result):
    return list(combinations_table(result).columns)


def between(low, value, high):
    return Estimate(value=value, low=low, high=high)


def test_figures_are_written_as_percentages():
    assert percent(0.75449) == "75.4"
    assert interval(between(0.741, 0.754, 0.766)) == "74.1 to 76.6"
    assert points(between(0, 0.0764, 1)) == "+7.6"
    assert points(between(-1, -0.004, 0)) == "−0.4"


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.01, 0.02, "up"), (-0.02, -0.01, "down"), (-0.01, 0.02, "level"), (0.0, 0.02, "level")],
)
def test_a_trend_needs_the_whole_interval_on_one_side(low, high, wanted):
    assert trend(between(low, (low + high) / 2, high)) == wanted


def test_rows_stand_in_order_with_columns_from_loose_to_strict(make_result):
    names = (
        *("new/90 % new", "lens/old", "new/old", "independent/independent", "new/10 % new"),
        *("old/old", "new/new"),
    )
    plain = make_result()
    known = {name: plain.combinations[name] for name in names if name in plain.combinations}
    lens = plain.combinations["procrustes/old"].model_copy(update={"query": "lens"})
    result = make_result(combinations={"lens/old": lens, **known})
    assert [row.name for row in rows(result)] == [
        *("old/old", "new/old", "new/new", "independent/independent", "lens/old"),
        *("new/10 % new", "new/90 % new"),
    ]
    assert columns(result) == ["mAP", "rank-1", "TAR@1e-2", "TAR@1e-3", "TAR@1e-4"]


def test_shares_are_read_from_the_gallery(result):
    found = {one.name: one.enrolled for one in named_combinations(result)}
    assert found == {
        "old/old": None,
        "new/old": 0.0,
        "new/new": 1.0,
        "independent/old": None,
        "procrustes/old": None,
        "independent/independent": None,
        "new/10 % new": 0.1,
        "new/50 % new": 0.5,
        "new/90 % new": 0.9,
    }
    odd = result.combinations["new/new"].model_copy(update={"gallery": "12.5 % new"})
    assert enrolled_share(odd) == 0.125
    assert enrolled_share(odd.model_copy(update={"gallery": "archive"})) is None


def test_colours_are_not_shared(result):
    colours = [one.colour for one in named_combinations(result)]
    assert len(set(colours)) == len(colours)


def test_the_best_is_sought_among_cross_tests_of_the_old_gallery(make_result):
    plain = make_result()
    combinations = dict(plain.combinations)
    combinations["procrustes/old"] = combinations["procrustes/old"].model_copy(
        update={"rank1": between(0.96, 0.97, 0.98)}
    )
    result = make_result(combinations=combinations)
    best = {row.name: [cell.best for cell in row.cells] for row in rows(result)}
    assert best.pop("new/old") == [True, False, True, True, True]
    assert best.pop("procrustes/old") == [False, True, False, False, False]
    assert not any(flag for flags in best.values() for flag in flags)


def test_only_differences_to_old_old_are_shown(make_result):
    plain = make_result()
    gaps = {name: between(-0.02, -0.01, -0.005) for name in ("mAP", "rank-1")}
    other = Difference(of="new/new", minus="independent/independent", metrics=gaps)
    wanted = Difference(of="new/old", minus="old/old", metrics=gaps)
    result = make_result(combinations=plain.combinations, differences=(other, wanted))
    cells = {row.name: row.cells for row in rows(result)}
    assert all(cell.difference == "" for cell in cells["new/new"])
    assert [cell.trend for cell in cells["new/old"]] == ["down", "down", "level", "level", "level"]


@pytest.mark.parametrize("width", [80, 140])
def test_the_terminal_table_loses_no_figure(result, width):
    text = printed(result, width)
    assert max(map(len, text.splitlines())) <= width
    for one in result.combinations.values():
        for name in columns(result):
            figure = one.metric(name)
            assert f"{100 * figure.value:.1f}" in text
            assert f"{100 * figure.low:.1f}–{100 * figure.high:.1f}" in text
    assert "▲ +7.6" in text
    assert "▼ −67.4" in text
    assert "†" in text


def test_square_brackets_are_no_markup_in_the_terminal(make_result):
    plain = make_result()
    odd = plain.combinations["procrustes/old"].model_copy(update={"query": "[red]x"})
    result = make_result(combinations={**plain.combinations, "[red]x/old": odd})
    assert "[red]x/old" in printed(result, 140)


def test_the_verdict_in_one_line(make_result, make_outcome):
    result = make_result()
    assert verdict_line(make_outcome(result), result) == (
        "Compatible: mAP 67.8 → 75.4 % on the untouched gallery, "
        "update gain 34.1 % [30.2 to 37.9], 4 of 4 checks passed"
    )
    outcome = make_outcome(result)
    beside = {"beside": make_outcome(result, False).checks}
    assert verdict_line(outcome.model_copy(update=beside), result).endswith(
        ", 4 of 4 checks passed, 3 of 4 against the old model alone, whitened"
    )
    bare = make_result(update_gain=None)
    assert verdict_line(make_outcome(bare, False), bare) == (
        "Not compatible: mAP 67.8 → 75.4 % on the untouched gallery, 3 of 4 checks passed"
    )


def test_remedies_are_said_once_with_the_checks_that_call_for_them():
    checks = [
        GateCheck(name=name, value=0, bound=0, passed=not remedy, says=".", remedy=remedy)
        for name, remedy in (("a", "tie"), ("b", None), ("c", "tie"), ("d", "add"))
    ]
    outcome = GateOutcome(passed=False, checks=tuple(checks), result_digest="x")
    assert remedies(outcome) == ["try next, for a, c: tie", "try next, for d: add"]


def test_hidden_controls_are_left_out_and_names_of_all_scripts_stay():
    assert visible("a\u202eb\u2066c\u200fd\x1b[31m\x85") == "abcd[31m"
    kept = "亜 שלום مرحبا é\u00a0👩\u200d🔬"
    assert visible(kept) == kept


def test_names_cannot_turn_the_terminal_round(make_result):
    plain = make_result()
    odd = plain.combinations["procrustes/old"].model_copy(update={"query": "\u202e\x1b[2Jx"})
    result = make_result(combinations={**plain.combinations, "\u202e\x1b[2Jx/old": odd})
    text = printed(result, 140)
    assert "[2Jx/old" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
