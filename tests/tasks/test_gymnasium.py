"""Parametric tasks: does a task equal an environment that was built that way?"""

import gc
import re
import sys
from pathlib import Path

import gymnasium as gym
import lander  # registers environments
import mujoco
import numpy as np
import psutil
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from stable_baselines3 import PPO

import metarl
from metarl import registry
from metarl.errors import UserError
from metarl.task import SPLITS, Task
from metarl.tasks.functions import FunctionTasks
from metarl.tasks.gymnasium import GymTasks
from metarl.tasks.ranges import Choice, Integers, LogUniform, Uniform


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
    for split in SPLITS:
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
        ("gym/Pendulum-v1:g=1..2,test.g=2x..3x", "test.g: accepted: the same kind"),
        ("gym/Pendulum-v1:g=1/2,test.g=2/3", "test.g: held-out choice: got 2"),
        ("gym/Pendulum-v1:g=1..2,g=3..4", "g: got it twice"),
        ("gym/Pendulum-v1:g=1..2,fresh=yes", "fresh: got 'yes'; accepted: true or false"),
        ("gym/Pendulum-v1:g=1..2,max_slots=0", "max_slots: got '0'; accepted: 1 or more"),
        ("gym/Pendulum-v1:g=9.8", "accepted: one parameter to vary or more.*known: dt, g"),
        ("gym/Pendulum-v1:g=true/false", "got True; accepted: low..high"),
        ("gym/Hopper-v5:gravity.x=1..2", "got gravity.x; accepted: one number"),
        ("gym/Hopper-v5:body_mass=a/b", "body_mass: got 'a'; accepted: low..high"),
        ("gym/Pendulum:g=1..2", "did you mean Pendulum-v1"),
        ("gym/nowhere/Room-v0:g=1..2", "that another package registers is gym/<module>:<Id>"),
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


# values and their types


class Physics(gym.Env):
    """Takes all kinds of arguments, and does odd things with some of them."""

    observation_space = action_space = gym.spaces.Discrete(2)
    mass = 1
    teeth: int = 3
    shown = 0.5

    def __setattr__(self, name, value):
        super().__setattr__(name, 0.5 if name == "shown" else value)

    def __init__(
        self,
        cut=0,
        repeat: "int" = 3,
        wheels=4,
        angle=90.0,
        world: "str | None" = None,
        started=1.5,
        size: "int" = 2,
        late=1,
    ):
        self._late = int(late)
        self.cut, self.world = int(cut), world
        self.angle = np.deg2rad(angle)
        self.repeat = len(range(repeat))
        self.doors = len(range(wheels))
        self.started, self.temperature = started, 20.0
        self.observation_space = gym.spaces.Discrete(size)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.temperature, self.started, self.late = 20.0, 1.5, self._late
        return 0, {}

    def step(self, action):
        range(self.teeth)
        return 0, 0.0, False, False, {}


gym.register("Physics-v0", entry_point=Physics, max_episode_steps=5)


def physics(text, **options):
    return metarl.make(f"gym/Physics-v0:{text}", **options)


def value_of(tasks, split="train"):
    return tasks.sample(np.random.default_rng(0), 1, split)[0]


def test_a_default_that_is_an_int_cuts_no_value():
    tasks = metarl.make("gym/MountainCarContinuous-v0:goal_velocity=0.01..0.06")
    task = value_of(tasks)
    held = tasks.make(task).unwrapped.goal_velocity
    assert held == task["goal_velocity"] and 0.01 < held < 0.06


def test_a_number_of_an_attribute_that_is_an_int_is_not_cut():
    tasks = GymTasks("Physics-v0", {"mass": Uniform(1, 4)})
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.mass == task["mass"] != int(task["mass"])


def test_factors_of_a_default_that_is_an_int_are_not_cut():
    tasks = GymTasks("Physics-v0", {"mass": Uniform(0.5, 2, factor=True)})
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.mass == task["mass"] * 1


