"""What do ten minutes with nothing but an agent and an environment typed give?

    python benchmarks/as_typed.py [--only NAME…] [--minutes M] [--at-once N] [--folder FOLDER]

Trains both agents on 13 distributions of tasks by ``metarl train AGENT --env ENV --minutes M``
and nothing else, evaluates each with the controls on held-out tasks, and writes as-typed.json and
as-typed.md beside this file. What has been cut off goes on with the same command, what is finished
is not done again. As many as ``--at-once`` says are trained at a time. LunarLander needs
``gymnasium[box2d]``, MiniGrid ``minigrid``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import metarl
from metarl.evaluation.groups import Scores, compare_scores
from metarl.files import write_json, write_whole
from metarl.running.run import Run

_MINIGRID = "gym/minigrid:MiniGrid-DistShift1-v0"
_OPTIONS = "horizon=100,wrappers=minigrid.wrappers:ImgObsWrapper"
ENVS = {
    "bandit": "bandit/n10-k5",
    "mdp": "mdp/n10",
    "gridworld": "gridworld",
    "navigation": "navigation",
    "direction": "half-cheetah/direction",
    "velocity": "half-cheetah/velocity",
    "hopper": "hopper/params",
    "reach": "metaworld/ml1-reach",
    "cartpole": "gym/CartPole-v1:force_mag=-10/10,horizon=200",
    "pendulum": "gym/Pendulum-v1:g=2..20",
    "lander": "gym/LunarLander-v3:wind_power=0..20,enable_wind=true",
    # Layouts 2 and 3 are trained on, 5 is held out; then all four are both.
    "minigrid": f"{_MINIGRID}:strip2_row=int:2..5,{_OPTIONS}",
    "layouts": f"{_MINIGRID}:strip2_row=2/3/4/5,{_OPTIONS}",
}
AGENTS = ("rl2", "maml-ppo")
OUTPUT = Path(__file__).with_name("as-typed.json")
_METARL = "from metarl.__main__ import main; main()"


def command(*words, log):
    """Run a command of metarl; its output goes to a file."""
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-c", _METARL, *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"metarl {' '.join(words)}: exit {done.returncode}, see {log}")


def measured(agent, name, folder, minutes):
    """Train an agent if it is not trained, evaluate it with controls, and return its row."""
    run, log = folder / f"{agent}-{name}", folder / f"{agent}-{name}.log"
    typed = ["train", agent, "--env", ENVS[name], "--minutes", f"{minutes:g}"]
    command(*typed, "--resume", "auto", "--run-dir", str(run), log=log)
    controls = folder / f"{agent}-{name}-controls"
    if several_tasks(name) and not (controls / "test.json").exists():
        again = ["evaluate", str(run), "--env", ENVS[name], "--controls"]  # A file imports nothing.
        command(*again, "--output", str(controls), log=log)
    return row(agent, name, run, controls / "test.json")


def several_tasks(name):
    """Return whether held-out tasks differ: otherwise there is no other task's context."""
    rng = np.random.default_rng(0)
    return len(set(metarl.make(ENVS[name]).sample(rng, 100, "test"))) > 1


def row(agent, name, run, controls):
    """Return what is known of a finished run."""
    record = metarl.read_run(run)
    own, untrained = (record.evaluations[x] for x in ("test", "test-untrained"))
    number = untrained.returns.shape[1]  # The untrained agent meets the first of the same tasks.
    last = [
        Scores(x, (str(run),), curve.returns[-1:, :number].astype(np.float64))
        for x, curve in (("own", own), ("untrained", untrained))
    ]
    (better,) = compare_scores(last, untrained.strata)["pairs"]
    rows = json.loads(controls.read_text())["rows"] if several_tasks(name) else []
    foreign = [r for r in rows if r["control"] == "another-task" and r["metric"] == "return"]
    settings = Run.open(run).settings
    return {
        "agent": agent,
        "env": ENVS[name],
        "iterations": own.iteration,
        "env_steps": own.env_steps,
        "seconds_per_iteration": float(np.nanmedian(record.metrics["time/iteration_s"])),
        "tasks_per_update": settings.agent_config.tasks_per_update,
        "tasks": own.returns.shape[1],
        "episodes": list(own.episodes),
        "before": float(own.returns[0].mean()),
        "after": float(own.returns[-1].mean()),
        "untrained": float(untrained.returns[-1].mean()),
        "minus_untrained": {k: better[k] for k in ("mean", "low", "high")},
        "minus_foreign": foreign[0]["overall"] if foreign else None,
    }


