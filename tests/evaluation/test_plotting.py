"""Pictures: are they drawn, and can their lines be told apart?"""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.image
import pytest
import quick
from matplotlib.figure import Figure

from metarl.agents.maml_ppo import MAMLPPOConfig
from metarl.agents.rl2 import RL2Config
from metarl.errors import UserError
from metarl.evaluation.plotting import Learning, Line, plot_adaptation, plot_learning
from metarl.options import with_options
from metarl.running.api import evaluate
from metarl.running.folders import claim_file
from metarl.running.plot import plot
from metarl.running.run import Run
from metarl.running.settings import Settings, TrainConfig
from metarl.running.train import train as train_run

AGENT = with_options(RL2Config(), tasks_per_update=4, hidden_size=6, num_minibatches=2)


def summary(**changes):
    values = {"mean": [0.25, 0.75, 1.0], "low": [0.1, 0.7, 0.9], "high": [0.3, 0.9, 1.1]}
    return {
        "env": "bandit/n3-k2",
        "num_tasks": 1000,
        "split": "test",
        "shared_split": False,
        "actions": "sampled",
        "episodes": [0, 20, 40],
        "return": values,
        "success": None,
    } | changes


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, the same as if it had another seed, and that again in a folder of the same name."""
    root = tmp_path_factory.mktemp("runs")
    config = with_options(
        TrainConfig(),
        env="bandit/n3-k2",
        iterations=2,
        evaluation_tasks=3,
        validation_tasks=2,
        run_dir=root / "a",
    )
    train_run(Settings("rl2", AGENT, config))
    shutil.copytree(root / "a", root / "b")
    content = json.loads((root / "b" / "config.json").read_text())
    content["train_config"]["seed"] = 1
    (root / "b" / "config.json").write_text(json.dumps(content))
    shutil.copytree(root / "b", root / "again" / "b")
    return root / "a", root / "b", root / "again" / "b"


@pytest.fixture(autouse=True)
def pictures_as_users_see_them(monkeypatch):
    monkeypatch.setattr(Figure, "savefig", quick.SAVE)


@pytest.fixture
def axes(monkeypatch):
    """The axes of every figure that is saved."""
    seen = []

    def save(figure, *rest, **options):
        seen.append(figure.axes[0])
        quick.SAVE(figure, *rest, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return seen


def labels(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def is_picture(path):
    image = matplotlib.image.imread(path)
    height, width = image.shape[:2]
    return 300 < height < 2000 and 500 < width < 3000 and float(image[..., :3].std()) > 0.01


def test_adaptation_shows_mean_interval_and_episodes(tmp_path, axes):
    lines = [Line("rl2", summary()), Line("untrained", summary(), reference=True)]
    plot_adaptation(lines, tmp_path / "deep" / "plot.png")
    assert is_picture(tmp_path / "deep" / "plot.png")
    solid, dashed = axes[0].lines
    assert list(solid.get_xdata()) == [0, 20, 40]
    assert list(solid.get_ydata()) == [0.25, 0.75, 1.0]
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", "--")
    top = axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (top.min(), top.max()) == pytest.approx((0.1, 1.1))
    assert labels(axes[0]) == ["rl2", "untrained"]


@pytest.mark.parametrize(
    ("episodes", "steps", "place"),
    [((0, 1, 2), 1, 0.5), ((0, 1, 2), 200, 100), ((0, 20, 40), 1, 30), ((0, 20, 40), 5, 150)],
)
def test_a_change_of_the_task_is_drawn_between_the_points_beside_it(
    tmp_path, axes, episodes, steps, place
):
    """A point at 20 episodes is already of the new task, if that comes after 20 episodes."""
    after = {(0, 1, 2): 1, (0, 20, 40): 40}[episodes]
    own = summary(episodes=list(episodes), conditions={"change_task_after": after})
    untrained = Line("untrained", own, reference=True, steps_per_episode=steps)
    lines = [Line("a", own, steps_per_episode=steps), untrained]
    plot_adaptation(lines, tmp_path / "plot.png", axis="env-steps" if steps > 1 else "episodes")
    (drawn,) = [line for line in axes[0].lines if line.get_linestyle() == ":"]
    assert list(drawn.get_xdata()) == [place, place]


def test_baselines_have_thin_lines_and_no_checkpoint(tmp_path, axes):
    own = summary(checkpoint="best")
    lines = [Line("rl2", own), Line("untrained", own, reference=True)]
    lines += [
        Line(f"b{i}", summary(told_task=i == 0, checkpoint="final"), baseline=True)
        for i in range(12)
    ]
    plot_adaptation(lines, tmp_path / "plot.png")
    agent, untrained, *baselines = axes[0].lines
    assert all(line.get_linewidth() < untrained.get_linewidth() < 2 for line in baselines)
    assert all(line.get_marker() == "None" != agent.get_marker() for line in baselines)
    drawn = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in axes[0].lines}
    assert len(drawn) == 14  # More lines than colours can be told apart.
    names = labels(axes[0])
    assert names == ["rl2", "untrained", "b0 (told the task)", *(f"b{i}" for i in range(1, 12))]
    assert "best checkpoint" in axes[0].get_ylabel()


def test_every_seed_is_a_dot_and_no_interval_is_drawn_where_there_is_none(tmp_path, axes):
    seeds = [[0.2, 0.7, 0.9], [0.3, 0.8, 1.1]]
    without = {"mean": [0.25, 0.75, 1.0], "low": None, "high": None}
    both = summary(**{"seed": [0, 1], "seed_means": {"return": seeds}, "return": without})
    plot_adaptation([Line("rl2", both)], tmp_path / "plot.png")
    mean, *dots = axes[0].lines
    assert list(mean.get_ydata()) == without["mean"]
    assert [list(line.get_ydata()) for line in dots] == seeds
    assert {(line.get_marker(), line.get_linestyle()) for line in dots} == {(".", "None")}
    assert not axes[0].collections


@pytest.mark.parametrize(
    ("split", "kind", "shared"), [("test", "held-out", False), ("train", "training", True)]
)
def test_title_says_which_tasks(tmp_path, axes, split, kind, shared):
    plot_adaptation([Line("rl2", summary(split=split, shared_split=shared))], tmp_path / "plot.png")
    title = axes[0].get_title()
    assert "bandit/n3-k2" in title
    assert f"1,000 {kind} tasks" in title
    assert ("the same tasks as in training" in title) == shared


@pytest.mark.parametrize("label", ["rl2", "an agent whose name takes room beside the picture"])
def test_long_titles_are_broken_where_they_fit(tmp_path, axes, label):
    name = "gym/package:Environment-v3:" + ",".join(f"parameter_{i}=0.125..12.5" for i in range(9))
    plot_adaptation([Line(label, {**summary(), "env": name})], tmp_path / "plot.png")
    title, figure = axes[0].title, axes[0].figure
    figure.draw_without_rendering()
    box = title.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    first, *_, last = title.get_text().split("\n")
    assert first.startswith("gym/package") and first.endswith(",")
    assert last.endswith("mean and 95% interval")
    assert title.get_text().replace("\n", "").startswith(name)


def test_short_titles_are_left_as_they_are(tmp_path, axes):
    plot_adaptation([Line("rl2", summary())], tmp_path / "plot.png")
    assert axes[0].get_title().count("\n") == 1


def test_much_more_experience_of_a_baseline_leaves_room_for_the_agents(tmp_path, axes):
    long = summary(episodes=[0, 100, 400])
    lines = [Line("rl2", summary()), Line("scratch", long, baseline=True)]
    plot_adaptation(lines, tmp_path / "wide.png")
    assert axes[0].get_xscale() == "symlog"
    middle, end = axes[0].transData.transform([(40, 0), (400, 0)])[:, 0]
    left = axes[0].transData.transform((0, 0))[0]
    assert 0.5 < (middle - left) / (end - left) < 0.7
    assert [int(x) for x in axes[0].get_xticks()] == [0, 20, 40, 80, 200, 400]
    plot_adaptation([lines[0], Line("b", summary(), baseline=True)], tmp_path / "narrow.png")
    assert axes[1].get_xscale() == "linear"


def test_learning_shows_before_and_after_adaptation(tmp_path, axes):
    x = [
        Learning("b", [[(10, -1.0), (20, -2.0)]], before=True),
        Learning("a", [[(10, 1.0), (20, 2.0)]]),
    ]
    plot_learning([x, [Learning("y", [[]])]], tmp_path / "plot.png", "bandit/n3-k2")
    assert is_picture(tmp_path / "plot.png")
    points = {tuple(line.get_ydata()): list(line.get_xdata()) for line in axes[0].lines}
    assert points == {(-1, -2): [10, 20], (1, 2): [10, 20]}


@pytest.mark.parametrize(
    ("kind", "suffix"), [("adaptation", ".png"), ("learning", ".png"), ("adaptation", ".svg")]
)
def test_several_runs_are_drawn_in_one_picture(trained, tmp_path, axes, kind, suffix):
    path = tmp_path / f"plot{suffix}"
    plot(trained[:2], kind, path)
    assert path.stat().st_size > 4000
    names = labels(axes[0])
    assert len(axes[0].lines) == 4  # untrained beside each, or before and after
    if kind == "adaptation":  # untrained ones look alike, and are named once
        assert names == ["rl2, seed 0", "untrained", "rl2, seed 1"]
    else:
        assert all("seed 0" in n for n in names[:2]) and all("seed 1" in n for n in names[2:])
        assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize("pair", [(0, 0), (1, 2)], ids=["one twice", "folders of one name"])
def test_labels_tell_runs_of_one_seed_apart(trained, tmp_path, axes, pair):
    if pair == (0, 0):
        other = tmp_path / "copy"
        other.symlink_to(trained[0])
        chosen = [trained[0], other]
    else:
        chosen = [trained[i] for i in pair]
    plot(chosen, "learning", tmp_path / "plot.png")
    assert len(set(labels(axes[0]))) == 4


def test_lines_of_different_kinds_say_which_they_are(tmp_path, axes):
    """The title once described all lines by the first one."""
    greedy, best = summary(actions="greedy"), summary(checkpoint="best")
    lines = [Line("a", greedy), Line("untrained", greedy, reference=True)]
    lines += [Line("b", best), Line("untrained", best, reference=True)]
    plot_adaptation(lines, tmp_path / "plot.png")
    assert labels(axes[0]) == [
        "a (greedy actions, final checkpoint)",
        "untrained (greedy actions)",
        "b (sampled actions, best checkpoint)",
        "untrained (sampled actions)",
    ]
    assert axes[0].get_ylabel() == "return of an episode\n(actions: see the legend)"
    pairs = zip(axes[0].lines[::2], axes[0].lines[1::2], strict=True)
    assert all(line.get_color() == reference.get_color() for line, reference in pairs)


def test_lines_of_one_kind_say_it_once(tmp_path, axes):
    probes = summary(score="greedy-copy", actions="greedy")
    plot_adaptation([Line("a", probes), Line("b", probes)], tmp_path / "plot.png")
    assert labels(axes[0]) == ["a", "b"]
    assert axes[0].get_ylabel() == "return of an episode\n(greedy actions, greedy copies)"


def test_an_oracle_is_marked_even_if_all_lines_are_told_the_task(tmp_path, axes):
    oracle = summary(told_task=True)
    lines = [Line("a", oracle), Line("untrained", oracle, reference=True)]
    plot_adaptation(lines, tmp_path / "plot.png")
    assert labels(axes[0]) == ["a (told the task)", "untrained (told the task)"]


def test_a_checkpoint_that_all_lines_share_is_named_unless_it_is_the_final_one(tmp_path, axes):
    plot_adaptation([Line("a", summary(checkpoint="best"))], tmp_path / "plot.png")
    assert "best checkpoint" in axes[0].get_ylabel()
    plot_adaptation([Line("a", summary())], tmp_path / "plot.png")
    assert "checkpoint" not in axes[1].get_ylabel()


def test_lines_of_different_splits_are_told_apart(tmp_path, axes):
    lines = [Line("a", summary()), Line("a", summary(split="validation"))]
    plot_adaptation(lines, tmp_path / "plot.png")
    assert labels(axes[0]) == ["a (held-out tasks)", "a (validation tasks)"]
    assert "splits: see the legend" in axes[0].get_title()


def test_evaluations_of_one_run_are_drawn_by_their_files(trained, tmp_path, axes):
    run = Run.open(trained[0])
    evaluate(run, greedy=True, output=tmp_path / "elsewhere")
    axes.clear()
    file = tmp_path / "elsewhere" / "test-greedy.json"
    chosen = [trained[0], trained[0] / "evaluation" / "test.json", file]
    plot(chosen, "adaptation", tmp_path / "plot.png")
    names = [name for name in labels(axes[0]) if "untrained" not in name]
    assert len(set(names)) == 3 and "greedy" in names[2] and "sampled" in names[0]
    with pytest.raises(UserError, match="accepted: run directories for --kind learning"):
        plot([file], "learning")


def test_pictures_without_a_name_never_replace_each_other(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_file(Path("comparison.png")), range(8)))
    assert len(set(claimed)) == 8
    assert plot(trained[:1], "adaptation") == Path("comparison-9.png")
    assert is_picture("comparison-9.png")
    with pytest.raises(UserError):
        plot(trained[:1], "paths")
    assert not Path("comparison-10.png").exists()  # nothing was drawn


def test_a_picture_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    path.write_bytes(b"before")

    def fail(self, file, **options):
        Path(file).write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        plot_adaptation([Line("a", summary())], path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_one_run_is_named_by_its_agent(trained, tmp_path, axes):
    plot(trained[:1], "adaptation", tmp_path / "plot.png")
    assert labels(axes[0]) == ["rl2", "untrained"]


def test_what_cannot_be_drawn_is_refused(trained, tmp_path):
    output = tmp_path / "plot.png"
    with pytest.raises(UserError, match="--metric: got 'success'; accepted: return for --kind"):
        plot(trained[:1], "paths", output, metric="success")
    with pytest.raises(UserError, match=r"--metric: got 'success'; accepted: return, .*update/kl"):
        plot(trained[:1], "learning", output, metric="success")
    with pytest.raises(UserError, match="--axis: got 'episodes'; accepted: no axis for --kind"):
        plot(trained[:1], "paths", output, axis="episodes")
    with pytest.raises(UserError, match=r"--output: got .*csv.*; accepted: .*\.svg$"):
        plot(trained[:1], "paths", tmp_path / "plot.csv")
    with pytest.raises(UserError, match="--axis: got 'env-steps'; accepted: episodes for a file"):
        plot([trained[0] / "evaluation" / "test.json"], "adaptation", output, axis="env-steps")
    with pytest.raises(UserError, match=r"--output: got .*txt"):
        plot(trained[:1], "adaptation", tmp_path / "plot.txt")
    with pytest.raises(UserError, match="RUNS: got"):
        plot([], "adaptation", output)
    with pytest.raises(UserError, match="--metric: got 'success'; accepted: return"):
        plot(trained[:1], "adaptation", output, metric="success")
    with pytest.raises(UserError, match=r"train\.json: cannot be read"):
        plot(trained[:1], "adaptation", output, split="train")
    with pytest.raises(UserError, match="not a run directory"):
        plot([tmp_path], "learning", output)
    assert not output.exists()


def test_a_run_without_metrics_is_refused(trained, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text((trained[0] / "config.json").read_text())
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plot([tmp_path / "run"], "learning", tmp_path / "plot.png")


def test_a_run_that_has_logged_nothing_yet_has_no_numbers_to_write(trained, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text((trained[0] / "config.json").read_text())
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match=r"RUNS: got .*run.*; accepted: runs with logged metrics"):
        plot([run], "learning", tmp_path / "new" / "plot.csv")
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def on_navigation(tmp_path_factory):
    """A run of each agent on tasks with a goal in the plane."""
    folder = tmp_path_factory.mktemp("navigation")
    made = {}
    for name, config in (
        (
            "rl2",
            with_options(RL2Config(), tasks_per_update=2, episodes_per_trial=3, num_minibatches=1),
        ),
        ("maml-ppo", MAMLPPOConfig(tasks_per_update=2, episodes_per_adaptation=2)),
    ):
        train = with_options(
            TrainConfig(),
            env="navigation:horizon=6",
            check=False,
            iterations=1,
            evaluation_tasks=2,
            validation_tasks=1,
            run_dir=folder / name,
        )
        made[name] = train_run(Settings(name, config, train)).directory
    return made


@pytest.mark.parametrize(
    ("agent", "titles"),
    [
        ("rl2", ["before adaptation", "after 1 episodes", "after 2 episodes"]),
        ("maml-ppo", ["before adaptation", *(f"after {n} episodes" for n in (2, 4, 6))]),
    ],
)
def test_paths_start_at_the_origin_and_have_a_panel_for_each_stage(
    on_navigation, tmp_path, axes, agent, titles
):
    plot([on_navigation[agent]], "paths", tmp_path / "plot.png")
    assert is_picture(tmp_path / "plot.png")
    drawn = axes[0].figure.axes
    assert len(drawn) == 4 * len(titles)
    assert [a.get_title() for a in drawn[: len(titles)]] == titles
    for panel in drawn:
        *paths, _origin, goal = panel.lines
        assert len(paths) == (1 if agent == "rl2" else 2)
        assert max(abs(x) for x in (*goal.get_xdata(), *goal.get_ydata())) <= 0.5
        for path in paths:
            assert (path.get_xdata()[0], path.get_ydata()[0]) == (0, 0)
            assert 2 <= len(path.get_xdata()) <= 7


def test_both_agents_share_one_axis(on_navigation, tmp_path, axes):
    plot(list(on_navigation.values()), "adaptation", tmp_path / "plot.png")
    assert labels(axes[0]) == ["rl2", "untrained", "maml-ppo"]
    points = [line.get_xdata().tolist() for line in axes[0].lines]
    assert points == [[0, 1, 2], [0, 1, 2], [0, 2, 4, 6], [0, 2, 4, 6]]


def test_paths_of_tasks_without_a_goal_are_refused(trained, on_navigation, tmp_path):
    with pytest.raises(UserError, match="--kind: got 'paths'"):
        plot(trained[:1], "paths", tmp_path / "plot.png")
    with pytest.raises(UserError, match="one run for --kind paths"):
        plot(list(on_navigation.values()), "paths", tmp_path / "plot.png")


def test_figures_of_a_notebook_stay_its_own(quick_python):
    """Pictures are drawn without pyplot, which has one backend for the whole program."""
    code = """
import sys
from metarl.evaluation import control_plots, group_plots, insight_plots, plotting
from metarl.running import tune_report
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([quick_python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
