import numpy as np
import pytest
import torch
from fakes import CounterTasks, StubAgent, counter_task

import metarl
from metarl.experience.checks import check_agent
from metarl.experience.data import newest_trials
from metarl.stepping.actions import ActionCodec


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


class AddsRewardsInPlace(Sequential):
    """act wrote into the context"""

    def carry_on(self, context, timestep):  # Nothing at the first step, where there is no reward.
        return context.add_(timestep.previous_reward.unsqueeze(-1))


class WritesWhereAnotherCounts(Sequential):
    """act wrote into a context that it had returned before"""

    def begin(self, num_tasks):
        return {"length": torch.zeros(num_tasks, 1), "rewards": torch.zeros(num_tasks, 1000)}

    def act(self, context, timestep, generator, greedy=False):
        counted = torch.arange(1000) < context["length"]
        known = torch.where(counted, context["rewards"], 0.0).sum(1)
        action, record, _ = super().act(
            torch.stack([context["length"][:, 0], known], -1).unsqueeze(1),
            timestep,
            generator,
            greedy,
        )
        active = timestep.active[:, 0]
        place = torch.arange(len(active))[active], context["length"][active, 0].long()
        context["rewards"][place] = timestep.previous_reward[active, 0]
        return action, record, context | {"length": context["length"] + timestep.active}


class AddsRewardsOfIdleRows(Sequential):
    """changed the context of a task whose lanes are not active"""

    def carry_on(self, context, timestep):
        return context + timestep.previous_reward.unsqueeze(-1)


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
    """the result of adapt for a task depends on the place"""

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


class LeavesItsOptimiserOut(Sequential):
    """a second update gives another state.* the moments of an optimiser"""

    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(1, requires_grad=True)
        self.adam = torch.optim.Adam([self.weight], 0.1)

    def update(self, trial, generator, progress):
        noise = torch.randn((), generator=generator)
        (self.weight * trial.rounds[0].reward.sum() * noise).sum().backward()
        self.adam.step()
        self.adam.zero_grad()
        return {}

    def act(self, *args, **kwargs):
        with torch.no_grad():
            return super().act(*args, **kwargs)

    def state(self):
        return {"weight": self.weight}, {}

    def load_state(self, tensors, extra):
        with torch.no_grad():
            self.weight.copy_(tensors["weight"])


class ReturnsNoMetrics(Sequential):
    """update returned None; accepted: a dict of numbers"""

    def update(self, trial, generator, progress):
        super().update(trial, generator, progress)


class ReturnsATensor(Sequential):
    r"""update returned the metric 'gradient' as tensor\(.*; accepted: a finite float"""

    def update(self, trial, generator, progress):
        return {"gradient": torch.tensor(super().update(trial, generator, progress)["gradient"])}


class LoadsNothing(Sequential):
    r"""load_state does not bring back state\(\)"""

    def load_state(self, tensors, extra):
        pass


class NeverLearns(Sequential):
    """update changed nothing"""

    def update(self, trial, generator, progress):
        return {}


class LosesCount(Sequential):
    """update returned .*nan"""

    def update(self, trial, generator, progress):
        return {**super().update(trial, generator, progress), "loss": float("nan")}


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
    """a copy by copy.deepcopy acts differently after load_state"""

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

    def update(self, trial, generator, progress):
        self.weight.add_(0.01)
        return {}

    def load_state(self, tensors, extra):
        self.weight.copy_(tensors["weight"])


class ForgetsItsMomentumInCopies(Sequential):
    """the same update gives a copy by copy.deepcopy another state"""

    def __init__(self):
        super().__init__()
        self.momentum = torch.ones(1)

    def __deepcopy__(self, memo):
        twin = type(self)()
        twin.momentum, twin.weight = 0 * self.momentum, self.weight.clone()
        return twin


class Remembers(Sequential):
    """Learns from the last three trials or so, the newest first; nothing is wrong with it."""

    remembers = 150

    def __init__(self):
        super().__init__()
        self.trials = []

    def update(self, trial, generator, progress):
        self.remember(trial)
        for place, old in enumerate(reversed(self.trials)):
            self.weight = self.weight + self.value(old) / 10 ** (4 + place)
        return super().update(trial, generator, progress)

    def value(self, trial):
        return trial.rounds[0].action.sum()

    def remember(self, trial):
        self.trials = newest_trials([*self.trials, trial], self.remembers)

    def recall(self, trials):
        self.trials = list(trials)


