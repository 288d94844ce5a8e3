import gymnasium as gym
import numpy as np
import pytest
from counters import ArrayCounterTasks, CounterTasks, counter_task
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from metarl.stepping.vector import TaskVectorEnv
from metarl.task import Task
from metarl.tasks.arrays import (
    ArrayEnv,
    ArrayTaskDistribution,
    ArrayVectorEnv,
    NoiseSpec,
    Transition,
)

SHORT, LONG = counter_task(1), counter_task(3)


@pytest.fixture(params=[CounterTasks, ArrayCounterTasks], ids=["task", "array"])
def tasks(request):
    return request.param()


def started(tasks, *slots, seed=0):
    envs = tasks.make_vec(len(slots))
    envs.reset(seed=seed, options={"tasks": list(slots)})
    return envs


def act(envs, value=1.0):
    return np.full((envs.num_envs, 2), value)


def test_kinds_follow_the_distribution():
    assert isinstance(CounterTasks().make_vec(2), TaskVectorEnv)
    assert isinstance(ArrayCounterTasks().make_vec(2), ArrayVectorEnv)


def test_is_a_gymnasium_vector_env_without_autoreset(tasks):
    envs = tasks.make_vec(3)
    assert isinstance(envs, VectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    assert envs.num_envs == 3
    assert envs.single_observation_space == tasks.observation_space
    assert envs.single_action_space == tasks.action_space
    assert envs.action_space.shape == (3, 2) and envs.observation_space.shape == (3, 4)


def test_results_have_the_declared_shapes(tasks):
    envs = tasks.make_vec(3)
    observation, info = envs.reset(seed=0, options={"tasks": [LONG] * 3})
    assert observation in envs.observation_space and info == {}
    observation, reward, terminated, truncated, info = envs.step(act(envs))
    assert observation in envs.observation_space
    assert [x.shape for x in (reward, terminated, truncated)] == [(3,)] * 3
    assert terminated.dtype == truncated.dtype == bool
    assert {key: value.shape for key, value in info.items()} == {"success": (3,), "clock": (3,)}


def test_finished_slot_ignores_its_action(tasks):
    envs = started(tasks, SHORT, LONG)
    first = envs.step(act(envs))
    assert first[1].tolist() == [1, 1] and first[2].tolist() == [True, False]
    second = envs.step(act(envs, -1.0))
    assert np.array_equal(second[0][0], first[0][0])  # last observation
    assert second[0][1].tolist()[2:] == [-1, -1]  # the other goes on
    assert second[1].tolist() == [0, 2]
    assert second[2].tolist() == [True, False]  # flags stay
    third = envs.step(act(envs))
    assert third[1].tolist() == [0, 3] and third[2].tolist() == [True, True]
    assert third[4]["clock"].tolist() == [0, 3]


def test_truncated_slot_keeps_its_flag(tasks):
    tasks.horizon = 2
    envs = started(tasks, LONG, SHORT)
    flags = [envs.step(act(envs))[2:4] for _ in range(4)]
    assert [truncated.tolist() for _, truncated in flags] == [[False, False]] + 3 * [[True, False]]
    assert [terminated.tolist() for terminated, _ in flags] == 4 * [[False, True]]


def test_termination_at_the_horizon_is_not_truncation(tasks):
    tasks.horizon = 3
    envs = started(tasks, LONG)
    flags = [tuple(x.item() for x in envs.step(act(envs))[2:4]) for _ in range(3)]
    assert flags == [(False, False), (False, False), (True, False)]


def test_slots_outside_the_mask_go_on(tasks):
    envs = started(tasks, SHORT, LONG)
    before = envs.step(act(envs))
    mask = np.array([True, False])
    observation, _ = envs.reset(seed=7, options={"reset_mask": mask})
    assert np.array_equal(observation[1], before[0][1])  # last observation
    assert observation[0][0] == 0
    after = envs.step(act(envs))
    assert after[1].tolist() == [1, 2]  # step 1 of a new episode, step 2 of the old one
    assert after[2].tolist() == [True, False]


def test_finished_slots_outside_the_mask_stay_finished(tasks):
    envs = started(tasks, SHORT, SHORT)
    last = envs.step(act(envs))
    observation, _ = envs.reset(options={"reset_mask": np.array([True, False])})
    assert np.array_equal(observation[1], last[0][1])
    _, reward, terminated, _, _ = envs.step(act(envs))
    assert reward.tolist() == [1, 0] and terminated.tolist() == [True, True]


def test_reset_clears_the_flags(tasks):
    envs = started(tasks, SHORT)
    envs.step(act(envs))
    envs.reset(options={"tasks": [LONG]})
    assert not envs.step(act(envs))[2].any()


def test_none_keeps_a_slots_task(tasks):
    envs = started(tasks, SHORT, LONG)
    for options in ({"tasks": [None, None]}, {"tasks": [None, SHORT]}, {}, None):
        envs.reset(options=options)
        assert envs.step(act(envs))[2].tolist()[0] is True
    assert envs.step(act(envs))[2].tolist() == [True, True]  # SHORT replaced LONG


def test_options_are_never_modified(tasks):
    envs = tasks.make_vec(2)
    mask = np.array([True, True])
    options = {"tasks": [SHORT, LONG], "reset_mask": mask}
    envs.reset(seed=0, options=options)
    assert set(options) == {"tasks", "reset_mask"}
    assert options["tasks"] == [SHORT, LONG]
    assert options["reset_mask"] is mask and mask.tolist() == [True, True]


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"options": {"tasks": [SHORT]}}, r"tasks.*each of the 2 slots.*got 1"),
        ({"options": {"reset_mask": np.ones(3, bool)}}, r"reset_mask must have shape \(2,\)"),
        ({"seed": [1, 2, 3]}, "seed needs 2 entries, got 3"),
        ({"seed": np.ones(1, np.uint64)}, "seed needs 2 entries, got 1"),
    ],
)
def test_wrong_lengths_are_refused(tasks, reset, message):
    envs = started(tasks, SHORT, LONG)
    with pytest.raises(ValueError, match=message):
        envs.reset(**reset)


