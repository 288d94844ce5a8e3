"""Stable-Baselines3's PPO over a task distribution: one policy for all tasks, which does not adapt.

It is what meta-learning is compared with. With ``observe_task`` the policy sees the parameters of
its task: an upper line for agents that must find them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metarl.constraints import AtLeast, Between, NotNegative, Positive, validate
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Metrics, Record, Timestep, Trial
from metarl.experience.traits import kind_of, number_for
from metarl.learning.distributions import choose, log_prob
from metarl.learning.encoders import vector_normalizer
from metarl.learning.networks import PolicyNetwork
from metarl.learning.state import Saved
from metarl.sb3.models import (
    Transitions,
    distribution_of,
    fill_rollouts,
    make_ppo,
    network_of,
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
class PPOMultitaskConfig:
    """Hyper-parameters of PPO on many tasks; defaults without a remark are Stable-Baselines3's."""

    tasks_per_update: Annotated[int, AtLeast(1)] = 20
    """Number of tasks that an update's experience is of."""
    episodes_per_task: Annotated[int, AtLeast(1)] = 20
    """Number of episodes with each task in an update."""
    observe_task: bool = False
    """Append the numbers of the task's parameters to the observations: an oracle, which tables and
    pictures mark."""
    hidden_sizes: tuple[Annotated[int, AtLeast(1)], ...] = (64, 64)
    """Sizes of the hidden layers of the policy, and of those of the critic."""
    activation: Literal["relu", "tanh"] = "tanh"
    """Activation function of the hidden layers."""
    normalize_observations: bool = False
    """Normalise observations by the mean and variance of all training steps so far."""
    initial_std: Annotated[float, Positive] = 1.0
    """Initial standard deviation of continuous actions."""
    learning_rate: Annotated[float, Positive, Tuned(1e-5, 1e-2, log=True)] = 3e-4
    """Adam's learning rate on the policy and the critic."""
    num_epochs: Annotated[int, AtLeast(1), Tuned(3, 20)] = 10
    """Number of passes over the experience of an update."""
    batch_size: Annotated[int, AtLeast(2), Tuned(64, 4096, log=True)] = 1000
    """Number of steps in a minibatch (64 in Stable-Baselines3, for smaller updates)."""
    discount: Annotated[float, Between(0, 1)] = 0.99
    """Discount factor (gamma) per step of an episode."""
    gae_lambda: Annotated[float, Between(0, 1), Tuned(0.8, 1.0)] = 0.95
    """GAE lambda of the advantage estimates."""
    clip: Annotated[float, Positive, Tuned(0.1, 0.4)] = 0.2
    """Bound on the change of the probability ratio between the new and the old policy."""
    entropy_coefficient: Annotated[float, NotNegative, Tuned(1e-4, 0.1, log=True)] = 0.0
    """Weight of the entropy bonus."""
    value_coefficient: Annotated[float, NotNegative] = 0.5
    """Weight of the value loss beside the policy loss."""
    max_gradient_norm: Annotated[float, Positive] = 0.5
    """Norm that larger gradients are scaled down to."""
    target_kl: Annotated[float, Positive] | None = None
    """KL divergence from the old policy at which an update stops early; `None` never stops it."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        validate(self)

    @classmethod
    def for_tasks(cls, spec: TaskSpec) -> PPOMultitaskConfig:
        """Return settings to start with: as many steps an update as those of maml-ppo."""
        episodes = 400 if spec.horizon == 1 else number_for(8000, spec.horizon, low=20, high=40)
        return cls(
            episodes_per_task=episodes,
            normalize_observations=kind_of(spec) == "vectors",
            learning_rate=1e-3,
        )


class PPOMultitask:
    """Trains one policy on all tasks; a context holds only what it has been told of a task."""

    Config = PPOMultitaskConfig

    def __init__(
        self, config: PPOMultitaskConfig, spec: TaskSpec, *, seed: int = 0, device: str = "cpu"
    ) -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(config.episodes_per_task, sequential=False)
        self.told = told_numbers(config.observe_task, spec)
        size = observation_size(spec.observation_space) + self.told
        self.normalizer = vector_normalizer(spec, self.told)
        codec = ActionCodec(spec.action_space)
        self.model = make_ppo(
            size,
            codec,
            self.normalizer,
            seed=seed,
            device=self.device,
            hidden_sizes=config.hidden_sizes,
            activation=config.activation,
            initial_std=config.initial_std,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            n_epochs=config.num_epochs,
            gamma=config.discount,
            gae_lambda=config.gae_lambda,
            clip_range=config.clip,
            ent_coef=config.entropy_coefficient,
            vf_coef=config.value_coefficient,
            max_grad_norm=config.max_gradient_norm,
            target_kl=config.target_kl,
        )
        self.policy = self.model.policy
        self.saved = Saved({"policy": self.policy}, optimizers={"adam": self.policy.optimizer})
        self.num_steps = 0
        """The number of environment steps that the agent has been trained on."""
        if config.observe_task:
            self.reveal = self._reveal  # Having this method marks an oracle.
        else:
            self.network = self._network  # Having this method makes it fit for metarl.sb3.export.

    def begin(self, num_tasks: int) -> Context:
        """Return no knowledge: ``[task, number]``, filled by ``reveal`` if tasks are observed."""
        return torch.zeros(num_tasks, self.told, device=self.device)

    def _reveal(self, context: Context, tasks: Sequence[Task]) -> Context:
        return torch.from_numpy(numbers_of(tasks)).to(context)

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act by the policy, which is the same for all tasks."""
        seen = with_told(timestep.observation.to(self.device), context)
        distribution = distribution_of(self.policy, seen)
        action = choose(distribution, generator, greedy)
        return action, {"log_prob": log_prob(distribution, action)}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return ``context`` unchanged: the agent does not adapt."""
        return context

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Run Stable-Baselines3's PPO on all episodes of the trial."""
        trial = trial.to(self.device)
        steps = Transitions.of(trial.rounds, trial.context)
        fill_rollouts(self.model, steps)
        self.num_steps += trial.env_steps
        metrics = train(self.model, int(torch.randint(2**31, (), generator=generator)))
        if self.config.normalize_observations:
            # Last, because the policy acted with the old moments.
            self.normalizer.track(steps.observation[steps.valid])
        return metrics

    def _network(self, context: Context) -> PolicyNetwork:
        """Return policy and critic, which are the same for all tasks."""
        return network_of(self.policy)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the policy, the critic, the moments of observations, Adam's state and a count."""
        return self.saved.tensors(), {"num_steps": self.num_steps}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.saved.load(tensors)
        self.num_steps = int(extra["num_steps"])