def test_integers_reach_the_constructor_as_ints():
    tasks = GymTasks("Hopper-v5", {"frame_skip": Integers(2, 6)})
    seen = {
        tasks.make(task).unwrapped.frame_skip for split in SPLITS for task in tasks.tasks(split)
    }
    assert seen == {2, 3, 4, 5, 6} and {type(value) for value in seen} == {int}
    drawn = {s: {t["frame_skip"] for t in tasks.tasks(s)} for s in SPLITS}
    assert drawn == {"train": {2, 3, 5}, "validation": {4}, "test": {6}}
    assert not tasks.shared_split


@pytest.mark.parametrize(("id", "key"), [("Hopper-v5", "frame_skip"), ("Physics-v0", "repeat")])
def test_whole_bounds_of_a_parameter_annotated_as_int_are_integers(id, key):
    tasks = metarl.make(f"gym/{id}:{key}=2..6,test.{key}=8..9,horizon=5")
    assert tasks.params == {key: Integers(2, 6, test=(8, 9))}
    assert tasks.name == f"gym/{id}:{key}=int:2..6,test.{key}=int:8..9,horizon=5"


@pytest.mark.parametrize("kind", [Uniform(1.5, 6), LogUniform(2, 6), Uniform(1, 2, factor=True)])
@pytest.mark.parametrize("key", ["repeat", "teeth"])
def test_a_continuous_range_of_a_parameter_annotated_as_int_is_refused(kind, key):
    accepted = rf"accepted: {key}=int:2\.\.6, or metarl.Integers\(2, 6\)"
    with pytest.raises(UserError, match=rf"{key} takes whole numbers, got .*{accepted}"):
        GymTasks("Physics-v0", {key: kind})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "wheels=2..6",
            r"building it with wheels=\S+ failed: TypeError: 'float' .* wheels=int:low",
        ),
        ("cut=0.5..2", r"cut: the environment makes \d of \S+; accepted: whole numbers, cut=int:"),
        ("cut=2/2.5", r"cut: the environment makes 2 of 2.5; accepted: whole numbers"),
        ("repeat=2.5/3", "repeat: got 2.5; accepted: whole numbers"),
        ("repeat=0.5x/1x", "repeat: got 1.5; accepted: whole numbers"),
        ("cut=0.5x..2x", "cut: is 0, and so is every multiple"),
        ("world=1/2", "world: got 1; accepted: texts"),
        ("world=0.5x..2x", "world: its default is None; accepted: values, not factors"),
        (
            "temperature=20.1..20.9",
            r"temperature: reset\(\) puts 20.0 in the place of \S+, so that",
        ),
        ("shown=1..2", r"shown: the environment makes 0.5 of \S+, so that tasks would not differ"),
        ("late=0.5..2", r"late: the environment makes \d of \S+; accepted: whole numbers"),
        (
            "temperature=10..30",
            r"temperature: reset\(\) puts 20.0 in the place of \S+, so that tasks",
        ),
        ("started=1..2", r"started: reset\(\) puts 1.5 in the place of \S+, so that tasks"),
        ("size=int:2..4", r"with size=3 the observation space is Discrete\(3\), otherwise Disc"),
    ],
)
def test_a_value_that_would_be_changed_or_without_effect_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        physics(text)


def test_an_attribute_in_another_unit_is_no_error():
    tasks = physics("angle=30..60")
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.angle == np.deg2rad(task["angle"])


def test_strings_and_booleans_of_the_constructor_vary():
    tasks = physics("world=flat/round")
    assert {tasks.make(task).unwrapped.world for task in tasks.tasks("train")} == {"flat", "round"}
    tasks = metarl.make("gym/Lander-v0:enable_wind=true/false")
    assert [tasks.make(task).unwrapped.enable_wind for task in tasks.tasks("test")] == [True, False]


def test_spaces_that_differ_between_options_are_refused():
    with pytest.raises(UserError, match=r"with map_name=8x8 .* is Discrete\(64\), otherwise Disc"):
        metarl.make("gym/FrozenLake-v1:map_name=4x4/8x8")


