"""Evaluations under conditions, and training in which the task changes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import metarl
from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.evaluation.recovery import recovery_of
from metarl.experience.data import Change, Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.options import with_options
from metarl.running import compare as comparing
from metarl.running import evaluate as evaluating
from metarl.running import robustness as varying
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.shift import shifted_tasks, with_items
from metarl.running.train import train
from metarl.seeding import Phase
from metarl.stepping.disturbances import Disturbances

pytestmark = pytest.mark.filterwarnings("ignore:the linear baseline")

SMALL = {"iterations": 2, "evaluation_tasks": 6, "validation_tasks": 2, "check": False}
RL2 = with_options(RL2Config(), tasks_per_update=4, hidden_size=4, num_minibatches=1)
MAML = with_options(MAMLPPOConfig(), tasks_per_update=2, hidden_sizes=(4,), num_epochs=1)
MAML = with_options(MAML, episodes_per_adaptation=2, num_adaptations=1)
AGENTS = {"rl2": RL2, "maml-ppo": MAML}


def quick(agent, folder, **options):
    return train(
        Settings(
            agent, AGENTS[agent], with_options(TrainConfig(), **SMALL | options, run_dir=folder)
        )
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 10)
        patch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
        quick("rl2", root / "plain", env="bandit/n4-k3")
        quick("rl2", root / "changing", env="bandit/n4-k3", change_task_after=2)
        quick("maml-ppo", root / "maml", env="navigation:horizon=5")
    return root


@pytest.fixture
def runs(trained, tmp_path, monkeypatch, small_blocks, request):
    if "picture" not in request.node.name:
        for module in (comparing, evaluating):
            monkeypatch.setattr(module, "plot_adaptation", lambda lines, path: None)
        monkeypatch.setattr(varying, "plot_robustness", lambda found, path: None)
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")


# training


def test_training_trials_change_their_task_and_resume_exactly(tmp_path, monkeypatch, small_blocks):
    monkeypatch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
    trials = []

    def keep(number, trial, metrics):
        trials.append(trial)

    options = {"env": "bandit/n4-k3", "change_task_after": 2, "iterations": 3}
    settings = Settings(
        "rl2", RL2, with_options(TrainConfig(), **SMALL | options, run_dir=tmp_path / "a")
    )
    whole = train(settings, callback=keep)
    tasks = metarl.make("bandit/n4-k3")
    first = trials[0]
    assert first.change.after == 2
    assert all(a != b for a, b in zip(first.tasks, first.change.tasks, strict=True))
    assert {task.env for task in first.change.tasks} == {tasks.name}
    # The later pulls are of the other bandits: those of an untrained agent, in a loop of its own.
    agent, envs = whole.make_agent(), tasks.make_vec(4)
    keys = TrialKeys(0, Phase.TRAIN, 0, 4)
    expected, plain = (
        run_trial(agent, envs, first.tasks, shape=agent.shape, keys=keys, change=change)
        for change in (first.change, None)
    )
    envs.close()
    assert torch.equal(first.rounds[0].reward, expected.rounds[0].reward)
    assert torch.equal(first.rounds[0].reward[:, :2], plain.rounds[0].reward[:, :2])
    part = train(settings.with_train(run_dir=tmp_path / "b"), callback=lambda n, *_: n < 2)
    again = train(part.settings.with_train(iterations=3), resume=part)
    one, other = (run.checkpoint().tensors for run in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_agents_that_adapt_in_rounds_train_on_a_change_between_them(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
    run = quick(
        "maml-ppo", tmp_path / "m", env="navigation:horizon=3", change_task_after=2, iterations=1
    )
    summary = json.loads((run.directory / "evaluation/test.json").read_text())
    assert summary["conditions"] == {"change_task_after": 2}
    with pytest.raises(UserError, match="--change-task-after: got 1; accepted: 0"):
        quick("maml-ppo", tmp_path / "n", env="navigation", change_task_after=1)
    assert not (tmp_path / "n").exists()


def test_what_cannot_be_if_the_task_changes_is_refused():
    with pytest.raises(UserError, match="--task-sampler: got 'hardest'; accepted: uniform with"):
        with_options(TrainConfig(), change_task_after=2, task_sampler="hardest")
    for name in ("validation_tasks", "evaluation_tasks"):
        with pytest.raises(UserError, match="-tasks: got 1; accepted: at least 2 with --change"):
            with_options(TrainConfig(change_task_after=2), **{name: 1})


# evaluation


def test_an_evaluation_follows_the_training_and_says_so(runs):
    summary = json.loads(Path("changing/evaluation/test.json").read_text())
    assert summary["conditions"] == {"change_task_after": 2} and summary["recovery"]["within"] == 1
    assert "conditions" not in json.loads(Path("plain/evaluation/test.json").read_text())
    curve = metarl.evaluate("changing", change_task_after=0)
    assert curve.conditions == {}
    names = {path.name for path in Path("changing/evaluation").glob("*.json")}
    assert names == {f"test{x}.json" for x in ("", "-untrained")} | {
        f"test-change-task-after-0{x}.json" for x in ("", "-untrained")
    }
    again = metarl.compare(["changing"])
    assert again.curves["rl2"].conditions == {"change_task_after": 2}
    with pytest.raises(UserError, match="accepted: a number, since the runs were trained with"):
        metarl.compare(["changing", "plain"])
    both = metarl.compare(["changing", "plain"], change_task_after=1)
    assert all(curve.conditions == {"change_task_after": 1} for curve in both.curves.values())


def test_episodes_after_the_change_are_of_other_tasks():
    tasks = metarl.make("bandit/n6-k3")
    oracle = metarl.registry.make_baseline("oracle", tasks, metarl.TrialShape(6))
    options = {"num_tasks": 400, "num_episodes": 6, "seed": 1}
    changed = evaluate_adaptation(oracle, tasks, change_task_after=3, **options)
    plain = evaluate_adaptation(oracle, tasks, **options)
    assert (changed.returns[:3] == plain.returns[:3]).all()
    assert (changed.returns[3:] != plain.returns[3:]).any()
    best = np.array([max(task["p"]) for task in evaluation_tasks(tasks, num_tasks=400, seed=1)])
    related = [
        abs(np.corrcoef(x[3:].mean(0), best)[0, 1]) for x in (plain.returns, changed.returns)
    ]
    assert related[0] > 0.25 > 0.15 > related[1]  # It is told the new task, and pulls its best arm.
    assert changed.returns[3:].mean() == pytest.approx(best.mean(), abs=0.05)


def test_a_plain_evaluation_is_not_confused_with_a_noisy_one(runs, call):
    assert call("maml", "--observation-noise", "0.5", "--reward-noise", "2.0")[0] == 0
    name = "test-observation-noise-0.5-reward-noise-2.0"
    noisy = json.loads(Path(f"maml/evaluation/{name}.json").read_text())
    assert noisy["conditions"] == {"observation_noise": 0.5, "reward_noise": 2.0}
    plain = json.loads(Path("maml/evaluation/test.json").read_text())
    code, out, _ = call("maml", "--baselines", "random")
    assert code == 0 and "[1/3] maml-ppo: as evaluated before" in out
    code, out, _ = call("maml", "--baselines", "random", "--reward-noise", "1.0")
    assert code == 0 and "as evaluated before" not in out
    # Before it adapts, it acts by what it sees; the noise on its rewards is not in its score.
    told = metarl.evaluate("maml", reward_noise=3.0)
    assert told.returns[0].mean() == pytest.approx(plain["return"]["mean"][0], rel=1e-6)
    assert (told.returns[1:] != metarl.evaluate("maml").returns[1:]).any()
    assert noisy["return"]["mean"][0] != plain["return"]["mean"][0]


def test_disturbances_do_not_depend_on_how_environments_are_stepped():
    tasks = metarl.make("gym/CartPole-v1:length=0.3..1.0,horizon=8")
    agent = metarl.registry.make_baseline("random", tasks, metarl.TrialShape(2))
    what = Disturbances(observation_noise=0.1, action_delay=1, drop_observations=0.2)
    one, other = (
        evaluate_adaptation(
            agent,
            tasks,
            num_tasks=4,
            disturbances=what,
            workers=with_options(metarl.TrainConfig().workers, num_workers=workers, num_envs=slots),
        )
        for workers, slots in ((0, 4), (2, 3))
    )
    assert (one.returns == other.returns).all()


def test_robustness_is_a_table_over_levels_and_goes_on_where_it_was_cut_off(runs, call):
    words = ("maml", "--robustness", "observation-noise", "0", "0.5", "--baselines", "random")
    code, _, error = call(*words)
    assert (code, error) == (0, "")
    content = json.loads(Path("maml/robustness/test-observation-noise-0-0.5.json").read_text())
    assert content["levels"] == [0, 0.5] and content["disturbance"] == "observation_noise"
    agent, random = content["rows"]
    assert (agent["label"], random["label"]) == ("maml-ppo", "random")
    plain = metarl.evaluate("maml")
    assert agent["after"]["mean"][0] == pytest.approx(plain.returns[-1].mean())
    assert random["difference"]["mean"] == [0, 0]  # It sees nothing.
    noisy = json.loads(Path("maml/evaluation/test-observation-noise-0.5.json").read_text())
    assert agent["after"]["mean"][1] == noisy["return"]["mean"][-1]
    lines = Path("maml/robustness/test-observation-noise-0-0.5.csv").read_text().splitlines()
    assert len(lines) == 5 and lines[0].startswith("label,kind,told_task,episodes,observation_n")
    text = Path("maml/robustness/test-observation-noise-0-0.5.md").read_text()
    assert "observation noise 0.5" in text and "(sampled actions)" in text
    assert call(*words)[1].count("as evaluated before") == 4
    made = metarl.evaluate_robustness("maml", "observation_noise", [0, 0.5], ["random"])
    assert made.rows == content["rows"]
    before = {p: p.read_bytes() for p in Path("maml/robustness").iterdir()}
    words = (*words[:2], "observation-noise", "0", "0.25", "--action-delay", "1", "--greedy")
    assert call(*words, "--checkpoint", "best")[0] == 0
    name = "test-action-delay-1-greedy-best-observation-noise-0-0.25"
    files = {p for p in Path("maml/robustness").iterdir() if p not in before}
    assert {p.name for p in files} == {f"{name}.{suffix}" for suffix in ("csv", "md", "json")}
    assert all(p.read_bytes() == content for p, content in before.items())
    said = "(greedy actions, best checkpoints, action delay 1)"
    assert said in Path(f"maml/robustness/{name}.md").read_text()
    content = json.loads(Path(f"maml/robustness/{name}.json").read_text())
    assert content["conditions"] == {"action_delay": 1} and content["checkpoint"] == "best"


def test_picture_of_robustness_and_of_a_change(runs):
    metarl.evaluate_robustness("maml", "reward-noise", [0.0, 1.0], evaluation_tasks=3)
    assert Path("maml/robustness/test-tasks-3-reward-noise-0-1.png").read_bytes()[:4] == b"\x89PNG"
    metarl.evaluate("plain", change_task_after=1)
    assert Path("plain/evaluation/test-change-task-after-1.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plain", "--change-task-after", "4"), "--change-task-after: got 4; accepted: 0 (never)"),
        (("maml", "--change-task-after", "3"), "a multiple of 2 (one round each)"),
        (("plain", "--change-task-after", "-1"), "--change-task-after: got -1; accepted: 0 or mo"),
        (("plain", "--change-task-after", "2", "--video", "1"), "--video: got 1; accepted: an ev"),
        (("plain", "--change-task-after", "2", "--controls"), "--change-task-after: got 2; accept"),
        (("plain", "--change-task-after", "2", "--score", "greedy-copy"), "--score: got 'greedy-"),
        (("changing", "--controls"), "--change-task-after: got 2; accepted: 0 with --controls"),
        (("plain", "--observation-noise", "0.1"), "--observation-noise: got 0.1; accepted: 0"),
        (("plain", "--action-delay", "1", "--baselines", "random"), "--action-delay: got 1; acc"),
        (("maml", "--drop-observations", "2"), "--drop-observations: got 2.0; accepted: 0 to 1"),
        (("maml", "--robustness", "sun", "0", "1"), "--robustness: got 'sun'; accepted: observat"),
        (("maml", "--robustness", "reward-noise", "0"), "got '0'; accepted: two or more numbers"),
        (("maml", "--robustness", "action-delay", "0", "0.5"), "two or more whole numbers"),
        (("maml", "--robustness", "action-delay", "0", "9"), "--action-delay: got 9; accepted: l"),
        (("plain", "--robustness", "reward-noise", "0", "1", "--controls"), "no --controls besid"),
        (("maml", "--robustness", "reward-noise", "0", "1", "--reward-noise", "1"), "--reward-no"),
        (("plain", "--reward-noise", "1", "--baselines", "thompson"), "accepted: 0 with thompson"),
        (("plain", "--probe", "--reward-noise", "1"), "--reward-noise: got 1.0; accepted: 0 tog"),
        (("plain", "--probe", "--change-task-after", "2"), "got 2; accepted: 0 together with --pr"),
        (("plain", "--probe", "--greedy"), "--greedy: got True; accepted: False together with --"),
        (("plain", "--probe", "--baselines", "random"), "--probe: got True; accepted: one run, w"),
        (("plain", "--probe", "--controls"), "--probe: got True; accepted: no --controls beside"),
        (("plain", "--shift", "low"), "--shift: got 'low'; accepted: option=value"),
        (("plain", "--shift", "arms=3"), "bandit/n4-k3:arms=3 has no option 'arms'"),
        (("plain", "--shift", "low=0.0"), "accepted: options that change bandit/n4-k3"),
        (("plain", "--shift", "k=4"), "action space"),
        (("plain", "--shift", "low=0.4", "--env", "bandit/n4-k3"), "no --env beside it"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_any_work(runs, call, words, said):
    before = sorted(Path().rglob("*"))
    code, out, error = call(*words)
    assert code == 2 and said in error and out == ""
    assert error.count("\n") == 1 and "Traceback" not in error
    assert sorted(Path().rglob("*")) == before


# other ranges


def test_a_shift_is_another_range_of_the_same_family(runs, call):
    assert call("plain", "--shift", "low=0.4,high=0.6")[0] == 0
    file = Path("plain/evaluation/test-bandit-n4-k3-low-0.4-high-0.6.json")
    assert json.loads(file.read_text())["env"] == "bandit/n4-k3:low=0.4,high=0.6"
    tasks = shifted_tasks([Run.open(Path("plain"))], "low=0.4,high=0.6")
    drawn = np.array([task["p"] for task in evaluation_tasks(tasks, num_tasks=200)])
    assert 0.4 <= drawn.min() < 0.42 and 0.58 < drawn.max() <= 0.6
    assert with_items("gym/mine:Hopper-v5:body_mass=each:0.5x..2x,horizon=9", "horizon=5") == (
        "gym/mine:Hopper-v5:body_mass=each:0.5x..2x,horizon=5"
    )


def test_bandits_of_the_whole_range_are_those_they_were():
    one, other = (metarl.make(n) for n in ("bandit/n4-k3", "bandit/n4-k3:low=0.0,high=1.0"))
    assert one.name == other.name == "bandit/n4-k3"
    with pytest.raises(UserError, match="accepted: 0 <= low < high <= 1"):
        metarl.make("bandit/n4-k3:low=0.6,high=0.4")


# recovery


def test_recovery_is_the_time_until_the_gain_is_back_and_stays():
    tasks = np.linspace(-0.1, 0.1, 20)
    curve = np.array([0, 6, 10, 1, 9.5, 3, 8, 9.2, 9.4])[:, None] + tasks
    found = recovery_of(curve, range(9), 3)
    assert found["episodes"] == 4 and found["within"] == 5 and found["gained"]
    assert (found["start"], found["before"], found["change"]) == pytest.approx((0, 10, 1))
    assert found["target"] == pytest.approx(9)
    assert recovery_of(curve[:7], range(7), 3)["episodes"] is None
    rounds = recovery_of(curve[[0, 2, 3, 7]], (0, 20, 40, 60), 40)
    assert rounds["episodes"] == 20  # counted in episodes, not in points
    flat = np.random.default_rng(0).normal(size=(6, 50))
    assert not recovery_of(flat, range(6), 3)["gained"]
    assert recovery_of(flat, range(6), 3)["episodes"] is None
    assert recovery_of(curve, range(3, 12), 3) is None


def test_a_stored_trial_keeps_its_change(tmp_path):
    from metarl.running import store

    tasks = metarl.make("bandit/n4-k3")
    drawn = tasks.sample(np.random.default_rng(0), 4, "train")
    agent, envs = (
        metarl.registry.make_baseline("random", tasks, metarl.TrialShape(4)),
        tasks.make_vec(2),
    )
    keys = TrialKeys(0, Phase.TRAIN, 0, 2)
    change = Change(1, drawn[2:])
    trials: dict[int, Trial] = {
        1: run_trial(agent, envs, drawn[:2], shape=agent.shape, keys=keys, change=change),
        2: run_trial(agent, envs, drawn[:2], shape=agent.shape, keys=keys),
    }
    envs.close()
    store._write(tmp_path / "x.safetensors", trials, {1: 8, 2: 8})
    read = store._read(tmp_path / "x.safetensors")
    assert read[1].change == change and read[2].change is None
    assert torch.equal(read[1].rounds[0].reward, trials[1].rounds[0].reward)
