"""python -m benchmarks.mixed_life DEMO: how a gallery of two models' rows is ranked best.

On what `mixbct demo` left: M(new, gallery of which 10, 50 and 90 % the new model enrolled), ranked
by cosine and by the line through two false-accept rates of each contract's calibration, with
paired differences over the test classes. Calibrations are set on one half of them.
"""

import argparse
import json
from pathlib import Path

from mixbct.backbones.model import load_model
from mixbct.evaluation.bootstrap import class_weights
from mixbct.evaluation.combination import judge_all
from mixbct.evaluation.mixed import mixed_rows, mixed_sides
from mixbct.evaluation.scores import Pair
from mixbct.evaluation.upgrade import one_half
from mixbct.methods.method import given
from mixbct.schemas.result import Estimate
from mixbct.workflows.across import across, bridge_between
from mixbct.workflows.evaluate import HeldOutSet, embed_pair
from mixbct.workflows.progress import silent

SHARES = (0.1, 0.5, 0.9)
FARS = (1e-3, 1e-4)
METRICS = ("mAP", "rank-1", "TAR@1e-3", "TAR@1e-4")


def mixed_life(
    new: Pair, cross: Pair, seed: int = 0, replicates: int = 1000
) -> dict[float, dict[str, tuple[float, Estimate]]]:
    """Return by share and metric what cosines reach, and what the one scale adds."""
    classes = len(new.query.classes)
    half = one_half(classes, seed)
    weights = class_weights(classes, replicates, seed, half)
    names = ("new/new", "new/old")
    ends = {name: [pair] for name, pair in zip(names, (new, cross), strict=True)}
    judged = judge_all(ends, weights, FARS, half=half, calibrated=names)
    own, between = (given(judged[name].calibration).set_on.line() for name in names)
    # one line for both kinds of rows ranks them by cosine
    order = mixed_rows(len(cross.gallery), 1.0, seed)
    plain, ranked = (
        judge_all(mixed_sides(new, cross, SHARES, order, line, between), weights[:-1], FARS)
        for line in (between, own)
    )
    found = {}
    for share, name in zip(SHARES, plain, strict=True):
        gains = ranked[name].minus(plain[name])
        before = plain[name].combination.metrics()
        found[share] = {metric: (before[metric].value, gains[metric]) for metric in METRICS}
    return found


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
