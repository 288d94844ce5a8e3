"""Values that environments and callers pass to slots: kept unchanged, or refused by name."""

import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest
from scripted import TASK, ArrayScripted, Scripted, ScriptedEnv, started, zeros

import metarl
from metarl.errors import EnvError, UserError
from metarl.stepping.slots import close_quietly, one_number
from metarl.task import Task
from metarl.tasks.arrays import ArrayEnv

BYTES = gym.spaces.Box(0, 255, (3,), np.uint8)
FLOATS = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
DICT = gym.spaces.Dict({"image": BYTES, "side": gym.spaces.Discrete(3, start=1)})


@pytest.fixture(params=[Scripted, ArrayScripted], ids=["slots", "array"])
def kind(request):
    return request.param


def rows(kind, value):
    """Return what one slot gives, or what two slots of an array family give."""
    return np.array([value, value]) if kind is ArrayScripted else value


def refusal(tasks):
    """Return the message of the failure that a reset or a step ends in."""
    with pytest.raises(EnvError) as caught:
        envs = started(tasks)
        envs.step(zeros(envs))
    return str(caught.value).splitlines()[0]


# observations


def test_an_observation_that_its_type_would_change_is_refused(kind):
    message = refusal(kind(BYTES, rows(kind, [0.3, 0.9, 0.99])))
    assert "an observation of float64 does not fit the declared uint8: " in message
    assert "[0.3  0.9  0.99]" in message


def test_an_observation_of_a_later_step_is_looked_at_too(kind):
    good, bad = rows(kind, np.uint8([1, 2, 3])), rows(kind, [1, 2, 256])
    assert "does not fit the declared uint8" in refusal(kind(BYTES, good, observation=bad))


@pytest.mark.parametrize("value", [[1, 2, 255], [1.0, 2.0, 255.0], [True, False, True]])
def test_an_observation_of_another_type_with_the_same_numbers_is_taken(kind, value):
    envs = started(kind(BYTES, rows(kind, value)))
    observation = envs.step(zeros(envs))[0]
    assert observation.dtype == np.uint8 and observation[1].tolist() == [int(x) for x in value]


def test_floats_may_be_rounded_to_the_declared_floats(kind):
    envs = started(kind(FLOATS, rows(kind, np.float64([0.1, -3.0]))))
    assert envs.step(zeros(envs))[0][0].tolist() == [float(np.float32(0.1)), -3.0]


@pytest.mark.parametrize("value", [-1, 5])
@pytest.mark.parametrize("start", [0, 7])
def test_an_index_outside_a_discrete_observation_is_refused(kind, value, start):
    space = gym.spaces.Discrete(5, start=start)
    message = refusal(kind(space, rows(kind, value + start)))
    assert "slot 0" in message
    assert f"an observation is {value + start}, outside {space}" in message


def test_the_slot_whose_index_is_outside_is_named():
    message = refusal(ArrayScripted(gym.spaces.Discrete(5), np.array([4, -2])))
    assert "slot 1, task scripted(number=1): ValueError: an observation is -2, outside" in message


def test_the_largest_and_the_smallest_index_are_inside(kind):
    space = gym.spaces.Discrete(5, start=-2)
    for value in (-2, 2):
        assert started(kind(space, rows(kind, value))).step(np.array([0, 0]))[0].tolist() == [
            value,
            value,
        ]


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (
            {"image": [0.3, 1, 2], "side": 1},
            r"observation\['image'\] of float64 does not fit the declared uint8",
        ),
        (
            {"image": np.uint8([1, 2, 3]), "side": 0},
            r"observation\['side'\] is 0, outside Discrete\(3, start=1\)",
        ),
        ({"image": np.uint8([[1], [2], [3]]), "side": 1}, r"observation\['image'\] has shape"),
        ({"image": np.uint8([1, 2, 3])}, r"has the keys \['image'\].*\['image', 'side'\]"),
    ],
)
def test_a_part_of_an_observation_that_does_not_fit_is_named(observation, message):
    with pytest.raises(EnvError, match=message):
        started(Scripted(DICT, observation))


def test_a_slot_that_has_not_begun_holds_an_observation_of_the_space(kind):
    space = gym.spaces.Discrete(3, start=5)
    envs = kind(space, 5 if kind is Scripted else np.array([5])).make_vec(2, num_workers=0)
    mask = np.array([True, False])
    envs.reset(seed=0, options={"tasks": [TASK, None], "reset_mask": mask})
    assert envs.step(np.array([0, 0]))[0].tolist() == [5, 5]


