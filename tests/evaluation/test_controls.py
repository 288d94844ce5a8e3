"""Controls of real agents, and the table that says what contexts are worth."""

import csv
import io
import json

import numpy as np
import pytest

import metarl
from metarl import registry
from metarl.agents.maml_ppo import MAMLPPO, MAMLPPOConfig
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation.comparison import Comparison, Participant
from metarl.evaluation.control_plots import plot_controls, plot_robustness
from metarl.evaluation.control_statistics import difference_of, normalized
from metarl.evaluation.control_table import Controlled, Controls, Reference
from metarl.evaluation.controls import control_curves, control_partners
from metarl.evaluation.curve import AdaptationCurve, summarize
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.evaluation.robustness import Robustness
from metarl.evaluation.statistics import crossed_mean
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.options import with_options
from metarl.stepping.options import Workers

pytestmark = pytest.mark.filterwarnings("ignore:the linear baseline")

ROUNDS = TrialShape(2, 1, sequential=False)


def rl2(tasks):
    agent = RL2(with_options(RL2Config(), hidden_size=4), TaskSpec.of(tasks), seed=0, device="cpu")
    for parameter in agent.head.parameters():
        parameter.data.mul_(300)  # At first it acts at random, whatever its context.
    return agent


def maml(tasks):
    config = with_options(MAMLPPOConfig(), hidden_sizes=(4,), inner_learning_rate=(9.0,))
    config = with_options(config, episodes_per_adaptation=2, num_adaptations=1)
    return MAMLPPO(config, TaskSpec.of(tasks), seed=0, device="cpu")


def baseline(text):
    return lambda tasks: registry.make_baseline(text, tasks, ROUNDS)


AGENTS = {
    "rl2": rl2,
    "maml-ppo": maml,
    "thompson": baseline("thompson"),
    "ppo-scratch": baseline("ppo-scratch:experience=1,learning_rate=0.1,batch_size=2"),
    "oracle": baseline("oracle"),
}


@pytest.mark.parametrize("name", AGENTS)
def test_own_is_the_plain_evaluation_and_the_controls_are_of_the_same_episodes(name):
    tasks = metarl.make("bandit/n4-k3")
    agent, same = AGENTS[name](tasks), {"num_tasks": 12, "seed": 3, "num_episodes": 4}
    plain = evaluate_adaptation(agent, tasks, **same)
    curves = control_curves(agent, tasks, **same, workers=Workers(num_envs=10))
    own = curves["own"]
    assert (own.returns == plain.returns).all() and own.episodes == plain.episodes
    assert (own.trial_return == plain.trial_return).all() and own.conditions == {}
    assert ("reset-every-step" in curves) == agent.shape.sequential
    for control, curve in curves.items():
        assert curve.returns.shape == own.returns.shape
        assert control == "own" or curve.conditions == {"context": control}
        if control != "another-task" or name != "oracle":  # It is told another task.
            assert (curve.returns[0] == own.returns[0]).all()
    differs = {c for c, curve in curves.items() if (curve.returns != own.returns).any()}
    assert "another-task" in differs
    if name == "oracle":
        assert differs == {"another-task"}  # It keeps what it is told, and learns nothing else.
        assert (curves["another-task"].returns < own.returns).any()


def test_differences_of_tasks_that_share_a_context_hardly_correlate():
    """Intervals over tasks take them as independent; each context counts in two of them."""
    tasks, found = metarl.make("bandit/n4-k3"), []
    agent = registry.make_baseline("thompson", tasks, TrialShape(8))
    for seed in range(5):
        curves = control_curves(agent, tasks, num_tasks=1000, seed=seed)
        difference = difference_of(curves, "another-task", "return")[1:].mean(0)
        partners = control_partners(tasks, split="test", num_tasks=1000, seed=seed)
        found.append(np.corrcoef(difference, difference[partners])[0, 1])
    assert abs(np.mean(found)) < 0.06  # four standard errors of 5000 pairs


