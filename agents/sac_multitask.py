"""Stable-Baselines3's SAC over a task distribution: one policy for all tasks, off-policy.

Soft actor-critic (Haarnoja et al., 2018, 1812.05905) learns from a replay buffer, in far fewer
environment steps than PPO. It does not adapt; with ``observe_task`` it is an upper line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import gymnasium as gym
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from torch import Tensor

from metarl.constraints import AtLeast, Between, NotNegative, Positive, validate
from metarl.errors import UserError
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.learning.distributions import Gaussian, choose
from metarl.learning.encoders import vector_normalizer
from metarl.learning.state import Saved
from metarl.sb3.models import (
    Transitions,
    fill_replay,
    make_model,
    told_numbers,
    train,
    with_told,
)
from metarl.search import Tuned
from metarl.seeding import LaneGenerator
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import observation_size
from metarl.task import Task, numbers_of


@dataclass(frozen=True)
class SACMultitaskConfig:
    """Hyper-parameters of SAC on many tasks; defaults without a remark are Stable-Baselines3's."""

    tasks_per_update: Annotated[int, AtLeast(1)] = 10
    """Number of tasks that an update's new experience is of."""
    episodes_per_task: Annotated[int, AtLeast(1)] = 1
    """Number of episodes with each task in an update."""
    observe_task: bool = False
    """Append the numbers of the task's parameters to the observations: an oracle, which tables and
    pictures mark."""
    hidden_sizes: tuple[Annotated[int, AtLeast(1)], ...] = (256, 256)
    """Sizes of the hidden layers of the policy, and of those of each critic."""
    normalize_observations: bool = False
    """Normalise observations by the mean and variance of all training steps so far."""
    learning_rate: Annotated[float, Positive, Tuned(1e-5, 3e-3, log=True)] = 3e-4
    """Adam's learning rate on the policy, the critics and the entropy coefficient."""
    buffer_size: Annotated[int, AtLeast(1)] = 1_000_000
    """Number of environment steps that the replay buffer holds."""
    learning_starts: Annotated[int, AtLeast(0)] = 1000
    """Number of environment steps with random actions before the first update (100 in
    Stable-Baselines3, which has one task)."""
    gradient_steps: Annotated[float, Positive, Tuned(0.1, 2.0, log=True)] = 1.0
    """Number of gradient steps for each new environment step."""
    batch_size: Annotated[int, AtLeast(1), Tuned(64, 1024, log=True)] = 256
    """Number of steps in a minibatch."""
    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor (gamma) per step of an episode."""
    target_rate: Annotated[float, Between(0, 1), Tuned(1e-3, 0.05, log=True)] = 0.005
    """Rate (tau) at which the target critics follow the critics."""
    target_entropy: float | None = None
    """Entropy that the entropy coefficient aims at (default: minus the number of action
    dimensions)."""
    initial_entropy_coefficient: Annotated[float, NotNegative] = 1.0
    """Entropy coefficient at the beginning."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)


class SACMultitask:
    """Trains one policy on all tasks; a context holds only what it has been told of a task."""

    Config = SACMultitaskConfig

    def __init__(
        self, config: SACMultitaskConfig, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        codec, actions = ActionCodec(spec.action_space), spec.action_space
        if not isinstance(actions, gym.spaces.Box) or not actions.is_bounded():
            raise UserError(f"sac-multitask: got {actions}; accepted: a bounded Box of actions")
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(config.episodes_per_task, sequential=False)
        self.remembers = config.buffer_size
        self.told = told_numbers(config.observe_task, spec)
        size = observation_size(spec.observation_space) + self.told
        self.normalizer = vector_normalizer(spec, self.told)
        self.model = model = make_model(
            SAC,
            size,
            codec,
            self.normalizer,
            seed=seed,
            device=self.device,
            policy={"net_arch": list(config.hidden_sizes)},
            learning_rate=config.learning_rate,
            buffer_size=config.buffer_size,
            gamma=config.discount,
            tau=config.target_rate,
            target_entropy="auto" if config.target_entropy is None else config.target_entropy,
            ent_coef=f"auto_{config.initial_entropy_coefficient}",
        )
        assert model.log_ent_coef is not None and model.ent_coef_optimizer is not None
        self.buffer = cast(ReplayBuffer, model.replay_buffer)
        self.num_steps = 0
        """The number of environment steps that the agent has been trained on."""
        optimizers = {
            "actor_adam": model.actor.optimizer,
            "critic_adam": model.critic.optimizer,
            "entropy_adam": model.ent_coef_optimizer,
        }
        coefficient = {"entropy": {"log_coefficient": model.log_ent_coef}}
        self.saved = Saved({"policy": model.policy}, coefficient, optimizers)
        if config.observe_task:
            self.reveal = self._reveal  # Having this method marks an oracle.

    def begin(self, num_tasks: int) -> Context:
        """Return no knowledge: ``[task, number]``, filled by ``reveal`` if tasks are observed."""
        return torch.zeros(num_tasks, self.told, device=self.device)

    def _reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        return torch.from_numpy(numbers_of(tasks)).to(context)

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act by the policy, or at random before learning starts."""
        seen = with_told(timestep.observation.to(self.device), context)
        mean, log_std, _ = self.model.actor.get_action_dist_params(seen.flatten(0, 1))
        shape = (*seen.shape[:2], -1)
        drawn = choose(Gaussian(mean.reshape(shape), log_std.reshape(shape)), generator, greedy)
        action = torch.tanh(drawn)
        if self.num_steps < self.config.learning_starts and not greedy:
            action = torch.from_numpy(2 * generator.uniform(action.shape[-1]) - 1).to(action)
        return action, {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return ``context`` unchanged: the agent does not adapt."""
        return context

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Put the trial into the replay buffer, and take gradient steps on what it holds."""
        steps = self.remember(trial)
        new = int(steps.valid.sum())
        self.num_steps += new
        metrics: Metrics = {}
        if self.num_steps >= self.config.learning_starts:
            metrics = train(
                self.model,
                int(torch.randint(2**31, (), generator=generator)),
                gradient_steps=max(1, round(self.config.gradient_steps * new)),
                batch_size=self.config.batch_size,
            )
        if self.config.normalize_observations:
            self.normalizer.track(steps.observation[steps.valid])
        return {**metrics, "buffer_steps": float(self.buffer.size())}

    def remember(self, trial: Trial) -> Transitions:
        """Put a trial into the replay buffer, and return its steps."""
        told = trial.context
        if told is None:  # A trial that is recalled comes without the context.
            told = (
                self._reveal(self.begin(0), trial.tasks)
                if self.told
                else self.begin(len(trial.tasks))
            )
        steps = Transitions.of(trial.to(self.device).rounds, told.to(self.device))
        fill_replay(self.buffer, steps)
        return steps

    def recall(self, trials: list[Trial]) -> None:
        """Fill the replay buffer with ``trials`` so that it ends where it ended before."""
        size = self.buffer.buffer_size
        steps = sum(trial.env_steps for trial in trials)
        self.buffer.pos = (self.num_steps - steps) % size
        self.buffer.full = False
        for trial in trials:
            self.remember(trial)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return networks, entropy coefficient, moments of observations and Adam's states."""
        return self.saved.tensors(), {"num_steps": self.num_steps}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.saved.load(tensors)
        self.num_steps = int(extra["num_steps"])
