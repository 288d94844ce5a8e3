"""Does the conformance test find what is wrong with a task distribution, and say what it is?"""

import os

import gymnasium as gym
import numpy as np
import pytest
from counters import ArrayCounterTasks, CounterTasks, counter_task

from metarl.stepping.vector import TaskVectorEnv
from metarl.task import SPLITS, Task
from metarl.tasks.checks import check_task_distribution
from metarl.tasks.distribution import TaskEnv
from metarl.tasks.effects import shared_tasks

CounterEnv = CounterTasks.env_class


@pytest.mark.parametrize("tasks", [CounterTasks(), ArrayCounterTasks()], ids=["task", "array"])
def test_good_distribution_passes(tasks):
    check_task_distribution(tasks)


class SharesTasks(CounterTasks):
    """train and test share .* mix the split into the draw"""

    def sample(self, rng, n, split):
        return super().sample(rng, n, "train")


class ValidatesOnTestTasks(CounterTasks):
    """validation and test share .* mix the split into the draw"""

    def sample(self, rng, n, split):
        return super().sample(rng, n, "test" if split == "validation" else split)


class TooFewTasks(CounterTasks):
    """returned 999 tasks"""

    def sample(self, rng, n, split):
        return super().sample(rng, n, split)[:999]


class RemembersDraws(CounterTasks):
    """depends on something else than its generator"""

    drawn = 0

    def sample(self, rng, n, split):
        self.drawn += 1
        return [counter_task(3 * self.drawn + SPLITS.index(split))] * n


class HoldsNaN(CounterTasks):
    """changes in JSON"""

    def sample(self, rng, n, split):
        return [Task.of("counter", length=np.nan, spread=0)] * n


class StartsWithoutTask(CounterTasks):
    """starts without a task"""

    def make(self, task=None):
        return super().make(task or counter_task(2))


class RefusesWithoutSayingWhy(CounterTasks):
    """reset without a task must say so"""

    class env_class(CounterEnv):  # noqa: N801
        def reset(self, *, seed=None, options=None):
            if self.task is None and not options:
                raise RuntimeError("oops")
            return super().reset(seed=seed, options=options)


class ModifiesOptions(CounterTasks):
    """modified its options"""

    class env_class(CounterEnv):  # noqa: N801
        def reset(self, *, seed=None, options=None):
            self._take(options.pop("task", self.task) if options else self.task)
            return super().reset(seed=seed)

        def _take(self, task):
            if task is not None:
                super()._take(task)


class LacksInfo(CounterTasks):
    """info has no .*goal"""

    info_keys = ("success", "goal")


class OtherSpace(CounterTasks):
    """observation_space is .*, declared Box"""

    observation_space = gym.spaces.Box(-1, 1, (3,))


class GoesOnAfterTheHorizon(CounterTasks):
    """goes on after its 6 steps"""

    def sample(self, rng, n, split):
        return [counter_task(100 + SPLITS.index(split))] * n

    def make(self, task=None):
        env = super().make(task)
        env.horizon = 1000
        return env


class TwoWays(CounterTasks):
    """two environments with one task, seed and actions differ"""

    def make(self, task=None):
        return super().make(None if task is None else counter_task(task["length"] + 1, 2))


class WearsOut(CounterTasks):
    """was used differs from a fresh one after reset; fresh=True"""

    class env_class(CounterEnv):  # noqa: N801
        taken = 0

        def apply_task(self, task):
            super().apply_task(task)
            self.taken += 1
            self.unwrapped.length += self.taken > 2


class PaysFinishedSlots(CounterTasks):
    """finished slot must return its last observation and reward 0"""

    class Slots(TaskVectorEnv):
        def step(self, actions):
            observation, reward, *rest = super().step(actions)
            return observation, reward + 1, *rest

    def make_vec(self, num_envs, **options):
        return self.Slots(self, num_envs, **options)


class NoOptions(CounterTasks):
    """make_vec must take num_workers, timeout and restarts"""

    def make_vec(self, num_envs):
        return super().make_vec(num_envs)


class ForgetsFlags(PaysFinishedSlots):
    """finished slot must keep its flags"""

    class Slots(TaskVectorEnv):
        def step(self, actions):
            live = self._live.copy()
            observation, reward, terminated, truncated, info = super().step(actions)
            return observation, reward, terminated & live, truncated & live, info


