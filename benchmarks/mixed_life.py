"""python -m benchmarks.mixed_life DEMO: how a gallery of two models' rows is ranked best.

On what `mixbct demo` left: M(new, gallery of which 10, 50 and 90 % the new model enrolled), ranked
by cosine and by the line through two false-accept rates of each contract's calibration, with
paired differences over the test classes. Calibrations are set on one half of them.
"""

import argparse
import json
from pathlib import Path

from mixbct.backbones.model import load_model
from mixbct.evaluation.bootstrap import class_weights, estimate, replicate_metrics
from mixbct.evaluation.calibration import calibrate
from mixbct.evaluation.comparison import Comparison, compare
from mixbct.evaluation.upgrade import Pair, mixed_sides, one_half
from mixbct.schemas.result import Estimate, tar_name
from mixbct.workflows.across import across, bridge_between
from mixbct.workflows.evaluate import HeldOutSet, embed_pair
from mixbct.workflows.progress import silent

SHARES = (0.1, 0.5, 0.9)
FARS = (1e-3, 1e-4)


def mixed_life(
    new: Pair, cross: Pair, seed: int = 0, replicates: int = 1000
) -> dict[float, dict[str, tuple[float, Estimate]]]:
    """Return by share and metric what cosines reach, and what the one scale adds."""
    half = one_half(len(new.query.classes), seed)
    own, between = (
        calibrate(compare(pair.query, pair.gallery, fars=FARS), half).set_on
        for pair in (new, cross)
    )
    weights = class_weights(len(new.query.classes), replicates, seed)
    found = {}
    for share in SHARES:
        # one line for both kinds of rows ranks them by cosine
        plain, ranked = (
            compare(*mixed_sides(new, cross, share, seed, line, between), fars=FARS)
            for line in (between, own)
        )
        before, after = _values(plain), _values(ranked)
        drawn = replicate_metrics(plain, weights), replicate_metrics(ranked, weights)
        found[share] = {
            name: (value, estimate(after[name] - value, drawn[1][name] - drawn[0][name]))
            for name, value in before.items()
        }
    return found


def _values(comparison: Comparison) -> dict[str, float]:
    figures = {
        "mAP": comparison.mean_average_precision(),
        "rank-1": comparison.rank_rate(1),
    }
    return figures | {
        tar_name(at.far): comparison.true_accept_rate(at) for at in comparison.thresholds
    }


def main() -> None:
    """Print a table of Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_life", description=__doc__)
    parser.add_argument("demo", type=Path, help="the folder that `mixbct demo` wrote")
    demo = parser.parse_args().demo
    split = demo / "split"
    source = Path(json.loads((demo / "result.json").read_text("utf-8"))["data"]["source"])
    data = HeldOutSet(source, split)
    deployed = demo / "model" if (demo / "model").exists() else demo / "new"
    old, new = load_model(demo / "old"), load_model(deployed)
    pairs = {
        "old": embed_pair(data, old, "old", silent),
        "new": embed_pair(data, new, "new", silent),
    }
    bridge = bridge_between(new, old)
    cross = across([bridge] if bridge else [], pairs["new"].query, pairs["old"].gallery)
    found = mixed_life(pairs["new"], cross)
    print(f"| enrolled since | {' | '.join(found[SHARES[0]])} |")
    print("| --- |" + " ---: |" * len(found[SHARES[0]]))
    for share, metrics in found.items():
        cells = (
            f"{100 * value:.1f}, {100 * gain.value:+.2f} "
            f"[{100 * gain.low:+.2f} to {100 * gain.high:+.2f}]"
            for value, gain in metrics.values()
        )
        print(f"| {share:.0%} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