class Needy(gym.Env):
    """Has an argument without a default."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, speed: float):
        self.speed = speed

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, self.speed, False, False, {}


gym.register("Needy-v0", entry_point=Needy, max_episode_steps=5)


def test_an_argument_without_a_default_varies():
    tasks = GymTasks("Needy-v0", {"speed": Uniform(1, 2)})
    task = value_of(tasks)
    env = tasks.make()
    env.reset(options={"task": task})
    assert env.step(0)[1] == task["speed"]


@pytest.mark.parametrize(
    "name",
    [
        "gym/Hopper-v5:frame_skip=2..9,geom_friction=each:0.5..1,horizon=20",
        "gym/FrozenLake-v1:is_slippery=true/false,map_name=8x8,horizon=20",
        "gym/Lander-v0:wind_power=int:0..9,test.wind_power=int:10..12,enable_wind=true,"
        "wrappers=lander:Counted,success_key=landed",
    ],
)
def test_values_of_every_kind_keep_the_contract(name):
    metarl.check_task_distribution(metarl.make(name))


# what has no effect


@pytest.mark.parametrize("key", ["total_mass", "polemass_length"])
def test_an_attribute_that_is_computed_from_others_is_neither_taken_nor_offered(key):
    with pytest.raises(UserError, match=f"{key} is computed from other attributes") as error:
        metarl.make(f"gym/CartPole-v1:{key}=1.5..4")
    known = str(error.value).partition("known:")[2]
    assert "masscart" in known and key not in known


@pytest.mark.parametrize("text", ["0.1..1", "0.1x..1x", "1/2", "each:0.1..1"])
def test_a_field_of_zeros_is_refused_with_the_names_that_can_be_set(text):
    with pytest.raises(UserError, match=r"entries are 0.* dof_damping.motor2_rot=low..high; known"):
        metarl.make(f"gym/Swimmer-v5:dof_damping={text}")


def test_a_named_entry_is_set_where_it_was_0():
    tasks = metarl.make("gym/Swimmer-v5:dof_damping.motor1_rot=0.1..1,horizon=5")
    task = value_of(tasks)
    model = tasks.make(task).unwrapped.model
    joint = model.joint("motor1_rot").dofadr[0]
    assert model.dof_damping[joint] == task["dof_damping.motor1_rot"]
    assert np.count_nonzero(model.dof_damping) == 1
    with pytest.raises(UserError, match=r"motor1_rot: is 0, and so is every multiple"):
        metarl.make("gym/Swimmer-v5:dof_damping.motor1_rot=0.5x..2x")


def test_the_world_s_mass_is_refused():
    with pytest.raises(UserError, match=r"body_mass.world: the world does not move"):
        metarl.make("gym/Hopper-v5:body_mass.world=1..2")


class Floating(HopperEnv):
    """Has no gravity."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model.opt.gravity[:] = 0


gym.register("Floating-v0", entry_point=Floating, max_episode_steps=5)


def test_a_factor_of_no_gravity_is_refused():
    with pytest.raises(UserError, match="gravity: is 0, and so is every multiple"):
        metarl.make("gym/Floating-v0:gravity=0.5x..2x")
    tasks = metarl.make("gym/Floating-v0:gravity=5..15")
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.model.opt.gravity.tolist() == [0, 0, -task["gravity"]]


class ResetModel(HopperEnv):
    """Sets its model's gravity at every reset."""

    def reset_model(self):
        self.model.opt.gravity[:] = [0, 0, -9.81]
        return super().reset_model()


gym.register("ResetModel-v0", entry_point=ResetModel, max_episode_steps=5)


def test_a_field_that_reset_puts_back_is_refused():
    with pytest.raises(UserError, match=r"gravity: reset\(\) puts the model's own values back"):
        metarl.make("gym/ResetModel-v0:gravity=5..15")