class ChangesNothing(CounterTasks):
    """`size` changed nothing in 6 episodes .* allow_no_effect=\\['size'\\]"""

    def sample(self, rng, n, split):
        return [
            Task.of("counter", **dict(task.params), size=i % 3)
            for i, task in enumerate(super().sample(rng, n, split))
        ]


class NotInAWorker(CounterTasks):
    """in a worker process: .*only the parent knows"""

    def __init__(self):
        super().__init__()
        self.parent = os.getpid()

    def make(self, task=None):
        if os.getpid() != self.parent:
            raise RuntimeError("only the parent knows")
        return super().make(task)


class DiffersInAWorker(NotInAWorker):
    """slot 0 of the vector environment in a worker process differs"""

    def make(self, task=None):
        env = CounterTasks.make(self, task)
        env.unwrapped.noise_scale = 1 if os.getpid() == self.parent else 2
        return env


class Unseeded(CounterTasks):
    """not equivalent for the same seed"""

    class env_class(CounterEnv):  # noqa: N801
        def reset(self, *, seed=None, options=None):
            return super().reset(options=options)


class OtherSeeds(PaysFinishedSlots):
    """slot 0 of the vector environment differs"""

    class Slots(TaskVectorEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None if seed is None else seed + 1, options=options)


BROKEN_TASKS = [
    SharesTasks,
    ValidatesOnTestTasks,
    ChangesNothing,
    NotInAWorker,
    DiffersInAWorker,
    Unseeded,
    TooFewTasks,
    RemembersDraws,
    HoldsNaN,
    StartsWithoutTask,
    RefusesWithoutSayingWhy,
    ModifiesOptions,
    LacksInfo,
    OtherSpace,
    GoesOnAfterTheHorizon,
    TwoWays,
    WearsOut,
    PaysFinishedSlots,
    ForgetsFlags,
    OtherSeeds,
    NoOptions,
]


@pytest.mark.parametrize("broken", BROKEN_TASKS, ids=lambda c: c.__name__)
def test_broken_distribution_is_told_what_to_correct(broken):
    """A broken class's docstring is the message it must get."""
    with pytest.raises(AssertionError, match=broken.__doc__):
        check_task_distribution(broken())


class DeclaresASharedSplit(SharesTasks):
    shared_split = True


class DeclaresSharedValidation(SharesTasks):
    shared_validation = True

    def sample(self, rng, n, split):
        return CounterTasks.sample(self, rng, n, "test" if split == "test" else "train")


@pytest.mark.parametrize("kind", [DeclaresASharedSplit, DeclaresSharedValidation])
def test_distribution_that_declares_what_it_shares_may_share_tasks(kind):
    assert not shared_tasks(kind())
    assert shared_tasks(SharesTasks())


class IgnoresSeeds(CounterTasks):
    class env_class(CounterEnv):  # noqa: N801
        """Its layout is fixed by the task; no reset seeds anything."""

        def reset(self, *, seed=None, options=None):
            observation, info = super().reset(options=options)
            self.unwrapped.noise = 0.5
            self.unwrapped.end = self.unwrapped.length
            observation[1] = 0.5
            return observation, info


def test_an_environment_whose_layout_ignores_the_seed_passes():
    check_task_distribution(IgnoresSeeds())


class NeedsSmallSeeds(CounterTasks):
    class env_class(CounterEnv):  # noqa: N801
        def reset(self, *, seed=None, options=None):
            np.random.RandomState(seed)  # refuses 2**32 and more
            return super().reset(seed=seed, options=options)


def test_an_environment_whose_generator_takes_32_bits_passes():
    check_task_distribution(NeedsSmallSeeds())


def test_a_parameter_that_random_actions_cannot_notice_can_be_excused():
    check_task_distribution(ChangesNothing(), allow_no_effect=("size",))


class Forgetful(CounterTasks):
    class env_class(CounterEnv):  # noqa: N801
        def reset(self, *, seed=None, options=None):
            result = TaskEnv.reset(self, seed=seed, options=options)
            self.task = None
            return result


def test_distribution_that_forgets_its_task_is_told_so():
    with pytest.raises((AssertionError, ValueError), match="no task yet"):
        check_task_distribution(Forgetful())


def test_checks_leave_numpys_global_generator_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    check_task_distribution(CounterTasks())
    assert np.random.random() == expected
