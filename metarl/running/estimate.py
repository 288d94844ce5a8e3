"""How long an update takes and how much memory it needs, measured before a training."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from typing import Any, NamedTuple

import psutil
import torch
from torch.utils import _pytree as pytree

from metarl import registry, seeding
from metarl.console import console
from metarl.errors import EnvError, UserError
from metarl.evaluation.evaluate import evaluation_shape
from metarl.experience.agent import Agent, TaskSpec
from metarl.experience.data import Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial, torch_generator, torch_threads
from metarl.options import option_paths, with_options
from metarl.running.settings import VALIDATION_SHARE, Settings, TrainConfig
from metarl.running.training import resident_mib
from metarl.seeding import Component, Phase
from metarl.stepping.shortened import ShortenedVectorEnv
from metarl.stepping.vector import SlotVectorEnv
from metarl.tasks.distribution import TaskDistribution

LONGEST = 600.0
"""Seconds of an iteration above which a training begins only if the user says so."""

SHORT = 4
"""Steps of the shortest episodes that are measured."""

FEW = 16
"""The smallest number of tasks measured, if the agent has as many: for its minibatches."""

VALIDATIONS = 10
"""Number of evaluations on validation tasks in a training in minutes, or fewer."""

LARGEST_SHARE = 0.2
"""The largest share of a training's minutes that validations take; they are fewer otherwise."""

MEASURED_SHARE = 0.03
"""The share of a training's minutes in which is measured how many updates they have time for."""

COPIES = 6
"""Memory of an update in sizes of its experience: inputs, activations and their gradients."""


class Estimate(NamedTuple):
    """What one iteration is, and what it takes."""

    tasks: int
    """Number of tasks."""
    episodes: int
    """Number of episodes with each task."""
    horizon: int
    """Number of steps of an episode, if nothing ends it earlier."""
    seconds: float | None = None
    """Seconds that it takes if episodes end as early as an untrained agent's; None if it was not
    measured."""
    longest: float | None = None
    """Seconds that it takes if no episode ends early."""
    memory: int | None = None
    """Bytes of memory that the training has at most."""
    step: float = 0.0
    """Seconds of a step in which the agent acts and does not learn, as in validation."""

    @property
    def steps(self) -> int:
        """The number of environment steps."""
        return self.tasks * self.episodes * self.horizon

    @property
    def expected(self) -> float:
        """Seconds between the shortest and the longest, since nobody knows what is learned."""
        return math.sqrt((self.seconds or 0.0) * (self.longest or 0.0))

    def text(self, iterations: int) -> str:
        """Return a line about an iteration and a training of so many."""
        parts = [f"{self.tasks:,} {'task' if self.tasks == 1 else 'tasks'}"]
        for number, name in ((self.episodes, "episode"), (self.horizon, "step")):
            parts.append(f"{number:,} {name}{'' if number == 1 else 's'}")
        line = f"an iteration: {' × '.join(parts)} = {self.steps:,} steps"
        if self.seconds is None or self.longest is None or self.memory is None:
            return f"{line}; {iterations:,} iterations"
        both = (self.seconds, self.longest)
        one, all_of_them = (_between(*(n * x for x in both)) for n in (1, iterations))
        memory = f"about {size(self.memory)} of memory"
        return f"{line}, {one}; {iterations:,} iterations, {all_of_them}; {memory}"


class Pace(NamedTuple):
    """How long the parts of a training take, in seconds."""

    iteration: float
    """An update with its experience."""
    validation: float
    """An evaluation on validation tasks."""

    def plan(self, seconds: float) -> dict[str, int]:
        """Return how many updates fit into a time, and how many there are for each validation."""
        affordable = int(LARGEST_SHARE * seconds / max(self.validation, 1e-9))
        validations = max(1, min(VALIDATIONS, affordable))
        number = math.floor((seconds - validations * self.validation) / self.iteration)
        number = max(1, number)
        interval = math.ceil(number / validations)
        return {"iterations": number, "validation_interval": interval}


def _between(low: float, high: float) -> str:
    """Return two lengths of time in words, or one if they hardly differ."""
    if high < 1.5 * low:
        return f"about {duration(high)}"
    return f"{duration(low)} to {duration(high)}"


