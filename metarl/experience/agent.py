"""What an agent is to the rest of the toolkit: the file to read before writing one.

A *trial* is everything an agent lives through with a few tasks: rounds of episodes, with an
adaptation between one round and the next. An :class:`Adapter` can go through a trial, so that it
can be evaluated, filmed and adapted to an environment. An :class:`Agent` is an adapter that is
also meta-trained: after every trial its ``update`` improves what it knows beforehand.

What an agent is given, :class:`~metarl.experience.data.Timestep`, ``Episodes``, ``Trial`` and
``Trial.stream()``, is described field by field in the first half of ``metarl/experience/data.py``.
An agent is checked before it is trained:

    tasks = metarl.make("bandit/n10-k5")
    agent = MyAgent(MyAgent.Config(), metarl.TaskSpec.of(tasks), seed=0, device="cpu")
    metarl.check_agent(agent, tasks)
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from metarl.errors import UserError, bad_option
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.seeding import LaneGenerator
from metarl.stepping.space_json import space_from_json, space_to_json
from metarl.stepping.spaces import Image, images_of, reported_space
from metarl.task import Task, numbers_of
from metarl.tasks.distribution import TaskDistribution


@dataclass(frozen=True)
class TaskSpec:
    """What the tasks of a distribution have in common: what an agent is made for.

    >>> spec = metarl.TaskSpec.of(metarl.make("bandit/n10-k5"))
    >>> spec.action_space, spec.horizon, spec.episodes_per_trial
    (Discrete(5), 1, 10)
    """

    observation_space: gym.Space[Any]
    """The observation space of every task; Dict and Tuple spaces are flattened."""
    action_space: gym.Space[Any]
    """The action space of every task."""
    horizon: int
    """The number of steps after which an episode is truncated."""
    episodes_per_trial: int | None = None
    """The number of episodes with one task that the distribution prescribes, if any."""
    task_size: int | None = None
    """How many numbers a task's parameters consist of; None if some are text."""
    images: tuple[Image, ...] | None = None
    """Where images are in a flat observation (default: the whole of it, if its space is that of
    an image)."""

    def __post_init__(self) -> None:
        """Find the image that observations are."""
        if self.images is None:
            object.__setattr__(self, "images", images_of(self.observation_space))

    @staticmethod
    def of(tasks: TaskDistribution) -> TaskSpec:
        """Return what the tasks of a distribution have in common."""
        space = reported_space(tasks.observation_space)
        try:
            one = tasks.sample(np.random.default_rng(0), 1, "train")
            size = numbers_of(one).shape[1]
        except UserError:
            size = None
        return TaskSpec(
            space,
            tasks.action_space,
            tasks.horizon,
            tasks.episodes_per_trial,
            size,
            images_of(tasks.observation_space),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``json.dumps`` takes."""
        return {
            "observation": space_to_json(self.observation_space),
            "action": space_to_json(self.action_space),
            "horizon": self.horizon,
            "episodes_per_trial": self.episodes_per_trial,
            "task_size": self.task_size,
            **({"images": [[x.first, list(x.shape)] for x in self.images]} if self.images else {}),
        }

    @staticmethod
    def from_json(content: dict[str, Any]) -> TaskSpec:
        """Rebuild a specification from :meth:`to_json`'s result."""
        return TaskSpec(
            space_from_json(content["observation"]),
            space_from_json(content["action"]),
            int(content["horizon"]),
            content.get("episodes_per_trial"),
            content.get("task_size"),
            tuple(Image(first, tuple(shape)) for first, shape in content.get("images", ())) or None,
        )


@dataclass(frozen=True)
class TrialShape:
    """How many episodes a trial has, and how they are divided into rounds.

    >>> TrialShape(episodes_per_round=20, num_adaptations=1, sequential=False).num_episodes
    40
    """

    episodes_per_round: int
    """Episodes of every task in each round."""
    num_adaptations: int = 0
    """The number of calls of ``adapt``, each between two rounds."""
    sequential: bool = True
    """True if ``act`` carries knowledge on, so that the episodes of a task run one after another;
    False if ``act`` leaves the context as it is, so that they run side by side."""

    def __post_init__(self) -> None:
        """Refuse a trial without episodes."""
        if self.episodes_per_round < 1 or self.num_adaptations < 0:
            raise ValueError(f"a trial has at least one episode, got {self}")

    @property
    def num_rounds(self) -> int:
        """The number of rounds: one before every adaptation, and one after the last."""
        return self.num_adaptations + 1

    @property
    def num_episodes(self) -> int:
        """The number of episodes of a task in the whole trial."""
        return self.num_rounds * self.episodes_per_round

    @property
    def learns_while_acting(self) -> bool:
        """True if the trial is one round in which ``act`` alone adapts, as in RL²."""
        return self.sequential and self.num_adaptations == 0

    @property
    def stride(self) -> int:
        """The number of episodes from one point of an adaptation curve to the next."""
        return 1 if self.learns_while_acting else self.episodes_per_round

    @property
    def points(self) -> tuple[int, ...]:
        """The numbers of episodes of experience at which an adaptation curve has its points."""
        return tuple(range(0, self.num_episodes, self.stride))

    def for_episodes(self, num_episodes: int) -> TrialShape:
        """Return the same trial with another number of episodes.

        Agents that learn while they act get one longer round, others more rounds.

        Raises:
            UserError: if the rounds cannot have that many episodes together.
        """
        each = self.stride
        if num_episodes < each or num_episodes % each:
            accepted = "at least 1" if each == 1 else f"a multiple of {each}, one round each"
            raise bad_option("--episodes-per-trial", num_episodes, accepted)
        if self.learns_while_acting:
            return replace(self, episodes_per_round=num_episodes)
        return replace(self, num_adaptations=num_episodes // each - 1)


ATTENTION = "attention"
"""The insight that says where an agent looked, not what it knows: ``[task, layer, distance]``."""


@runtime_checkable
class Insightful(Protocol):
    """An adapter of which can be drawn, and read out, what it knows."""

    def insight(self, context: Context) -> dict[str, Tensor]:
        """Return what the context says, by name; the first axis is the task.

        ``[task]`` and ``[task, number]`` are drawn against the steps, ``[task, row, column]`` as
        maps at a few moments. The name ``attention`` is for weights ``[task, layer, distance]``:
        how much the last step looked at itself, at the step before, and so on.
        """


@runtime_checkable
class Adapter(Protocol):
    """Something that meets tasks it has not seen and adapts to them.

    Evaluation, videos and :func:`metarl.adapt` need no more than this: a trained agent, a
    model of another library, a scripted policy or a textbook algorithm is measured by the same
    code. :func:`metarl.check_adapter` tells whether an object keeps this contract.

    Actions are in policy units. Those of a Discrete space are integers from 0 to n - 1, wherever
    the space starts. Those of a Box are numbers: [-1, 1] is mapped onto the bounds of every
    dimension that has two finite ones, and anything outside [-1, 1] is clipped; in a dimension
    without such bounds, actions pass unchanged. A policy that acts in the environment's own
    units is wrapped by :meth:`metarl.stepping.actions.ActionCodec.from_env`.

    Three more methods are optional. ``reveal(context, tasks) -> Context`` is called at the start of
    a trial and tells an oracle which tasks it has been given; tables and pictures mark its curves.
    (:func:`metarl.adapt` and Meta-World's own evaluation have no tasks that they could tell.)
    ``insight(context) -> dict[str, Tensor]`` returns what can be drawn of what the agent knows
    (:class:`Insightful`). ``network(context) -> PolicyNetwork`` returns the policy with
    which ``act`` meets the first task of ``context``, if it is a plain network without memory
    (:class:`metarl.learning.networks.PolicyNetwork`): :func:`metarl.sb3.export` then turns it into
    a model of Stable-Baselines3.

    Three attributes are optional too. ``tasks_at_once``, an integer, is for an adapter whose
    ``adapt`` is slow: evaluations go through their tasks that many at a time and show the progress
    between. ``num_steps`` is the number of environment steps that a baseline has been trained on.
    ``exact_rewards`` is true for an adapter that makes nothing of noisy rewards: evaluations with
    ``--reward-noise`` refuse it before any work.

    >>> class Still:  # a policy that never moves, in environments with two-dimensional actions
    ...     shape = metarl.TrialShape(episodes_per_round=1)
    ...     def begin(self, num_tasks):
    ...         return torch.zeros(num_tasks, 0)
    ...     def act(self, context, timestep, generator, greedy=False):
    ...         return torch.zeros(*timestep.active.shape, 2), {}, context
    ...     def adapt(self, context, episodes, generator):
    ...         return context
    >>> tasks = metarl.make("navigation")
    >>> metarl.check_adapter(Still(), tasks)
    >>> metarl.evaluate_adaptation(Still(), tasks, num_tasks=50).returns.shape  # [point, task]
    (1, 50)
    """

    shape: TrialShape
    """The episodes of a training trial, and how they are divided."""

    def begin(self, num_tasks: int) -> Context:
        """Return what is known before any experience, one row per task."""

    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Return actions ``[task, lane, *action]``, a record of them and the next context.

        Actions of a Box are float32 and flat; those of a Discrete space are int64 from 0, without
        a last axis. The record is what ``update`` needs of this step, tensors
        ``[task, lane, …]`` by name. The context given is never written into: the old one stays
        true. A task has one lane if ``shape.sequential``, and one for each of its episodes that
        run side by side otherwise.

        A memory takes in ``timestep.previous_action`` and ``previous_reward`` first, except where
        ``trial_start`` is true (they are zeros then, no experience). Rows of the context whose
        lanes are not ``active`` must stay as they are. The last reward of a trial comes in no
        timestep; ``update`` sees it.

        ``generator.uniform(k)`` and ``generator.normal(k)`` return NumPy arrays ``[task, lane, k]``
        for this step, those of ``generator.episode`` for the whole episode. Equal calls return
        equal numbers, so ask once for all that a step needs. Torch's own random numbers would make
        the experience depend on the place of a task in the batch.
        """

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return what is known after also seeing ``episodes``, the round that has just ended.

        An agent that learns while it acts alone returns ``context``.
        """


@runtime_checkable
class Agent(Adapter, Protocol):
    """An adapter that is meta-trained.

    ``metarl train``, ``metarl.train`` and ``metarl.load`` make an agent by its class, as
    ``Class(config, spec, seed=…, device=…)``:

    - ``config`` is an instance of ``Class.Config``, a frozen dataclass whose fields become options
      and whose field docstrings become their help. With a field ``episodes_per_trial: int | None``
      and :func:`prescribed_episodes`, the length of trials is an option. If the config has a class
      method ``for_tasks(spec)``, its result is what ``metarl train`` starts from on tasks for which
      there is no preset; :mod:`metarl.experience.traits` tells kinds of tasks apart.
    - ``spec`` is the :class:`TaskSpec` of the tasks. An agent keeps it as its attribute ``spec``,
      so that environments with other spaces are refused. Observations arrive flattened;
      :func:`metarl.stepping.spaces.observation_size` and
      :class:`metarl.stepping.actions.ActionCodec` give the sizes.
    - ``seed`` is what the initial parameters are drawn from.
    - ``device`` is where the tensors live, such as ``"cpu"`` or ``"cuda"``.

    An agent that learns from the trials of earlier iterations too (a replay buffer) has two more
    members, ``remembers`` and ``recall``: see :class:`RememberingAgent`.

    :func:`metarl.check_agent` tells whether a class keeps this contract.

    >>> from metarl.registry import agent_class
    >>> RL2 = agent_class("rl2")
    >>> spec = metarl.TaskSpec.of(metarl.make("bandit/n10-k5"))
    >>> agent = RL2(RL2.Config(tasks_per_update=100), spec, seed=0, device="cpu")
    >>> isinstance(agent, metarl.Agent), agent.tasks_per_update, agent.shape.num_episodes
    (True, 100, 10)
    >>> tensors, extra = agent.state()
    >>> agent.load_state(tensors, extra)
    """

    tasks_per_update: int
    """Tasks of a meta-batch, each of which is met in a trial of its own."""

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Improve what is known beforehand: the meta-update.

        ``progress`` goes from 0 at the first update towards 1 at the end of training; schedules
        such as a learning rate's follow it. ``trial.stream()`` holds whole trials in a row,
        ``[task, time, …]``, and its ``valid`` is false for padding. The metrics returned are floats
        and are logged as ``update/<name>``.
        """

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that training has changed: tensors by name, and what JSON holds.

        The tensors may be the agent's own: the trainer copies them when it saves them. Trials that
        an agent remembers are no part of its state.
        """

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""


@runtime_checkable
class RememberingAgent(Agent, Protocol):
    """An agent that learns from old experience: off-policy agents, agents with a replay buffer.

    The agent keeps its memory itself, in any form: ``update`` puts every new trial into it and
    samples from it. The trainer keeps the same trials on the disk, in the run's folder
    ``experience/``, and hands them back when the run is resumed, so that training goes on with the
    same bits as if it had never stopped. The agent never reads or writes a file.

    For this to hold, the memory must follow from the trials in it alone. Anything else, such as
    priorities that losses have changed, belongs to :meth:`state`. The simplest way is one method
    that takes a trial into the memory and drops what is too old, called by ``update`` with the new
    trial and by ``recall`` with each of the old ones.
    """

    remembers: int
    """How many environment steps of experience the agent may learn from, counted back from the
    newest; a constant, as an attribute of the class or of the object. Agents without this
    attribute, or with 0, remember nothing: then nothing is kept and ``recall`` is not needed.

    Trials are kept whole. After every update the trials kept are the fewest of the newest ones
    that together have at least this many steps, or all if there are not so many yet
    (:func:`metarl.experience.data.newest_trials` finds them). A step counts once for every task:
    ``n * tasks_per_update * shape.num_episodes * spec.horizon`` keeps at least n trials."""

    def recall(self, trials: list[Trial]) -> None:
        """Remember ``trials`` and nothing else.

        This is called after ``load_state`` when a run is resumed. ``trials`` are those that
        ``remembers`` asks for, oldest first, each as ``update`` got it, except that its tensors
        are on the CPU, its ``context`` is None and its ``seconds`` are empty. The list is empty
        if there was no update yet.
        """


def prescribed_episodes(spec: TaskSpec) -> int:
    """Return the episodes of a trial that the task distribution prescribes.

    Raises:
        UserError: if it prescribes none.
    """
    if spec.episodes_per_trial is None:
        raise UserError(
            "--episodes-per-trial: got None; accepted: a number of episodes, since the task "
            "distribution prescribes none"
        )
    return spec.episodes_per_trial


def remembered_steps(agent: object) -> int:
    """Return how many environment steps ``agent`` remembers, 0 for an agent that does not.

    Raises:
        UserError: if its attribute ``remembers`` is not a number of steps, or if it remembers
            and has no method ``recall``.
    """
    remembers = getattr(agent, "remembers", None)
    if remembers is None:
        return 0
    name = type(agent).__name__
    try:
        steps = operator.index(remembers)
    except TypeError:
        steps = -1
    if steps < 0:
        raise UserError(
            f"{name}.remembers: got {remembers!r}; accepted: a number of environment steps, 0 or "
            f"more"
        )
    if steps and not callable(getattr(agent, "recall", None)):
        raise UserError(
            f"{name} remembers {steps} environment steps but has no method recall(trials), which "
            f"takes them back when a run is resumed"
        )
    return steps


def tell_tasks(adapter: Adapter, context: Context, tasks: Sequence[Task]) -> Context:
    """Return the context after an oracle has been told its tasks; others know nothing more."""
    reveal = getattr(adapter, "reveal", None)
    return context if reveal is None else reveal(context, tasks)


def require_spaces(
    agent: object, observation_space: gym.Space[Any], action_space: gym.Space[Any], what: str
) -> None:
    """Refuse spaces that are not those ``agent`` was made for.

    Args:
        agent: an adapter. If it has no attribute ``spec``, nothing is compared.
        observation_space: the observation space of the environments it is to act in; Dict and
            Tuple spaces are compared flattened, as slots report them.
        action_space: the action space of the same environments.
        what: where the spaces come from, for the message.

    Raises:
        UserError: if the spaces differ; the message names both.
    """
    spec: TaskSpec | None = getattr(agent, "spec", None)
    if spec is None:
        return
    for kind, own, space in (
        ("observation", reported_space(spec.observation_space), reported_space(observation_space)),
        ("action", spec.action_space, action_space),
    ):
        if space != own:
            got, accepted = (" ".join(str(s).split()) for s in (space, own))  # arrays have lines
            raise UserError(f"{what}: got {kind} space {got}; accepted: the agent's, {accepted}")
