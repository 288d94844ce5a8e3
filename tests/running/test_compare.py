"""Several agents and baselines on the same tasks: one table, and nothing evaluated twice."""

import csv
import dataclasses
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import stand_ins

import metarl
from metarl import registry
from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.drawn_tasks import evaluation_tasks
from metarl.evaluation.points import Unfinished
from metarl.options import with_options
from metarl.registry import Entry
from metarl.running import compare as comparing
from metarl.running import evaluate as evaluating
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train

pytestmark = pytest.mark.filterwarnings("ignore:the linear baseline")

SMALL = {"env": "bandit/n4-k3", "iterations": 2, "evaluation_tasks": 7, "validation_tasks": 2}
RL2 = with_options(RL2Config(), tasks_per_update=4, hidden_size=4, num_minibatches=1)
MAML = with_options(MAMLPPOConfig(), tasks_per_update=2, hidden_sizes=(4,), num_epochs=1)
MAML = with_options(MAML, episodes_per_adaptation=2, num_adaptations=1)
NAMES = ("Steady", "Told", "Greedy", "Rounds", "Longer", "Failing")
BASELINES = {name.lower(): Entry(f"stand_ins:{name}", f"{name} pulls") for name in NAMES}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("metarl.evaluation.drawn_tasks.TASK_BLOCK", 10)
        patch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
        for name, agent, config in (("rl2", "rl2", RL2), ("maml", "maml-ppo", MAML)):
            options = with_options(TrainConfig(), **SMALL, check=False, run_dir=root / name)
            train(Settings(agent, config, options))
    return root


@pytest.fixture
def runs(trained, tmp_path, monkeypatch, small_blocks, request):
    """Copies of a run of rl2 and one of maml-ppo, to write into."""
    monkeypatch.setattr(registry, "BASELINES", dict(BASELINES))
    if "picture" not in request.node.name:  # They take most of the time.
        monkeypatch.setattr(comparing, "plot_adaptation", lambda lines, path: None)
        monkeypatch.setattr(evaluating, "plot_adaptation", lambda lines, path: None)
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    return Path("rl2"), Path("maml")


@pytest.fixture
def measured(monkeypatch):
    """The titles of what is evaluated, not read."""
    titles, original = [], comparing.measure

    def measure(*args, title, **options):
        titles.append(title.partition(" ")[2])
        return original(*args, title=title, **options)

    monkeypatch.setattr(comparing, "measure", measure)
    return titles