def above_zero(interval):
    """Return whether an interval is above zero."""
    return interval is not None and interval["low"] is not None and interval["low"] > 0


def figures(value):
    """Return a number with three figures, and no exponent."""
    return f"{float(f'{value:.3g}'):,.10g}"


def table(rows, minutes):
    """Return the rows as Markdown."""
    text = [
        f"**{minutes:g} minutes of `metarl train AGENT --env ENV`, seed 0, held-out tasks; two "
        "trainings at once on two cores, or alone**",
        "",
        "| environment | agent | an iteration | steps | before, after | untrained | own − "
        "untrained | own − another task's context |",
        "| --- | --- | --: | --: | --: | --: | --: | --: |",
    ]
    for r in rows:
        differences = []
        for interval in (r["minus_untrained"], r["minus_foreign"]):
            words = "one task"
            if interval:
                mean, low, high = (figures(interval[x]) for x in ("mean", "low", "high"))
                words = f"{mean} ({low} to {high})"
            differences.append(f"**{words}**" if above_zero(interval) else words)
        seconds = r["seconds_per_iteration"]
        beside = ", alone" if r["at_once"] == 1 else ""
        cells = [
            f"`{r['env']}`",
            r["agent"],
            f"{seconds:.2g} s{beside}",
            f"{figures(r['env_steps'] / 1e6)} M",
        ]
        cells += [f"{figures(r['before'])}, {figures(r['after'])}", figures(r["untrained"])]
        text.append(f"| {' | '.join([*cells, *differences])} |")
    for agent in AGENTS:
        own = [r for r in rows if r["agent"] == agent]
        counts = [sum(above_zero(r[x]) for r in own) for x in ("minus_untrained", "minus_foreign")]
        slowest = max((r["seconds_per_iteration"] for r in own), default=0)
        text += [
            "",
            f"{agent}: better than untrained on {counts[0]} of {len(own)}, better than with "
            f"another task's context on {counts[1]}; the slowest iteration took {slowest:.2g} s.",
        ]
    return "\n".join(text) + "\n"


def main():
    """Do what is left, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pairs = [f"{agent}-{name}" for name, agent in itertools.product(ENVS, AGENTS)]
    parser.add_argument("--only", nargs="+", default=pairs, choices=pairs, metavar="NAME")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/as-typed"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    if OUTPUT.exists() and options.minutes == 10:
        rows = {(r["agent"], r["env"]): r for r in json.loads(OUTPUT.read_text())["rows"]}

    def do(pair):
        agent, name = next((a, n) for a, n in itertools.product(AGENTS, ENVS) if f"{a}-{n}" == pair)
        if (agent, ENVS[name]) not in rows:
            found = measured(agent, name, options.folder, options.minutes)
            rows[agent, ENVS[name]] = found | {"at_once": options.at_once}
        save(rows, options)
        print(f"{pair}: {rows[agent, ENVS[name]]}", flush=True)

    with ThreadPoolExecutor(options.at_once) as pool:
        list(pool.map(do, options.only))


def save(rows, options):
    """Write the rows that there are, in the order of the list above."""
    order = [rows[key] for key in itertools.product(AGENTS, ENVS.values()) if key in rows]
    order.sort(key=lambda r: list(ENVS.values()).index(r["env"]))
    output = OUTPUT if options.minutes == 10 else options.folder / OUTPUT.name
    write_json(output, {"minutes": options.minutes, "rows": order})
    write_whole(output.with_suffix(".md"), table(order, options.minutes).encode())


if __name__ == "__main__":
    main()