def test_no_slots_are_refused(tasks):
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        tasks.make_vec(0)


def test_reset_of_a_slot_without_task_is_refused(tasks):
    envs = tasks.make_vec(2)
    mask = np.array([False, True])
    with pytest.raises(ValueError, match="no task yet"):
        envs.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="no task yet"):
        envs.reset(options={"reset_mask": mask, "tasks": [None, None]})
    envs.reset(options={"reset_mask": mask, "tasks": [None, SHORT]})
    assert envs.step(act(envs))[2].tolist() == [False, True]


def test_task_for_a_slot_that_is_not_reset_is_refused(tasks):
    envs = tasks.make_vec(2)
    with pytest.raises(ValueError, match="given a task but"):
        envs.reset(options={"tasks": [SHORT, LONG], "reset_mask": np.array([True, False])})


def test_slot_without_task_ignores_its_action(tasks):
    envs = started(tasks, LONG, None)
    for t in range(3):
        observation, reward, terminated, truncated, _ = envs.step(act(envs))
        assert observation[1].tolist() == [0, 0, 0, 0]
        assert reward.tolist() == [t + 1, 0]
        assert not terminated[1] and not truncated[1]


def test_integer_seed_seeds_slot_i_with_seed_plus_i(tasks):
    envs = tasks.make_vec(3)
    slots = {"tasks": [LONG] * 3}
    a, _ = envs.reset(seed=5, options=slots)
    b, _ = envs.reset(seed=[5, 6, 7])
    c, _ = envs.reset(seed=np.array([7, 6, 5], np.uint64))
    assert np.array_equal(a, b) and np.array_equal(a, c[::-1])
    assert len(np.unique(a[:, 1])) == 3


def test_episodes_after_one_seed_are_reproducible_and_differ(tasks):
    def noises():
        envs = started(tasks, LONG, LONG, seed=5)
        return [envs.reset()[0][:, 1].tolist() for _ in range(3)]

    a, b = noises(), noises()
    assert a == b
    assert len({x for pair in a for x in pair}) == 6


def test_results_are_copies(tasks):
    envs = started(tasks, LONG, SHORT)
    first = envs.step(act(envs))
    kept = [np.array(x) for x in first[:4]]
    envs.step(act(envs, -1.0))
    assert all(np.array_equal(x, y) for x, y in zip(first, kept, strict=False))
    first[0][:] = 99
    first[2][:] = False
    observation, _, terminated, _, _ = envs.step(act(envs))
    assert terminated[1] and observation.max() < 99


def test_a_slots_experience_does_not_depend_on_the_number_of_slots(tasks):
    def play(num_envs, slot):
        envs = tasks.make_vec(num_envs)
        slots = [counter_task(1 + i % 4, 2) for i in range(num_envs)]
        slots[slot] = counter_task(2, 3)
        seeds = np.arange(100, 100 + num_envs, dtype=np.uint64)
        seeds[slot] = 3
        seen = [envs.reset(seed=seeds, options={"tasks": slots})[0][slot].tolist()]
        for t in range(6):
            result = envs.step(act(envs, t / 10))
            seen.append([np.asarray(x)[slot].tolist() for x in result[:4]])
        return seen

    assert play(1, 0) == play(5, 3) == play(4, 0)