def test_class_attributes_vary():
    tasks = metarl.make("gym/Acrobot-v1:LINK_MASS_1=0.5..2")
    task = value_of(tasks)
    env = tasks.make(task)
    assert task["LINK_MASS_1"] == env.unwrapped.LINK_MASS_1
    assert type(env.unwrapped).LINK_MASS_1 == 1.0

    class Built(type(env.unwrapped)):
        LINK_MASS_1 = task["LINK_MASS_1"]

    same(play(env), play(Built()))
    with pytest.raises(UserError, match=r"did you mean LINK_MASS_2 or LINK_MASS_1.*known: LINK_C"):
        metarl.make("gym/Acrobot-v1:LINK_MAS=0.5..2")


# what stays as it is


class Limp(HopperEnv):
    """Changes its model by an argument."""

    def __init__(self, leg=1.0, **kwargs):
        super().__init__(**kwargs)
        self.model.body_mass[self.model.body("leg").id] *= leg


gym.register("Limp-v0", entry_point=Limp, max_episode_steps=50)


def test_an_argument_that_edits_the_model_is_kept_when_physics_vary_too():
    tasks = GymTasks("Limp-v0", {"leg": Uniform(2, 3), "gravity": Uniform(5, 15)})
    env = tasks.make()
    for task in tasks.sample(np.random.default_rng(0), 2, "train"):
        env.reset(seed=0, options={"task": task})
        built = Limp(leg=task["leg"])
        np.testing.assert_array_equal(env.unwrapped.model.body_mass, built.model.body_mass)
        built.model.opt.gravity[2] = -task["gravity"]
        mujoco.mj_setConst(built.model, built.data)
        same(play(env), play(built), rtol=1e-9, atol=1e-12)


def test_a_factor_of_an_attribute_starts_from_the_rebuilt_environment():
    class Derives(Needy):
        def __init__(self, speed: float):
            super().__init__(speed)
            self.brake = 2 * speed

    gym.register("Derives-v0", entry_point=Derives, max_episode_steps=5)
    tasks = GymTasks("Derives-v0", {"speed": Uniform(1, 2), "brake": Choice(3.0, factor=True)})
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.brake == 3 * 2 * task["speed"]


def test_a_factor_multiplies_what_the_id_was_registered_with():
    one = Choice(1.0, factor=True)
    (task,) = GymTasks("five/Lander-v0", {"gravity": one}).tasks("train")
    for tasks, gravity in (
        (GymTasks("Lander-v0", {"gravity": one}), -10),
        (GymTasks("five/Lander-v0", {"gravity": one}), -5),
    ):
        assert tasks.make(task).unwrapped.gravity == gravity


def test_absolute_friction_sets_sliding_alone():
    plain = HopperEnv().model.geom_friction
    tasks = metarl.make("gym/Hopper-v5:geom_friction=0.5..1,horizon=5")
    task = value_of(tasks)
    friction = tasks.make(task).unwrapped.model.geom_friction
    np.testing.assert_array_equal(friction[:, 0], task["geom_friction"])
    np.testing.assert_array_equal(friction[:, 1:], plain[:, 1:])


def test_absolute_friction_of_each_geom_is_one_number_a_geom():
    tasks = metarl.make("gym/Hopper-v5:geom_friction=each:0.5..1,horizon=5")
    task = value_of(tasks)
    friction = tasks.make(task).unwrapped.model.geom_friction
    assert len(task["geom_friction"]) == len(friction)
    np.testing.assert_array_equal(friction[:, 0], task["geom_friction"])
    one = metarl.make("gym/Hopper-v5:geom_friction.floor=0.5..1,horizon=5")
    friction = one.make(value_of(one)).unwrapped.model.geom_friction
    assert friction[0].tolist() == [value_of(one)["geom_friction.floor"], 0.005, 0.0001]


# names


