"""``metarl evaluate --controls``: its files, what is read again, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

import metarl
from metarl import registry
from metarl.agents.ppo_multitask import PPOMultitaskConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.evaluate import evaluate_adaptation
from metarl.experience.agent import TrialShape
from metarl.experience.controls import InShape
from metarl.options import with_options
from metarl.registry import Entry
from metarl.running import controls as controlling
from metarl.running import evaluate as evaluating
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

SMALL = {"env": "bandit/n4-k3", "iterations": 1, "evaluation_tasks": 8, "validation_tasks": 2}
RL2 = with_options(RL2Config(), tasks_per_update=4, hidden_size=4, num_minibatches=1)
PPO = PPOMultitaskConfig(tasks_per_update=2, episodes_per_task=2, hidden_sizes=(4,), num_epochs=1)
RUNS = {
    "rl2": ("rl2", RL2),
    "ppo": ("ppo-multitask", PPO),
    "told": ("ppo-multitask", with_options(PPO, observe_task=True)),
}
FILES = {"csv", "md", "json", "png"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 10)
        patch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
        for name, (agent, config) in RUNS.items():
            options = with_options(TrainConfig(), **SMALL, check=False, run_dir=root / name)
            train(Settings(agent, config, options))
    return root


@pytest.fixture
def runs(trained, tmp_path, monkeypatch, small_blocks, request):
    if "picture" not in request.node.name:  # It takes most of the time.
        monkeypatch.setattr(controlling, "plot_controls", lambda controls, path: None)
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")


def test_the_command_writes_tables_a_picture_and_the_curves(runs, call):
    code, out, error = call("rl2", "--controls", "--baselines", "thompson", "--multitask", "ppo")
    assert (code, error) == (0, "")
    folder = Path("rl2/controls")
    names = {path.name for path in folder.iterdir()}
    assert {f"test.{kind}" for kind in FILES} <= names
    kinds = ("own", "another-task", "reset-every-episode", "reset-every-step")
    assert {f"test-{kind}.npz" for kind in kinds} <= names
    assert len([name for name in names if "thompson" in name]) == 2 * len(kinds)
    assert "rl2: own minus another task's context is" in out and "[4/4] oracle" in out
    assert "oracle (told the task)" in out and "normalised" in out
    content = json.loads((folder / "test.json").read_text())
    rows = [(row["label"], row["control"]) for row in content["rows"]]
    assert rows == [
        *((label, kind) for label in ("rl2", "thompson") for kind in kinds),
        ("ppo-multitask", "multi-task"),
        ("oracle", "oracle"),
    ]
    assert len(list(csv.DictReader((folder / "test.csv").open(newline="")))) == 10 * 4
    plain = evaluate_adaptation(metarl.load("rl2"), metarl.make("bandit/n4-k3"), num_tasks=8)
    assert content["rows"][0]["value"]["mean"] == pytest.approx(plain.returns.mean(1))


def test_runs_of_several_seeds_have_a_verdict_together(runs, call):
    def copied(name, num_envs=None, **changes):
        shutil.copytree("rl2", name)
        path = Path(name, "config.json")
        content = json.loads(path.read_text())
        content["train_config"].update(changes)
        content["train_config"]["workers"]["num_envs"] = num_envs
        path.write_text(json.dumps(content))

    copied("second", seed=1)
    copied("third", seed=2, num_envs=3)  # It changes no parameter.
    copied("longer", seed=3, iterations=1000)
    words = ("rl2", "second", "third", "longer", "ppo", "--controls", "--evaluation-tasks", "4")
    code, _, error = call(*words)
    assert (code, error) == (0, "")
    content = json.loads(Path("rl2/controls/test-tasks-4.json").read_text())
    assert {(row["label"], row["num_seeds"]) for row in content["over_seeds"]} == {
        ("rl2, seed 0; rl2, seed 1; rl2, seed 2", 3)
    }
    assert content["verdicts"][-1].startswith("rl2, seed 0; rl2, seed 1; rl2, seed 2 over 3 seeds:")
    assert len(content["verdicts"]) == 6
    made = metarl.evaluate_controls(["rl2", "second"], evaluation_tasks=4)
    assert "rl2 over 2 seeds: own minus" in made.verdicts[-1]
    copied("again", seed=0)
    assert not metarl.evaluate_controls(["rl2", "again"], evaluation_tasks=4).over_seeds


def test_what_is_finished_is_read_and_what_was_cut_off_is_made(runs, call, monkeypatch):
    cut = Entry("stand_ins:Failing", "fails")
    monkeypatch.setattr(registry, "BASELINES", registry.BASELINES | {"failing": cut})
    code, _, error = call("rl2", "--controls", "--baselines", "failing")
    assert code == 130 and "cut off at failing, 2 of 3; the same command goes on" in error
    before = {path: path.stat().st_mtime_ns for path in Path("rl2/controls").iterdir()}
    assert len(before) == 8 and not Path("rl2/controls/test.json").exists()
    code, out, _ = call("rl2", "--controls", "--baselines", "thompson")
    assert code == 0 and "[1/3] rl2: as evaluated before" in out
    assert "[2/3] thompson 32/32 trials" in out
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    Path("rl2/controls/test-another-task.npz").write_bytes(b"damaged")
    assert "[1/3] rl2 32/32 trials" in call("rl2", "--controls", "--baselines", "thompson")[1]
    assert "as evaluated before" not in call("rl2", "--controls", "--seed", "1")[1]
    assert Path("rl2/controls/test-seed-1.json").exists()


def test_python_and_the_command_write_the_same_table(runs, call):
    made = metarl.evaluate_controls("rl2", oracle="told", evaluation_tasks=6, output=Path("a"))
    assert call("rl2", "--controls", "--oracle", "told", "--evaluation-tasks", "6")[0] == 0
    table = Path("rl2/controls/test-tasks-6.json").read_text()
    assert json.loads(table)["rows"] == json.loads(Path("a/test-tasks-6.json").read_text())["rows"]
    assert [row["label"] for row in made.rows][-1] == "ppo-multitask"
    assert made.rows[-1]["told_task"] and made.references[0].role == "oracle"
    assert made.participants[0].curves["own"].returns.shape == (4, 6)


def test_references_follow_the_trials_of_the_agent(runs):
    made = metarl.evaluate_controls("rl2", multitask="ppo")
    multitask, oracle = made.references
    assert multitask.curve.episodes == oracle.curve.episodes == (0, 1, 2, 3)
    agent = InShape(metarl.load("ppo"), TrialShape(4))
    plain = evaluate_adaptation(agent, metarl.make("bandit/n4-k3"), num_tasks=8)
    assert (multitask.curve.returns == plain.returns).all()


def test_an_oracle_that_does_not_apply_is_said_to_be_missing(runs, monkeypatch):
    def none(name, *rest, **options):
        raise UserError(f"{name}: got tasks x; accepted: bandits")

    monkeypatch.setattr(registry, "make_baseline", none)
    made = metarl.evaluate_controls("rl2", evaluation_tasks=3)
    assert not made.references
    assert "that baseline does not apply to bandit/n4-k3; --oracle RUN names" in made.notes[-1]
    assert made.notes[-1] in Path("rl2/controls/test-tasks-3.md").read_text()


def test_picture_of_agents_and_baselines(runs):
    metarl.evaluate_controls(["rl2"], ["thompson", "random"], multitask="ppo")
    assert Path("rl2/controls/test.png").read_bytes()[:4] == b"\x89PNG"


def other_tasks(runs):
    shutil.copytree("ppo", "other")
    path = Path("other/config.json")
    path.write_text(path.read_text().replace("bandit/n4-k3", "bandit/n5-k3"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--multitask", "ppo"), "--multitask: got 'ppo'; accepted: --controls beside it"),
        (("--probe", "--multitask", "ppo"), "--multitask: got 'ppo'; accepted: --controls beside"),
        (("--robustness", "reward-noise", "0", "1", "--oracle", "told"), "--oracle: got 'told'; "),
        (("--controls", "--multitask", "rl2"), "--multitask: got rl2, whose agent rl2 adapts"),
        (("--controls", "--multitask", "told"), "is told its task; accepted: a run of ppo-multi"),
        (("--controls", "--multitask", "none"), "none: not a run directory"),
        (("--controls", "--oracle", "ppo"), "is not told its task; accepted: a run with --observe"),
        (("--controls", "--multitask", "other"), "got other, a run of bandit/n5-k3; accepted: a"),
        (("--controls", "--env", "bandit/n4-k3", "--multitask", "other"), "got other, a run of b"),
        (("--controls", "--shift", "low=0.4", "--multitask", "other"), "got other, a run of bandi"),
        (("other", "--shift", "low=0.4"), "--shift: got runs of bandit/n4-k3 (rl2), bandit/n5-k3"),
        (
            ("--controls", "--evaluation-tasks", "1"),
            "--evaluation-tasks: got 1; accepted: at least",
        ),
        (("--controls", "--score", "greedy-copy"), "--score: got 'greedy-copy'; accepted: adapt"),
        (("--controls", "--video", "1"), "--video: got 1; accepted: one run, without"),
        (("--controls", "--baselines", "psrl"), "--baselines: psrl"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_any_work(runs, call, words, said):
    other_tasks(runs)
    code, out, error = call("rl2", *words)
    assert (code, out) == (2, "") and said in error
    assert error.count("\n") == 1 and "Traceback" not in error
    assert not Path("rl2/controls").exists()
