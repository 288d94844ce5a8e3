"""Pictures of environments of all kinds, and what is said where there are none."""

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl.errors import UserError
from metarl.evaluation import cameras
from metarl.evaluation.cameras import looking_at, prepare_rendering
from metarl.evaluation.sheets import contact_sheet


class Bare(gym.Env):
    """An environment without simulator, told its render mode and what it returns."""

    observation_space = gym.spaces.Box(0.0, 1.0, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, modes, seen=None):
        self.metadata = {"render_modes": modes, "render_fps": 7}
        self.seen = seen

    def render(self):
        if isinstance(self.seen, Exception):
            raise self.seen
        return self.seen


def test_an_environment_made_without_a_render_mode_is_seen():
    seen = np.ones((2, 3, 3), np.uint8)
    with looking_at(gym.Wrapper(Bare(["human", "rgb_array"], seen)), "x") as camera:
        assert camera.steps_per_second == 7.0 and (camera.frame() == seen).all()


@pytest.mark.parametrize(
    ("modes", "seen", "message"),
    [
        (["human"], None, "x: Bare has no pictures; accepted: environments on MuJoCo, those with"),
        ([], None, "x: Bare has no pictures"),
        (["rgb_array"], None, "x: Bare renders object of shape"),
        (["rgb_array"], np.zeros((2, 2)), r"x: Bare renders float64 of shape \(2, 2\); accepted"),
        (["rgb_array"], ImportError("no pygame"), "x: Bare cannot be rendered: ImportError: no py"),
    ],
)
def test_what_cannot_be_seen_says_why(modes, seen, message):
    with (
        pytest.raises(UserError, match=f"^{message}"),
        looking_at(Bare(modes, seen), "x") as camera,
    ):
        camera.frame()


def test_a_mistake_in_the_choice_of_a_renderer_is_one_line(monkeypatch):
    def fail(name):
        raise RuntimeError("invalid value for environment variable MUJOCO_GL: bad")

    monkeypatch.setattr(cameras.importlib, "import_module", fail)
    with pytest.raises(UserError) as raised:
        prepare_rendering("metarl play")
    assert str(raised.value).startswith("metarl play: MuJoCo cannot render here (RuntimeError: inv")
    assert "MUJOCO_GL=egl with libegl1" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "egl", "screen", "chosen"),
    [
        (None, "libEGL.so.1", "", "egl"),
        ("osmesa", "libEGL.so.1", "", "osmesa"),
        (None, None, "", None),
        (None, "libEGL.so.1", ":0", None),
    ],
)
def test_without_a_screen_mujoco_renders_by_egl(monkeypatch, given, egl, screen, chosen):
    environment = {"DISPLAY": screen} | ({} if given is None else {"MUJOCO_GL": given})
    monkeypatch.setattr(cameras.os, "environ", environment)
    monkeypatch.setattr(cameras.sys, "platform", "linux")
    monkeypatch.setattr(cameras.ctypes.util, "find_library", lambda name: egl)
    prepare_rendering("x")
    assert environment.get("MUJOCO_GL") == chosen
    assert environment.get("SDL_VIDEODRIVER") == (None if screen else "dummy")


@pytest.mark.usefixtures("renderer")
def test_a_simulator_is_seen_where_it_can_be_rendered():
    tasks = metarl.make("half-cheetah/direction")
    env = tasks.make(tasks.tasks("test")[0])
    env.reset(seed=0)
    with looking_at(env, "x") as camera:
        before = camera.frame().copy()
        for _ in range(5):
            env.step(np.ones(6, np.float32))
        assert (before != camera.frame()).any() and camera.steps_per_second == pytest.approx(20)


# contact sheets


def sheet(name, number=9, steps=3, **options):
    tasks = metarl.make(name)
    chosen = tasks.sample(np.random.default_rng(0), number, "train")
    return contact_sheet(tasks, chosen, steps=steps, seed=0, option="--frames")


def test_a_sheet_has_three_tasks_in_a_row():
    nine, four, three = (sheet("gridworld", number) for number in (9, 4, 3))
    assert nine.shape[1] == four.shape[1] == three.shape[1] == 3 * 250 + 10
    row = four.shape[0] - three.shape[0]
    assert nine.shape[0] == three.shape[0] + 2 * row and row > 240


def test_a_sheet_shows_the_tasks_after_random_steps():
    start, later, again = (sheet("bandit/n10-k5", steps=steps) for steps in (0, 3, 3))
    assert (later == again).all() and (start != later).any()
    orange = (232, 137, 28)
    assert not (start == orange).all(-1).any() and (later == orange).all(-1).any()