@pytest.mark.parametrize(
    "name",
    [
        "gym/Lander-v0:wind_power=0.0/20.0,enable_wind=true",
        "gym/Lander-v0:wind_power=0..20,enable_wind=true,gravity=-5.0,horizon=7",
        "gym/lander:Lander-v0:wind_power=0..20,wrappers=lander:Counted,info_keys=landed+x,"
        "success_key=landed,episodes_per_trial=2,max_slots=3,fresh=true",
        "gym/five/Lander-v0:wind_power=0..20,test.wind_power=20..30",
        "gym/Physics-v0:mass=int:1..9,test.mass=int:10..11,world=round",
        "gym/FrozenLake-v1:is_slippery=true/false,map_name=8x8",
    ],
)
def test_a_name_holds_all_that_made_the_tasks(name):
    tasks = metarl.make(name)
    assert tasks.name == name
    again = metarl.make(tasks.name)
    keys = "params", "kwargs", "wrappers", "info_keys", "success_key", "episodes_per_trial"
    for key in (*keys, "max_slots", "fresh", "horizon", "id"):
        assert getattr(again, key) == getattr(tasks, key)
    assert [*map(type, again.kwargs.values())] == [*map(type, tasks.kwargs.values())]


def test_fixed_arguments_in_python_are_part_of_the_name():
    tasks = GymTasks("Lander-v0", {"wind_power": Uniform(0, 20)}, enable_wind=True)
    assert tasks.name == "gym/Lander-v0:wind_power=0..20,enable_wind=true"
    again = metarl.make(tasks.name)
    task = value_of(tasks)
    same(play(again.make(task)), play(tasks.make(task)))
    assert again.make(task).unwrapped.enable_wind is True


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ({"world": None}, "world=<NoneType>"),
        ({"world": "a,b"}, "world=<str>"),
        ({"wrappers": [lambda env: env]}, "wrappers=<lambda>"),
        ({"info_keys": ("a+b",)}, "info_keys=<tuple>"),
    ],
)
def test_a_name_that_cannot_say_all_is_refused(options, written):
    tasks = GymTasks("Physics-v0", {"angle": Uniform(1, 2)}, **options)
    assert tasks.name == f"gym/Physics-v0:angle=1..2,{written}"
    with pytest.raises(UserError, match=r"a value in angle brackets has no text; accepted: a func"):
        metarl.make(tasks.name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wind_power=0..20,enable_wind=1", "enable_wind: got 1; accepted: true or false"),
        (
            "wind_power=0..20,enable_wnd=true",
            "nothing called 'enable_wnd'.* did you mean enable_wi",
        ),
        ("wind_power=0..20,enable_wind=true,test.enable_wind=0..1", "test.enable_wind: accepted"),
        ("gravity=-5.0", "accepted: one parameter to vary or more"),
    ],
)
def test_a_fixed_argument_is_checked_like_a_range(text, message):
    with pytest.raises(UserError, match=message):
        metarl.make(f"gym/Lander-v0:{text}")


def test_an_argument_is_either_fixed_or_varied():
    with pytest.raises(
        UserError, match="gravity: got a range and the fixed value -5; accepted: one"
    ):
        GymTasks("Lander-v0", {"gravity": Uniform(1, 2)}, gravity=-5)
    with pytest.raises(UserError, match=r"max_episode_steps: accepted: horizon=N"):
        GymTasks("Lander-v0", {"gravity": Uniform(1, 2)}, max_episode_steps=5)
    with pytest.raises(UserError, match=r"horizon: got a range; accepted: another parameter"):
        GymTasks("Lander-v0", {"horizon": Integers(1, 2)})
    with pytest.raises(UserError, match=r"building it with wind=True failed: TypeError"):
        GymTasks("Lander-v0", {"gravity": Uniform(1, 2)}, wind=True)


class Swallows(CartPoleEnv):
    """Takes an argument that no signature names, and has an attribute of the same name."""

    def __init__(self, **kwargs):
        length = kwargs.pop("length", 0.5)
        super().__init__(**kwargs)
        self.length = length


