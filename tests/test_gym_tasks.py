"""Parametric tasks: does a task equal an environment that was built that way?"""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from stable_baselines3 import PPO

import metarl
from metarl.errors import UserError
from metarl.gym_tasks import GymTasks
from metarl.parameters import Choice, LogUniform, Uniform
from metarl.tasks import Task


def play(env, steps=60, seed=3):
    env.action_space.seed(0)
    seen = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        seen += [observation, reward]
        if terminated or truncated:
            break
    return seen


def same(a, b, **close):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, **close) if close else np.testing.assert_array_equal(x, y)


def test_constructor_argument_equals_an_environment_made_with_it():
    tasks = metarl.make("gym/Pendulum-v1:g=8..12")
    env = tasks.make()
    for task in tasks.sample(np.random.default_rng(0), 2, "train"):
        env.reset(seed=0, options={"task": task})
        same(play(env), play(gym.make("Pendulum-v1", g=task["g"])))


def test_derived_attributes_are_recomputed():
    tasks = metarl.make("gym/CartPole-v1:length=0.3..1.0,masspole=0.05..0.5")
    task = tasks.sample(np.random.default_rng(0), 1, "test")[0]
    env = tasks.make(task)

    class Built(type(env.unwrapped)):
        def __init__(self):
            super().__init__()
            self.length, self.masspole = task["length"], task["masspole"]
            self.total_mass = self.masspole + self.masscart
            self.polemass_length = self.masspole * self.length

    same(play(env), play(Built()))
    assert env.unwrapped.polemass_length == task["masspole"] * task["length"]


def scaled_hopper(folder, factor):
    """Write Hopper's model with denser bodies, other friction, damping, gear and gravity."""
    source = Path(gym.__file__).parent / "envs/mujoco/assets/hopper.xml"
    text = source.read_text()
    text = text.replace("<geom ", f'<geom density="{1000 * factor}" ', 1)  # the default class
    text = re.sub(r'damping="([\d.]+)"', lambda m: f'damping="{float(m[1]) * factor}"', text)
    text = re.sub(r'gear="([\d.]+)"', lambda m: f'gear="{float(m[1]) * factor}"', text)
    text = re.sub(
        r'friction="([\d. ]+)"',
        lambda m: 'friction="' + " ".join(str(float(v) * factor) for v in m[1].split()) + '"',
        text,
    )
    path = folder / "hopper.xml"
    path.write_text(text)
    return path, text != source.read_text()


def test_physics_equal_a_model_that_was_written_that_way(tmp_path):
    path, changed = scaled_hopper(tmp_path, 1.25)
    assert changed
    built = HopperEnv(xml_file=str(path))
    tasks = GymTasks(
        "Hopper-v5",
        {name: Choice(1.25, factor=True) for name in ("body_mass", "dof_damping", "actuator_gear")},
        horizon=100,
    )
    env = tasks.make(tasks.tasks("train")[0])
    model, other = env.unwrapped.model, built.model
    for name in ("body_mass", "body_inertia", "dof_damping", "actuator_gear", "body_subtreemass"):
        np.testing.assert_allclose(getattr(model, name), getattr(other, name), rtol=1e-12)
    np.testing.assert_allclose(model.dof_invweight0, other.dof_invweight0, rtol=1e-9)
    friction = GymTasks("Hopper-v5", {"geom_friction": Choice(1.25, factor=True)})
    model = friction.make(friction.tasks("train")[0]).unwrapped.model
    plain = HopperEnv().model
    np.testing.assert_allclose(model.geom_friction, plain.geom_friction * 1.25)
    built.model.geom_friction[:] = plain.geom_friction
    same(play(env), play(built), rtol=1e-7, atol=1e-9)


def test_mass_takes_inertia_along_unless_it_varies_itself():
    plain = HopperEnv().model
    one = GymTasks("Hopper-v5", {"body_mass.torso": Choice(2.0, factor=True)})
    model = one.make(one.tasks("train")[0]).unwrapped.model
    torso = plain.body("torso").id
    ratio = np.ones(len(plain.body_mass))
    ratio[torso] = 2
    np.testing.assert_allclose(model.body_mass, plain.body_mass * ratio)
    np.testing.assert_allclose(model.body_inertia, plain.body_inertia * ratio[:, None])
    both = Choice(2.0, factor=True)
    two = GymTasks("Hopper-v5", {"body_mass": both, "body_inertia": Choice(3.0, factor=True)})
    model = two.make(two.tasks("train")[0]).unwrapped.model
    np.testing.assert_allclose(model.body_inertia, plain.body_inertia * 3)


