"""Stable-Baselines3's PPO, trained on each task by itself, as an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from stable_baselines3 import PPO
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metarl.experience.agent import TaskSpec, TrialShape
from metarl.experience.data import Context, Episodes, Record, Timestep
from metarl.learning.distributions import Categorical, Gaussian, choose
from metarl.learning.networks import Params
from metarl.sb3.models import Transitions, fill_rollouts, train
from metarl.seeding import LaneGenerator, derive
from metarl.tasks.distribution import TaskDistribution


class Tuned(NamedTuple):
    """A context: each task's own policy and critic, and the state of its optimiser."""

    params: Params
    """The model's parameters by name, ``[task, …]`` each."""
    moments: Params
    """Adam's state as ``<parameter>/<moment>``, ``[task, …]`` each."""
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
    """

    def __init__(
        self, tasks: TaskDistribution, shape: TrialShape, model: PPO, seed: int, device: str
    ) -> None:
        self.spec, self.shape, self.device = TaskSpec.of(tasks), shape, torch.device(device)
        self.model, self._seed = model, seed
        self._logits = _Logits(model.policy)
        self._initial = {name: x.detach().clone() for name, x in self._named().items()}

    tasks_at_once = 10

    def begin(self, num_tasks: int) -> Context:
        """Return the initial parameters and an optimiser without a past for every task."""
        rows = torch.zeros(num_tasks, device=self.device)
        params = {name: x.expand(num_tasks, *x.shape) for name, x in self._initial.items()}
        moments = {f"{name}/step": rows for name in params}
        for moment in ("exp_avg", "exp_avg_sq"):
            moments |= {f"{name}/{moment}": torch.zeros_like(x) for name, x in params.items()}
        return Tuned(params, moments, rows.long())

    @torch.no_grad()
    def act(
        self, context: Context, timestep: Timestep, generator: LaneGenerator, greedy: bool = False
    ) -> tuple[Tensor, Record, Context]:
        """Act by each task's own policy."""
        named = {f"policy.{name}": x for name, x in context.params.items()}

        def own(params: Params, observation: Tensor) -> Tensor:
            result: Tensor = functional_call(self._logits, params, (observation,))
            return result

        output = vmap(own)(named, timestep.observation.to(self.device))
        if "log_std" not in context.params:
            return choose(Categorical(output.log_softmax(-1)), generator, greedy), {}, context
        log_std = context.params["log_std"].unsqueeze(1).expand_as(output)
        return choose(Gaussian(output, log_std), generator, greedy), {}, context

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
            fill_rollouts(self.model, Transitions.of([one], torch.zeros(1, 0)))
            train(self.model, seed)
            tuned.append(self._saved())
        params, moments = (
            {name: torch.stack([one[k][name] for one in tuned]) for name in tuned[0][k]}
            for k in (0, 1)
        )
        return Tuned(params, moments, context.num_rounds + 1)

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

    def _saved(self) -> tuple[Params, Params]:
        """Return copies of the model's parameters and optimiser state."""
        state = self.model.policy.optimizer.state
        params = {name: x.detach().clone() for name, x in self._named().items()}
        moments = {
            f"{name}/{moment}": value.clone()
            for name, x in self._named().items()
            for moment, value in state[x].items()
        }
        return params, moments


_TENSORS = [x for x in Episodes._fields if x not in ("record", "metrics", "info")]


class _Logits(nn.Module):
    """The policy's part of a model: from observations to means, or to logits."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Tensor:
        """Return means or logits, ``[step, number]``."""
        features = self.policy.pi_features_extractor(observation)
        output: Tensor = self.policy.action_net(self.policy.mlp_extractor.forward_actor(features))
        return output


def rounds_of(shape: TrialShape) -> TrialShape:
    """Return the same number of episodes in rounds between which PPO can run.

    An agent that learns while it acts has one long round, which becomes one of each episode.
    """
    if shape.learns_while_acting:
        return TrialShape(1, shape.num_episodes - 1, sequential=False)
    return replace(shape, sequential=False)
