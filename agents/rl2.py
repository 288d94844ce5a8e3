"""RL²: a recurrent policy whose hidden state is the learner (Duan et al., 2016, 1611.02779).

A GRU sees (observation, previous action, previous reward, boundary) and keeps its state
through all episodes of a trial; PPO (Schulman et al., 2017, 1707.06347) trains it on the
return of the whole trial. Adapting to a task is nothing but acting in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from metarl.errors import DivergenceError, require
from metarl.experience.agent import TaskSpec, TrialShape, prescribed_episodes
from metarl.experience.data import (
    Context,
    Episodes,
    Metrics,
    Record,
    Stream,
    Timestep,
    Trial,
    require_finite,
)
from metarl.learning import distributions
from metarl.learning.cores import ActorCriticOutput, RecurrentActorCritic
from metarl.learning.losses import approximate_kl, clip_fraction, clipped_surrogate, value_loss
from metarl.learning.normalization import ObservationScaler
from metarl.learning.returns import (
    discounted_returns,
    explained_variance,
    gae,
    linear_baseline,
    masked_mean,
    normalize,
)
from metarl.learning.state import load_module, load_optimizer, module_tensors, optimizer_tensors
from metarl.seeding import LaneGenerator
from metarl.stepping.spaces import ActionCodec, observation_size
from metarl.task import Task


@dataclass(frozen=True)
class RL2Config:
    """Hyper-parameters of RL²; the defaults are for Bernoulli bandits."""

    tasks_per_update: int = 1000
    """Trials gathered for one update, each with a task of its own."""
    episodes_per_trial: int | None = None
    """Episodes of a trial; by default what the task distribution prescribes."""
    hidden_size: int = 64
    """Units of the GRU."""
    encoder_sizes: tuple[int, ...] = ()
    """Tanh layers before the GRU."""
    memory_size: int = 0
    """Width of fast weights beside the GRU (Schlag et al., 2021, 2102.11174): they hold many
    associations, such as the reward of every state and action, which a GRU hardly learns to; 0:
    none, as in the paper. What they hold grows with the steps of a trial."""
    head_sizes: tuple[int, ...] = ()
    """Tanh layers between the GRU, with the observation beside it, and policy and value."""
    normalize_observations: bool = False
    """Show the policy observations minus their mean, over their standard deviation, of all steps
    trained on so far."""
    observed_reward_scale: float = 1.0
    """Factor on the reward the policy sees; the reward it is trained on is not scaled."""
    discount: float = 0.99
    """Gamma, per step, across the episodes of a trial."""
    gae_lambda: float = 0.6
    """Lambda of the advantage estimates, across the episodes of a trial."""
    value_lambda: float | None = None
    """Lambda of the critic's targets; by default that of the advantages. A small one there (less
    variance) makes the critic learn from little but itself, for tens of updates."""
    baseline: Literal["critic", "linear"] = "critic"
    """What advantages are measured from: the network's critic, or a linear function of observation
    and time, fitted to each task's trial (Meta-World's RL²); the critic then learns nothing."""
    learning_rate: float = 3e-3
    """Of Adam."""
    final_learning_rate: float = 1e-4
    """Reached linearly at the end of the schedule."""
    num_epochs: int = 4
    """Passes over an update's trials."""
    num_minibatches: int = 8
    """Parts of an epoch; a part is made of whole trials, or of chunks of them."""
    chunk_length: int | None = None
    """Steps that gradients flow back through; by default the whole trial."""
    clip: float = 0.2
    """Bound on the change of the probability ratio."""
    entropy_coefficient: float = 0.02
    """Weight of the entropy bonus at the start."""
    final_entropy_coefficient: float = 0.0
    """Reached linearly at the end of the schedule."""
    value_coefficient: float = 0.5
    """Weight of the value loss."""
    max_gradient_norm: float = 0.5
    """Gradients are scaled down to this norm."""
    target_kl: float | None = 0.03
    """Stop an update's epochs once the policy has moved further than this."""
    initial_std: float = 1.0
    """Standard deviation of continuous actions at the start."""
    min_std: float = 0.1
    """Its floor: without one, exploration dies before adaptation is learned."""
    max_std: float | None = None
    """Given one, the state decides on the standard deviation, between the floor and this; by
    default one is learned for all states."""

    def __post_init__(self) -> None:
        """Refuse values that cannot train."""
        for name in ("tasks_per_update", "hidden_size", "num_epochs"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("episodes_per_trial", "chunk_length"):
            value = getattr(self, name)
            require(self, name, value is None or value >= 1, "at least 1")
        for name in ("encoder_sizes", "head_sizes"):
            require(self, name, all(n >= 1 for n in getattr(self, name)), "at least 1 each")
        require(self, "memory_size", self.memory_size >= 0, "0 or more")
        for name in ("discount", "gae_lambda", "value_lambda"):
            value = getattr(self, name)
            require(self, name, value is None or 0 <= value <= 1, "0 to 1")
        for name in ("learning_rate", "clip", "max_gradient_norm", "initial_std", "min_std"):
            require(self, name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in (
            "final_learning_rate",
            "entropy_coefficient",
            "final_entropy_coefficient",
            "value_coefficient",
        ):
            require(self, name, 0 <= getattr(self, name) < math.inf, "0 or more")
        require(
            self,
            "max_std",
            self.max_std is None or self.min_std < self.max_std < math.inf,
            f"above min-std ({self.min_std})",
        )
        require(self, "target_kl", self.target_kl is None or self.target_kl > 0, "above 0")
        require(
            self,
            "num_minibatches",
            1 <= self.num_minibatches <= self.tasks_per_update,
            f"1 to tasks-per-update ({self.tasks_per_update})",
        )


class _Batch(NamedTuple):
    """Sequences for the update: whole trials or chunks, rows first."""

    inputs: Float[Tensor, "row time input"]
    observation: Float[Tensor, "row time observation"]
    state: Float[Tensor, "row state"]
    action: Shaped[Tensor, "row time *action"]
    log_prob: Float[Tensor, "row time"]
    advantage: Float[Tensor, "row time"]
    target: Float[Tensor, "row time"]
    valid: Bool[Tensor, "row time"]
    task: Int[Tensor, " row"]
    """Which of the trial's, for what is said of a divergence."""


class RL2:
    """Meta-learns a recurrent policy; knows a task by the hidden state it reaches there."""

    Config = RL2Config

    def __init__(
        self,
        config: RL2Config,
        spec: TaskSpec,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.config = config
        self.spec = spec
        self.device = torch.device(device)
        self.tasks_per_update = config.tasks_per_update
        self.shape = TrialShape(config.episodes_per_trial or prescribed_episodes(spec))
        self.codec = ActionCodec(spec.action_space)
        size = observation_size(spec.observation_space)
        self.network = RecurrentActorCritic(
            size,
            size + self.codec.size + 2,
            self.codec,
            encoder_sizes=config.encoder_sizes,
            head_sizes=config.head_sizes,
            hidden_size=config.hidden_size,
            memory_size=config.memory_size,
            initial_std=config.initial_std,
            min_std=config.min_std,
            max_std=config.max_std,
            critic=config.baseline == "critic",
            generator=torch.Generator().manual_seed(seed),
        ).to(self.device)
        self.scaler = ObservationScaler(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate, eps=1e-5)
        self.num_updates = 0
        # Mean and second moment of the value targets: the critic predicts standardised ones,
        # so that one value-loss weight serves returns of any size.
        self.target_mean = torch.zeros((), device=self.device)
        self.target_square = torch.ones((), device=self.device)

    def begin(self, num_tasks: int) -> Context:
        """Return zero states ``[task, lane=1, state]``."""
        return torch.zeros(num_tasks, 1, self.network.state_size, device=self.device)

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Take one step of the GRU; rows that are not active keep their state.

        A task has one lane, whose one step is a sequence of length one to the network.
        """
        step = Timestep(*(x.to(self.device) for x in timestep))
        observation = self.scaler(step.observation)
        inputs = self._inputs(observation, step)
        output: ActorCriticOutput = self.network(inputs, observation, context.squeeze(1))
        if greedy:
            action = distributions.mode(output.distribution)
        else:
            action = distributions.sample(output.distribution, generator)
        record = output.distribution._asdict()
        if output.value is not None:
            record["value"] = self._unscaled(output.value)
        if self.config.chunk_length is not None:
            record["state"] = context
        after = torch.where(step.active.unsqueeze(-1), output.state.unsqueeze(1), context)
        return action, record, after

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Return ``context``: acting has already carried it on."""
        return context

    def update(self, trial: Trial, generator: torch.Generator, progress: float) -> Metrics:
        """Run PPO on whole trials, each one long episode that ends with its last step."""
        config = self.config
        entropy_coefficient = _between(
            config.entropy_coefficient, config.final_entropy_coefficient, progress
        )
        for group in self.optimizer.param_groups:
            group["lr"] = _between(config.learning_rate, config.final_learning_rate, progress)

        stream = _to(trial.stream(), self.device)
        valid = stream.valid
        value = self._values(stream)
        next_value = torch.cat([value[:, 1:] * valid[:, 1:], torch.zeros_like(value[:, :1])], 1)
        estimate = partial(
            gae,
            stream.reward,
            value,
            next_value,
            valid,
            torch.zeros_like(valid),
            discount=config.discount,
        )
        advantage = estimate(gae_lambda=config.gae_lambda)
        target = advantage + value
        if config.value_lambda is not None:
            target = estimate(gae_lambda=config.value_lambda) + value
        require_finite("an advantage", advantage, trial.tasks)
        require_finite("a value target", target, trial.tasks)
        self._track_targets(target[valid])
        batch = self._batch(stream, normalize(advantage, valid), self._scaled(target))

        totals: dict[str, list[Tensor]] = {}
        epochs = 0
        for _ in range(config.num_epochs):
            divergence = []
            for rows in self._minibatches(len(batch.valid), generator):
                metrics = self._step(_rows(batch, rows), entropy_coefficient, trial.tasks)
                divergence.append(metrics["kl"])
                for name, metric in metrics.items():
                    totals.setdefault(name, []).append(metric)
            epochs += 1
            if config.target_kl and float(torch.stack(divergence).mean()) > config.target_kl:
                break
        self.num_updates += 1
        if config.normalize_observations:  # not sooner: the policy acted by the moments before
            self.scaler.track(stream.observation[valid])
        return {name: float(torch.stack(values).mean()) for name, values in totals.items()} | {
            "explained_variance": float(explained_variance(value, target, valid)),
            "num_epochs": float(epochs),
            "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
            "entropy_coefficient": entropy_coefficient,
        }

    def _values(self, stream: Stream) -> Float[Tensor, "task time"]:
        """Return what the rewards still to come are expected to sum to."""
        if self.config.baseline == "critic":
            return stream.record["value"]
        target = discounted_returns(stream.reward, stream.valid, self.config.discount)
        observation, target, valid = (
            x.unsqueeze(1) for x in (stream.observation, target, stream.valid)
        )
        return linear_baseline(observation, target, valid).squeeze(1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return network, Adam, and moments of targets and observations; the updates as JSON."""
        tensors = module_tensors(self.network, "network")
        if self.config.normalize_observations:
            tensors |= module_tensors(self.scaler, "scaler")
        tensors |= optimizer_tensors(self.optimizer)
        tensors |= {"target_mean": self.target_mean, "target_square": self.target_square}
        return tensors, {"num_updates": self.num_updates}

    def load_state(self, tensors: dict[str, Tensor], extra: dict[str, Any]) -> None:
        """Take back what :meth:`state` returned."""
        load_module(self.network, "network", tensors)
        if self.config.normalize_observations:
            load_module(self.scaler, "scaler", tensors)
        load_optimizer(self.optimizer, tensors)
        self.target_mean = tensors["target_mean"].to(self.device)
        self.target_square = tensors["target_square"].to(self.device)
        self.num_updates = int(extra["num_updates"])

    def _inputs(
        self, observation: Tensor, seen: Timestep | Stream
    ) -> Float[Tensor, "row time input"]:
        """Join what the GRU sees (section 2.2); zeros stand for what came before a trial."""
        action = seen.previous_action
        if self.codec.discrete:  # whose zero is an action
            action = nn.functional.one_hot(action.long(), self.codec.size).to(observation.dtype)
            action = torch.where(seen.trial_start.unsqueeze(-1), 0.0, action)
        reward = self.config.observed_reward_scale * seen.previous_reward
        return torch.cat(
            [observation, action, reward.unsqueeze(-1), seen.boundary.unsqueeze(-1).float()], -1
        )

    def _batch(self, stream: Stream, advantage: Tensor, target: Tensor) -> _Batch:
        """Cut the trials into chunks that start from the state they were gathered with."""
        observation = self.scaler(stream.observation)
        inputs = self._inputs(observation, stream)
        acted = distributions.from_record(stream.record)
        tasks, time = stream.valid.shape
        length = self.config.chunk_length or time
        chunks = -(-time // length)

        def cut(x: Tensor) -> Tensor:
            missing = chunks * length - time
            if missing:
                x = torch.cat([x, x.new_zeros((tasks, missing, *x.shape[2:]))], 1)
            return x.reshape(tasks * chunks, length, *x.shape[2:])

        if self.config.chunk_length is None:
            state = inputs.new_zeros(tasks, self.network.state_size)
        else:
            state = cut(stream.record["state"])[:, 0]
        valid = cut(stream.valid)
        batch = _Batch(
            inputs=cut(inputs),
            observation=cut(observation),
            state=state,
            action=cut(stream.action),
            log_prob=cut(distributions.log_prob(acted, stream.action)),
            advantage=cut(advantage),
            target=cut(target),
            valid=valid,
            task=torch.arange(tasks, device=valid.device).repeat_interleave(chunks),
        )
        return _rows(batch, valid[:, 0].nonzero().squeeze(1))

    def _minibatches(self, rows: int, generator: torch.Generator) -> Iterator[Tensor]:
        order = torch.randperm(rows, generator=generator).to(self.device)
        yield from order.tensor_split(min(self.config.num_minibatches, rows))

    def _step(
        self, batch: _Batch, entropy_coefficient: float, tasks: Sequence[Task]
    ) -> dict[str, Tensor]:
        """Take one gradient step on a minibatch of these tasks' chunks."""
        config = self.config
        output: ActorCriticOutput = self.network(batch.inputs, batch.observation, batch.state)
        log_prob = distributions.log_prob(output.distribution, batch.action)
        policy_loss = clipped_surrogate(
            log_prob, batch.log_prob, batch.advantage, batch.valid, config.clip
        )
        entropy = masked_mean(distributions.entropy(output.distribution), batch.valid)
        loss = policy_loss - entropy_coefficient * entropy
        metrics = {"policy_loss": policy_loss, "entropy": entropy}
        if output.value is not None:
            metrics["value_loss"] = value_loss(output.value, batch.target, batch.valid)
            loss = loss + config.value_coefficient * metrics["value_loss"]
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's is untyped
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), config.max_gradient_norm)
        if not (loss + norm).isfinite():
            own = [tasks[i] for i in batch.task.tolist()]
            for where, values in (
                ("a log-probability in the update", log_prob),
                ("a value in the update", output.value),
            ):
                if values is not None:
                    require_finite(where, values.masked_fill(~batch.valid, 0.0), own)
            raise DivergenceError("the loss" if norm.isfinite() else "the gradient")
        self.optimizer.step()
        with torch.no_grad():
            return {name: metric.detach() for name, metric in metrics.items()} | {
                "kl": approximate_kl(log_prob, batch.log_prob, batch.valid),
                "clip_fraction": clip_fraction(log_prob, batch.log_prob, batch.valid, config.clip),
                "gradient_norm": norm.detach(),
            }

    def _track_targets(self, target: Tensor) -> None:
        """Follow the moments of the value targets, weighting recent updates more."""
        weight = 1 / min(self.num_updates + 1, 20)
        self.target_mean = torch.lerp(self.target_mean, target.mean(), weight)
        self.target_square = torch.lerp(self.target_square, target.square().mean(), weight)

    def _deviation(self) -> Tensor:
        return (self.target_square - self.target_mean.square()).clamp(min=1e-6).sqrt()

    def _scaled(self, target: Tensor) -> Tensor:
        return (target - self.target_mean) / self._deviation()

    def _unscaled(self, value: Tensor) -> Tensor:
        return value * self._deviation() + self.target_mean


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _to(stream: Stream, device: torch.device) -> Stream:
    return cast(Stream, pytree.tree_map(lambda x: x.to(device), stream))


def _rows(batch: _Batch, rows: Tensor) -> _Batch:
    return _Batch(*(x[rows] for x in batch))
