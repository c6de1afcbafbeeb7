"""A few hundred damaged results and verdicts, through `report` and `gate`: named errors alone."""

import copy
import json
import math
import random

import pytest

from mixbct.cli.verbs import app
from mixbct.errors import MixbctError
from mixbct.schemas.gate import Edge, GateOutcome
from mixbct.schemas.result import Result

ODD = [
    *(None, True, "", "x", "Infinity", "-1", [], {}, [[]], 0, -1, 1, 2, 0.5, 1e308, -1e308, 5e-324),
    *(10**30, 10**400, -(10**30), math.nan, math.inf, -math.inf, 2**63),
    *("\ud800", "\u202e\0", "a\nb\x85"),
]  # fmt: skip


def places(content, path=()):
    """Yield the path of every value."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutated(content, rng):
    """Return a copy with one value changed, removed, doubled or exchanged."""
    changed = copy.deepcopy(content)
    # curves and histograms hold most of the values: choose a depth first
    found = list(places(changed))
    depth = rng.randint(1, max(map(len, found)))
    *way, last = rng.choice([path for path in found if len(path) == depth])
    parent = changed
    for step in way:
        parent = parent[step]
    match rng.randrange(6):
        case 0:
            del parent[last]
        case 1 if isinstance(parent, list):
            parent.insert(last, parent[last])
        case 2 if isinstance(parent, dict):
            parent[rng.choice(["surprise", "", "new/old", "a\nb"])] = parent[last]
        case 3 if isinstance(parent[last], int | float) and not isinstance(parent[last], bool):
            parent[last] = parent[last] * rng.choice([-1, 0, 1e-9, 1.5, 1e9, 1e300])
        case _:
            parent[last] = rng.choice(ODD)
    return changed


def tried(verb, path):
    """Return the error that a verb ended with, or None; anything but a named error fails."""
    try:
        code = app([verb, str(path), "--json"], standalone_mode=False)
    except MixbctError as error:
        says = str(error)
        return says if "\n" not in says else pytest.fail(f"more than a line: {says}")
    return None if code in (None, 0, 1) else pytest.fail(f"exit {code}")


def test_mutations_of_a_result_end_in_named_errors(make_result, tmp_path, capsys):
    rng = random.Random(0)
    path, edge = tmp_path / "result.json", tmp_path / "edge.json"
    content = json.loads(make_result(names=("old/old", "new/old", "new/50 % new")).to_json())
    path.write_text(json.dumps(content))
    assert tried("gate", path) is None
    assert edge.exists()
    refused = 0
    for _ in range(300):
        path.write_text(json.dumps(mutated(content, rng)))
        for name in ("gate.json", "edge.json", "report.html"):
            (tmp_path / name).unlink(missing_ok=True)
        errors = [tried("gate", path), tried("report", path)]
        refused += any(errors)
        if edge.exists():
            assert errors == [None, None]
            # what was taken is sound, and what was written can be read
            assert Edge.model_validate_json(edge.read_bytes()).threshold
            assert GateOutcome.model_validate_json((tmp_path / "gate.json").read_bytes()).passed
            assert Result.model_validate_json(path.read_bytes())
    assert 150 < refused < 300


def test_mutations_of_what_came_later_end_in_named_errors(make_result, tmp_path, capsys):
    rng = random.Random(3)
    path = tmp_path / "result.json"
    share = {"value": 0.5, "low": 0.4, "high": 0.6}
    points = {"mAP": [share] * 3, "TAR@1e-3": [share] * 3}
    later = {
        "flips": {
            "negative": share,
            "positive": share,
            "classes": 1,
            "worst": [{"name": "a", "queries": 3, "lost": 2, "gained": 1}],
        },
        "backfill": {
            "shares": [0, 0.5, 1],
            "curves": [
                {"order": order, "metrics": points, "areas": dict.fromkeys(points, share)}
                for order in ("random", "credible")
            ],
            "differences": [
                {"of": "credible", "minus": "random", "metrics": dict.fromkeys(points, share)}
            ],
            "take": "credible",
        },
        "worth": {"choice": "stay", "says": "x"},
    }
    content = json.loads(make_result(names=("old/old", "new/old")).to_json())
    path.write_text(json.dumps(content | later))
    assert [tried("gate", path), tried("report", path)] == [None, None]
    assert "take --order credible" in (tmp_path / "report.html").read_text()
    # the limit is below what is sure
    assert app(["gate", str(path), "--max-flips=0.5"], standalone_mode=False) == 1
    assert "negative flips: search with both queries" in capsys.readouterr().out
    refused = 0
    for _ in range(80):
        path.write_text(json.dumps(content | mutated(later, rng)))
        refused += bool(tried("report", path))
    assert 20 < refused < 80


def test_damaged_bytes_end_in_named_errors(make_result, tmp_path, capsys):
    rng = random.Random(1)
    path = tmp_path / "result.json"
    content = make_result(names=("old/old", "new/old")).to_json().encode()
    for number in range(60):
        damaged = bytearray(content)
        if number % 3 == 0:
            del damaged[rng.randrange(len(damaged)) :]
        else:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        tried("gate", path)
        tried("report", path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"null",
        b"NaN",
        b"1" * 5_000,
        b'"' + b"x" * 10**6 + b'"',
    ],
)
def test_files_that_are_no_results(content, tmp_path, capsys):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    assert "result.json is not a readable result" in tried("gate", path)
    assert tried("report", path)


def test_mutations_of_a_verdict_end_in_named_errors(make_result, make_outcome, tmp_path, capsys):
    rng = random.Random(2)
    result = make_result(names=("old/old", "new/old"))
    (tmp_path / "result.json").write_text(result.to_json())
    content = json.loads(make_outcome(result).to_json())
    for _ in range(60):
        (tmp_path / "gate.json").write_text(json.dumps(mutated(content, rng)))
        tried("report", tmp_path / "result.json")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--self-test-loss=-1.0"], "self_test_loss: Input should be greater than or equal to 0"),
        (["--self-test-loss=nan"], "self_test_loss: Input should be a finite number"),
        (["--far-tolerance=0"], "far_tolerance: Input should be greater than 0"),
        (["--far-tolerance=inf"], "far_tolerance: Input should be a finite number"),
        (["--max-flips=2"], "max_flips: Input should be less than or equal to 1"),
        (["--max-flips=nan"], "max_flips: Input should be a finite number"),
        (["--gain=mAPP"], "no metric 'mAPP'; it has mAP, rank-1"),
    ],
)
def test_what_the_gate_cannot_be_asked_for(make_result, tmp_path, asked, says):
    path = tmp_path / "result.json"
    path.write_text(make_result().to_json())
    with pytest.raises(MixbctError, match=says):
        app(["gate", str(path), *asked], standalone_mode=False)
    assert [found.name for found in tmp_path.iterdir()] == ["result.json"]
