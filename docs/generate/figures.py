"""Figures of the committed benches, for pages that would otherwise have to type them."""

import ast
import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, StrictUndefined

from mixbct.errors import ResultError
from mixbct.schemas.bench import BenchRow, BenchSummary, BenchTable, Score
from mixbct.schemas.record import read_record

RESULTS = Path(__file__).parents[1] / "results"
BENCHES = ("glyphs", "omniglot")
SHOWN = ("mAP", "rank-1", "TAR@1e-3")


def fill_in(text: str) -> str:
    """Return a page with its `{{ … }}` filled in; a name or a row that is not there is an error."""
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.globals |= {
        name: globals()[name]
        for name in ("cross", "own", "base", "gain", "gates", "faces", "places", "compared", "says")
    }
    return environment.from_string(text).render()


@cache
def _summary(bench: str) -> BenchSummary:
    return read_record(RESULTS / bench / "summary.json", BenchSummary, ResultError, "bench summary")


def _table(place: str, old: str = "softmax-128") -> BenchTable:
    """Return the table of a place: a scenario of the glyphs, or `omniglot`."""
    bench, scenario = ("omniglot", "extended-class") if place == "omniglot" else ("glyphs", place)
    return next(t for t in _summary(bench).tables if (t.old, t.scenario) == (old, scenario))


def _row(place: str, method: str) -> BenchRow:
    found = [row for row in _table(place).rows if row.method == method]
    if not found:
        raise KeyError(f"{place} has no row {method!r}")
    return found[0]


def _percent(score: Score, interval: bool = False) -> str:
    mean = score.mean
    ends = f" [{100 * mean.low:.1f} to {100 * mean.high:.1f}]" if interval else ""
    return f"{100 * mean.value:.1f}{ends}"


def cross(place: str, method: str, metric: str = "mAP") -> str:
    """Return the mean over seeds of a method's cross-test, in per cent."""
    return _percent(_row(place, method).cross[metric])


def own(place: str, method: str) -> str:
    """Return the same of its self-test's mAP."""
    return _percent(_row(place, method).own["mAP"])


def base(place: str, metric: str = "mAP", whitened: bool = False) -> str:
    """Return the same of old/old, as deployed or whitened."""
    table = _table(place)
    return _percent((table.whitened if whitened else table.base)[metric])


def gain(place: str, method: str, metric: str = "mAP") -> str:
    """Return the gain over old/old in points, with its interval."""
    mean = _row(place, method).cross_gain[metric].mean
    ends = " to ".join(f"{100 * end:+.1f}" for end in (mean.low, mean.high))
    return f"{100 * mean.value:+.1f} [{ends}]".replace("-", "−")


def gates(place: str, method: str) -> str:
    """Return how many of its seeds passed the gate."""
    row = _row(place, method)
    return f"{row.gates_passed} of {len(row.seeds)}"


def faces(row: str, metric: str = "mAP") -> str:
    """Return a figure of the frozen face encoders: the mean over splits, in per cent."""
    found = json.loads((RESULTS / "faces.json").read_text(encoding="utf-8"))
    splits = [split["rows"] for split in found["splits"]]
    if row not in splits[0]:
        splits = [split["rows"] for split in found["bridges"]["old"]]
    return f"{100 * fmean(rows[row][metric][0] for rows in splits):.1f}"


def places(*methods: str) -> str:
    """Return how methods did wherever they were run, and their place among all rows, as a table."""
    lines = ["| test | row | " + " | ".join(SHOWN) + " | self mAP | gate |"]
    lines += ["| --- | --- |" + " ---: |" * (len(SHOWN) + 2)]
    for bench in BENCHES:
        for table in _summary(bench).tables:
            name = "omniglot" if bench == "omniglot" else f"{table.scenario}, {table.old}"
            there = {row.method: row for row in table.rows}
            for method in (each for each in methods if each in there):
                row = there[method]
                cells = [_ranked(table, row, metric) for metric in SHOWN if row.cross]
                if cells:
                    own_map = _percent(row.own["mAP"]) if row.own else "–"
                    gate = f"{row.gates_passed} of {len(row.seeds)}"
                    lines.append(
                        f"| {name} | `{method}` | {' | '.join(cells)} | {own_map} | {gate} |"
                    )
    return "\n".join(lines)


def _ranked(table: BenchTable, row: BenchRow, metric: str) -> str:
    better = sum(r.cross[metric].mean.value > row.cross[metric].mean.value for r in _rows(table))
    return f"{_percent(row.cross[metric])} ({better + 1}/{len(_rows(table))})"


def _rows(table: BenchTable) -> list[BenchRow]:
    return [row for row in table.rows if row.cross]


def compared(place: str, *methods: str) -> str:
    """Return methods of one place beneath old/old, with intervals, as a table."""
    table = _table(place)
    lines = ["| | mAP | rank-1 | TAR@1e-3 | TAR@1e-4 | self mAP | gate |"]
    lines += ["| --- |" + " ---: |" * 6]
    for name, scores in (("old/old", table.base), ("old/old, whitened", table.whitened)):
        cells = [_percent(scores[m], interval=True) for m in (*SHOWN, "TAR@1e-4")]
        lines.append(f"| {name} | {' | '.join(cells)} | | |")
    for method in methods:
        row = _row(place, method)
        cells = [_percent(row.cross[m], interval=True) for m in (*SHOWN, "TAR@1e-4")]
        end = f"{_percent(row.own['mAP'])} | {gates(place, method)}"
        lines.append(f"| `{method}` | {' | '.join(cells)} | {end} |")
    return "\n".join(lines)


def says(module: str) -> str:
    """Return what a module's docstring says: formula and source, kept in one place."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise KeyError(f"there is no module {module}")
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