@pytest.mark.parametrize("remembers", [1, 150, 1_000_000])
def test_an_agent_that_remembers_passes_and_is_left_with_an_empty_memory(remembers):
    agent = Remembers()
    agent.remembers = remembers
    check_agent(agent, CounterTasks())
    assert not agent.weight.any() and not agent.momentum.any() and not agent.trials


class RemembersWithoutRecall(Remembers):
    r"""remembers 150 environment steps but has no method recall\(trials\)"""

    recall = None


class RemembersNoNumber(Remembers):
    """remembers: got 0.5; accepted: a number of environment steps"""

    remembers = 0.5


class RemembersMoreThanItSays(Remembers):
    """the agent must learn only from them .* remembers = 150"""

    def remember(self, trial):
        self.trials = [*self.trials, trial]


class RecallsNothing(Remembers):
    """recall must replace the whole memory by the trials it is given"""

    def recall(self, trials):
        self.trials = []


class RecallsTheNewestAlone(Remembers):
    """after load_state and recall, the same update gives another state"""

    def recall(self, trials):
        self.trials = list(trials[-1:])


class RecallsBackwards(Remembers):
    """after load_state and recall, the same update gives another state"""

    def recall(self, trials):
        self.trials = list(trials[::-1])


class RecallAddsToItsMemory(Remembers):
    r"""recall\(\[\]\) does not empty the memory"""

    def recall(self, trials):
        self.trials = [*self.trials, *trials][-3:]


class NeedsOldContexts(Remembers):
    """an update after recall raised AttributeError.*have no context"""

    def value(self, trial):
        return trial.context.sum()


BROKEN_AGENTS = [
    WritesIntoItsContext,
    AddsRewardsInPlace,
    AddsRewardsOfIdleRows,
    MovesIdleRows,
    GreedyByChance,
    GoesByPlace,
    CarriesOnInParallel,
    AdaptWritesIntoItsContext,
    AdaptGoesByPlace,
    LearnsWhileActing,
    LeavesMomentumOut,
    LeavesItsOptimiserOut,
    ReturnsNoMetrics,
    ReturnsATensor,
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
    RemembersWithoutRecall,
    RemembersNoNumber,
    RemembersMoreThanItSays,
    RecallsNothing,
    RecallsTheNewestAlone,
    RecallsBackwards,
    RecallAddsToItsMemory,
    NeedsOldContexts,
]


@pytest.mark.parametrize("broken", BROKEN_AGENTS, ids=lambda c: c.__name__)
def test_broken_agent_is_told_what_to_correct(broken):
    """A broken class's docstring is the message it must get."""
    with pytest.raises(AssertionError, match=broken.__doc__):
        check_agent(broken(), CounterTasks())


def test_a_fixed_baseline_passes_if_it_is_said_to_be_one():
    check_agent(NeverLearns(), CounterTasks(), learns=False)
    with pytest.raises(AssertionError, match="update returned"):
        check_agent(LosesCount(), CounterTasks(), learns=False)


class TurnsRight:
    """A scripted policy in the environment's units, wrapped as README's agents are."""

    tasks_per_update = 4
    shape = metarl.TrialShape(2)

    def __init__(self, spec):
        self.spec = spec
        self.codec = ActionCodec(spec.action_space)

    def begin(self, num_tasks):
        return torch.zeros(num_tasks, 0)

    def act(self, context, timestep, generator, greedy=False):
        tasks, lanes = timestep.active.shape
        chosen = np.tile([[0.25, 3.0]], (tasks * lanes, 1))  # the space ends at 1 and 4
        units = torch.from_numpy(self.codec.from_env(chosen))
        return units.reshape(tasks, lanes, -1), {}, context

    def adapt(self, context, episodes, generator):
        return context

    def update(self, trial, generator, progress):
        return {}

    def state(self):
        return {}, {}

    def load_state(self, tensors, extra):
        pass


def test_a_wrapped_policy_s_actions_reach_the_environment_as_it_chose_them():
    tasks = CounterTasks()
    agent = TurnsRight(metarl.TaskSpec.of(tasks))
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