def test_gravity_and_single_joints():
    tasks = metarl.make("gym/Hopper-v5:gravity=5/7,dof_damping.foot_joint=4,horizon=20")
    env = tasks.make()
    for task in tasks.tasks("test"):
        env.reset(options={"task": task})
        model = env.unwrapped.model
        assert model.opt.gravity.tolist() == [0, 0, -task["gravity"]]
        assert model.dof_damping[model.joint("foot_joint").dofadr[0]] == 4
        assert (model.dof_damping == 4).sum() == 1
    assert tasks.horizon == 20 and tasks.shared_split


def test_later_tasks_start_from_the_original_values():
    tasks = GymTasks("Hopper-v5", {"body_mass": Uniform(0.5, 2, factor=True)}, horizon=50)
    env = tasks.make()
    for value in (2.0, 0.5, 1.0):
        env.reset(seed=0, options={"task": Task.of(tasks.name, body_mass=value)})
    same(play(env), play(HopperEnv()), rtol=1e-9, atol=1e-12)


def test_factor_of_attribute_and_constructor():
    pendulum = metarl.make("gym/Pendulum-v1:g=0.5x/2x").make(Task.of("p", g=2.0))
    assert pendulum.unwrapped.g == 20
    cart = metarl.make("gym/CartPole-v1:length=3x").make(Task.of("c", length=3.0))
    assert cart.unwrapped.length == 1.5


def test_splits_by_interval_and_by_seed():
    tasks = metarl.make("gym/Pendulum-v1:g=2..10,test.g=10..20")
    train, test = (
        [t["g"] for t in tasks.sample(np.random.default_rng(0), 500, s)] for s in ("train", "test")
    )
    assert 2 <= min(train) < max(train) < 10 <= min(test) < max(test) < 20
    assert not tasks.shared_split
    assert not metarl.make("gym/Pendulum-v1:g=2..10").shared_split
    choices = GymTasks("Pendulum-v1", {"g": Choice(1, 2, test=(3,))})
    assert [t["g"] for t in choices.tasks("test")] == [3] and not choices.shared_split


def test_logarithmic_ranges_spread_over_orders_of_magnitude():
    tasks = GymTasks("Pendulum-v1", {"g": LogUniform(0.1, 10)})
    g = np.log10([t["g"] for t in tasks.sample(np.random.default_rng(0), 2000, "train")])
    assert -1 <= g.min() < -0.99 and 0.99 < g.max() < 1 and abs(g.mean()) < 0.065


@pytest.mark.parametrize(
    "name",
    [
        "gym/Pendulum-v1:g=8..12",
        "gym/CartPole-v1:force_mag=-10/10",
        "gym/Hopper-v5:body_mass=each:log:0.5x..2x,test.body_mass=each:log:2x..3x,horizon=50",
    ],
)
def test_name_makes_the_same_distribution_again(name):
    tasks = metarl.make(name)
    assert tasks.name == name
    again = metarl.make(tasks.name)
    for split in ("train", "test"):
        a, b = (t.sample(np.random.default_rng(1), 5, split) for t in (tasks, again))
        assert a == b


def test_python_and_name_agree():
    tasks = GymTasks("CartPole-v1", {"length": Uniform(0.3, 1.0), "force_mag": Choice(-10, 10)})
    assert tasks.name == "gym/CartPole-v1:length=0.3..1,force_mag=-10/10"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gym/Pendulum-v1", "accepted: one parameter to vary"),
        ("gym/Pendulum-v1:gravity=1..2", "nothing called 'gravity' that can vary.*known: dt, g, l"),
        ("gym/Hopper-v5:body_mas=1..2", "did you mean body_mass"),
        ("gym/Hopper-v5:body_mass.head=1..2", "body_mass.head"),
        ("gym/Pendulum-v1:g=5..1", r"g: range: got '5.0..1.0'"),
        ("gym/Pendulum-v1:g=high", "got 'high'; accepted: low..high"),
        ("gym/Pendulum-v1:g=1x..2", "got '1x..2'; accepted"),
        ("gym/Pendulum-v1:g", "got 'g'; accepted: name=low..high"),
        ("gym/Pendulum-v1:g=each:1..2", "each:g: got one number; accepted: an entry of gravity"),
        ("gym/Pendulum-v1:g=log:-1..2", "logarithmic range"),
        ("gym/Pendulum-v1:g=1..2,test.m=1..2", "test.m: accepted: the same kind"),
        ("gym/Pendulum-v1:g=1..2,horizon=0", "horizon: got '0'"),
        ("gym/Pendulom-v1:g=1..2", "Did you mean: `Pendulum`"),
    ],
)
def test_bad_names_are_refused_with_what_is_accepted(name, message):
    with pytest.raises(UserError, match=message):
        metarl.make(name)


def test_stable_baselines3_trains_on_a_task():
    tasks = metarl.make("gym/CartPole-v1:length=0.3..1.0")
    env = tasks.make(tasks.sample(np.random.default_rng(0), 1, "train")[0])
    model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, device="cpu").learn(128)
    assert env.action_space.contains(model.predict(env.reset()[0])[0])