class Open(gym.Env):
    """Takes any argument."""

    observation_space = action_space = gym.spaces.Discrete(2)

    def __init__(self, **kwargs):
        self.gain, self.given = 1.0, kwargs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 0, {}

    def step(self, action):
        return 0, self.gain, False, False, {}


gym.register("Swallows-v0", entry_point=Swallows, max_episode_steps=5)
gym.register("Open-v0", entry_point=lambda **kwargs: Open(**kwargs), max_episode_steps=5)


def test_an_argument_that_text_would_read_as_an_attribute_has_no_text():
    tasks = GymTasks("Swallows-v0", {"masspole": Uniform(0.1, 0.5)}, length=0.7)
    assert tasks.name == "gym/Swallows-v0:masspole=0.1..0.5,length=<argument>"


def test_an_argument_that_only_kwargs_take_can_be_fixed():
    tasks = GymTasks("Open-v0", {"gain": Uniform(1, 2)}, colour="red", size=3)
    assert tasks.name == "gym/Open-v0:gain=1..2,colour=red,size=3"
    again = metarl.make(tasks.name)
    assert again.make(value_of(again)).unwrapped.given == {"colour": "red", "size": 3}


# modules


REGISTERS = """
import gymnasium
from lander import Lander

gymnasium.register("{space}Rover-v0", entry_point="{name}:Lander", max_episode_steps=5)
"""


@pytest.fixture
def rover(write_module):
    """A module of the current folder that registers an environment."""
    name = write_module("rover_of_tests", REGISTERS.format(space="", name="rover_of_tests"))
    yield name
    gym.registry.pop("Rover-v0", None)


def test_a_module_before_the_id_is_imported(rover):
    tasks = metarl.make(f"gym/{rover}:Rover-v0:gravity=-12..-5,horizon=3")
    assert tasks.name == f"gym/{rover}:Rover-v0:gravity=-12..-5,horizon=3"
    task = value_of(tasks)
    assert tasks.make(task).unwrapped.gravity == task["gravity"]
    assert GymTasks(f"{rover}:Rover-v0", {"gravity": Uniform(1, 2)}).horizon == 5


def test_an_id_in_a_namespace_follows_the_module(write_module):
    name = write_module("mars", REGISTERS.format(space="mars/", name="mars"))
    tasks = metarl.make(f"gym/{name}:mars/Rover-v0:gravity=1..2")
    assert tasks.horizon == 5
    gym.registry.pop("mars/Rover-v0")


def test_the_environments_of_a_module_reach_workers(rover):
    tasks = metarl.make(f"gym/{rover}:Rover-v0:gravity=-12..-5,wrappers=lander:Counted")
    envs = tasks.make_vec(2, num_workers=1)
    drawn = tasks.sample(np.random.default_rng(0), 2, "train")
    seeds = np.arange(2, dtype=np.uint64)
    envs.reset(seed=seeds, options={"tasks": drawn})
    seen = envs.step(np.zeros(2, np.int64))[0]
    envs.close()
    for slot, task in enumerate(drawn):
        env = tasks.make(task)
        env.reset(seed=int(seeds[slot]))
        np.testing.assert_array_equal(seen[slot], env.step(0)[0])


def test_what_only_this_process_registered_reaches_workers():
    gym.register("Here-v0", entry_point="lander:Lander", max_episode_steps=5)
    tasks = metarl.make("gym/Here-v0:gravity=-12..-5")
    envs = tasks.make_vec(1, num_workers=1)
    drawn = tasks.sample(np.random.default_rng(0), 1, "train")
    envs.reset(seed=np.zeros(1, np.uint64), options={"tasks": drawn})
    envs.close()


def test_a_module_that_is_missing_or_registers_something_else_is_named(rover):
    with pytest.raises(UserError, match=r"No module named 'no_such'; .*pip install no-such\)"):
        metarl.make("gym/no_such.envs:Rover-v0:gravity=1..2")
    with pytest.raises(UserError, match=r"doesn't exist. Did you mean: `Rover`"):
        metarl.make(f"gym/{rover}:Rovr-v0:gravity=1..2")


