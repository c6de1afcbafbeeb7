import itertools
import math
import re

import pytest

from mixbct.report.figures import Axis, Plot, cmc, decade_axis, histograms, life, percent_axis, roc
from mixbct.report.names import named_combinations
from mixbct.schemas.result import Curve, Histogram


def pixels(path):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML](\S+) ([\d.]+)", path)]


def line_of(drawing, colour):
    return pixels(re.search(rf'<path class="line {colour}" d="([^"]*)"', drawing)[1])


@pytest.fixture
def square():
    axis = Axis(0.0, 1.0, ((0.0, "0"), (1.0, "1")))
    return Plot(axis, axis, width=100, height=100, left=0, right=0, top=0, bottom=0)


def test_axes_place_linearly_in_decades_and_clamped():
    assert Axis(10.0, 20.0, ()).place(12.5) == 0.25
    decades = decade_axis(-6, 0, "FAR")
    assert decades.place(1e-3) == pytest.approx(0.5)
    assert decades.place(0.0) == 0.0
    assert decades.place(5.0) == 1.0
    assert [text for _, text in decades.ticks] == [
        *("1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1"),
    ]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1.0], ["0", "20", "40", "60", "80", "100"]),
        ([0.678, 0.905], ["65", "70", "75", "80", "85", "90", "95"]),
        ([0.926, 0.998], ["92", "94", "96", "98", "100"]),
        ([0.5, 0.5], None),
        ([0.0, 0.0], None),
        ([0.9991, 0.9999], None),
    ],
)
def test_a_percent_axis_holds_its_values_with_a_few_round_ticks(values, texts):
    axis = percent_axis(values, "x")
    assert axis.low <= min(values) + 1e-12
    assert axis.high >= max(values) - 1e-12
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 8
    if texts:
        assert [text for _, text in axis.ticks] == texts


def test_a_line_goes_through_its_points(square):
    points = [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)]
    assert pixels(square.draw("line", "k", points, "t")) == [(0, 100), (50, 75), (100, 0)]


def test_bars_have_the_area_of_their_histogram(square):
    edges, heights = [0.0, 0.25, 0.5, 1.0], [0.2, 1.0, 0.4]
    corners = pixels(square.draw("steps", "k", edges, heights))
    ring = [*corners, corners[0]]
    # shoelace formula
    area = abs(sum(a * d - b * c for (a, b), (c, d) in itertools.pairwise(ring))) / 2
    wanted = sum((edges[i + 1] - edges[i]) * heights[i] for i in range(3)) * 100 * 100
    assert area == pytest.approx(wanted)


def test_text_in_a_drawing_is_escaped(square):
    drawing = square.draw(
        "chart", "<a> & b", [square.draw("line", "k", [(0.0, 0.0), (1.0, 1.0)], "<title>")]
    )
    assert "&lt;a&gt; &amp; b" in drawing
    assert "<title>&lt;title&gt;</title>" in drawing


def test_roc_starts_at_the_left_edge_and_passes_the_operating_points(result):
    named = named_combinations(result)
    path = line_of(roc(named).drawing, "k-cross")
    assert path[0][0] == 46
    point = result.combinations["new/old"].operating_points[1]
    x, y = 46 + 420 * 0.5, 320 - 44 - 264 * point.tar.value  # FAR 1e-3 lies half-way
    assert min(math.dist((x, y), p) for p in path) < 3


def test_roc_leaves_mixed_galleries_out(result):
    drawing = roc(named_combinations(result)).drawing
    assert "k-mixed" not in drawing
    assert drawing.count('class="line') == 6


def test_cmc_leaves_the_naive_swap_below_the_axis_and_says_so(result):
    figure = cmc(named_combinations(result))
    assert "Naive swap (0.3 % at rank 1)" in figure.caption
    assert "k-naive" not in figure.drawing
    assert ">92</text>" in figure.drawing
    assert max(x for x, _ in line_of(figure.drawing, "k-cross")) == 466  # rank 20, not 50


def test_cmc_of_curves_without_points_is_an_empty_frame(make_result):
    plain = make_result(names=("old/old", "new/old"))
    empty = {
        name: one.model_copy(update={"cmc": Curve(x=(), y=())})
        for name, one in plain.combinations.items()
    }
    figure = cmc(named_combinations(make_result(combinations=empty)))
    assert 'class="line' not in figure.drawing


def test_life_needs_a_mixed_gallery(make_result, result):
    assert len(life(named_combinations(result))) == 2
    ends = make_result(names=("old/old", "new/old", "new/new"))
    assert life(named_combinations(ends)) == []


def test_life_rises_from_cross_to_self_over_the_level_of_old(result):
    drawing = life(named_combinations(result))[0].drawing
    dots = re.findall(r'<circle cx="(\S+)" cy="([\d.]+)"', drawing)
    across, down = [float(x) for x, _ in dots], [float(y) for _, y in dots]
    assert across == sorted(across)
    assert down == sorted(down, reverse=True)
    level = float(re.search(r'class="level" d="M\S+ ([\d.]+)H', drawing)[1])
    assert level > max(down)
    assert "old/old 67.8" in drawing
    assert "<title>new/old: 75.4 % [74.3 to 76.5]</title>" in drawing


def test_histograms_share_their_scores_and_mark_the_threshold(result):
    panels = histograms(named_combinations(result))
    assert [panel.named.name for panel in panels] == list(result.combinations)
    ticks = {tuple(re.findall(r'class="mid" x="(\S+)"', panel.drawing)) for panel in panels}
    assert len(ticks) == 1
    point = result.combinations["new/old"].operating_points[1]
    assert panels[1].caption == f"78.8 % of genuine pairs above {point.threshold:.3f}"
    assert panels[1].drawing.count('class="mark"') == 1


def test_empty_histograms_draw_a_frame(make_result):
    plain = make_result(names=("old/old", "new/old"))
    nothing = Histogram(edges=(-1.0, 0.0, 1.0), genuine=(0.0, 0.0), impostor=(0.0, 0.0))
    empty = {
        name: one.model_copy(update={"histogram": nothing, "operating_points": ()})
        for name, one in plain.combinations.items()
    }
    panels = histograms(named_combinations(make_result(combinations=empty)))
    assert len(panels) == 2
    assert all("nan" not in panel.drawing and panel.caption == "" for panel in panels)