def test_a_task_is_never_tested_with_its_own_context():
    tasks = metarl.make("half-cheetah/direction")  # two tasks in all
    partners = control_partners(tasks, split="test", num_tasks=6, seed=0)
    drawn = evaluation_tasks(tasks, num_tasks=6)
    assert all(drawn[i] != drawn[j] for i, j in enumerate(partners))
    with pytest.raises(UserError, match="no two differ"):
        control_partners(tasks, split="test", num_tasks=1, seed=0)


def test_an_evaluation_of_one_task_has_no_other_one():
    tasks = metarl.make("bandit/n4-k3")
    with pytest.raises(UserError, match="--evaluation-tasks: got 1; accepted: at least 2"):
        control_curves(rl2(tasks), tasks, num_tasks=1)


# the table


def curve(returns, success=None, **fields):
    returns = np.asarray(returns, np.float32)
    return AdaptationCurve(
        **{"env": "e", "agent": "a", "seed": 0, "split": "test", "shared_split": False},
        **{"score": "adapting-episodes", "greedy": False, "episodes": tuple(range(len(returns)))},
        returns=returns,
        success=None if success is None else np.asarray(success, np.float32),
        **fields,
    )


OWN = [[0.0, 1.0, 2.0], [4.0, 5.0, 9.0], [6.0, 6.0, 6.0]]
OTHER = [[0.0, 1.0, 2.0], [3.0, 5.0, 4.0], [5.0, 3.0, 1.0]]
STEP = [[-1.0, 0.0, 0.0], [3.0, 5.0, 4.0], [5.0, 3.0, 1.0]]


def table(own=OWN, other=OTHER, references=()):
    step = STEP[: len(own)]
    curves = {"own": curve(own), "another-task": curve(other), "reset-every-step": curve(step)}
    return Controls([Controlled("it", "agent", curves)], references)


def test_differences_are_paired_by_task():
    own, other, step = table().rows
    assert own["value"]["mean"] == pytest.approx([1, 6, 6])
    assert own["difference"] is own["overall"] is own["normalized"] is None
    assert other["difference"]["mean"] == pytest.approx([0, 2, 3])
    paired = np.array([[1, 0, 5], [1, 3, 5]]).mean(0)  # without the point before any experience
    assert other["overall"]["mean"] == pytest.approx(paired.mean())
    assert other["overall"]["low"] == summarize(paired[None])["low"][0]
    assert step["overall"]["mean"] == pytest.approx((4 / 3 + 2 + 3) / 3)  # with that point


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (OTHER, "it adapts to its task"),
        (OWN, "this does not show that it adapts"),
        ([OWN[0], [6.0, 7.0, 10.0], [7.0, 7.0, 7.5]], "does harm"),
    ],
)
def test_the_verdict_is_what_the_interval_says(other, said):
    (verdict,) = table(other=other).verdicts
    assert verdict.startswith("it: own minus another task's context is ") and said in verdict


def test_a_trial_of_one_point_has_no_verdict_and_says_why():
    made = table(OWN[:1], OTHER[:1])
    assert made.verdicts == []
    assert "it: no verdict, since its trials have one point" in made.to_markdown()
    assert not any("no verdict" in note for note in table().notes)


def test_scores_lie_between_the_multi_task_policy_and_the_oracle():
    rng = np.random.default_rng(0)
    own, multitask, oracle = (
        rng.normal(0.5, 0.2, (2, 40)),
        rng.normal(0, 0.2, 40),
        rng.normal(2, 1, 40),
    )
    found = normalized(own, multitask, oracle)
    expected = [
        (own[p].mean() - multitask.mean()) / (oracle.mean() - multitask.mean()) for p in (0, 1)
    ]
    assert found["mean"] == pytest.approx(expected)
    ratios = []
    for _ in range(2000):  # the bootstrap, one resample after another
        rows = rng.integers(40, size=40)
        low, high = multitask[rows].mean(), oracle[rows].mean()
        ratios.append([(own[p][rows].mean() - low) / (high - low) for p in (0, 1)])
    bounds = np.percentile(ratios, [2.5, 97.5], axis=0)
    assert np.array([found["low"], found["high"]]) == pytest.approx(bounds, abs=0.02)
    assert normalized(own, multitask, multitask + 0.01 * rng.normal(size=40)) is None  # no room


