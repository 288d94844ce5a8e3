"""`metarl compare`: what can be used is compared, what cannot is named, and nothing is run."""

import json
import shutil

import numpy as np
import pytest
from matplotlib.figure import Figure

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.curve import AdaptationCurve
from metarl.evaluation.statistics import crossed_mean
from metarl.files import write_json
from metarl.options import with_options
from metarl.running.groups import run_compare
from metarl.running.settings import Settings, TrainConfig

CONFIGS = {"rl2": RL2Config(), "maml-ppo": MAMLPPOConfig()}


def save_run(
    directory, training, *, agent="rl2", level=0.0, tasks=30, points=4, trained=None, **fields
):
    """Write what compare reads of a run: its settings and the evaluation after training."""
    directory.mkdir(parents=True)
    own, train = trained or ({}, {})
    settings = Settings(agent, with_options(CONFIGS[agent], **own), TrainConfig())
    settings = settings.with_train(seed=training, **train)
    write_json(directory / "config.json", settings.to_json())
    rng = np.random.default_rng(training)
    returns = rng.normal(level + 0.1 * rng.normal(), 1, (points, tasks)).astype(np.float32)
    values = {
        **{"env": "x", "agent": agent, "seed": 0, "split": "test", "shared_split": False},
        **{"score": "adapting-episodes", "greedy": False, "episodes": tuple(range(points))},
        **{"returns": returns, "iteration": 7, "info": {"speed": returns + 1}, "seconds": 1.0},
    }
    AdaptationCurve(**values | fields).save(directory / "evaluation", "test")
    return directory


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed in range(4):
        save_run(tmp_path / f"a{seed}", seed, level=2.0)
        save_run(tmp_path / f"b{seed}", 10 + seed, agent="maml-ppo")
    return tmp_path


A, B = ["a0", "a1", "a2", "a3"], ["b0", "b1", "b2", "b3"]


def compared(*words):
    run_compare([*words, "--output", "out.json"])
    return json.loads(open("out.json").read())


def test_groups_are_compared_at_the_last_point_and_over_the_curve(runs, capsys):
    found = compared(*A, "--", *B)
    assert list(found["measures"]) == ["after 3 episodes", "area under the curve"]
    returns = [np.load(runs / a / "evaluation" / "test.npz")["return"] for a in A]
    row = found["measures"]["after 3 episodes"]["groups"][0]
    assert row["mean"] == pytest.approx(crossed_mean(np.stack(returns)[:, -1]).mean)
    assert (row["label"], row["runs"]) == ("rl2", A)
    area = found["measures"]["area under the curve"]["groups"][0]["mean"]
    assert area == pytest.approx(np.mean([np.trapezoid(x, axis=0) / 3 for x in returns]))
    for measure in found["measures"].values():
        assert measure["pairs"][0]["better"] == "rl2"
    assert "rl2 is higher than maml-ppo by" in capsys.readouterr().out
    assert found["left_out"] == []


def test_a_point_a_metric_and_names_can_be_chosen(runs):
    found = compared(*A, "--", *B, "--at", "1", "--metric", "speed", "--labels", "ours", "theirs")
    returns = [np.load(runs / a / "evaluation" / "test.npz")["return"][1] for a in A]
    row = found["measures"]["after 1 episodes"]["groups"][0]
    assert row["mean"] == pytest.approx(np.mean(returns) + 1, rel=1e-5)
    assert row["label"] == "ours" and row["median"] is None


def test_the_folder_of_several_seeds_stands_for_its_runs(runs):
    group = runs / "group"
    for seed, name in enumerate(A):
        shutil.copytree(runs / name, group / str(seed))
    content = json.loads((runs / "a0" / "config.json").read_text())
    write_json(group / "config.json", {**content, "seeds": [0, 1, 2, 3, 9]})
    found = compared("group", "--", *B)
    assert found["measures"]["after 3 episodes"]["groups"][0]["runs"] == [
        f"group/{seed}" for seed in range(4)
    ]
    (line,) = found["left_out"]
    assert "group/9" in line


