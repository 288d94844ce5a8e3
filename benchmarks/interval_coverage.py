"""How often do 95% intervals over seeds and tasks hold the true mean? Ours and a bootstrap's.

    python benchmarks/interval_coverage.py

Every sample is an experiment: some seeds, each on the same 50 tasks, ``mean + seed + task + rest``
with tasks and rest of deviation 1. Seeds are Gaussian of deviation 1 or 0.3, or of two kinds that
are equally likely: they succeed or fail, two deviations apart. The bootstrap resamples seeds and
tasks independently and takes percentiles, as ours did before. The results also say how often one
t with Satterthwaite's degrees of freedom for the sum of both variances holds the mean
(``single_t``), how many groups are flagged as two kinds of seeds (``flagged``), and how many of
those whose interval of ours misses (``flagged_misses``).
"""

import json
from pathlib import Path

import numpy as np
from scipy import stats

from metarl.evaluation.scores import has_two_kinds
from metarl.evaluation.statistics import crossed_mean

NUM_SEEDS = (2, 3, 4, 5, 6, 7, 8, 9, 10)
NUM_TASKS, SAMPLES, RESAMPLES = 50, 4000, 1000
KINDS = {
    "Gaussian": lambda rng, shape: rng.normal(0, 1, shape),
    "Gaussian, 0.3": lambda rng, shape: rng.normal(0, 0.3, shape),
    "succeed or fail": lambda rng, shape: 2.0 * (rng.random(shape) < 0.5) - 1,
}
OUTPUT = Path(__file__).with_name("interval-coverage.json")


def bootstrap_holds(values, rng):
    """Whether the percentile interval of the crossed bootstrap holds 0; values[seed, task]."""
    seeds, tasks = values.shape
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES) / seeds
    by_task = rng.multinomial(tasks, np.full(tasks, 1 / tasks), RESAMPLES) / tasks
    low, high = np.quantile(((by_seed @ values) * by_task).sum(1), (0.025, 0.975))
    return low <= 0 <= high


def single_t_holds(found):
    """Whether intervals by one t hold 0: that of the sum of both variances."""
    total = found.by_seeds + found.by_tasks
    below = found.by_seeds**2 / found.seed_freedom + found.by_tasks**2 / found.task_freedom
    return np.abs(found.mean) <= stats.t.ppf(0.975, total**2 / below) * np.sqrt(total)


def coverage(kind, seeds):
    """The share of intervals that hold the true mean, 0, and what the results say besides."""
    rng = np.random.default_rng([list(KINDS).index(kind), seeds])
    values = rng.normal(size=(SAMPLES, seeds, NUM_TASKS))
    values += rng.normal(size=(SAMPLES, 1, NUM_TASKS)) + KINDS[kind](rng, (SAMPLES, seeds, 1))
    found = crossed_mean(values)
    half = found.half_width()
    misses = None if half is None else np.abs(found.mean) > half
    flagged = np.array([has_two_kinds(x) for x in values])
    return {
        "seeds": seeds,
        "ours": None if misses is None else float(1 - misses.mean()),
        "half_width": None if half is None else float(half.mean()),
        "single_t": float(single_t_holds(found).mean()),
        "flagged": float(flagged.mean()),
        "flagged_misses": None if misses is None else float(flagged[misses].mean()),
        "bootstrap": float(np.mean([bootstrap_holds(x, rng) for x in values])),
    }


def main():
    """Print the table, and write it."""
    rows = {kind: [coverage(kind, seeds) for seeds in NUM_SEEDS] for kind in KINDS}
    print("| seeds | " + " | ".join(f"{kind}: ours, bootstrap" for kind in KINDS) + " |")
    print("|---" * (1 + len(KINDS)) + "|")
    for index, seeds in enumerate(NUM_SEEDS):
        cells = [rows[kind][index] for kind in KINDS]
        shares = [
            f"{'none' if c['ours'] is None else format(c['ours'], '.1%')}, {c['bootstrap']:.1%}"
            for c in cells
        ]
        print(f"| {seeds} | " + " | ".join(shares) + " |")
    content = {"format": 1, "tasks": NUM_TASKS, "samples": SAMPLES, "resamples": RESAMPLES}
    OUTPUT.write_text(json.dumps({**content, "coverage": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