def test_references_are_one_number_and_normalise_the_own_context():
    multitask = Reference("multi-task", "ppo", curve([[0.0, 0.0, 1.0]] * 3, env_steps=5))
    oracle = Reference("oracle", "oracle", curve([[8.0, 9.0, 9.0]] * 3, told_task=True))
    made = table(references=(multitask, oracle))
    own, _, _, *beside = made.rows
    assert own["normalized"]["mean"] == pytest.approx(
        [(x - 1 / 3) / (26 / 3 - 1 / 3) for x in (1, 6, 6)]
    )
    assert [row["control"] for row in beside] == ["multi-task", "oracle"]
    assert "ppo was trained on 5 steps, it on 0." in made.notes
    assert not table(references=(multitask,)).rows[0]["normalized"]


def test_all_files_hold_the_same_table(tmp_path):
    success = np.clip(OWN, 0, 1)
    curves = {"own": curve(OWN, success), "another-task": curve(OTHER, 0 * success)}
    made = Controls([Controlled("it", "agent", curves)])
    files = made.save(tmp_path, "x")
    assert [path.suffix for path in files] == [".csv", ".md", ".json"]
    content = json.loads(files[2].read_text())
    assert content["rows"] == json.loads(json.dumps(made.rows)) and content["num_tasks"] == 3
    lines = list(csv.DictReader(io.StringIO(files[0].read_text())))
    assert len(lines) == 2 * 2 * 3  # metrics, contexts, points
    third = lines[5]
    assert (third["control"], third["episodes"], float(third["difference"])) == (
        "another-task",
        "2",
        3,
    )
    assert float(third["difference_low"]) == content["rows"][1]["difference"]["low"][2]
    assert {line["metric"] for line in lines} == {"return", "success"}
    text = files[1].read_text()
    assert "| it | another task's |" in text and "own − it, after 2" in text
    assert f"- {made.verdicts[0]}" in text


def seeds(number, spread, group="it"):
    """Return agents whose own context is worth 1 on average, and more or less by their seed."""
    rng = np.random.default_rng(1)
    agents = []
    for i, shift in enumerate(spread * np.linspace(-1, 1, number)):
        other = rng.normal(size=(3, 30))
        own = other + [[0], [1 + shift], [1 + shift]] + 0.1 * rng.normal(size=(3, 30))
        agents.append(
            Controlled(
                f"it, seed {i}", "agent", {"own": curve(own), "another-task": curve(other)}, group
            )
        )
    return agents


@pytest.mark.parametrize(
    ("number", "spread", "said"),
    [
        (4, 0.2, "it adapts to its task"),
        (4, 0.9, "this does not show that it adapts"),
        (2, 0.2, "there is no interval over seeds below 3"),
    ],
)
def test_runs_that_differ_in_their_seed_have_a_verdict_together(number, spread, said):
    """Every run has an own context that is worth something; whether the next would is not told."""
    agents = seeds(number, spread)
    made = Controls([*agents, Controlled("other", "agent", agents[0].curves, "alone")])
    *each, together = made.verdicts
    assert len(each) == number + 1 and all("it adapts to its task" in line for line in each)
    assert together.startswith(f"it over {number} seeds: own minus") and said in together
    (row,) = made.over_seeds
    values = np.stack([a.curves["own"].returns - a.curves["another-task"].returns for a in agents])
    overall = crossed_mean(values[:, 1:].mean(1, dtype=np.float64))
    assert row["overall"]["mean"] == pytest.approx(overall.mean, rel=1e-5)
    if number > 2:
        assert row["overall"]["high"] == pytest.approx(
            overall.mean + overall.half_width(), rel=1e-5
        )
    assert made.to_json()["over_seeds"] == made.over_seeds and together in made.to_markdown()
    assert Controls(seeds(3, 0.1, group="")).over_seeds == []


