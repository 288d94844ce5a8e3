"""What agents know while they act: is it noted at every step, and drawn as it is?"""

import json

import numpy as np
import pytest
import torch

import metarl
from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.evaluation import insight, insight_plots
from metarl.evaluation.insight import watch_insight
from metarl.evaluation.insight_plots import looked_at, plot_insight
from metarl.options import with_options
from metarl.running.commands import run_evaluate

TASKS = metarl.make("gridworld:horizon=4")


def agent_of(tasks=TASKS, **options):
    values = {"tasks_per_update": 4, "num_minibatches": 1, "hidden_size": 8, **options}
    return RL2(with_options(RL2Config(), **values), metarl.TaskSpec.of(tasks))


class Steps:
    """Knows how many steps it has seen, and shows it in four shapes."""

    shape = metarl.TrialShape(2)
    insight_of = staticmethod(
        lambda n: {
            "count": n,
            "row": n.unsqueeze(-1) * torch.ones(5),
            "map": n[:, None, None] * torch.arange(6.0).reshape(2, 3),
            "attention": torch.ones(len(n), 1, 16) / 16,
        }
    )

    def begin(self, num_tasks):
        return torch.zeros(num_tasks)

    def act(self, context, timestep, generator, greedy=False):
        context = context + timestep.active[:, 0]
        return torch.zeros(timestep.active.shape, dtype=torch.long), {}, context

    def adapt(self, context, episodes, generator):
        return context

    def insight(self, context):
        return self.insight_of(context)


def test_insight_is_that_after_every_action():
    found = watch_insight(Steps(), TASKS, num_tasks=2)
    assert found.known["count"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]] * 2
    assert found.known["map"].shape == (2, 8, 2, 3) and found.known["row"].shape == (2, 8, 5)
    assert found.boundary.tolist() == [[True, False, False, False] * 2] * 2
    assert found.valid.all() and found.reward.shape == (2, 8)


def test_the_trials_are_those_of_an_evaluation():
    agent = agent_of(core="transformer")
    found = watch_insight(agent, TASKS, num_tasks=3, seed=5)
    curve = metarl.evaluate_adaptation(agent, TASKS, num_tasks=3, seed=5)
    returns = found.reward.reshape(3, 4, 4).sum(-1)  # [task, episode]
    np.testing.assert_allclose(returns, curve.returns.T, atol=1e-5)
    attention = found.known["attention"]
    assert attention.shape == (3, 16, 2, 20)  # one episode more than in training
    np.testing.assert_allclose(attention.sum(-1), 1, atol=1e-5)
    for step in range(16):
        assert (attention[:, step, :, step + 1 :] == 0).all()


def test_the_picture_has_a_row_for_the_step_that_looks():
    found = looked_at(np.array([[1.0, 0.0], [0.75, 0.25], [0.5, 0.5]]))
    assert np.isnan(found[0, 1]) and np.isnan(found[1, 2])
    np.testing.assert_array_equal(found[2], [0.0, 0.5, 0.5])  # two steps before: out of reach
    np.testing.assert_array_equal(found[1, :2], [0.25, 0.75])


def test_every_shape_is_drawn_as_it_is(tmp_path, monkeypatch):
    found = watch_insight(Steps(), TASKS, num_tasks=1)
    figures, save = [], insight_plots.save_figure
    kept = lambda figure, *rest: figures.append(figure) or save(figure, *rest)  # noqa: E731
    monkeypatch.setattr(insight_plots, "save_figure", kept)
    plot_insight(found, 0, tmp_path / "all.png", "steps")
    assert (tmp_path / "all.png").stat().st_size > 5000
    reward, count, row, *maps, attention = figures[0].axes
    assert [bar.get_height() for bar in reward.patches] == found.reward[0].tolist()
    assert count.get_ylabel() == "count" and row.get_ylabel() == "row"
    assert count.lines[0].get_ydata().ravel().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert row.images[0].get_array().tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]] * 5
    assert [axes.get_title() for axes in maps] == [f"map, step {step}" for step in range(8)]
    for step, axes in enumerate(maps):  # row 0 is at the bottom
        assert axes.images[0].origin == "lower"
        assert axes.images[0].get_array().tolist() == [
            [0, step + 1, 2 * step + 2],
            [3 * step + 3, 4 * step + 4, 5 * step + 5],
        ]
    looked = np.ma.filled(attention.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(looked, looked_at(found.known["attention"][0, :, 0]))
    plot_insight(found._replace(known={"count": found.known["count"]}), 0, tmp_path / "few.png", "")
    assert len(figures[1].axes) == 2


def test_what_has_no_insight_or_too_much_is_refused(monkeypatch):
    class Silent(Steps):
        insight = None

    with pytest.raises(UserError, match=r"^--insight: Silent has no method insight"):
        watch_insight(Silent(), TASKS)
    rounds = Steps()
    rounds.shape = metarl.TrialShape(2, num_adaptations=1, sequential=False)
    with pytest.raises(UserError, match=r"^--insight: Steps learns between rounds"):
        watch_insight(rounds, TASKS)
    monkeypatch.setattr(insight, "MOST_BYTES", 100)
    with pytest.raises(UserError, match=r"^--insight: got .3 tasks, of which .* would be noted"):
        watch_insight(Steps(), TASKS)


def test_the_command_writes_a_picture_for_each_task_and_the_arrays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = {"tasks_per_update": 2, "num_minibatches": 1, "hidden_size": 8, "check": False}
    few = {"iterations": 1, "evaluation_tasks": 2, "validation_tasks": 2, "run_dir": "run"}
    metarl.train("rl2", env="gridworld:horizon=4", core="transformer", **small, **few)
    run_evaluate(["run", "--insight", "--evaluation-tasks", "1", "--num-workers", "0"])
    name = "run/evaluation/test-tasks-1-insight"
    pictures = sorted(path.name for path in (tmp_path / "run/evaluation").glob("*-insight-*.png"))
    assert pictures == ["test-tasks-1-insight-1.png"]
    arrays = np.load(f"{name}.npz")
    assert arrays["insight.attention"].shape == (1, 16, 2, 20)
    assert len(json.loads(str(arrays["tasks"]))) == 1
    assert f"picture: {name}-1.png" in capsys.readouterr().out
    for words, message in (
        (["--video", "2"], "--video: got 2; accepted: 0 together with --insight"),
        (["--change-task-after", "1"], "--change-task-after: got 1; accepted: 0 together with"),
        (["--evaluation-tasks", "21"], "--evaluation-tasks: got 21; accepted: at most 20"),
        (["--probe"], "--probe: got True; accepted: no --insight beside it"),
        (["--baselines", "random"], "--insight: got True; accepted: one run"),
    ):
        with pytest.raises(UserError) as error:
            run_evaluate(["run", "--insight", *words])
        assert message in str(error.value)