# rewards, flags, infos


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ([1.0, 2.0], r"a reward of shape \(2,\); accepted: one number"),
        (np.zeros((2, 1)), r"a reward of shape \(2, 1\); accepted: one number"),
        (None, "the reward None; accepted: one number"),
        (1 + 2j, r"the reward \(1\+2j\); accepted: one number"),
        (np.complex64(1), "accepted: one number"),
        ("1.5", "the reward '1.5'; accepted: one number"),
        (np.nan, "the reward nan"),
        (-np.inf, "the reward -inf"),
    ],
    ids=str,
)
def test_a_reward_that_is_no_finite_number_is_refused(reward, message):
    assert (found := refusal(Scripted(reward=reward)))
    with pytest.raises(EnvError, match=message):
        started(Scripted(reward=reward)).step(np.array([0, 0]))
    assert "ValueError: step returned" in found


@pytest.mark.parametrize("reward", [np.array([2.5]), np.array(2.5), np.float16(2.5), [2.5]])
def test_a_reward_that_is_an_array_of_one_number_is_taken(reward):
    assert started(Scripted(reward=reward)).step(np.array([0, 0]))[1].tolist() == [2.5, 2.5]


@pytest.mark.parametrize("reward", [2, True, np.int8(2)])
def test_a_whole_reward_is_a_float(reward):
    assert one_number(reward, "reward") == float(reward)
    assert isinstance(one_number(reward, "reward"), float)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (np.zeros((2, 2)), r"a reward has shape \(2, 2\), expected \(2,\)"),
        (np.array([1j, 0]), "a reward of complex128 does not fit the declared float64"),
        (
            np.array([1.0, np.nan]),
            r"slot 1, task scripted\(.*\): ValueError: a reward is nan; accepted: a finite number",
        ),
        (np.array([1.0, None]), "a reward of object does not fit"),
    ],
    ids=str,
)
def test_rewards_of_an_array_family_are_looked_at_too(reward, message):
    with pytest.raises(EnvError, match=message):
        started(ArrayScripted(first=np.array([0, 0]), reward=reward)).step(np.array([0, 0]))


@pytest.mark.parametrize("value", [None, np.nan, 2, "yes", np.array([True, False])], ids=str)
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_a_flag_that_is_neither_true_nor_false_is_refused(name, value):
    with pytest.raises(EnvError, match=f"step returned {name} .*; accepted: True or False"):
        started(Scripted(**{name: value})).step(np.array([0, 0]))


class Bare(Scripted):
    """Its environments are no TaskEnv, which looks at what a step gives before slots do."""

    def make(self, task=None):
        return ScriptedEnv(self)


def test_slots_look_at_what_a_family_s_own_environment_gives():
    assert "a reward of shape (2,); accepted: one number" in refusal(Bare(reward=[1.0, 2.0]))
    assert "terminated None; accepted: True or False" in refusal(Bare(terminated=None))
    envs = started(Bare(reward=np.float32([2.5]), truncated=np.array([True])))
    assert [x.tolist() for x in envs.step(np.array([0, 0]))[1:4:2]] == [[2.5, 2.5], [True, True]]


@pytest.mark.parametrize("value", [True, np.True_, 1, np.array([True]), 1.0], ids=str)
def test_a_flag_may_be_a_number_that_means_it(value):
    assert started(Scripted(terminated=value)).step(np.array([0, 0]))[2].tolist() == [True, True]


def test_flags_of_an_array_family_must_be_true_or_false():
    first, flags = np.array([0, 0]), np.array([1, 0])
    envs = started(ArrayScripted(first=first, terminated=flags))
    assert envs.step(np.array([0, 0]))[2].tolist() == [True, False]
    with pytest.raises(EnvError, match="terminated of int64 does not fit the declared bool"):
        started(ArrayScripted(first=first, terminated=2 * flags)).step(np.array([0, 0]))


@pytest.mark.parametrize("value", [None, np.nan, np.inf, "1", [1.0, 2.0], 1j], ids=str)
def test_an_info_that_is_no_finite_number_is_refused_by_its_name(value):
    message = refusal(Scripted(info={"success": value}, info_keys=("success",)))
    assert f"ValueError: step's info['success'] is {value!r}; info_keys promises a" in message


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            np.array([1.0, np.nan]),
            r"slot 1, task scripted\(.*\): ValueError: step's info\['success'\] is nan; accepted",
        ),
        (np.array([None, 1.0]), r"step's info\['success'\] of object does not fit"),
        (np.zeros((2, 1)), r"step's info\['success'\] has shape \(2, 1\), expected \(2,\)"),
    ],
    ids=str,
)
def test_infos_of_an_array_family_are_looked_at_too(value, message):
    tasks = ArrayScripted(first=np.array([0, 0]), info={"success": value}, info_keys=("success",))
    with pytest.raises(EnvError, match=message):
        started(tasks).step(np.array([0, 0]))