def contents(folder="."):
    return {str(p): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


# what is written


def test_the_command_writes_a_table_a_picture_and_the_curves_of_baselines(runs, call):
    code, out, error = call("rl2", "--baselines", "greedy", "steady:arm=2", "told")
    assert (code, error) == (0, "")
    hashed = r"-[0-9a-f]{8}\."  # of what the name leaves out
    files = {re.sub(hashed, ".", path.name) for path in Path("rl2/comparison").iterdir()}
    own = {"greedy", "steady-arm-2", "told"}
    curves = {f"test-bandit-n4-k3-tasks-7-episodes-4-{name}" for name in own}
    assert files == {f"test.{kind}" for kind in ("csv", "md", "json", "png")} | {
        f"{name}.{kind}" for name in curves for kind in ("json", "npz")
    }
    assert "[1/5] rl2: as evaluated before" in out
    assert "[3/5] greedy 7/7 tasks" in out and "0 s left" in out
    assert "told (told the task)" in out
    assert all(f"test.{kind}" in out for kind in ("csv", "md", "json", "png"))


def test_csv_markdown_and_json_hold_the_same_table(runs):
    comparison = metarl.compare(["rl2", "maml"], ["greedy", "told"], output=Path("out"))
    labels = ["rl2", "untrained rl2", "maml-ppo", "untrained maml-ppo", "greedy", "told"]
    kinds = ["agent", "untrained", "agent", "untrained", "baseline", "baseline"]
    content = json.loads(Path("out/test.json").read_text())
    assert (content["format"], content["env"], content["split"]) == (1, "bandit/n4-k3", "test")
    assert (content["num_tasks"], content["seed"], content["actions"]) == (7, 0, "sampled")
    assert content["points"] == [0, 1, 2, 3, 4, 6]  # maml-ppo: four rounds of two
    rows = content["rows"]
    assert [row["label"] for row in rows] == list(comparison.curves) == labels
    assert [row["kind"] for row in rows] == kinds
    assert [row["told_task"] for row in rows] == [False] * 5 + [True]
    assert [row["env_steps"] for row in rows] == [32, 0, 16, 0, 0, 0]
    assert [row["episodes"] for row in rows[2:5]] == [[0, 2, 4, 6], [0, 2, 4, 6], content["points"]]
    assert [row["episodes_per_trial"] for row in rows] == [4, 4, 8, 8, 8, 8]
    for row in rows:
        assert Path("out", row["curve"]).is_file()
        saved = json.loads(Path("out", row["curve"]).read_text())
        at = [saved["episodes"].index(e) for e in row["episodes"]]
        assert row["return"]["mean"] == [saved["return"]["mean"][i] for i in at]
    with Path("out/test.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["label"] for line in lines] == labels
    for line, row in zip(lines, rows, strict=True):
        for point in content["points"]:
            known = point in row["episodes"]
            assert (line[f"return_{point}"] != "") == known
            if known:
                low = row["return"]["low"][row["episodes"].index(point)]
                assert float(line[f"return_{point}_low"]) == low
        if row["difference"]:
            assert float(line["difference"]) == row["difference"]["mean"]
            assert int(line["difference_episodes"]) == row["difference"]["episodes"]
        assert float(line["trial_return_high"]) == row["trial_return"]["high"]
    table = Path("out/test.md").read_text().splitlines()
    body = [line for line in table if line.startswith("| ")][2:]
    assert [line.split(" | ")[0][2:] for line in body] == [*labels[:5], "told (told the task)"]
    assert f"{rows[0]['gain']['mean']:.3f} ({rows[0]['gain']['low']:.3f} to " in body[0]
    assert "Trials have different numbers of episodes (4, 8)" in "\n".join(table)
    assert not Path("rl2/comparison").exists()


def test_a_baseline_may_have_more_experience_and_training_of_its_own(runs, monkeypatch):
    finished = []
    monkeypatch.setattr(comparing, "plot_adaptation", lambda lines, path: None)
    monkeypatch.setattr("metarl.console.Ticker.advance", lambda self, n: finished.append(n))
    made = metarl.compare(["maml"], ["longer"])
    row = made.rows[-1]
    assert (row["episodes_per_trial"], row["env_steps"]) == (24, 5000)
    assert made.curves["longer"].episodes == tuple(range(0, 24, 2))
    assert row["episodes"] == [0, 2, 4, 6]
    assert row["crossover"]["within"] == 22 and row["total_difference"] is None
    assert finished[-7:] == [1] * 7  # progress after every task
    finished.clear()
    again = metarl.compare(["maml"], ["longer"])
    assert again.rows[-1] == row and not finished  # read


def test_baselines_are_thin_lines_of_the_picture(runs, monkeypatch):
    drawn = []
    monkeypatch.setattr(comparing, "plot_adaptation", lambda lines, path: drawn.append(lines))
    metarl.compare(["rl2", "maml"], ["greedy"])
    assert [(line.label, line.reference, line.baseline) for line in drawn[0]] == [
        ("rl2", False, False),
        ("untrained", True, False),
        ("maml-ppo", False, False),
        ("untrained", True, False),
        ("greedy", False, True),
    ]
    assert drawn[0][4].summary["episodes"] == list(range(8))  # also between the agents' points


def test_agents_have_the_files_of_their_own_evaluations(runs):
    """What ``evaluate`` writes and what a comparison writes are the same, and in one place."""
    metarl.compare(["rl2", "maml"], evaluation_tasks=5, seed=3)
    folder, name = Path("maml/evaluation"), "test-tasks-5-seed-3"
    files = [folder / f"{name}{end}.npz" for end in ("", "-untrained")]
    found = [(f.read_bytes(), json.loads(f.with_suffix(".json").read_text())) for f in files]
    metarl.evaluate("maml", evaluation_tasks=5, seed=3)
    for file, (values, summary) in zip(files, found, strict=True):
        assert file.read_bytes() == values
        again = json.loads(file.with_suffix(".json").read_text())
        assert again | {"seconds": None} == summary | {"seconds": None}


def test_one_run_without_baselines_is_evaluated_as_ever(runs, call):
    before = contents()
    code, out, _ = call("rl2")
    assert code == 0 and "untrained," in out
    assert contents().keys() == before.keys()  # no comparison


# the same tasks and random numbers


def test_all_meet_the_same_tasks_with_the_same_random_numbers(runs):
    comparison = metarl.compare(
        ["rl2"], ["steady", "steady:arm=0", "stand_ins:Steady:arm=1", "told"], evaluation_tasks=40
    )
    curves = comparison.curves
    tasks = evaluation_tasks(metarl.make("bandit/n4-k3"), num_tasks=40, seed=0)
    assert np.array_equal(curves["steady"].returns, curves["steady:arm=0"].returns)
    best = np.array([np.argmax(task["p"]) for task in tasks])
    for label, arm in (("steady", 0), ("stand_ins:Steady", 1)):
        same = best == arm  # Told the task, the oracle pulls this arm too: equal luck.
        assert 5 < same.sum() < 35
        told, steady = (curves[name].returns[:, same] for name in ("told", label))
        assert np.array_equal(told, steady)


def test_runs_take_as_many_tasks_as_the_first_and_pairs_are_of_one_task(runs):
    content = json.loads(Path("maml/config.json").read_text())
    content["train_config"]["evaluation"]["evaluation_tasks"] = 3
    Path("maml/config.json").write_text(json.dumps(content))
    comparison = metarl.compare(["rl2", "maml"])
    assert {curve.returns.shape[1] for curve in comparison.curves.values()} == {7}
    assert Path("maml/evaluation/test-tasks-7.json").is_file()
    row = comparison.rows[2]
    first, other = comparison.curves["rl2"], comparison.curves["maml-ppo"]
    assert row["difference"]["episodes"] == 2
    expected = np.mean(other.returns[1] - first.returns[2])
    assert row["difference"]["mean"] == pytest.approx(expected)
    assert row["total_difference"] is None  # four episodes against eight


def test_a_common_number_of_episodes_makes_totals_comparable(runs):
    comparison = metarl.compare(["rl2", "maml"], ["rounds"], episodes_per_trial=4)
    assert [row["episodes_per_trial"] for row in comparison.rows] == [4] * 5
    assert [c.episodes for c in comparison.curves.values()] == 2 * [(0, 1, 2, 3)] + 3 * [(0, 2)]
    for row, curve in zip(comparison.rows[1:], list(comparison.curves.values())[1:], strict=True):
        expected = np.mean(curve.trial_return - comparison.curves["rl2"].trial_return)
        assert row["total_difference"]["mean"] == pytest.approx(expected, abs=1e-6)


# nothing is evaluated twice


def test_a_comparison_cut_off_goes_on_where_it_stopped(runs, call, measured, monkeypatch):
    words = ["rl2", "maml", "--evaluation-tasks", "5", "--baselines", "greedy", "failing", "told"]
    code, _, error = call(*words)
    assert code == 130
    assert error == (
        "cut off at failing, 6 of 7; the same command goes on from there, what is finished is "
        "kept\n"
    )
    agents = ["rl2", "untrained rl2", "maml-ppo", "untrained maml-ppo"]
    assert measured == [*agents, "greedy", "failing"]
    kept = contents()
    measured.clear()
    monkeypatch.setitem(registry.BASELINES, "failing", BASELINES["steady"])
    assert call(*words)[0] == 0
    assert measured == ["failing", "told"]
    assert kept.items() <= contents().items()
    whole = contents("rl2/comparison")
    measured.clear()
    assert call(*words)[0] == 0
    assert measured == [] and contents("rl2/comparison") == whole


def test_a_baseline_cut_off_keeps_the_tasks_it_has_finished(runs, call, monkeypatch):
    words = ["rl2", "--evaluation-tasks", "5", "--output", "there", "--baselines", "longer"]
    assert call(*words[:3], "--output", "whole", *words[5:])[0] == 0
    monkeypatch.setattr(comparing, "Unfinished", partial(Unfinished, seconds=0.0))
    begun, begin = [], stand_ins.Longer.begin

    def stopped(self, num_tasks):
        if len(begun) == 3:
            raise KeyboardInterrupt
        begun.append(num_tasks)
        return begin(self, num_tasks)

    monkeypatch.setattr(stand_ins.Longer, "begin", stopped)
    assert call(*words)[0] == 130
    assert len(list(Path("there").glob("*longer*.unfinished"))) == 1
    begun[:] = [0, 0, 0, 0]
    code, out, _ = call(*words)
    assert code == 0 and "longer 5/5 tasks" in out
    assert begun == [0, 0, 0, 0, 1, 1]
    assert not list(Path("there").glob("*.unfinished"))
    (whole,), (there,) = (list(Path(x).glob("*longer*.npz")) for x in ("whole", "there"))
    assert whole.read_bytes() == there.read_bytes()


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": 1},
        {"evaluation_tasks": 6},
        {"episodes_per_trial": 3},
        {"greedy": True},
        {"score": "greedy-copy"},
        {"split": "validation"},
        {"env": "bandit/n5-k3"},
    ],
    ids=str,
)
def test_other_settings_are_evaluated_and_leave_what_is_there(runs, measured, changed):
    metarl.compare(["rl2"], ["greedy"])
    before = contents()
    measured.clear()
    metarl.compare(["rl2"], ["greedy"], **changed)
    assert measured == ["rl2", "untrained", "greedy"]
    assert before.items() <= contents().items()