DAMAGES = {
    "corrupt": (lambda r: (r / "evaluation/test.npz").write_bytes(b"PK cut"), "cannot be read"),
    "no values": (lambda r: (r / "evaluation/test.json").write_text("{}"), "format None"),
    "not evaluated": (
        lambda r: shutil.rmtree(r / "evaluation"),
        "has no evaluation 'test', which",
    ),
    "no run": (lambda r: (r / "config.json").unlink(), "config.json"),
    "cut settings": (lambda r: (r / "config.json").write_text('{"format'), "config.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_in_one_line_and_the_rest_is_compared(runs, capsys, damage):
    harm, said = DAMAGES[damage]
    harm(runs / "a1")
    found = compared(*A, "--", *B)
    (line,) = found["left_out"]
    assert "a1" in line and said in line and "\n" not in line
    assert f"left out: {line}\n" in capsys.readouterr().out
    assert found["measures"]["after 3 episodes"]["groups"][0]["runs"] == ["a0", "a2", "a3"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"env": "y"}, "env: got 'y'; accepted: 'x', as of a0"),
        ({"split": "validation"}, "split: got 'validation'"),
        ({"seed": 5}, "seed: got 5"),
        ({"score": "greedy-copy"}, "score: got 'greedy-copy'"),
        ({"greedy": True}, "actions: got 'greedy'"),
        ({"checkpoint": "best"}, "checkpoint: got 'best'"),
        ({"conditions": {"reward_noise": 0.1}}, "conditions: got {'reward_noise': 0.1}"),
        ({"tasks": 20}, "num_tasks: got 20; accepted: 30"),
        ({"iteration": 6}, "iteration: got 6"),
        ({"agent": "maml-ppo"}, "agent: got 'maml-ppo'"),
        ({"points": 3}, "episodes: got (0, 1, 2)"),
        ({"trained": ({"hidden_size": 9}, {})}, "trained with core.hidden_size 9; accepted: "),
        ({"trained": ({}, {"env": "y"})}, "trained with env 'y'; accepted: 'bandit/n10-k5', as"),
        ({"trained": ({}, {"change_task_after": 2})}, "trained with change_task_after 2; acc"),
        ({"seed_of_training": 2}, "has training seed 2, as a2 of the same group"),
    ],
)
def test_a_run_of_another_protocol_is_left_out(runs, fields, said):
    training = fields.pop("seed_of_training", 77)
    save_run(runs / "other", training, **fields)
    found = compared(*A, "other", "--", *B)
    fields |= {"seed_of_training": training}
    (line,) = found["left_out"]
    assert line.startswith("other: ") and said in line


def test_the_conditions_that_all_have_are_said(runs, capsys):
    for name, agent in (("c", "rl2"), ("d", "maml-ppo")):
        for seed in range(3):
            noisy = {"agent": agent, "conditions": {"reward_noise": 0.1}}
            save_run(runs / f"{name}{seed}", 20 + seed, **noisy)
    found = compared("c0", "c1", "c2", "--", "d0", "d1", "d2")
    assert found["conditions"] == {"reward_noise": 0.1} and found["left_out"] == []
    assert "final checkpoint, reward noise 0.1)" in capsys.readouterr().out


def test_what_changes_no_parameter_and_what_older_runs_lack_may_differ_in_a_group(runs):
    free = {"keep_checkpoints": 9, "validation_tasks": 3, "evaluation_tasks": 30}
    save_run(runs / "other", 77, trained=({}, free))
    path = runs / "other" / "config.json"
    content = json.loads(path.read_text())
    del content["agent_config"]["core"]["hidden_size"], content["train_config"]["task_sampler"]
    path.write_text(json.dumps(content))
    assert compared(*A, "other", "--", *B)["left_out"] == []


def test_numbers_that_are_not_finite_are_left_out(runs):
    path = runs / "a2" / "evaluation" / "test.npz"
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "return": arrays["return"] * np.nan})
    (line,) = compared(*A, "--", *B)["left_out"]
    assert line == "a2: return is not finite on every task"