def test_an_info_that_is_missing_is_refused_by_its_name(kind):
    message = refusal(kind(first=rows(kind, 0), info_keys=("success",)))
    assert "step's info has no 'success'; info_keys promises a finite number" in message


@pytest.mark.parametrize("value", [True, np.True_, 1, np.float32(1.0), np.array([1.0])], ids=str)
def test_an_info_may_be_any_kind_of_number(value):
    envs = started(Scripted(info={"success": value}, info_keys=("success",)))
    assert envs.step(np.array([0, 0]))[4]["success"].tolist() == [1.0, 1.0]


# success_key


def test_success_of_another_name_is_reported_as_success(kind):
    info = {"steps": rows(kind, 3), "is_success": rows(kind, True)}
    keys = {"info_keys": ("steps", "is_success"), "success_key": "is_success"}
    tasks = kind(first=rows(kind, 0), info=info, **keys)
    assert tasks.reported_keys == ("steps", "success")
    found = started(tasks).step(np.array([0, 0]))[4]
    assert {name: value.tolist() for name, value in found.items()} == {
        "steps": [3, 3],
        "success": [1, 1],
    }


def test_a_single_environment_of_an_array_family_keeps_the_family_s_own_names():
    info = {"is_success": np.array([True])}
    tasks = ArrayScripted(
        first=np.array([0]), info=info, info_keys=("is_success",), success_key="is_success"
    )
    env = ArrayEnv(tasks, TASK)
    env.reset(seed=0)
    assert env.step(0)[4] == {"is_success": 1.0}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ((), r"success_key: got 'is_success'; accepted: one of info_keys, \[\]"),
        (("success",), r"success_key: got 'is_success'; accepted: one of info_keys"),
        (("success", "is_success"), "got 'success' beside 'is_success'.*one of the two"),
    ],
)
def test_a_success_key_without_effect_is_refused(kind, keys, message):
    with pytest.raises(UserError, match=message):
        kind(info_keys=keys, success_key="is_success").make_vec(1, num_workers=0)


# actions


@pytest.mark.parametrize("action", [-1, 2])
def test_an_action_outside_a_discrete_space_is_refused(kind, action):
    envs = started(kind(first=rows(kind, 0)))
    with pytest.raises(ValueError, match=rf"an action is {action}, outside Discrete\(2\)"):
        envs.step(np.array([0, action]))
    assert envs.step(np.array([1, 0]))[1].tolist() == [1.0, 1.0]  # nothing was stepped


def test_a_bandit_has_no_arm_minus_one():
    tasks = metarl.make("bandit/n2-k3")
    envs = tasks.make_vec(1)
    envs.reset(seed=0, options={"tasks": tasks.sample(np.random.default_rng(0), 1, "train")})
    with pytest.raises(ValueError, match=r"an action is -1, outside Discrete\(3\)"):
        envs.step(np.array([-1]))


def test_an_action_outside_a_multi_discrete_space_is_refused(kind):
    space = gym.spaces.MultiDiscrete([2, 3], start=[0, 1])
    envs = started(kind(first=rows(kind, 0), action_space=space))
    with pytest.raises(ValueError, match=r"an action is \[1 0\], outside MultiDiscrete"):
        envs.step(np.array([[1, 1], [1, 0]]))


@pytest.mark.parametrize("actions", [[0.5, 1.0], [0.0, np.nan], [None, 1], ["0", "1"], [1j, 0]])
def test_actions_that_the_type_would_change_are_refused(kind, actions):
    envs = started(kind(first=rows(kind, 0)))
    with pytest.raises(ValueError, match=r"an action of .* does not fit the declared int64"):
        envs.step(np.array(actions))


@pytest.mark.parametrize("actions", [0, [0], [[0], [0]], [0, 0, 0]], ids=str)
def test_actions_of_another_shape_are_refused(kind, actions):
    envs = started(kind(first=rows(kind, 0)))
    with pytest.raises(ValueError, match=r"actions must have shape \(2,\), got"):
        envs.step(np.array(actions))