def duration(seconds: float) -> str:
    """Return a length of time in words: ``0.4 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def size(memory: int) -> str:
    """Return a number of bytes in words: ``340 MiB`` or ``2.1 GiB``."""
    return f"{memory / 2**20:.0f} MiB" if memory < 2**30 else f"{memory / 2**30:.1f} GiB"


def size_of_iteration(agent: Agent, tasks: TaskDistribution) -> Estimate:
    """Return what an iteration is, without measuring it."""
    return Estimate(agent.tasks_per_update, agent.shape.num_episodes, tasks.horizon)


def is_measured(config: TrainConfig) -> bool:
    """Return whether a measurement comes before a training with these options."""
    return config.check or (config.minutes is not None and config.iterations is None)


def announced(
    settings: Settings,
    tasks: TaskDistribution,
    agent: Agent,
    envs: SlotVectorEnv | None,
    *,
    yes: bool = False,
) -> Settings:
    """Say what an iteration and the training are, after a short measurement.

    Args:
        settings: the settings of the training.
        tasks: the tasks.
        agent: the agent to be trained, which is not changed.
        envs: environments of ``tasks``, as many as in the training; without them, only what an
            iteration is is said.
        yes: whether the user has said that a very long iteration is meant.

    Returns:
        The settings, with as many updates as their minutes have time for.

    Raises:
        UserError: without ``yes``, if an iteration takes very long or very much memory.
    """
    config = settings.train
    estimate = size_of_iteration(agent, tasks)
    if envs is not None:
        # Another agent, which the measurement trains a little, and which is forgotten then.
        one = registry.agent_class(settings.agent)(
            settings.agent_config, TaskSpec.of(tasks), seed=config.seed, device=config.device
        )
        seconds = max(2.0, MEASURED_SHARE * 60 * (config.minutes or 0.0))
        try:
            estimate = measure_iteration(one, tasks, config, envs, seconds)
        except EnvError:
            raise
        except Exception as error:  # An agent need not learn from episodes that are cut short.
            if config.iterations is None:
                raise
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"what an iteration takes could not be measured: {said}", stacklevel=2)
    if config.iterations is None:
        config = planned(config, estimate, agent, tasks)
        settings = dataclasses.replace(settings, train=config).resolve(agent, tasks)
    announce(estimate, settings.train.iterations or 0, settings.agent_config, yes=yes)
    return settings


def planned(
    config: TrainConfig, estimate: Estimate, agent: Agent, tasks: TaskDistribution
) -> TrainConfig:
    """Return a config with as many updates as its minutes have time for, beside validations.

    Validations whose number of tasks is not given follow from the length of the training, and add
    a tenth to it at most.
    """
    seconds, iteration = 60 * (config.minutes or 0.0), max(estimate.expected, 1e-6)
    own = config.evaluation
    if own.validation_tasks is None:
        number = int(seconds / (1 + VALIDATION_SHARE) / iteration)
        return dataclasses.replace(config, iterations=max(1, number))
    steps = own.validation_tasks * evaluation_shape(agent, tasks).num_episodes * tasks.horizon
    each = steps * estimate.step
    if own.validation_interval is not None:
        number = int(seconds / (iteration + each / own.validation_interval))
        return dataclasses.replace(config, iterations=max(1, number))
    return with_options(config, **Pace(iteration, each).plan(seconds))


def measure_iteration(
    agent: Agent,
    tasks: TaskDistribution,
    config: TrainConfig,
    envs: SlotVectorEnv,
    seconds: float = 2.0,
) -> Estimate:
    """Play and learn from a few short trials, and return what a whole iteration takes.

    Episodes are cut short, so that the time of their resets is told from that of their steps. If
    more tasks meet than there are slots, some of them stand for all.

    Args:
        agent: an agent made for this measurement alone, since it is trained a little.
        tasks: the tasks.
        config: the options of the training.
        envs: environments of ``tasks``, as many as in the training.
        seconds: about how long the longest of these trials may take, if it takes no longer by its
            nature.
    """
    what = size_of_iteration(agent, tasks)
    lanes = 1 if agent.shape.sequential else agent.shape.episodes_per_round
    few = min(what.tasks, max(FEW, math.ceil(envs.num_envs / lanes)))
    limit = min(SHORT, tasks.horizon)
    if limit < tasks.horizon:
        _play(agent, tasks, config, envs, few, limit)  # It starts up libraries.
    played = short = _play(agent, tasks, config, envs, few, limit)
    longer = max(4 * limit, int(limit * seconds / max(short.seconds, 1e-6)))
    while limit < tasks.horizon and longer >= 2 * limit:
        limit = min(tasks.horizon, longer)
        played = _play(agent, tasks, config, envs, few, limit)
        # Longer ones while there is time: what is guessed multiplies every delay of a measurement.
        each = min((played.seconds - short.seconds) / (limit - SHORT), played.seconds / limit)
        each = max(each, 1e-6)
        longer = min(8 * limit, limit + int((seconds - played.seconds) / each))
    share, episodes = what.tasks / few, few * what.episodes
    usual = _usual_length(played.trial, tasks.horizon)
    known = _bytes(agent.begin(1))  # A step that copies a context holds two.
    content = _bytes(list(played.trial.rounds)) / played.trial.env_steps * what.steps
    return what._replace(
        seconds=share * _seconds(short, played, episodes * usual),
        longest=share * _seconds(short, played, episodes * tasks.horizon),
        memory=int(resident_mib(envs) * 2**20 + COPIES * content + 2 * what.tasks * known),
        step=played.playing / played.trial.env_steps,
    )


def _usual_length(trial: Trial, horizon: int) -> float:
    """Return how long episodes are if they end as often as those of a trial."""
    ends = sum(int((episodes.terminated & episodes.valid).sum()) for episodes in trial.rounds)
    rate = ends / trial.env_steps
    return (1 - (1 - rate) ** horizon) / rate if rate else float(horizon)


class _Played(NamedTuple):
    """A short iteration, and the seconds that its parts took."""

    trial: Trial
    resets: float
    playing: float
    """Seconds of steps and actions."""
    learning: float

    @property
    def seconds(self) -> float:
        """Seconds of all that grows with the steps."""
        return self.playing + self.learning


def _play(
    agent: Agent,
    tasks: TaskDistribution,
    config: TrainConfig,
    envs: SlotVectorEnv,
    number: int,
    limit: int,
) -> _Played:
    """Run an iteration of ``number`` tasks whose episodes have ``limit`` steps at most."""
    rng = seeding.numpy_generator(config.seed, Phase.TRAIN, Component.TASKS, 0)
    batch = tasks.sample(rng, number, "train")
    keys = TrialKeys(config.seed, Phase.TRAIN, 0, number)
    short = ShortenedVectorEnv(envs, limit)
    key = seeding.derive(config.seed, Phase.TRAIN, Component.UPDATE, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # They would be about the short episodes.
        started = time.perf_counter()
        trial = run_trial(agent, short, batch, shape=agent.shape, keys=keys)
        played = time.perf_counter()
        with torch_threads(config.torch_threads):
            agent.update(trial, torch_generator(int(key)), 0.0)
        learned = time.perf_counter()
    resets = short.reset_seconds
    return _Played(trial, resets, played - started - resets, learned - played)


def _seconds(short: _Played, longer: _Played, steps: float) -> float:
    """Return what an iteration of so many steps takes, judged by two shorter ones."""
    had = longer.trial.env_steps
    more = had - short.trial.env_steps
    if more > 0 and longer.learning > short.learning:  # Some of an update's time is fixed.
        learning = longer.learning + (longer.learning - short.learning) / more * (steps - had)
    else:
        learning = longer.learning / had * steps
    return longer.resets + longer.playing / had * steps + max(0.0, learning)


def _bytes(tree: Any) -> int:
    """Return the size of a tree's tensors in bytes."""
    parts: list[Any] = pytree.tree_leaves(tree)
    return sum(x.numel() * x.element_size() for x in parts if isinstance(x, torch.Tensor))


def announce(estimate: Estimate, iterations: int, config: object, *, yes: bool) -> None:
    """Print what a training takes, and refuse one that nobody can have meant.

    Args:
        estimate: what an iteration takes.
        iterations: the number of iterations.
        config: the agent's config, whose options the message names.
        yes: whether the user has said that it is meant.

    Raises:
        UserError: without ``yes``, if an iteration takes more than ten minutes, or more memory than
            there is.
    """
    line = estimate.text(iterations)
    free = psutil.virtual_memory().available
    long, large = estimate.expected > LONGEST, (estimate.memory or 0) > free
    if yes or not (long or large):
        console.print(line)
        return
    faults = ["takes over ten minutes"] * long + [f"needs more than the {size(free)} free"] * large
    wrong = " and ".join(faults)
    known = option_paths(type(config))
    names = ("tasks_per_update", "episodes_per_trial", "episodes_per_adaptation")
    smaller = [f"--{name.replace('_', '-')}" for name in names if name in known]
    advice = f"a smaller {' or '.join(smaller)}, or " if smaller else ""
    raise UserError(f"an iteration {wrong} ({line}): {advice}--yes to train nevertheless")
