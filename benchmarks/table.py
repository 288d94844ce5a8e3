"""Tables of results from the files of this folder: README's, and those of the pages in docs.

    python benchmarks/table.py           writes README's between its marks
    python benchmarks/table.py --check   says whether it would change (a test does this)

The pages have theirs by the directive ``{results} NAME``, with the name of an agent or of a table.

Nothing in them is typed by hand but published figures and their sources. With three seeds or more,
± is half of a 95% t interval over seeds; with fewer, each seed's value stands there by itself.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metarl.running.presets import presets
from metarl.running.trained import trained_agents

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Row:
    """A result: runs of one agent on one distribution of tasks."""

    env: str
    """The name of the task distribution."""
    agent: str
    """The name of the agent."""
    what: str
    """What the figures are, in words."""
    file: str
    """The file of results, in this folder."""
    runs: tuple[int, ...]
    """Which of the file's runs, which differ in their seed alone."""
    metric: str
    """The measure: ``return``, ``success`` or ``trial_return``."""
    point: int
    """Which point of the adaptation curve; -1 is the last."""
    digits: int
    """The number of decimals shown."""
    paper: str
    """The published figure and its source, or nothing."""
    command: str
    """The command that trains such a run."""

    def results(self) -> list[dict[str, Any]]:
        """Return the runs."""
        every = json.loads((ROOT / "benchmarks" / self.file).read_text())["runs"]
        return [every[i] for i in self.runs]

    def values(self, which: str = "test") -> list[float]:
        """Return every seed's value, of the trained (``test``) or the ``untrained`` agent."""
        found = []
        for run in self.results():
            means = run[which][self.metric]["mean"]
            found.append(float(means[self.point] if isinstance(means, list) else means))
        return found


ROWS = [
    Row(
        "bandit/n10-k5",
        "rl2",
        "ten pulls",
        "rl2-bandit-n10-k5.json",
        (0, 1, 2, 3, 4),
        "trial_return",
        -1,
        3,
        "6.7 (Duan et al., 2016)",
        "metarl train rl2 --env bandit/n10-k5",
    ),
    Row(
        "bandit/n100-k10",
        "rl2",
        "a hundred pulls",
        "rl2-bandit-n100-k10.json",
        (0,),
        "trial_return",
        -1,
        1,
        "83.5 (Duan et al., 2016)",
        "metarl train --preset rl2-bandit-n100-k10",
    ),
    Row(
        "mdp/n10",
        "rl2",
        "ten episodes",
        "rl2-mdp-n10.json",
        (0, 1),
        "trial_return",
        -1,
        1,
        "156.2 (Duan et al., 2016)",
        "metarl train --preset rl2-mdp-n10",
    ),
    Row(
        "navigation",
        "maml-ppo",
        "an episode after 3 gradient steps",
        "maml-ppo-navigation.json",
        (0, 1, 2, 3, 4),
        "return",
        3,
        2,
        "−3.23 (Finn et al., 2017)",
        "metarl train maml-ppo --env navigation",
    ),
    Row(
        "half-cheetah/direction",
        "maml-ppo",
        "an episode after 1 gradient step",
        "maml-ppo-half-cheetah-direction.json",
        (0, 1),
        "return",
        1,
        0,
        "293 (Finn et al., 2017, another simulator)",
        "metarl train maml-ppo --env half-cheetah/direction",
    ),
    Row(
        "half-cheetah/velocity",
        "rl2",
        "the second episode",
        "rl2-half-cheetah-velocity-scaled.json",
        (0, 1),
        "return",
        1,
        1,
        "",
        "metarl train rl2 --env half-cheetah/velocity",
    ),
    Row(
        "metaworld/ml1-reach",
        "rl2",
        "success, tenth episode",
        "metaworld-rl2-ml1-reach.json",
        (0, 1),
        "success",
        9,
        2,
        "",
        "metarl train rl2 --env metaworld/ml1-reach",
    ),
    Row(
        "metaworld/ml1-reach",
        "maml-ppo",
        "success after 3 gradient steps",
        "metaworld-maml-ppo-ml1-reach.json",
        (0, 2, 3),
        "success",
        3,
        2,
        "",
        "metarl train maml-ppo --env metaworld/ml1-reach",
    ),
    Row(
        "metaworld/ml1-push",
        "rl2",
        "success, tenth episode",
        "metaworld-rl2-ml1-push.json",
        (0,),
        "success",
        9,
        2,
        "",
        "metarl train rl2 --env metaworld/ml1-push",
    ),
]


