import re
from html.parser import HTMLParser

import pytest
from pydantic import ValidationError

from mixbct.errors import ResultError
from mixbct.evaluation.worth import worth
from mixbct.report.page import render_report, write_report
from mixbct.report.tables import backfill_lines, flip_lines, threshold_lines
from mixbct.schemas.gate import PairThreshold
from mixbct.schemas.result import (
    Backfill,
    BackfillCurve,
    Difference,
    Estimate,
    Example,
    FlippedClass,
    Flips,
    Match,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}
HOSTILE = '<script>alert("1")</script> & \'x\' "y"'


class Page(HTMLParser):
    """What a browser would see: text, and every (tag, attributes)."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.tags, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def with_image(uri):
    match = Match(key="k", label="亜", score=0.5, image=uri)
    return (Example(key="q", label="亜", image=uri, before=(match,), after=(match,)),)


def test_every_figure_of_the_table_is_there(result, make_outcome):
    words = Page(render_report(result, make_outcome(result))).words
    for name, one in result.combinations.items():
        assert name in words
        shown = [one.mean_average_precision, one.rank1, *(p.tar for p in one.operating_points)]
        for figure in shown:
            assert f"{100 * figure.value:.1f}" in words
            assert f"{100 * figure.low:.1f} to {100 * figure.high:.1f}" in words
    for difference in result.differences:
        for name in ("mAP", "rank-1", "TAR@1e-2", "TAR@1e-3", "TAR@1e-4"):
            gap = f"{100 * difference.metrics[name].value:+.1f}".replace("-", "−")
            assert re.search(rf"[▲▼≈] {re.escape(gap)}", words), (difference.of, name)


def test_the_rest_of_the_result_is_there(result, make_outcome):
    outcome = make_outcome(result)
    words = Page(render_report(result, outcome)).words
    for check in outcome.checks:
        assert check.says in words
    for text in (
        result.title,
        "34.1 % [30.2 to 37.9]",  # update gain
        "95.0 of 100 new queries",
        "92.6 of 100 old queries",
        "1.23 %",  # negative flips
        "0.4062",
        "1.3e-3",
        "0.4187",
        "9.7e-4",
        "1,234,567",
        "9,608",  # images a second
        "4,820",
        "12,000",
        "5f2c" * 16,
        "2.13.0",
        "seed 7",
        outcome.result_digest,
        *(contract.id for contract in result.models.values()),
    ):
        assert text in words, text


@pytest.mark.parametrize(("passed", "says"), [(True, "✓ Compatible"), (False, "✗ Not compatible")])
def test_the_verdict_opens_the_page(result, make_outcome, passed, says):
    page = render_report(result, make_outcome(result, passed))
    assert f"<h1>{says}</h1>" in page
    assert ("1 of 4 checks failed" in page) is not passed
    assert page.count(">✗ fail<") == (0 if passed else 1)


def test_the_page_refers_to_nothing_outside(result, make_outcome):
    html = render_report(result, make_outcome(result))
    page = Page(html)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "use", "image"), tag
        for name, value in attributes.items():
            assert name not in ("href", "xlink:href", "srcset", "data", "action")
            assert not name.startswith("on")
            if name == "src":
                assert value.startswith("data:image/png;base64,")
    assert len(page.named("img")) == 11
    assert {"charset": "utf-8"} in page.named("meta")


@pytest.mark.parametrize(
    "uri", ["https://example.org/a.png", "data:image/svg+xml,<svg/>", 'x" onerror="f()', ""]
)
def test_an_image_that_is_no_png_is_left_out(make_result, make_outcome, uri):
    result = make_result(examples=with_image(uri))
    html = render_report(result, make_outcome(result))
    assert Page(html).named("img") == []
    assert "example.org" not in html
    assert 'class="blank"' in html


def test_hostile_strings_are_text(make_result, make_outcome):
    match = Match(key=HOSTILE, label=HOSTILE, score=0.5, image="")
    plain = make_result()
    combinations = dict(plain.combinations)
    odd = combinations["new/new"].model_copy(update={"query": HOSTILE, "gallery": HOSTILE})
    result = make_result(
        title=HOSTILE,
        data={HOSTILE: HOSTILE, "language": HOSTILE},
        versions={HOSTILE: HOSTILE},
        costs={HOSTILE: plain.costs["new"]},
        models={HOSTILE: plain.models["new"].model_copy(update={"name": HOSTILE})},
        combinations={**combinations, HOSTILE: odd},
        examples=(Example(key=HOSTILE, label=HOSTILE, image="", before=(match,), after=(match,)),),
    )
    outcome = make_outcome(result)
    check = outcome.checks[0].model_copy(update={"name": HOSTILE, "says": HOSTILE})
    outcome = outcome.model_copy(update={"checks": (check,)})
    html = render_report(result, outcome)
    page = Page(html)
    assert page.named("script") == []
    assert "<script" not in html
    assert page.words.count('<script>alert("1")</script> & \'x\' "y"') >= 12
    assert all(not name.startswith("on") for _, found in page.tags for name in found)
    assert page.named("span")[-1].get("lang") in (None, HOSTILE)


def test_no_name_turns_the_text_around_it_round(make_result, make_outcome):
    odd = "\u202eevil\u2066\u200f\x1b[31m"
    match = Match(key=odd, label=odd, score=0.5, image="")
    plain = make_result()
    result = make_result(
        title=odd,
        data={odd: odd},
        models={odd: plain.models["new"].model_copy(update={"name": odd})},
        examples=(Example(key=odd, label=odd, image="", before=(match,), after=()),),
    )
    html = render_report(result, make_outcome(result))
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200e\u200f\x1b]", html)
    # what is left is a name in a script of its own direction, perhaps
    assert html.count("<bdi>evil[31m</bdi>") == 6


def test_what_is_known_of_the_training_and_what_to_try_next_are_there(make_result, make_outcome):
    result = make_result()
    outcome = make_outcome(result, False)
    assert "was not looked at" in render_report(result, outcome)
    last = outcome.checks[-1].model_copy(update={"remedy": "add test classes"})
    update = {"checks": (*outcome.checks[:-1], last), "training": "Nobody can know."}
    words = Page(render_report(result, outcome.model_copy(update=update))).words
    assert "Every check must pass. Nobody can know." in words
    assert "try next, for carried-over threshold: add test classes" in words


def test_the_free_gain_stands_beside_and_what_was_left_out_is_named(make_result, make_outcome):
    result = make_result(left_out={"chosen/old": "too few <items>"})
    bare = make_outcome(result)
    worth = bare.checks[0].model_copy(update={"passed": False, "says": "whiten/old is level."})
    page = render_report(result, bare.model_copy(update={"beside": (worth,)}))
    assert "what the old model can do alone" in page
    assert "✗ no" in page
    assert "whiten/old is level." in page
    assert "<bdi>chosen/old</bdi> is left out: <bdi>too few &lt;items&gt;</bdi>" in page
    assert "can do alone" not in render_report(result, bare)


def test_what_was_chosen_is_said_of_its_row(make_result, make_outcome):
    result = make_result(chosen="cca", old_queries=0.6)
    rows = {
        name: result.combinations["procrustes/old"].model_copy(update={"query": name[:-4]})
        for name in ("chosen/old", "new+old/old")
    }
    result = result.model_copy(update={"combinations": result.combinations | rows})
    page = render_report(result, make_outcome(result))
    assert "the independent model behind a chosen bridge (cca)" in page
    assert "old and new query as one, gallery untouched (0.6 of the new)" in page


def test_missing_parts_are_left_out(make_result, make_outcome):
    full = make_result()
    everything = render_report(full, make_outcome(full))
    bare = make_result(
        names=("old/old", "new/old"), update_gain=None, costs={}, examples=(), differences=()
    )
    html = render_report(bare, make_outcome(bare))
    for part in (
        "Update gain",
        "Life after the upgrade",
        "Queries before and after",
        "Training cost",
        "Naive swap",
        "All re-embedded",
        "10 % enrolled since",
    ):
        assert part in everything, part
        assert part not in html, part
    words = Page(html).words
    assert "After the switch new/old" in words
    assert "points [" not in words
    assert "None" not in words


def test_a_rate_that_no_one_measured_is_a_dash(make_result, make_outcome):
    plain = make_result()
    combinations = dict(plain.combinations)
    for name in ("new/new", "old/old"):
        points = combinations[name].operating_points
        combinations[name] = combinations[name].model_copy(
            update={"operating_points": tuple(p for p in points if p.far != 1e-3)}
        )
    result = make_result(combinations=combinations)
    html = render_report(result, make_outcome(result))
    assert html.count('<span class="value">–</span></td>') == 2
    assert "TAR@1e-3, untouched gallery" not in html
    assert "mAP of new queries, as the gallery fills" in html
    assert "TAR@1e-3 of new queries, as the gallery fills" not in html


def test_labels_carry_the_language_of_the_data(make_result, make_outcome):
    result = make_result(data={"language": "ja"})
    html = render_report(result, make_outcome(result))
    assert html.count('class="label" lang="ja"') == 11


def test_hits_are_framed_by_their_class(result, make_outcome):
    page = Page(render_report(result, make_outcome(result)))
    frames = [a["class"] for a in page.named("li") if a.get("class") in ("right", "wrong")]
    assert frames == [
        *("wrong", "wrong", "right", "wrong", "wrong"),
        *("wrong", "wrong", "right", "wrong", "wrong"),
    ]


def test_only_the_best_cross_figures_are_set_in_bold(result, make_outcome):
    html = render_report(result, make_outcome(result))
    rows = dict(re.findall(r"<code>([^<]+)</code><small>.*?</th>(.*?)</tr>", html, flags=re.S))
    best = {name: cells.count('class="value best"') for name, cells in rows.items()}
    assert best.pop("new/old") == 5
    assert set(best.values()) == {0}


def test_equal_input_gives_equal_bytes_and_a_small_page(make_result, make_outcome):
    first, second = make_result(), make_result()
    page = render_report(first, make_outcome(first))
    assert page == render_report(second, make_outcome(second))
    assert len(page.encode()) < 150_000


def test_the_page_survives_a_round_through_json(result, make_outcome):
    again = type(result).model_validate_json(result.to_json())
    assert render_report(again, make_outcome(result)) == render_report(result, make_outcome(result))


def test_an_outcome_about_another_result_is_refused(make_result, make_outcome):
    other = make_result(seed=8)
    with pytest.raises(ResultError, match="run the gate on this result"):
        render_report(make_result(), make_outcome(other))


@pytest.mark.parametrize("missing", ["old/old", "new/old"])
def test_a_result_with_nothing_to_compare_is_refused(make_result, missing):
    with pytest.raises(ValueError, match=f"it has no combination '{missing}', but "):
        make_result(names=tuple({"old/old", "new/old", "new/new"} - {missing}))


def test_write_report_writes_the_page(result, make_outcome, tmp_path):
    path = tmp_path / "deep" / "report.html"
    write_report(path, result, make_outcome(result))
    assert path.read_text("utf-8") == render_report(result, make_outcome(result))


def test_thresholds_of_every_rate_stand_on_the_page(result, make_outcome):
    outcome = make_outcome(result)
    assert "Where to decide" not in render_report(result, outcome)
    found = PairThreshold(
        pair="new/new",
        far=1e-4,
        threshold=0.5123,
        measured_far=1.5e-4,
        old_threshold=0.61,
        far_at_old_threshold=2e-6,
        least=1e-3,
    )
    page = render_report(result, outcome.model_copy(update={"thresholds": (found,)}))
    shown = page[page.index("Where to decide") :]
    for text in ("0.5123", "1.5e-4 †", "2e-6 at 0.6100", "Too few impostor pairs"):
        assert text in shown
    sure = found.model_copy(update={"least": 1e-5})
    assert "Too few" not in render_report(
        result, outcome.model_copy(update={"thresholds": (sure,)})
    )
    assert (
        "; coarse: the pairs support 1.0e-03"
        in threshold_lines(outcome.model_copy(update={"thresholds": (found,)}))[0]
    )


def about(value, half=0.011):
    return Estimate(value=value, low=value - half, high=value + half)


def with_a_backfill(make_result, take="credible", gain=0.02):
    orders = ("random", "credible", "items")
    areas = dict(zip(orders, (0.8, 0.8 + gain, 0.81), strict=True))
    names = ("mAP", "TAR@1e-3")
    curves = tuple(
        BackfillCurve(
            order=order,
            metrics={
                name: tuple(about(0.7 + share / 5) for share in (0, 0.5, 1)) for name in names
            },
            areas={name: about(areas[order]) for name in names},
        )
        for order in orders
    )
    differences = tuple(
        Difference(
            of=of,
            minus=minus,
            metrics={
                name: Estimate(value=found, low=found - 0.012, high=found + 0.012)
                for name in names
                for found in [areas[of] - areas[minus]]
            },
        )
        for i, minus in enumerate(orders)
        for of in orders[i + 1 :]
    )
    found = Backfill(shares=(0, 0.5, 1), curves=curves, differences=differences, take=take)
    return make_result(backfill=found)


def test_which_order_to_take(make_result, make_outcome):
    result = with_a_backfill(make_result)
    (line,) = backfill_lines(result)
    assert line == (
        "area under the mAP of a backfill: random 80.0 % [78.9 to 81.1], credible 82.0 % [80.9 to "
        "83.1], items 81.0 % [79.9 to 82.1]; take --order credible: +2.0 points [+0.8 to +3.2] on "
        "a random one; items may be as good"
    )
    html = render_report(result, make_outcome(result))
    assert line in Page(html).words
    assert "mAP by the share that was embedded again" in html
    (line,) = backfill_lines(with_a_backfill(make_result, take=None))
    assert line.endswith("no order surely gains on a random one: take any")
    plain = make_result()
    assert backfill_lines(plain) == []
    assert "Embedding old rows again" not in render_report(plain, make_outcome(plain))


def test_regressions_are_named(make_result, make_outcome):
    worst = (
        FlippedClass(name=HOSTILE, queries=9, lost=4, gained=1),
        FlippedClass(name="娃", queries=9, lost=2, gained=3),
    )
    result = make_result(
        flips=Flips(negative=about(0.0123, 0.004), positive=about(0.04), classes=2, worst=worst)
    )
    page = Page(render_report(result, make_outcome(result)))
    assert f"{HOSTILE} 4 1 -3 9 娃 2 3 +1 9" in page.words
    assert "[0.8 to 1.6]; 4.0 % went the other way. 2 classes lost a query." in page.words
    (line,) = flip_lines(result)
    assert line.startswith(
        "right before, wrong now: 1.2 % of the queries [0.8 to 1.6], in 2 classes"
    )
    assert "娃 (2 lost, 3 gained of 9)" in line
    assert flip_lines(make_result()) == []


def test_the_page_opens_with_what_to_do(result, make_outcome):
    words = Page(render_report(result, make_outcome(result))).words
    says = worth(result).says
    assert says.startswith("Train compatibly: mAP goes from 67.8 % to 75.4 %, +7.6 points")
    assert words.index(says) < words.index("✓ Compatible")


def test_curves_that_do_not_belong_together_are_refused(make_result):
    found = with_a_backfill(make_result).backfill
    first, *rest = found.curves
    shorter = first.model_copy(update={"metrics": {n: f[:2] for n, f in first.metrics.items()}})
    for change in (
        {"curves": ()},
        {"shares": (0.5,)},
        {"curves": (first, shorter)},
        {"curves": (first.model_copy(update={"areas": {}}), *rest)},
        {"differences": found.differences[:1]},
        {"take": "another"},
        {"take": "random"},
    ):
        with pytest.raises(ValidationError):
            Backfill.model_validate(found.model_copy(update=change).model_dump())