# tasks that are fixed

KINDS = np.array([0, 0, 0, 1])  # Three tasks of one kind, and one of another.


def fixed(strata=KINDS):
    rng = np.random.default_rng(0)
    own, other, low, high = (
        rng.normal(mean, 1, (2, 4)) + 9 * (KINDS == 1) for mean in (4, 3, 0, 90)
    )
    curves = {"own": curve(own, strata=strata), "another-task": curve(other, strata=strata)}
    beside = [
        Reference(role, role, curve(x, strata=strata, told_task=role == "oracle"))
        for role, x in (("multi-task", low), ("oracle", high))
    ]
    return Controls([Controlled("it", "agent", curves)], beside)


def test_what_is_fixed_counts_as_in_a_plain_evaluation():
    made = fixed()
    own = made.participants[0].curves["own"]
    rows = {row["control"]: row for row in made.rows}
    assert rows["own"]["value"] == summarize(own.returns, KINDS)
    assert rows["own"]["value"]["mean"] != pytest.approx(own.returns.mean(1))  # unequal kinds
    difference = own.returns - made.participants[0].curves["another-task"].returns.astype(float)
    assert rows["another-task"]["difference"] == summarize(difference, KINDS)
    assert rows["another-task"]["overall"]["low"] == summarize(difference[1:], KINDS)["low"][0]
    oracle = made.references[1].values("return")
    assert rows["oracle"]["value"]["mean"][0] == summarize(oracle[None], KINDS)["mean"][0]
    means = [np.asarray(rows[name]["value"]["mean"]) for name in ("own", "multi-task", "oracle")]
    expected = (means[0] - means[1]) / (means[2] - means[1])
    assert rows["own"]["normalized"]["mean"] == pytest.approx(expected)


def test_tasks_that_are_all_there_are_have_no_interval_and_no_verdict(tmp_path):
    made = fixed(np.arange(4))
    (verdict,) = made.verdicts
    assert "there is no interval, and no verdict" in verdict and "(" not in verdict
    lines = list(csv.DictReader(io.StringIO(made.to_csv())))
    assert {line["value_low"] for line in lines} == {""} and lines[0]["value"]
    assert all(row["normalized"] is None for row in made.rows)
    made.print()
    made.save(tmp_path, "x")
    plot_controls(made, tmp_path / "x.png")


def test_a_sweep_counts_what_is_fixed_as_a_plain_evaluation_does(tmp_path):
    def comparison(strata):
        (it,) = fixed(strata).participants
        return Comparison(
            [Participant("it", "agent", it.curves["own"], it.curves["own"].summary(), 2)]
        )

    made = Robustness("reward_noise", (0.0, 1.0), [comparison(KINDS)] * 2)
    returns = fixed().participants[0].curves["own"].returns
    expected = 2 * summarize(returns[-1:], KINDS)["high"]
    assert made.rows[0]["after"]["high"] == pytest.approx(expected)
    whole = Robustness("reward_noise", (0.0, 1.0), [comparison(np.arange(4))] * 2)
    whole.print()
    whole.save(tmp_path, "x")
    plot_robustness(whole, tmp_path / "x.png")
    (line, _) = csv.DictReader(io.StringIO(whole.to_csv()))
    assert line["after"] and line["after_low"] == ""


def test_the_interval_of_a_normalised_score_within_kinds_covers():
    """Four fixed kinds of three tasks each, 1000 times: the ratio is held 95 times in a hundred."""
    rng = np.random.default_rng(0)
    strata, held = np.repeat(np.arange(4), 3), []
    for _ in range(1000):
        task = rng.normal(size=12)
        own, low, high = (x + task + rng.normal(size=12) for x in (6.0, 0.0, 9.0))
        found = normalized(own[None], low, high, strata)
        held.append(found["low"][0] <= 6 / 9 <= found["high"][0])
    assert 0.93 < np.mean(held) < 0.985
