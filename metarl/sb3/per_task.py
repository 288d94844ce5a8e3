"""Stable-Baselines3's PPO, trained on each task by itself, as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from stable_baselines3 import PPO
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarl.errors import bad_option
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.learning.distributions import action_distribution, choose
from metarl.learning.networks import Params
from metarl.sb3.models import Normalized, Transitions, fill_rollouts, train
from metarl.seeding import LaneGenerator, derive
from metarl.stepping.actions import ActionCodec
from metarl.tasks.distribution import TaskDistribution


class Tuned(NamedTuple):
    """A context: each task's own policy and critic, and the state of its optimiser."""

    params: Params
    """The model's parameters by name, ``[task, …]`` each."""
    moments: Params
    """Adam's state as ``<parameter>/<moment>``, ``[task, …]`` each."""
    scaling: Params
    """The moments by which each task's observations are normalised, ``[task, …]`` each."""
    num_rounds: Int[Tensor, " task"]
    """The number of rounds that have been trained on."""


class PPOPerTask:
    """Runs PPO on every round of every task, from the parameters that a model has at first.

    It gets the experience of a task round by round, as an agent that adapts by gradient steps
    does. A task costs about a third of a second a round.

    Args:
        tasks: the tasks.
        shape: the trials; between two rounds PPO runs on the first of them.
        model: the model, whose parameters all tasks begin with.
        seed: the seed of the order of minibatches, which is the same for all tasks.
        device: where the tensors live.
        normalize_observations: whether each task's observations are normalised by the mean and
            variance of its own rounds so far; otherwise they are as the model has them.
    """

    tasks_at_once = 10

    def __init__(
        self,
        tasks: TaskDistribution,
        shape: TrialShape,
        model: PPO,
        seed: int,
        device: str,
        *,
        normalize_observations: bool = False,
    ) -> None:
        self.spec, self.shape, self.device = TaskSpec.of(tasks), shape, torch.device(device)
        self.model, self._seed, self._codec = model, seed, ActionCodec(tasks.action_space)
        self._logits = _Logits(model.policy)
        assert isinstance(model.policy.features_extractor, Normalized)
        self._normalizer = model.policy.features_extractor.normalizer
        self._tracks = normalize_observations
        self._initial = {name: x.detach().clone() for name, x in self._named().items()}
        self._scaling = {name: x.clone() for name, x in self._normalizer.named_buffers()}

    def begin(self, num_tasks: int) -> Context:
        """Return the initial parameters and an optimiser without a past for every task."""
        rows = torch.zeros(num_tasks, device=self.device)
        params = {name: x.expand(num_tasks, *x.shape) for name, x in self._initial.items()}
        moments = {f"{name}/step": rows for name in params}
        for moment in ("exp_avg", "exp_avg_sq"):
            moments |= {f"{name}/{moment}": torch.zeros_like(x) for name, x in params.items()}
        scaling = {name: x.expand(num_tasks, *x.shape) for name, x in self._scaling.items()}
        return Tuned(params, moments, scaling, rows.long())

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act by each task's own policy."""
        named = {f"policy.{name}": x for name, x in context.params.items()}

        def own(params: Params, features: Tensor) -> Tensor:
            result: Tensor = functional_call(self._logits, params, (features,))
            return result

        output = vmap(own)(named, self._features(context, timestep.observation.to(self.device)))
        log_std = context.params.get("log_std")
        if log_std is not None:
            log_std = log_std.unsqueeze(1).expand_as(output)
        distribution = action_distribution(output, log_std, self._codec)
        return choose(distribution, generator, greedy), {}, context

    def adapt(self, context: Context, episodes: Episodes, generator: torch.Generator) -> Context:
        """Run PPO on the round, task by task; the order of minibatches is the same for all."""
        episodes = episodes.to(self.device)
        seed = int(derive(self._seed, int(context.num_rounds[0]))) % 2**63
        tuned = []
        for i in range(len(episodes.valid)):
            self._load(context, i)
            one = episodes._replace(
                **{name: getattr(episodes, name)[i : i + 1] for name in _TENSORS},
                record={},
                metrics={},
                info={},
            )
            fill_rollouts(self.model, Transitions.of([one], torch.zeros(1, 0, device=self.device)))
            train(self.model, seed)
            if self._tracks:  # Last, because the policy acted with the old moments.
                self._normalizer.track(one.observation[one.valid])
            tuned.append(self._saved())
        params, moments, scaling = (
            {name: torch.stack([one[k][name] for one in tuned]) for name in tuned[0][k]}
            for k in (0, 1, 2)
        )
        return Tuned(params, moments, scaling, context.num_rounds + 1)

    def _features(
        self, context: Tuned, observation: Float[Tensor, "task lane observation"]
    ) -> Float[Tensor, "task lane observation"]:
        """Return the observations as each task's model sees them."""
        if not self._tracks:
            scaled: Tensor = self._normalizer(observation)
            return scaled
        rows = []
        for i in range(len(observation)):
            self._load_scaling(context, i)
            rows.append(self._normalizer(observation[i]))
        return torch.stack(rows)

    def _named(self) -> Mapping[str, nn.Parameter]:
        return dict(self.model.policy.named_parameters())

    @torch.no_grad()
    def _load(self, context: Tuned, row: int) -> None:
        """Put one task's parameters and optimiser state into the model."""
        state = self.model.policy.optimizer.state
        for name, x in self._named().items():
            x.copy_(context.params[name][row])
            state[x] = {
                moment: context.moments[f"{name}/{moment}"][row].clone()
                for moment in ("step", "exp_avg", "exp_avg_sq")
            }
        self._load_scaling(context, row)

    def _load_scaling(self, context: Tuned, row: int) -> None:
        """Put one task's moments of observations into the model."""
        for name, x in self._normalizer.named_buffers():
            x.copy_(context.scaling[name][row])
        self._normalizer.refresh()

    def _saved(self) -> tuple[Params, Params, Params]:
        """Return copies of the model's parameters, optimiser state and moments of observations."""
        state = self.model.policy.optimizer.state
        params = {name: x.detach().clone() for name, x in self._named().items()}
        moments = {
            f"{name}/{moment}": value.clone()
            for name, x in self._named().items()
            for moment, value in state[x].items()
        }
        return params, moments, {name: x.clone() for name, x in self._normalizer.named_buffers()}


_TENSORS = [x for x in Episodes._fields if x not in ("record", "metrics", "info")]


class _Logits(nn.Module):
    """The policy's part of a model: from scaled observations to means, or to logits."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, features: Tensor) -> Tensor:
        """Return means or logits, ``[step, number]``."""
        output: Tensor = self.policy.action_net(self.policy.mlp_extractor.forward_actor(features))
        return output


def rounds_of(shape: TrialShape, episodes_per_round: int = 0) -> TrialShape:
    """Return the same number of episodes in rounds between which PPO can run.

    Args:
        shape: the trials of the agent that it is compared with.
        episodes_per_round: the episodes of a round; 0 keeps those of ``shape``, of which an agent
            that learns while it acts has one long round: it becomes one of each episode.

    Raises:
        UserError: if the trial cannot be divided into such rounds.
    """
    each, total = episodes_per_round or shape.stride, shape.num_episodes
    if each < 0 or total % each:
        accepted = f"a divisor of the {total} episodes of a trial, or 0 for {shape.stride}"
        raise bad_option("--baselines: episodes_per_round", each, accepted)
    return TrialShape(each, total // each - 1, sequential=False)