def test_other_options_and_trials_of_a_baseline_have_other_files(runs, measured):
    metarl.compare(["rl2"], ["steady"], output=Path("out"))
    metarl.compare(["rl2"], ["steady:arm=1"], output=Path("out"))
    metarl.compare(["maml"], ["steady"], output=Path("out"))  # trials of eight episodes
    metarl.compare(["maml"], ["steady"], output=Path("out"), checkpoint="best")
    assert measured.count("steady") == 3  # for the best checkpoint it is read


def test_options_are_in_labels_only_where_they_tell_baselines_apart(runs):
    made = metarl.compare(["rl2"], ["steady:arm=1", "told", "stand_ins:Steady:arm=0"])
    assert list(made.curves)[2:] == ["steady", "told", "stand_ins:Steady"]
    assert made.notes[-2:] == [
        "steady is steady:arm=1.",
        "stand_ins:Steady is stand_ins:Steady:arm=0.",
    ]
    assert [row["agent"] for row in made.rows[2:]] == [
        *("steady:arm=1", "told", "stand_ins:Steady:arm=0"),
    ]
    made = metarl.compare(["rl2"], ["steady:arm=1", "steady:arm=2"])
    assert list(made.curves)[2:] == ["steady:arm=1", "steady:arm=2"]


def test_a_baseline_that_has_been_changed_is_evaluated_again(runs, measured, write_module):
    own = "from stand_ins import Steady\nclass Mine(Steady):\n    pass\n"
    for addition, expected in (("", ["mine:Mine"]), ("", []), ("# mended\n", ["mine:Mine"])):
        write_module("mine", own + addition)
        measured.clear()
        metarl.compare(["runs/rl2"], ["mine:Mine"])
        assert measured == expected