def test_array_env_is_the_one_slot_case_of_the_vector_env():
    tasks = ArrayCounterTasks()
    env, envs = ArrayEnv(tasks, LONG), tasks.make_vec(1)
    a, _ = env.reset(seed=4)
    b, _ = envs.reset(seed=np.array([4], np.uint64), options={"tasks": [LONG]})
    assert np.array_equal(a, b[0])
    for _ in range(3):
        single, batched = env.step(np.ones(2)), envs.step(np.ones((1, 2)))
        assert np.array_equal(single[0], batched[0][0])
        assert single[1:4] == tuple(x[0] for x in batched[1:4])
        assert single[4] == {key: values[0] for key, values in batched[4].items()}


@pytest.mark.filterwarnings("ignore::UserWarning")  # bounds that are unusual, and meant
def test_array_env_passes_gymnasiums_check():
    env = ArrayCounterTasks().make(LONG)
    assert isinstance(env, gym.Env)
    check_env(env, skip_render_check=True)


def test_array_env_keeps_the_contract_of_a_task_env():
    env = ArrayCounterTasks().make()
    with pytest.raises(ValueError, match="no task yet"):
        env.reset(seed=0)
    with pytest.raises(TypeError, match=r"must be a metarl.Task, got dict"):
        env.reset(options={"task": {"length": 1}})
    options = {"task": SHORT}
    env.reset(seed=0, options=options)
    assert options == {"task": SHORT} and env.task == SHORT
    env.reset(seed=1)
    assert env.step(np.zeros(2))[2] is True
    env.reset(options={"task": LONG})
    assert env.step(np.zeros(2))[2] is False


class Walk(ArrayTaskDistribution):
    """A state whose arrays are shared, read-only and of growing type: all legitimate."""

    name = "walk"
    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))
    horizon = 9
    transition_noise = NoiseSpec()

    def sample(self, rng, n, split):
        return [Task.of("walk", start=float(x)) for x in rng.random(n)]

    def initial(self, params, noise):
        start = params["start"]
        zero = np.broadcast_to(np.int64(0), start.shape)
        state = {"position": start, "before": start, "distance": zero}
        return state, np.stack([start, start], 1)

    def transition(self, state, action, noise):
        position = state["position"] + action[:, 0]
        distance = state["distance"] + abs(action[:, 0])
        state = {"position": position, "before": state["position"], "distance": distance}
        observation = np.stack([position, state["before"]], 1)
        no = np.zeros(len(position), bool)
        return Transition(state, observation, distance, no, {})


def walked(num_envs, starts):
    """Reset slot after slot; return what every slot sees while all walk on."""
    envs = Walk().make_vec(num_envs)
    envs.reset(seed=0, options={"tasks": [Task.of("walk", start=0)] * num_envs})
    for slot, start in enumerate(starts):
        mask = np.arange(num_envs) == slot
        slots = [Task.of("walk", start=start) if here else None for here in mask]
        envs.reset(seed=0, options={"reset_mask": mask, "tasks": slots})
    results = [envs.step(np.full((num_envs, 1), 0.25)) for _ in range(2)]
    return [[[*r[0][i].tolist(), r[1][i]] for r in results] for i in range(num_envs)]


def test_array_slots_keep_fractions_after_whole_numbers():
    expected = [[[0.75, 0.5, 0.25], [1.0, 0.75, 0.5]]]
    assert walked(1, [0.5]) == expected
    assert walked(2, [0.5, 0.5]) == 2 * expected


def test_array_slots_may_share_arrays_between_state_fields():
    envs = Walk().make_vec(2)
    tasks = [Task.of("walk", start=0.5), Task.of("walk", start=1.5)]
    envs.reset(seed=0, options={"tasks": tasks})
    first = np.array([True, False])
    envs.reset(seed=0, options={"reset_mask": first})
    envs.step(np.ones((2, 1)))
    envs.reset(seed=0, options={"reset_mask": first})
    observation = envs.step(np.ones((2, 1)))[0]
    assert observation.tolist() == [[1.5, 0.5], [3.5, 2.5]]


class Noisy(Walk):
    """Shows the noise of each reset and step."""

    initial_noise = transition_noise = NoiseSpec(uniform=1, normal=1)

    def initial(self, params, noise):
        state, _ = super().initial(params, noise)
        return state, np.concatenate(noise, 1)

    def transition(self, state, action, noise):
        return (
            super().transition(state, action, noise)._replace(observation=np.concatenate(noise, 1))
        )


def test_array_noise_belongs_to_the_slots_seed_and_step():
    def noises(*seeds):
        envs = Noisy().make_vec(len(seeds))
        slots = [Task.of("walk", start=0.0)] * len(seeds)
        seen = [envs.reset(seed=np.array(seeds, np.uint64), options={"tasks": slots})[0]]
        seen += [envs.step(np.zeros((len(seeds), 1)))[0] for _ in range(4)]
        return np.stack(seen, 1)

    both = noises(3, 4)
    assert len(np.unique(both)) == 2 * 5 * 2
    assert np.array_equal(noises(4)[0], both[1])