def test_a_group_with_other_points_is_compared_where_both_have_one(runs):
    for seed in range(3):
        save_run(runs / f"c{seed}", 20 + seed, agent="maml-ppo", episodes=(0, 2, 4, 6))
    both = [*A, "--", "c0", "c1", "c2"]
    with pytest.raises(UserError, match="1 of 2 groups"):
        compared(*both)
    assert list(compared(*both, "--at", "2")["measures"]) == ["after 2 episodes"]


def test_single_episodes_have_no_median_beside_rounds_of_ten(runs):
    for seed in range(3):
        save_run(runs / f"c{seed}", 20 + seed, agent="maml-ppo", points=3, episodes=(0, 10, 20))
    for words in ([*A, "--", "c0", "c1", "c2"], ["c0", "c1", "c2", "--", *A]):
        rows = compared(*words, "--at", "0")["measures"]["after 0 episodes"]["groups"]
        assert {row["label"]: row["median"] is None for row in rows} == {
            "rl2": True,
            "maml-ppo": False,
        }


def test_the_only_group_that_can_be_used_is_still_shown(runs, capsys):
    with pytest.raises(UserError, match="1 of 2 groups have runs"):
        run_compare([*A, "--", "nowhere", "--output", "out.json"])
    said = capsys.readouterr().out
    assert "left out: nowhere/config.json" in said and "rl2" in said
    assert not (runs / "out.json").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (A, "RUNS: got 'a0 a1 a2 a3'; accepted: RUN… -- RUN…"),
        ([*A, "--"], "at least two groups with a run in each"),
        (["a0", "--", "a0"], "RUNS: got 'a0'; accepted: each of them once"),
        (["a0", "--", "b0", "--labels", "x"], "--labels: got .*'x'.*; accepted: 2 different names"),
        (["a0", "--", "b0", "--output", "x.txt"], "--output: got 'x.txt'"),
        (["a0", "--", "b0", "--half-width", "0"], "--half-width: got 0"),
        (["a0", "--", "b0", "--metric", "success"], "0 of 2 groups"),
        (["a0", "--", "b0", "--at", "17"], "0 of 2 groups"),
        (["nowhere", "--", "nothing"], "0 of 2 groups"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, words, said):
    with pytest.raises(UserError, match=said):
        run_compare(words)


def test_a_picture_shows_every_seed_and_the_share_of_scores_above_thresholds(runs, monkeypatch):
    found = compared(*A, "--", "b0", "b1")["measures"]
    figures, save = [], Figure.savefig

    def seen(figure, *rest, **options):
        figures.append(figure)
        save(figure, *rest, **options)

    monkeypatch.setattr(Figure, "savefig", seen)
    run_compare([*A, "--", "b0", "b1", "--output", "deep/groups.png"])
    (figure,) = figures
    assert (runs / "deep" / "groups.png").read_bytes().startswith(b"\x89PNG")
    drawn = [axes.lines for axes in figure.axes]
    assert len(drawn) == 2 * len(found)
    for measure, means, profiles in zip(found.values(), drawn[::2], drawn[1::2], strict=True):
        rl2, maml = measure["groups"]
        seeds = [list(line.get_xdata()) for line in means if line.get_marker() == "."]
        assert seeds == [rl2["seed_means"], maml["seed_means"]]
        bands = {line.get_linestyle(): list(line.get_xdata()) for line in means[0:4:3]}
        assert bands == {"-": [rl2["low"], rl2["high"]], "--": [maml["low"], maml["high"]]}
        shares = {line.get_label(): list(line.get_ydata()) for line in profiles}
        assert shares == {k: v for k, v in measure["profiles"].items() if k != "thresholds"}
        assert all(list(x.get_xdata()) == measure["profiles"]["thresholds"] for x in profiles)


def test_csv_and_several_groups(runs, capsys):
    for seed in range(3):
        save_run(runs / f"c{seed}", 20 + seed, level=2.0)
    run_compare([*A, "--", *B, "--", "c0", "c1", "c2", "--output", "deep/out.csv"])
    lines = (runs / "deep" / "out.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[1].startswith("return,after 3 episodes,rl2 (a0),maml-ppo (b0),4,4,")
    assert "corrected for 3 pairs (Holm)" in capsys.readouterr().out
