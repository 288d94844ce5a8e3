"""A conformance test for authors of task distributions."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import warnings
from collections.abc import Collection
from typing import Any, cast

import cloudpickle
import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl import seeding
from metarl.errors import EnvError
from metarl.stepping.actions import ActionRows
from metarl.stepping.spaces import flatten_observation
from metarl.stepping.vector import SEEDS
from metarl.task import SPLITS, Task
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.effects import NUM_EPISODES, effects, shared_tasks

_STEPS = 50

_SEED = SEEDS - 9
"""A seed as large as those that environments get in training."""


def check_task_distribution(
    tasks: TaskDistribution, *, allow_no_effect: Collection[str] = ()
) -> None:
    """Check that ``tasks`` keeps the contract of :class:`metarl.TaskDistribution`.

    The check covers:

    - Sampling: it returns as many tasks as asked for, the same for the same generator; no two
      splits share a task, unless ``shared_split`` or ``shared_validation`` declares it; a task
      equals its copy from JSON.
    - Environments: they pass Gymnasium's ``check_env``, have the declared spaces, ``info_keys`` and
      horizon, refuse to start without a task, keep their task over resets and never modify
      options; two copies agree at every step, and a used environment equals a fresh one.
    - Vector environments, in this process and in a worker, with seeds as large as in training:
      their slots equal single environments, and finished slots stay as they are.
    - Parameters: each one that varies changes something.

    Args:
        tasks: the distribution to check.
        allow_no_effect: names of parameters that random actions may not notice, such as a goal
            that only a skilled agent reaches.

    Raises:
        AssertionError: if the contract is broken; the message says what to correct.

    >>> metarl.check_task_distribution(metarl.make("navigation"))
    """
    _check_sampling(tasks)
    task, other = tasks.sample(np.random.default_rng(0), 2, "train")
    _check_env(tasks, task)
    _check_two_copies(tasks, task, other)
    pickle.loads(cloudpickle.dumps(tasks))  # Worker processes get it this way.
    _check_vector(tasks, [task, other, task], 0)
    _check_effects(tasks, allow_no_effect)
    try:
        _check_vector(tasks, [task, other, task], 1)
    except EnvError as error:
        raise AssertionError(f"in a worker process: {error}") from error


def _check_effects(tasks: TaskDistribution, allow_no_effect: Collection[str]) -> None:
    changes = effects(tasks)
    silent = [name for name, seen in changes.items() if not seen and name not in allow_no_effect]
    names = ", ".join(f"`{name}`" for name in silent)
    assert not silent, (
        f"{names} changed nothing in {NUM_EPISODES} episodes of random actions from one end to "
        "the other: remove it if it has no effect, or, if only a skilled agent would notice, pass "
        f"allow_no_effect={silent}"
    )


def _check_sampling(tasks: TaskDistribution) -> None:
    for split in SPLITS:
        first = tasks.sample(np.random.default_rng(7), 1000, split)
        again = tasks.sample(np.random.default_rng(7), 1000, split)
        assert len(first) == 1000, f"sample(rng, 1000, {split!r}) returned {len(first)} tasks"
        assert first == again, "sample() depends on something else than its generator"
        for task in first[:20]:
            text = json.dumps(task.to_json())
            assert Task.from_json(json.loads(text)) == task, f"{task} changes in JSON: {text}"
            hash(task)
    shared = shared_tasks(tasks)
    assert not shared, (
        f"{'; '.join(shared)}: mix the split into the draw (metarl.task.mark_split), or set "
        "shared_split = True where the tasks are the same few"
    )


def _check_env(tasks: TaskDistribution, task: Task) -> None:
    from gymnasium.utils.env_checker import check_env

    bare = tasks.make()
    try:
        bare.reset(seed=_SEED)
    except Exception as error:
        assert "task" in str(error), f"reset without a task must say so; it raised {error!r}"
    else:
        raise AssertionError("make() gave an environment that starts without a task")
    options = {"task": task}
    bare.reset(seed=0, options=options)
    assert options == {"task": task}, "reset() modified its options"
    bare.reset(seed=1)  # The environment keeps its task.
    env = tasks.make(task)
    assert env.observation_space == tasks.observation_space, (
        f"observation_space is {env.observation_space}, declared {tasks.observation_space}"
    )
    assert env.action_space == tasks.action_space, (
        f"action_space is {env.action_space}, declared {tasks.action_space}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # check_env warns of unusual spaces, which are allowed.
        check_env(_Seeded(env), skip_render_check=True)
    env.reset(seed=_SEED)
    env.action_space.seed(0)
    for _ in range(tasks.horizon):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        missing = [key for key in tasks.info_keys if key not in info]
        assert not missing, f"step's info has no {missing}, which info_keys declares"
        if terminated or truncated:
            break
    assert terminated or truncated, f"an episode goes on after its {tasks.horizon} steps"
    for made in (bare, env):
        made.close()


class _Seeded(gym.Wrapper[Any, Any, Any, Any]):
    """Makes ``check_env`` accept an environment that ignores the seed of its resets.

    Such an environment is allowed, since its task may determine everything. If it is random all
    the same, the comparison of two copies finds that out.
    """

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self.unwrapped._np_random = gym.utils.seeding.np_random(seed)[0]
        return result


def _actions(tasks: TaskDistribution, seed: int) -> list[Any]:
    space = copy.deepcopy(tasks.action_space)
    space.seed(seed)
    return [space.sample() for _ in range(_STEPS)]


def _play(tasks: TaskDistribution, env: Any, actions: list[Any], **reset: Any) -> list[Any]:
    """Return all results of an episode, with observations as slots report them."""
    space = tasks.observation_space
    observation, _ = env.reset(**reset)
    seen: list[Any] = [np.array(flatten_observation(space, observation))]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen += [np.array(flatten_observation(space, observation)), reward, terminated, truncated]
        if terminated or truncated:
            break
    return seen


def _check_two_copies(tasks: TaskDistribution, task: Task, other: Task) -> None:
    first, second = tasks.make(), tasks.make(task)
    actions = _actions(tasks, 1)
    a = _play(tasks, first, actions, seed=_SEED, options={"task": task})
    b = _play(tasks, second, actions, seed=_SEED)
    assert _equal(a, b), "two environments with one task, seed and actions differ"
    _play(tasks, second, _actions(tasks, 2), seed=6, options={"task": other})
    c = _play(tasks, second, actions, seed=_SEED, options={"task": task})
    assert _equal(a, c), (
        "an environment that was used differs from a fresh one after reset; fresh=True of GymTasks "
        "and FunctionTasks, fresh=true in a name, makes a new one for every episode"
    )
    for env in (first, second):
        env.close()


def _equal(a: list[Any], b: list[Any]) -> bool:
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _check_vector(tasks: TaskDistribution, slots: list[Task], num_workers: int) -> None:
    n = len(slots)
    try:
        inspect.signature(tasks.make_vec).bind(n, num_workers=0, timeout=1.0, restarts=0)
    except TypeError as error:
        raise AssertionError(
            f"make_vec must take num_workers, timeout and restarts ({error}): write "
            "def make_vec(self, num_envs, **options) and pass the options on"
        ) from None
    envs = tasks.make_vec(n, num_workers=num_workers)
    actions = [_actions(tasks, slot) for slot in range(n)]
    rows = ActionRows(tasks.action_space)
    seeds = seeding.fold(np.uint64(10), np.arange(n))  # Seeds have 64 bits, as in training.
    options = {"tasks": list(slots)}
    observations, _ = envs.reset(seed=cast(Any, seeds), options=options)
    assert options == {"tasks": list(slots)}, "the vector environment modified its options"
    seen: list[list[Any]] = [[np.array(observations[slot])] for slot in range(n)]
    finished = np.zeros(n, np.bool_)
    last: npt.NDArray[Any] = np.array(observations)
    for step in range(_STEPS):
        batch = np.stack([rows.row(actions[slot][step]) for slot in range(n)])
        observations, rewards, terminated, truncated, _ = envs.step(batch)
        for slot in range(n):
            if finished[slot]:
                assert np.array_equal(observations[slot], last[slot]) and rewards[slot] == 0, (
                    "a finished slot must return its last observation and reward 0"
                )
                assert terminated[slot] or truncated[slot], "a finished slot must keep its flags"
            else:
                seen[slot] += [
                    np.array(observations[slot]),
                    rewards[slot],
                    terminated[slot],
                    truncated[slot],
                ]
        finished |= terminated | truncated
        last = np.array(observations)
    for slot, task in enumerate(slots):
        env = tasks.make(task)
        seed = int(seeds[slot]) if tasks.array_functions else int(seeds[slot]) % SEEDS
        alone = _play(tasks, env, actions[slot], seed=seed)
        env.close()
        assert _equal(alone, seen[slot]), (
            f"slot {slot} of the vector environment{' in a worker process' if num_workers else ''} "
            "differs from a single environment in this one"
        )
    envs.close()