def test_a_finished_slot_s_action_is_ignored_whatever_it_is(kind):
    ended = np.array([False, True]) if kind is ArrayScripted else False
    envs = started(kind(first=rows(kind, 0), terminated=ended))
    if kind is Scripted:
        envs._live[1] = False
    else:
        envs.step(np.array([0, 0]))
        envs.distribution.first = envs.distribution.first[:1]
        envs.distribution.result = np.array([0]), 1.0, False, False, {}
    assert envs.step(np.array([1, -7]))[1].tolist() == [1.0, 0.0]
    assert envs.step(np.array([1.0, np.nan]))[1].tolist() == [1.0, 0.0]


# seeds


def test_environments_are_seeded_below_two_to_the_31():
    envs = started(Scripted(), seed=np.array([2**31 - 1, 2**63 + 5], np.uint64))
    seeds = [env.unwrapped.seeds for env in envs._pool.slots.envs.values()]
    assert seeds == [[2**31 - 1], [5]]
    envs.reset()
    for env in envs._pool.slots.envs.values():
        np.random.RandomState(env.unwrapped.seeds[-1])  # derived seeds too


def test_array_families_keep_all_bits_of_a_seed():
    tasks = metarl.make("bandit/n1-k2")
    slots = tasks.sample(np.random.default_rng(0), 1, "train") * 64
    rewards = []
    for seed in (5, 5 + 2**31):
        envs = tasks.make_vec(64)
        seeds = seed + 2**32 * np.arange(64, dtype=np.uint64)
        envs.reset(seed=seeds, options={"tasks": slots})
        rewards.append(envs.step(np.zeros(64, np.int64))[1].tolist())
    assert rewards[0] != rewards[1]


# sys.exit()


@pytest.mark.parametrize("place", ["make", "release", "reset", "step"])
def test_an_environment_that_exits_has_failed(place):
    tasks = Scripted(fault=place, error=SystemExit(0))
    with pytest.raises(EnvError, match=r"in this process, slot 0.*: SystemExit: 0"):
        started(tasks).step(np.array([0, 0]))


@pytest.mark.parametrize("place", ["initial", "transition"])
def test_an_array_family_that_exits_has_failed(place):
    tasks = ArrayScripted(first=np.array([0, 0]), fault=place, error=SystemExit)
    with pytest.raises(EnvError, match="in this process: SystemExit"):
        started(tasks).step(np.array([0, 0]))


def test_an_environment_that_exits_in_a_worker_has_failed():
    with pytest.raises(EnvError, match=r"in worker 0, slot 0.*: SystemExit: 0"):
        started(Scripted(fault="step", error=SystemExit(0)), num_workers=1).step(np.array([0, 0]))


class ExitsWhenRead(Scripted):
    def __reduce__(self):
        return sys.exit, (0,)


def test_tasks_that_exit_when_a_worker_reads_them_have_failed():
    with pytest.raises(EnvError, match="in worker 0: SystemExit: 0"):
        ExitsWhenRead().make_vec(1, num_workers=1)


# close()


@pytest.mark.parametrize("error", [RuntimeError("viewer is gone"), SystemExit(3)])
def test_a_failing_close_is_a_warning(error):
    envs = started(Scripted(fault="close", error=error))
    with pytest.warns(UserWarning, match=rf"ScriptedEnv.close\(\) failed: {type(error).__name__}"):
        envs.close()


def test_every_environment_is_closed_though_the_first_fails():
    closed = []

    class Closing(Scripted):
        def call(self, name, result):
            if name == "close":
                closed.append(name)
            return super().call(name, result)

    envs = started(Closing(fault="close"), num_envs=3)
    with pytest.warns(UserWarning, match="RuntimeError"):
        envs.close()
    assert len(closed) == 3


def test_a_failing_close_in_a_worker_is_a_line_of_warning(capfd):
    envs = started(Scripted(fault="close"), num_workers=1)
    envs.close()
    assert capfd.readouterr().err == "warning: ScriptedEnv.close() failed: RuntimeError\n"


def test_a_sound_close_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close_quietly(Scripted().make())


def test_an_interrupt_while_closing_goes_on():
    with pytest.raises(KeyboardInterrupt):
        close_quietly(Scripted(fault="close", error=KeyboardInterrupt).make())


def frail(params):
    return ScriptedEnv(Scripted(fault="close"))


def test_the_environment_that_function_tasks_replace_may_fail_at_its_close():
    params = {"mass": metarl.Choice(1, 2)}
    with pytest.warns(UserWarning, match="close.. failed"):
        tasks = metarl.FunctionTasks(frail, params, horizon=5)
    first, second = (Task.of(tasks.name, mass=mass) for mass in (1, 2))
    env = tasks.make(first)
    with pytest.warns(UserWarning, match="close.. failed"):
        env.reset(seed=0, options={"task": second})