@pytest.mark.parametrize(
    "name",
    [
        "gym/robots:Reach-v4:gravity=5..15",
        "gym/robots.envs:ns/Reach-v4",
        "gym/Pendulum-v1:g=8..12,wrappers=robots:Wrap",
    ],
)
def test_a_name_with_a_module_is_an_import(name):
    assert registry.is_import(name)


@pytest.mark.parametrize(
    "name", ["gym/Pendulum-v1:g=log:8..12", "gym/Room:size=each:1..2", "gym/a/B-v0"]
)
def test_a_name_of_an_id_alone_is_no_import(name):
    assert not registry.is_import(name)


def test_no_file_makes_the_program_import_a_module(rover):
    assert rover not in sys.modules
    registry.is_import(f"gym/{rover}:Rover-v0:gravity=1..2")
    assert rover not in sys.modules


# wrappers, info and slots


def lander_function(**options):
    return FunctionTasks(
        lambda params: lander.Lander(**params), {"gravity": Uniform(-12, -5)}, **options
    )


def lander_gym(**options):
    return GymTasks("Lander-v0", {"gravity": Uniform(-12, -5)}, **options)


BOTH = pytest.mark.parametrize("make", [lander_function, lander_gym])


@BOTH
def test_wrappers_are_applied_in_order_inside_the_horizon(make):
    def twice(env):
        return gym.wrappers.TransformReward(env, lambda reward: 2 * reward)

    tasks = make(horizon=3, wrappers=[twice, lander.Counted])
    task = value_of(tasks)
    env = tasks.make()
    env.reset(seed=0, options={"task": task})
    assert isinstance(env.env, lander.Counted) and env.unwrapped.gravity == task["gravity"]
    bare = lander.Lander(**dict(task.params))
    bare.reset(seed=0)
    for step in range(1, 4):
        observation, reward, _, truncated, _ = env.step(0)
        expected, once, *_ = bare.step(0)
        np.testing.assert_array_equal(observation, expected + np.array([step, 0]))
        assert reward == 2 * once and truncated == (step == 3)


@BOTH
def test_the_spaces_are_those_of_the_wrapped_environment(make):
    def flat(env):
        space = gym.spaces.Box(-1, 1, (1,), np.float64)
        return gym.wrappers.TransformObservation(env, lambda seen: np.zeros(1), space)

    assert make(horizon=3, wrappers=[flat]).observation_space.shape == (1,)


class Worn(gym.Wrapper):
    """Every step of its life makes the next one worth less, whatever ``reset`` says."""

    made = age = 0

    def __init__(self, env):
        super().__init__(env)
        Worn.made += 1

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.age += 1
        return observation, reward - self.age, *rest


@BOTH
def test_every_episode_may_begin_with_a_new_environment(make, monkeypatch):
    with pytest.raises(AssertionError, match="not equivalent for the same seed"):
        metarl.check_task_distribution(make(horizon=3, wrappers=[Worn]))
    tasks = make(horizon=3, wrappers=[Worn], fresh=True)
    metarl.check_task_distribution(tasks)
    monkeypatch.setattr(Worn, "made", 0)
    env = tasks.make(value_of(tasks))
    env.reset(seed=0)
    assert Worn.made == 1  # which has not been used
    for options in (None, {"task": None}, {"task": env.task}):
        env.step(0)
        env.reset(seed=0, options=options)
    env.reset(seed=0)
    assert Worn.made == 5


@BOTH
def test_both_take_the_same_options(make):
    tasks = make(
        horizon=3, info_keys=("landed",), success_key="landed", episodes_per_trial=4, max_slots=7
    )
    assert tasks.info_keys == ("landed",) and tasks.success_key == "landed"
    assert (tasks.episodes_per_trial, tasks.max_slots, tasks.horizon) == (4, 7, 3)
    assert make(horizon=3, success_key="landed").info_keys == ("landed",)
    assert make(horizon=3, name="mine").name == "mine"
    assert not make(horizon=3).fresh and not make(horizon=3, fresh=False).fresh


