"""What a command starts from that names an agent and tasks only."""

import dataclasses
import subprocess

import gymnasium as gym
import numpy as np
import pytest

import metarl
from metarl import registry
from metarl.errors import UserError
from metarl.experience.agent import TaskSpec
from metarl.experience.traits import has_continuous_actions, kind_of, number_for
from metarl.learning.cores import CORES
from metarl.running.commandline import parse_train
from metarl.running.defaults import starting_settings
from metarl.running.presets import FAMILIES, _of, preset, presets, presets_of

CARTPOLE = "gym/CartPole-v1:force_mag=-10/10,horizon=200"


@pytest.mark.parametrize(
    ("agent", "env", "name"),
    [
        ("rl2", "half-cheetah/velocity", "rl2-half-cheetah-velocity"),
        ("rl2", "half-cheetah/velocity:high=2.0", "rl2-half-cheetah-velocity"),
        ("rl2", "hopper/params", "rl2-half-cheetah-velocity"),
        ("rl2", "metaworld/ml1-reach", "metaworld-rl2-ml1-reach"),
        ("rl2", "metaworld/ml1-pick-place", "metaworld-rl2-ml1-push"),
        ("rl2", "metaworld/ml25", "metaworld-rl2-ml10"),
        ("rl2", "bandit/n100-k5", "rl2-bandit-n100-k10"),
        ("rl2", "bandit/n500-k10", "rl2-bandit-n100-k10"),
        ("rl2", "mdp/n25", "rl2-mdp-n10"),
        ("rl2", CARTPOLE, "rl2-cartpole-reversed"),
        ("rl2", "gym/CartPole-v1:length=0.3..0.7", "rl2-cartpole-reversed"),
        ("rl2", "gridworld", "rl2-gridworld"),
        ("rl2", "t-maze/n30", "rl2-t-maze-n100"),
        ("rl2", "dark-room/n7", "rl2-dark-room-n9"),
        ("maml-ppo", "bandit/n10-k5", "maml-ppo-bandit-n10-k5"),
        ("maml-ppo", "bandit/n20-k3", "maml-ppo-bandit-n10-k5"),
        ("maml-ppo", "half-cheetah/velocity", "maml-ppo-half-cheetah-velocity"),
        ("ppo-multitask", "navigation", "ppo-multitask-navigation"),
    ],
)
def test_the_preset_for_an_agent_and_a_family_is_found(agent, env, name):
    settings, origin = starting_settings(agent, env)
    assert settings.train.env == env and settings.agent == agent
    assert origin.startswith(f"preset {name} (") and origin.endswith(
        "--preset none starts from bare defaults"
    )
    own = preset(name).settings
    assert dataclasses.replace(settings.train, env=own.train.env) == own.train


@pytest.mark.parametrize(
    ("agent", "env"),
    [
        ("rl2", "bandit/n10-k5"),
        ("rl2", "bandit/n49-k5"),
        ("maml-ppo", "hopper/params"),
        ("sac-multitask", "navigation"),
        ("ppo-multitask", "bandit/n10-k5"),
    ],
)
def test_other_families_have_no_preset(agent, env):
    assert not starting_settings(agent, env).origin.startswith("preset ")


@pytest.mark.parametrize("name", [n for n, each in presets().items() if each.variant])
def test_a_variant_is_taken_by_its_name_alone(name):
    own = preset(name).settings
    found = starting_settings(own.agent, own.train.env)
    assert found.settings.agent_config != own.agent_config
    assert f"preset {name} " not in found.origin
    assert starting_settings(None, None, name).settings == own


def test_there_are_variants_and_what_they_vary_is_in_their_name():
    names = [name for name, each in presets().items() if each.variant]
    assert {"rl2-gridworld-transformer", "rl2-gridworld-hyper"} < set(names)
    for name in names:
        config = preset(name).settings.agent_config
        assert name.endswith((f"-{config.core.kind}", f"-{config.head.kind}"))


def test_bare_defaults_are_those_of_the_config():
    settings, origin = starting_settings("rl2", "half-cheetah/velocity", "none")
    assert settings.agent_config == metarl.RL2Config() and origin == ""
    assert settings.train == metarl.TrainConfig(env="half-cheetah/velocity")


def test_a_named_preset_keeps_its_tasks_and_everything_else():
    settings, origin = starting_settings(None, None, "rl2-mdp-n10")
    assert settings == preset("rl2-mdp-n10").settings and origin == ""


