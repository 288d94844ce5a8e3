import os

import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import ArrayCounterTasks, CounterTasks, StubAgent, counter_task

import metarl
from metarl.experience.checks import check_agent
from metarl.stepping.spaces import ActionCodec
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
    """was used differs from a fresh one"""

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
def test_broken_distribution_is_told_what_to_mend(broken):
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


@pytest.mark.parametrize("sequential", [True, False], ids=["sequential", "parallel"])
def test_good_agent_passes_and_is_given_back_as_it_was(sequential):
    agent = StubAgent(sequential)
    check_agent(agent, CounterTasks())
    assert not agent.weight.any() and not agent.momentum.any()


def test_good_agent_passes_with_discrete_actions():
    agent = StubAgent(True, discrete=True)
    check_agent(agent, metarl.make("bandit/n3-k2"))


class Sequential(StubAgent):
    def __init__(self):
        super().__init__(sequential=True)


class Parallel(StubAgent):
    def __init__(self):
        super().__init__(sequential=False)


class WritesIntoItsContext(Sequential):
    """act wrote into the context"""

    def carry_on(self, context, timestep):
        return context.copy_(super().carry_on(context, timestep))


class MovesIdleRows(Sequential):
    """changed the context of a task whose lanes are not active"""

    def carry_on(self, context, timestep):
        return context + 1


class GreedyByChance(Sequential):
    """greedy action depends on the generator"""

    def act(self, context, timestep, generator, greedy=False):
        return super().act(context, timestep, generator)


class GoesByPlace(Sequential):
    """depends on the place of the task in the batch"""

    def act(self, *args, **kwargs):
        action, record, context = super().act(*args, **kwargs)
        place = torch.arange(len(action)).reshape(-1, 1, 1)
        return action + 0.1 * place, record, context


class CarriesOnInParallel(Parallel):
    """not sequential, yet act changed context"""

    def act(self, *args, **kwargs):
        action, record, context = super().act(*args, **kwargs)
        return action, record, context + 1


class AdaptWritesIntoItsContext(Parallel):
    """adapt wrote into the context"""

    def adapt(self, context, episodes, generator):
        return context.add_(1)


class AdaptGoesByPlace(Parallel):
    """what adapt makes of a task depends on the place"""

    def adapt(self, context, episodes, generator):
        return context + torch.arange(len(context)).reshape(-1, 1, 1)


class LearnsWhileActing(Sequential):
    """acting or adapting changed the agent"""

    def act(self, *args, **kwargs):
        self.momentum = self.momentum + 0.001
        return super().act(*args, **kwargs)


class LeavesMomentumOut(Sequential):
    r"""state\(\) leaves something out"""

    def state(self):
        return {"weight": self.weight}, {}

    def load_state(self, tensors, extra):
        self.weight = tensors["weight"]


class LoadsNothing(Sequential):
    r"""load_state does not bring back state\(\)"""

    def load_state(self, tensors, extra):
        pass


class NeverLearns(Sequential):
    """update changed nothing"""

    def update(self, trial, generator):
        return {}


class LosesCount(Sequential):
    """update returned .*nan"""

    def update(self, trial, generator):
        return {**super().update(trial, generator), "loss": float("nan")}


class ActsWithoutLanes(Sequential):
    """act returned actions"""

    def act(self, *args, **kwargs):
        action, record, context = super().act(*args, **kwargs)
        return action[:, 0, 0], record, context


class RecordsWithoutLanes(Sequential):
    """record 'u' has shape"""

    def act(self, *args, **kwargs):
        action, record, context = super().act(*args, **kwargs)
        return action, {"u": record["u"][:, 0]}, context


class HoldsALambda(Sequential):
    """pickle raised .*lambda.* keep no lambda"""

    def __init__(self):
        super().__init__()
        self.squash = lambda x: x


class HoldsAGenerator(Sequential):
    """copy.deepcopy.* raised .*generator"""

    def __init__(self):
        super().__init__()
        self.steps = (i for i in range(3))