def number(value: float, digits: int) -> str:
    """Return a number with a sign that is no hyphen."""
    return f"{value:.{digits}f}".replace("-", "−")


def estimate(values: Sequence[float], digits: int) -> str:
    """Return a mean with half of its interval over seeds, or every seed's value."""
    count = len(values)
    if count < 3:
        return ", ".join(number(x, digits) for x in values) + f" ({_seeds(count)})"
    half = stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5
    return f"{number(float(np.mean(values)), digits)} ± {half:.{digits}f} ({_seeds(count)})"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def minutes(runs: Sequence[dict[str, Any]]) -> str:
    """Return how long a training took, the median of the runs."""
    median = float(np.median([run["train_seconds"] for run in runs])) / 60
    return f"{median:.0f} min" if median >= 1 else f"{60 * median:.0f} s"


def readme_table() -> str:
    """Return README's table."""
    lines = [
        "| tasks, and what is measured | paper | here | training | command |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        here, took = estimate(row.values(), row.digits), minutes(row.results())
        what = f"`{row.env}`, {row.what}"
        lines.append(f"| {what} | {row.paper} | `{row.agent}`: {here} | {took} | `{row.command}` |")
    return "\n".join(lines)


def agent_table(agent: str) -> str:
    """Return the results of one agent, with the untrained agent's beside them."""
    lines = ["| tasks, and what is measured | untrained | trained | steps | training | command |"]
    lines.append("|---|---|---|---|---|---|")
    for row in ROWS:
        if row.agent == agent:
            runs = row.results()
            steps = f"{float(np.median([run['test']['env_steps'] for run in runs])) / 1e6:.1f} M"
            before = number(float(np.mean(row.values("untrained"))), row.digits)
            here, took = estimate(row.values(), row.digits), minutes(runs)
            what = f"`{row.env}`, {row.what}"
            lines.append(f"| {what} | {before} | {here} | {steps} | {took} | `{row.command}` |")
    return "\n".join(lines)


LIMITS = {
    "gridworld": "37.21 (Bayes-optimal, exact)",
    "t-maze/n100": "16 (2 without memory), exact",
    "dark-room/n9": "{plan:.2f} (best plan found)",
}
"""What the total of a trial can be at most, and whose figure it is."""


def preset_of(run: dict[str, Any]) -> str:
    """Return the name of the preset whose settings a run had, however these were typed."""
    env = run["train_config"]["env"]
    for name, preset in presets().items():
        train, config = preset.settings.train, dataclasses.asdict(preset.settings.agent_config)
        same = json.loads(json.dumps(config)) == run["agent_config"]
        if same and (train.env, train.iterations) == (env, run["train_config"]["iterations"]):
            return name
    raise ValueError(f"a run of {env} has the settings of no preset: {run['command']}")


def parts_table() -> str:
    """Return rl2 with other cores and heads."""
    lines = [
        "| tasks, total of a trial | limit | core | head | untrained | trained | steps | training "
        "| command |",
        "|---|---|---|---|--:|--:|--:|--:|---|",
    ]
    plan = json.loads((ROOT / "benchmarks" / "dark-room-plan.json").read_text())["total"]
    for _, content in _files("parts"):
        groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for run in content["runs"]:
            config, env = run["agent_config"], run["train_config"]["env"]
            parts = env, config["core"]["kind"], config["head"]["kind"]
            groups.setdefault(parts, []).append(run)
        for (env, core, head), runs in groups.items():
            test, untrained = (
                [float(run[which]["trial_return"]["mean"]) for run in runs]
                for which in ("test", "untrained")
            )
            begins = f"`{env}` | {LIMITS[env].format(plan=plan)} | `{core}` | `{head}`"
            here = f"{number(float(np.mean(untrained)), 2)} | {estimate(test, 2)}"
            steps = f"{runs[0]['test']['env_steps'] / 1e6:.1f} M"
            ends = f"{steps} | {minutes(runs)} | `metarl train --preset {preset_of(runs[0])}`"
            lines.append(f"| {begins} | {here} | {ends} |")
    return "\n".join(lines)


def interval(row: dict[str, Any], digits: int) -> str:
    """Return a mean with its interval: ``1.5 (1.2 to 1.8)``."""
    low, high = number(row["low"], digits), number(row["high"], digits)
    return f"{number(row['mean'], digits)} ({low} to {high})"


def _digits(value: float) -> int:
    """Return how many decimals show three figures of a number."""
    return max(0, min(3, 2 - int(np.floor(np.log10(max(abs(value), 1e-3))))))


def _files(folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the files of a folder of benchmarks, by name."""
    paths = sorted((ROOT / "benchmarks" / folder).glob("*.json"))
    return [(path.stem, json.loads(path.read_text())) for path in paths]


def controls_table() -> str:
    """Return what an agent's context is worth beside that of another task."""
    lines = [
        "| agent | tasks | number | own context | another task's | own − another's, all points |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for _, content in _files("controls"):
        found = [r for r in content.get("rows", ()) if r["metric"] == "return"]
        rows = {(r["label"], r["control"]): r for r in found}
        for (label, control), other in rows.items():
            if control != "another-task" or other["kind"] != "agent":
                continue
            own = rows[label, "own"]["value"]["mean"][-1]
            digits = _digits(own)
            values = f"{number(own, digits)} | {number(other['value']['mean'][-1], digits)}"
            apart = interval(other["overall"], _digits(other["overall"]["mean"]))
            tasks = f"`{content['env']}` | {content['num_tasks']}"
            lines.append(f"| `{label}` | {tasks} | {values} | {apart} |")
    return "\n".join(lines)


def comparisons_table() -> str:
    """Return agents and baselines on the same tasks, one line each."""
    lines = [
        "| tasks | number | agent or baseline | first | last | difference |",
        "|---|--:|---|--:|--:|--:|",
    ]
    for name, content in _files("comparisons"):
        begins = f"`{content['env']}` ({name}) | {content['num_tasks']}"
        for row in content["rows"]:
            if row["kind"] == "untrained":
                continue
            first, last = row["return"]["mean"][0], row["return"]["mean"][-1]
            told = ", told the task" if row["told_task"] else ""
            values = f"{number(first, _digits(last))} | {number(last, _digits(last))}"
            apart = row["difference"]
            shown = interval(apart, _digits(apart["mean"])) if apart else ""
            lines.append(f"| {begins} | `{row['label']}`{told} | {values} | {shown} |")
            begins = " | "
    return "\n".join(lines)


def multitask_table() -> str:
    """Return policies for all tasks beside the agents that adapt, after the last point."""
    lines = ["| tasks | episodes before | `ppo-multitask` | agents that adapt |"]
    lines.append("|---|--:|--:|---|")
    for _, content in _files("comparisons"):
        agents = [r for r in content["rows"] if r["kind"] == "agent" and not r["told_task"]]
        last = {r["label"].partition(",")[0]: r["return"]["mean"][-1] for r in agents}
        own = last.pop("ppo-multitask", None)
        if own is not None:
            others = ", ".join(f"`{name}` {number(x, _digits(x))}" for name, x in last.items())
            begins = f"`{content['env']}` | {agents[0]['episodes'][-1]}"
            lines.append(f"| {begins} | {number(own, _digits(own))} | {others} |")
    return "\n".join(lines)


def baselines_table() -> str:
    """Return the totals of baselines beside published and exact ones."""
    content = json.loads((ROOT / "benchmarks" / "baselines-exact.json").read_text())
    lines = ["| tasks | number | baseline | total of a trial | known |", "|---|--:|---|--:|--:|"]
    for env, family in content["families"].items():
        for name, row in family["baselines"].items():
            digits = _digits(row["total"])
            error = f"{1.96 * row['standard_error']:.{digits}f}"
            known = "" if row["known"] is None else number(row["known"], 1)
            told = ", told the task" if row["told_task"] else ""
            total = f"{number(row['total'], digits)} ± {error}"
            lines.append(f"| `{env}` | {family['tasks']} | `{name}`{told} | {total} | {known} |")
    return "\n".join(lines)


def coverage_table() -> str:
    """Return how often intervals over seeds hold the true mean."""
    content = json.loads((ROOT / "benchmarks" / "interval-coverage.json").read_text())
    kinds = list(content["coverage"])
    lines = ["| seeds | " + " | ".join(f"{k}: here, bootstrap" for k in kinds) + " |"]
    lines.append("|--:|" + "--:|" * len(kinds))
    for rows in zip(*content["coverage"].values(), strict=True):
        cells = [f"{_share(r['ours'])}, {_share(r['bootstrap'])}" for r in rows]
        lines.append(f"| {rows[0]['seeds']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def environments_table() -> str:
    """Return the speed of environments of other packages, beside the same without this toolkit."""
    content = json.loads((ROOT / "benchmarks" / "environments.json").read_text())
    lines = ["| package | name | steps/s | bare | ratio |", "|---|---|--:|--:|--:|"]
    for row in content["rows"]:
        speeds = f"{row['steps_per_second']:,.0f} | {row['bare_steps_per_second']:,.0f}"
        lines.append(f"| {row['package']} | `{row['env']}` | {speeds} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def trained_table() -> str:
    """Return the agents that come with the toolkit."""
    lines = [
        "| name | tasks | first | last | after | tasks evaluated |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for name, each in trained_agents().items():
        summary = each.summary
        first, last = (summary["return"]["mean"][i] for i in (0, -1))
        values = f"{number(first, _digits(last))} | {number(last, _digits(last))}"
        after = f"{summary['episodes'][-1]} episodes | {summary['num_tasks']}"
        lines.append(f"| `{name}` | `{summary['env']}` | {values} | {after} |")
    return "\n".join(lines)


def typed_table() -> str:
    """Return what ten minutes give with nothing but an agent and an environment typed."""
    return (ROOT / "benchmarks" / "as-typed.md").read_text()


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


TABLES = {
    "readme": readme_table,
    "parts": parts_table,
    "controls": controls_table,
    "comparisons": comparisons_table,
    "multitask": multitask_table,
    "baselines": baselines_table,
    "coverage": coverage_table,
    "environments": environments_table,
    "trained": trained_table,
    "typed": typed_table,
}


def table(name: str) -> str:
    """Return a table by its name; other names are those of agents."""
    return TABLES[name]() if name in TABLES else agent_table(name)


def rewritten(text: str) -> str:
    """Return a page with README's table made anew between its marks."""
    begin, end = "<!-- results -->", "<!-- end of results -->"
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{readme_table()}\n{end}{rest.split(end, 1)[1]}"


def main() -> None:
    """Write README's table, or say that it would change."""
    path = ROOT / "README.md"
    text = path.read_text()
    made = rewritten(text)
    if made != text and "--check" in sys.argv[1:]:
        sys.exit("README.md: run python benchmarks/table.py")
    path.write_text(made)


if __name__ == "__main__":
    main()
