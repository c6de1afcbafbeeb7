"""The demo trains with what the bench found best."""

from pathlib import Path

from mixbct.report.names import INDEPENDENT
from mixbct.workflows.bench.recipe import load_bench
from mixbct.workflows.demo import best_of_bench

BENCH = Path(__file__).parents[3] / "recipes/bench/glyphs.toml"


def test_the_new_model_trains_as_the_row_in_bold() -> None:
    bench = load_bench(BENCH)
    row = bench.methods[bench.ours.partition(",")[0]]
    # what a trial would choose, or set outside the method, the demo would not know of
    assert not row.trials
    assert row.settings.keys() <= {"method", "denoise"}
    assert best_of_bench() == row.settings["method"]
    assert best_of_bench()["name"] != INDEPENDENT