@BOTH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"success_key": "x", "info_keys": ("a", "b")},
            "success_key: got 'x'; accepted: one of a, b",
        ),
        ({"info_keys": "success"}, "info_keys: got 'success'; accepted: a sequence of names"),
        ({"episodes_per_trial": 0}, "episodes_per_trial: got 0; accepted: a whole number, 1 or"),
        ({"max_slots": 0}, "max_slots: got 0"),
        ({"horizon": 0}, "horizon: got 0"),
        ({"wrappers": [id]}, "wrapper builtins:id returned: got 'int'; accepted: a gymnasium.Env"),
        ({"wrappers": [len]}, "wrapper builtins:len failed: TypeError"),
    ],
)
def test_options_without_a_meaning_are_refused(make, options, message):
    with pytest.raises(UserError, match=message):
        make(**{"horizon": 3} | options)


@BOTH
def test_fewer_slots_are_used_where_one_environment_is_large(make, monkeypatch):
    resident = iter([0, 90 * 2**20, 200 * 2**20, 287 * 2**20])
    monkeypatch.setattr("metarl.tasks.functions.resident_bytes", lambda: next(resident))
    memory = type("Memory", (), {"available": 10 * 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.warns(UserWarning, match=r"takes 87 MiB: at most 58 are stepped at once"):
        assert make(horizon=3).max_slots == 58


def leave_garbage():
    """Leave 64 MiB in a circle of references, for a collection that may come at any moment."""
    garbage = [np.ones(2**23)]
    garbage.append(garbage)


def leave_free_memory():
    """Let the process hold 60 MiB that are free, and from which new objects may come."""
    del [np.ones(2**18)][0]  # From now on, smaller arrays come from the heap.
    blocks = [np.ones(100_000) for _ in range(80)]
    top.append(np.ones(100_000))  # Nothing below it is given back to the system.
    blocks.clear()


top = []


@pytest.mark.parametrize("left", [lambda: None, leave_garbage, leave_free_memory])
def test_the_memory_of_an_environment_is_measured(monkeypatch, left):
    class Large(lander.Lander):
        def __init__(self, gravity):
            super().__init__(gravity)
            self.cells = [[index] for index in range(10000)]  # enough objects to start a collection
            self.map = np.ones(2**22)  # 32 MiB

    gc.collect()
    left()
    memory = type("Memory", (), {"available": 2**30})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    params = {"gravity": Uniform(-12, -5)}
    with pytest.warns(UserWarning, match=r"takes 3\d MiB: at most 1\d are stepped at once"):
        tasks = FunctionTasks(lambda drawn: Large(**drawn), params, horizon=3)
    assert 12 <= tasks.max_slots <= 16


@BOTH
def test_memory_is_not_measured_where_slots_are_given_or_one_is_small(make, monkeypatch):
    for last, options in ((90 * 2**20, {"max_slots": 400}), (7 * 2**20, {})):
        resident = iter([0, last])
        monkeypatch.setattr("metarl.tasks.functions.resident_bytes", lambda it=resident: next(it))
        assert make(horizon=3, **options).max_slots == 400


def test_a_limit_around_an_environment_is_the_horizon():
    def limited(**options):
        return FunctionTasks(
            lambda params: gym.wrappers.TimeLimit(lander.Lander(**params), 30),
            {"gravity": Uniform(-12, -5)},
            **options,
        )

    assert limited().horizon == 30 and limited(horizon=20).horizon == 20
    with pytest.raises(UserError, match="horizon: got 40; accepted: at most 30"):
        limited(horizon=40)


def test_a_function_that_fails_is_told_with_its_values():
    def broken(params):
        range(params["size"])

    message = r"building it with size=\S+ failed: TypeError: 'float'.*metarl.Integers\(low, high\)"
    with pytest.raises(UserError, match=message):
        FunctionTasks(broken, {"size": Uniform(2, 6)}, horizon=3)