def test_longer_trials_have_fewer_tasks_so_that_an_update_keeps_its_steps():
    few = starting_settings("rl2", "mdp/n25").settings.agent_config
    own = preset("rl2-mdp-n10").settings.agent_config
    assert (own.tasks_per_update, few.tasks_per_update) == (500, 200)
    assert dataclasses.replace(few, tasks_per_update=500) == own
    more = starting_settings("rl2", "bandit/n50-k10").settings.agent_config
    assert more.tasks_per_update == 1000  # Shorter trials do not have more.


def test_every_module_of_presets_is_for_the_agents_it_is_said_to_be():
    for family, agents in FAMILIES.items():
        assert {each.settings.agent for each in _of(family).values()} == set(agents)
    for agent in ("rl2", "maml-ppo", "ppo-multitask", "sac-multitask"):
        own = {n: each for n, each in presets().items() if each.settings.agent == agent}
        assert presets_of(agent) == own


def test_a_start_imports_no_other_library_than_its_agent_s(quick_python):
    code = """
import sys
from metarl.running.commandline import parse_train
parse_train(["rl2", "--env", "navigation"])
assert "stable_baselines3" not in sys.modules
"""
    done = subprocess.run([quick_python, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_typed_options_win_over_what_is_chosen():
    words = ["rl2", "--env=hopper/params", "--learning-rate", "5e-4", "--iterations", "7"]
    settings = parse_train(words).settings
    assert settings.agent_config.ppo.learning_rate == 5e-4
    assert settings.agent_config.normalize_observations and settings.train.iterations == 7


def test_a_typed_length_replaces_a_preset_s():
    words = ["rl2", "--env", "metaworld/ml1-reach"]
    assert parse_train(words).settings.train.env_steps == 2_000_000
    train = parse_train([*words, "--iterations", "3"]).settings.train
    assert (train.iterations, train.env_steps) == (3, None)
    train = parse_train([*words, "--minutes", "10"]).settings.train
    assert (train.minutes, train.env_steps) == (10.0, None)


@pytest.mark.parametrize(
    "env", ["half-cheetah/velocity", "point-robot", "mdp/n10", "bandit/n10-k5"]
)
@pytest.mark.parametrize("core", CORES)
def test_every_core_starts_as_typed_whatever_is_suggested(core, env):
    request = parse_train(["rl2", "--env", env, "--core", core])
    before = starting_settings("rl2", env)
    after = request.settings.agent_config
    assert after.core.kind == core
    unfitting = []
    if core in ("transformer", "graph") and before.settings.agent_config.chunk_length is not None:
        unfitting.append("--chunk-length None in place of 100")
    if core != "fast-weights" and before.settings.agent_config.core.memory_size is not None:
        unfitting.append("--memory-size None in place of 32")
    said = request.origin.removeprefix(before.origin).removeprefix("; ")
    reason = ", which does not go with the options given"
    assert said == (", ".join(unfitting) + reason if unfitting else "")


def test_only_what_is_suggested_has_its_default_in_place_of_an_error():
    words = ["rl2", "--env", "half-cheetah/velocity", "--core", "transformer"]
    config = parse_train([*words, "--window", "32"]).settings.agent_config
    assert (config.chunk_length, config.core.window) == (100, 32)
    with pytest.raises(UserError, match=r"^--chunk-length: got 50; accepted: None"):
        parse_train([*words, "--chunk-length", "50"])
    with pytest.raises(UserError, match=r"^--hidden-size: got 0; accepted: at least 1"):
        parse_train([*words, "--hidden-size", "0"])
    request = parse_train(["--preset", "rl2-mdp-n10", "--core", "gru"])
    assert request.settings.agent_config.core.memory_size is None
    assert request.origin.startswith("--memory-size None in place of 32")


def test_a_run_s_own_settings_are_not_changed_silently(tmp_path):
    run = metarl.train("rl2", env="mdp/n10:n=2", iterations=1, run_dir=tmp_path / "run", **TINY)
    assert run.settings.agent_config.core.memory_size == 32
    with pytest.raises(UserError, match=r"^--memory-size: got 32; accepted: None, unless --core"):
        parse_train(["--config", str(run.directory), "--core", "gru"])
    gru = metarl.train(
        "rl2", env="mdp/n10:n=2", core="gru", iterations=1, run_dir=tmp_path / "gru", **TINY
    )
    assert gru.settings.agent_config.core.memory_size is None


TINY = {"tasks_per_update": 4, "validation_tasks": 2, "evaluation_tasks": 2, "check": False}


def test_an_unknown_preset_is_told_with_near_names():
    with pytest.raises(UserError, match="unknown preset 'nome'; did you mean none"):
        starting_settings("rl2", "navigation", "nome")


def _spec(observation, action, horizon, episodes=None):
    return TaskSpec(observation, action, horizon, episodes)


BOX, BYTES = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Box(0, 255, (3,), np.uint8)
TWO, FOUR = gym.spaces.Discrete(2), gym.spaces.Discrete(4)
SPECS = {
    "bandit": _spec(gym.spaces.Discrete(1), FOUR, 1, 10),
    "contexts": _spec(BOX, TWO, 1),
    "table": _spec(FOUR, TWO, 30),
    "control": _spec(BOX, gym.spaces.Box(-2, 2, (2,)), 200),
    "switch": _spec(BOX, TWO, 500, 3),
    "grid": _spec(BOX, FOUR, 15, 4),
    "pixels": _spec(gym.spaces.Box(0, 255, (16, 16, 3), np.uint8), FOUR, 100),
}


def test_kinds_of_tasks():
    kinds = {name: kind_of(spec) for name, spec in SPECS.items()}
    assert kinds == {
        "bandit": "one-step",
        "contexts": "one-step",
        "table": "tabular",
        "control": "vectors",
        "switch": "vectors",
        "grid": "vectors",
        "pixels": "images",
    }
    small = gym.spaces.Box(0, 255, (7, 7, 3), np.uint8)  # too small for convolutions
    for space in (BYTES, small, gym.spaces.Box(0, 1, (4, 4))):
        assert kind_of(_spec(space, TWO, 9)) == "vectors"
    assert [name for name, spec in SPECS.items() if has_continuous_actions(spec)] == ["control"]
    assert [number_for(1000, each, 3, 50) for each in (1, 25, 900)] == [50, 40, 3]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("agent", ["rl2", "maml-ppo", "ppo-multitask"])
def test_settings_for_a_kind_of_tasks_make_an_agent_of_a_moderate_update(agent, name):
    spec, kind = SPECS[name], registry.agent_class(agent)
    config = kind.Config.for_tasks(spec)
    made = kind(config, spec, seed=0)
    steps = made.tasks_per_update * made.shape.num_episodes * spec.horizon
    assert 4000 <= steps <= 200_000
    assert config.normalize_observations == (kind_of(spec) == "vectors")
    if agent == "rl2":
        assert bool(config.head.head_sizes) == (kind_of(spec) == "images")
    if agent == "rl2" and spec.episodes_per_trial:
        assert made.shape.num_episodes == spec.episodes_per_trial


def test_one_step_episodes_leave_rl2_its_defaults():
    assert metarl.RL2Config.for_tasks(SPECS["bandit"]) == metarl.RL2Config()


OWN = """
import dataclasses

from fakes import StubAgent


class Mine(StubAgent):
    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int = 3
        '''Width of something.'''

        @classmethod
        def for_tasks(cls, spec):
            return cls(width=spec.horizon)


class Plain(StubAgent):
    @dataclasses.dataclass(frozen=True)
    class Config:
        width: int = 3
        '''Width of something.'''
"""


def test_an_agent_of_the_user_s_chooses_by_its_tasks_too(write_module):
    name = write_module("own_agents", OWN)
    chosen, origin = starting_settings(f"{name}:Mine", "navigation")
    assert chosen.agent_config.width == 100
    assert origin.startswith("settings for vectors, continuous actions, episodes of 100 steps;")
    plain, origin = starting_settings(f"{name}:Plain", "navigation")
    assert plain.agent_config.width == 3 and origin == ""


def test_python_starts_from_the_same_settings(monkeypatch):
    given = []
    monkeypatch.setattr(
        "metarl.running.train.train", lambda settings, **rest: given.append(settings)
    )
    metarl.train("rl2", env="hopper/params", iterations=3)
    metarl.train("rl2", env="hopper/params", preset="none", episodes_per_trial=2, minutes=1)
    metarl.train(preset="maml-ppo-navigation", clip=0.1)
    assert given[0] == parse_train(["rl2", "--env", "hopper/params", "--iterations", "3"]).settings
    assert given[1].train.minutes == 1 and not given[1].agent_config.normalize_observations
    assert given[2].agent == "maml-ppo" and given[2].agent_config.clip == 0.1
    with pytest.raises(UserError, match="agent: got 'rl2'; accepted: maml-ppo, the agent of"):
        metarl.train("rl2", preset="maml-ppo-navigation")
    with pytest.raises(UserError, match="--minutes: got --iterations beside it"):
        metarl.train("rl2", iterations=3, minutes=1)