class ActsByAMethodOfTheOriginal(Sequential):
    """a copy by copy.deepcopy acts otherwise after load_state"""

    def __init__(self):
        super().__init__()
        self.loaded = self.hook()

    def hook(self):
        """A function bound to this very object, which copies share."""

        def loaded(weight):
            self.scale = 1 + weight

        loaded(self.weight)
        return loaded

    def load_state(self, tensors, extra):
        super().load_state(tensors, extra)
        self.loaded(self.weight)

    def act(self, *args, **kwargs):
        action, record, context = super().act(*args, **kwargs)
        return action * self.scale, record, context


class SharesItsWeight(Sequential):
    """updating a copy by copy.deepcopy changed the agent"""

    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.weight = self.weight
        return twin

    def update(self, trial, generator):
        self.weight.add_(0.01)
        return {}

    def load_state(self, tensors, extra):
        self.weight.copy_(tensors["weight"])


class ForgetsItsMomentumInCopies(Sequential):
    """the same update leads a copy by copy.deepcopy elsewhere"""

    def __init__(self):
        super().__init__()
        self.momentum = torch.ones(1)

    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.momentum, twin.weight = 0 * self.momentum, self.weight.clone()
        return twin


BROKEN_AGENTS = [
    WritesIntoItsContext,
    MovesIdleRows,
    GreedyByChance,
    GoesByPlace,
    CarriesOnInParallel,
    AdaptWritesIntoItsContext,
    AdaptGoesByPlace,
    LearnsWhileActing,
    LeavesMomentumOut,
    LoadsNothing,
    NeverLearns,
    LosesCount,
    ActsWithoutLanes,
    RecordsWithoutLanes,
    HoldsALambda,
    HoldsAGenerator,
    ActsByAMethodOfTheOriginal,
    SharesItsWeight,
    ForgetsItsMomentumInCopies,
]


@pytest.mark.parametrize("broken", BROKEN_AGENTS, ids=lambda c: c.__name__)
def test_broken_agent_is_told_what_to_mend(broken):
    """A broken class's docstring is the message it must get."""
    with pytest.raises(AssertionError, match=broken.__doc__):
        check_agent(broken(), CounterTasks())


def test_a_fixed_baseline_passes_if_it_is_said_to_be_one():
    check_agent(NeverLearns(), CounterTasks(), learns=False)
    with pytest.raises(AssertionError, match="update returned"):
        check_agent(LosesCount(), CounterTasks(), learns=False)


class TurnsRight:
    """A scripted policy in the environment's units, wrapped as README's agents are."""

    tasks_per_update, num_adaptations, episodes_per_trial = 4, 0, None
    episodes_per_adaptation, sequential = None, True

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space
        self.codec = ActionCodec(action_space)

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 0)

    def act(self, context, timestep, generator, greedy=False):
        tasks, lanes = timestep.active.shape
        chosen = np.tile([[0.25, 3.0]], (tasks * lanes, 1))  # the space ends at 1 and 4
        units = torch.from_numpy(self.codec.from_env(chosen))
        return units.reshape(tasks, lanes, -1), {}, context

    def adapt(self, context, episodes, generator):
        return context

    def update(self, trial, generator):
        return {}

    def state(self):
        return {}, {}

    def load_state(self, tensors, extra):
        pass


def test_a_wrapped_policy_s_actions_reach_the_environment_as_it_chose_them():
    tasks = CounterTasks()
    agent = TurnsRight(tasks.observation_space, tasks.action_space)
    check_agent(agent, tasks, learns=False)
    env = tasks.make(counter_task(3))
    policy = metarl.adapt(agent, env, episodes=1)
    observation, _ = env.reset(seed=0)
    assert policy.act(observation).tolist() == [0.25, 3.0]


def test_agent_without_a_method_is_refused():
    class Lacks:
        sequential = True

    with pytest.raises(AssertionError, match="lacks a method or attribute"):
        check_agent(Lacks(), CounterTasks())


def test_checks_leave_numpys_global_generator_alone():
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    check_task_distribution(CounterTasks())
    assert np.random.random() == expected