@pytest.mark.parametrize("file", ["test.json", "test.npz", "test-untrained.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_a_damaged_evaluation_is_made_again(runs, measured, file, damage):
    path = Path("rl2/evaluation", file)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "other":  # of another number of tasks
        metarl.evaluate("rl2", evaluation_tasks=3, output=Path("other"))
        shutil.copy(Path("other", file.replace("test", "test-tasks-3")), path)
    else:
        path.write_bytes(b"" if damage == "empty" else whole[: len(whole) // 2])
    metarl.compare(["rl2"], ["steady"])
    assert measured == ["untrained" if "untrained" in file else "rl2", "steady"]
    assert path.suffix == ".json" or path.read_bytes() == whole


def test_an_evaluation_of_an_earlier_checkpoint_is_made_again(runs, measured):
    run = Run.open(Path("rl2"))
    metarl.compare([run])
    assert measured == []
    train(run.settings.with_train(iterations=3, evaluation_tasks=7), resume=run)
    path = Path("rl2/evaluation/test.json")
    path.write_text(path.read_text().replace('"iteration": 3', '"iteration": 2'))
    metarl.compare(["rl2"])
    assert measured == ["rl2"]
    assert json.loads(path.read_text())["iteration"] == 3


def test_read_and_measured_curves_are_equal(runs):
    first = metarl.compare(["rl2"], ["told"], evaluation_tasks=5)
    second = metarl.compare(["rl2"], ["told"], evaluation_tasks=5)
    assert first.rows == second.rows
    for label, curve in first.curves.items():
        read = dataclasses.asdict(second.curves[label])
        for name, value in dataclasses.asdict(curve).items():
            np.testing.assert_equal(read[name], value)


# which runs


def test_seeds_and_modules_of_the_user(runs, monkeypatch, call):
    Path("group").mkdir()
    for seed in (0, 1):
        shutil.copytree("rl2", f"group/{seed}")
        path = Path(f"group/{seed}/config.json")
        content = json.loads(path.read_text())
        content["train_config"]["seed"] = seed
        path.write_text(json.dumps(content))
    Path("group/config.json").write_text(json.dumps({**content, "seeds": [0, 1]}))
    labels = ["rl2, seed 0", "untrained rl2, seed 0", "rl2, seed 1", "untrained rl2, seed 1"]
    assert list(metarl.compare(["group"]).curves) == labels
    path = Path("maml/config.json")
    name = "metarl.agents.maml_ppo:MAMLPPO"
    path.write_text(path.read_text().replace('"maml-ppo"', f'"{name}"'))
    code, _, error = call("rl2", "maml")
    assert code == 2 and "which a file alone cannot make the program import" in error
    assert call("rl2", "maml", "--agent", name)[0] == 0
    assert name in metarl.compare(["rl2", "maml"], agents=[name]).curves


def test_an_agent_and_a_baseline_of_one_name_are_told_apart(runs, monkeypatch):
    monkeypatch.setitem(registry.BASELINES, "rl2", BASELINES["steady"])
    assert list(metarl.compare(["rl2"], ["rl2"]).curves) == ["rl2", "untrained", "rl2 (baseline)"]


def test_the_list_says_what_each_baseline_is(runs, call):
    code, out, _ = call("--list")
    assert code == 0
    assert "greedy               Greedy pulls\n" in out and "package.module:Name" in out


REFUSED = [
    ("", "RUNS: got []; accepted: at least one run directory"),
    ("rl2 nowhere", "nowhere: not a run directory"),
    ("rl2 maml/../rl2", "RUNS: got 'maml/../rl2'; accepted: each of them once"),
    ("rl2 --baselines told told", "--baselines: got 'told'; accepted: each of them once"),
    ("rl2 --baselines gredy", "--baselines: unknown baseline 'gredy'; did you mean greedy"),
    ("rl2 --baselines greedy steady:leg=1", "has no option 'leg'"),
    ("rl2 --baselines nomodule:Name", "nomodule"),
    ("rl2 other", "RUNS: got runs of bandit/n4-k3 (rl2), bandit/n5-k3 (other); accepted: runs of"),
    ("rl2 other --env bandit/n4-k2", "space"),
    ("rl2 maml --official", "--official: got True; accepted: one run"),
    ("rl2 --video 1 --baselines told", "--video: got 1; accepted: one run"),
    ("rl2 maml --episodes-per-trial 3", "--episodes-per-trial: got 3; accepted: a multiple of 2"),
    ("rl2 maml --agent mine:Agent", "agent: got 'mine:Agent'; accepted: maml-ppo or rl2"),
    ("rl2 --baselines picky", "--baselines: steady: got tasks bandit/n4-k3; accepted: bandits"),
    ("rl2 maml --device tpu", "--device: got 'tpu'"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=[words for words, _ in REFUSED])
def test_bad_input_is_one_line_before_any_work(runs, call, measured, monkeypatch, words, said):
    shutil.copytree("rl2", "other")
    text = Path("other/config.json").read_text()
    Path("other/config.json").write_text(text.replace("bandit/n4-k3", "bandit/n5-k3"))

    def picky(tasks, shape, **options):
        raise UserError("--baselines: steady: got tasks bandit/n4-k3; accepted: bandits")

    monkeypatch.setattr("stand_ins.picky", picky, raising=False)
    monkeypatch.setitem(registry.BASELINES, "picky", Entry("stand_ins:picky"))
    before = contents()
    code, out, error = call(*words.split())
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("error: ") and said in error
    assert measured == [] and contents() == before


def test_runs_of_several_environments_are_compared_on_tasks_that_are_named(runs):
    text = Path("maml/config.json").read_text()
    Path("maml/config.json").write_text(text.replace("bandit/n4-k3", "bandit/n5-k3"))
    comparison = metarl.compare(["rl2", "maml"], env="bandit/n4-k3")
    assert {curve.env for curve in comparison.curves.values()} == {"bandit/n4-k3"}
    assert Path("maml/evaluation/test-bandit-n4-k3.json").is_file()
    with pytest.raises(UserError, match=r"metarl\.compare: no option 'tasks'"):
        metarl.compare(["rl2", "maml"], tasks=3)


def test_the_table_is_printed_where_nothing_can_be_written(runs, capsys):
    Path("file").touch()
    with pytest.raises(OSError, match="file: the evaluation cannot be written there"):
        metarl.compare(["rl2"], ["told"], output=Path("file"))
    assert "told the task" in capsys.readouterr().out


def test_a_saved_curve_is_read_back_whole(tmp_path):
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    curve = AdaptationCurve(
        env="e",
        agent="a",
        seed=2,
        split="test",
        shared_split=True,
        score="adapting-episodes",
        greedy=True,
        episodes=(0, 20),
        returns=values,
        success=values / 6,
        info={"distance": values + 1},
        trial_return=values[0],
        groups=np.array(["x", "y", "x"]),
        strata=np.array([0, 1, 0]),
        told_task=True,
        iteration=4,
        env_steps=5,
        checkpoint="best",
        seconds=1.5,
    )
    curve.save(tmp_path, "test")
    read = dataclasses.asdict(AdaptationCurve.load(tmp_path, "test"))
    for name, value in dataclasses.asdict(curve).items():
        np.testing.assert_equal(read[name], value)
