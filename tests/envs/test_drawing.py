"""Pictures of array families: do they show the state, and the state alone?"""

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl.errors import UserError
from metarl.tasks.arrays import ArrayTaskDistribution
from metarl.tasks.canvas import Canvas, shortened, text_width

FAMILIES = [
    "bandit/n10-k5",
    "bandit/n10-k50",
    "dark-room/n9",
    "gridworld",
    "mdp/n10",
    "navigation",
    "point-robot",
    "t-maze/n5",
]


def drawn(name, actions, seed=0):
    """Return the picture at an episode's start and after each action; ended ones start again."""
    tasks = metarl.make(name)
    (task,) = tasks.sample(np.random.default_rng(0), 1, "test")
    env = tasks.make(task, render_mode="rgb_array")
    env.reset(seed=seed)
    frames = [env.render()]
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        frames.append(env.render())
        if terminated or truncated:
            env.reset(seed=seed)
    return frames


def actions_of(name, number):
    space = metarl.make(name).action_space
    space.seed(0)
    return [space.sample() for _ in range(number)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_changes_with_the_state_and_is_equal_for_equal_states(name):
    actions = actions_of(name, 6)
    frames, again = drawn(name, actions), drawn(name, actions)
    assert {(f.dtype, f.ndim, f.shape[2]) for f in frames} == {(np.dtype(np.uint8), 3, 3)}
    assert len({f.shape for f in frames}) == 1 and min(frames[0].shape[:2]) >= 240
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))
    assert len({frame.tobytes() for frame in frames}) > 2


@pytest.mark.parametrize("name", FAMILIES)
def test_recording_changes_nothing_that_an_agent_sees(name):
    tasks = metarl.make(name)
    (task,) = tasks.sample(np.random.default_rng(0), 1, "test")
    seen = []
    for mode in (None, "rgb_array"):
        env = tasks.make(task, render_mode=mode)
        observation, _ = env.reset(seed=3)
        steps = [env.step(action)[:4] for action in actions_of(name, 1)]
        seen.append((np.asarray(observation).tolist(), str(steps)))
    assert seen[0] == seen[1]


def test_a_bandit_shows_all_pulls_with_its_task_and_none_with_another():
    tasks = metarl.make("bandit/n10-k3")
    one, other = tasks.sample(np.random.default_rng(0), 2, "test")
    env = tasks.make(one, render_mode="rgb_array")
    scenes = []
    env._draw = lambda scene: scenes.append(scene) or np.zeros((1, 1, 3), np.uint8)
    for action in (0, 2, 2):
        env.reset(seed=0)
        env.step(action)
    env.render()
    env.reset(options={"task": other})
    env.render()
    with_task, without = scenes
    assert [int(e.actions[0]) for e in (*with_task.earlier, with_task)] == [0, 2, 2]
    assert without.earlier == () and without.params["p"].tolist() == list(other["p"])


def test_the_grid_shows_where_the_agent_is():
    start, right, up = drawn("gridworld", [1, 0])
    blue = [np.argwhere((f == (42, 111, 187)).all(-1)).mean(0) for f in (start, right, up)]
    assert blue[1][1] > blue[0][1] + 20 and blue[2][0] < blue[1][0] - 20


def test_a_point_outside_the_picture_of_the_plane_is_at_its_edge_in_another_color():
    frames = drawn("navigation", [np.full(2, 0.1, np.float32)] * 12)
    orange = [(f == (232, 137, 28)).all(-1) for f in frames]
    assert not orange[0].any() and orange[-1][:15, -15:].any()


def test_without_a_render_mode_there_is_a_warning_and_no_picture():
    env = metarl.make("navigation").make()
    with pytest.warns(UserWarning, match="render_mode"):
        assert env.render() is None


def test_nothing_is_rendered_before_a_reset():
    env = metarl.make("navigation").make(render_mode="rgb_array")
    with pytest.raises(gym.error.ResetNeeded):
        env.render()


class Undrawn(type(metarl.make("navigation"))):
    """Navigation as a family that cannot be drawn."""

    draw = ArrayTaskDistribution.draw


class Wrong(Undrawn):
    """Navigation whose picture is none."""

    def draw(self, scene):
        return np.zeros((3, 3))


def test_a_family_without_draw_has_no_render_mode_and_says_so():
    assert Undrawn().make().metadata["render_modes"] == []
    with pytest.raises(
        UserError, match=r"^navigation render_mode: got 'rgb_array'; accepted: None"
    ):
        Undrawn().make(render_mode="rgb_array")
    with pytest.raises(UserError, match="accepted: rgb_array or None"):
        metarl.make("navigation").make(render_mode="human")


def test_a_picture_of_another_type_is_refused():
    task = metarl.make("navigation").sample(np.random.default_rng(0), 1, "test")[0]
    env = Wrong().make(task, render_mode="rgb_array")
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"draw returned float64 of shape \(3, 3\)"):
        env.render()


def test_text_is_cut_off_where_it_would_not_fit():
    words = "goal=(0.123, 0.456)"
    assert shortened(words, 1000) == words
    cut = shortened(words, 80)
    assert cut.endswith("…") and words.startswith(cut[:-1]) and text_width(cut) <= 80


def test_a_canvas_has_its_size_and_smooth_edges():
    canvas = Canvas(20, 10)
    canvas.disc((10, 5), 4.25)
    frame = canvas.frame()
    assert frame.shape == (10, 20, 3) and len(np.unique(frame)) > 2
