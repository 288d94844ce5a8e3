"""Stable-Baselines3's PPO fine-tunes the policy of a multi-task run on each held-out task."""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3 import PPO

import metarl
from metarl.errors import UserError, bad_option
from metarl.experience.agent import TaskSpec, TrialShape, require_spaces
from metarl.learning.encoders import vector_normalizer
from metarl.sb3.models import make_ppo
from metarl.sb3.per_task import PPOPerTask, rounds_of
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import observation_size
from metarl.tasks.distribution import TaskDistribution


class PPOFinetune(PPOPerTask):
    """Fine-tunes the policy of a ``ppo-multitask`` run on each task.

    Args:
        tasks: the tasks.
        shape: the trials that it is compared in.
        seed: the seed of the order of minibatches.
        device: where the tensors live.
        run: directory of the run whose policy it starts from.
        episodes_per_round: the number of episodes between two updates; 0 stands for that of the
            agent it is compared with, and for one where that agent learns while it acts.
        learning_rate: Adam's learning rate.
        num_epochs: the number of passes over a round.
        batch_size: the number of steps in a minibatch.
        initial_std: the standard deviation that continuous actions have at first, since a policy
            that is trained to the end hardly explores; 0 keeps that of the run.
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        shape: TrialShape,
        *,
        seed: int = 0,
        device: str = "cpu",
        run: str = "",
        episodes_per_round: int = 0,
        learning_rate: float = 3e-4,
        num_epochs: int = 10,
        batch_size: int = 64,
        initial_std: float = 0.0,
    ) -> None:
        if not run:
            raise UserError(
                "--baselines: ppo-finetune: got no run; accepted: ppo-finetune:run=DIRECTORY of a "
                "ppo-multitask run"
            )
        trained: Any = metarl.load(run, device=device)  # as a user would load it
        name = f"--baselines: ppo-finetune: {run}"
        base = getattr(trained, "model", None)
        if not isinstance(base, PPO) or trained.config.observe_task:
            got = "one of " + type(trained).__name__ if not isinstance(base, PPO) else "an oracle"
            accepted = "a run of ppo-multitask without --observe-task"
            raise UserError(f"{name}: got {got}; accepted: {accepted}")
        require_spaces(trained, tasks.observation_space, tasks.action_space, name)
        size, codec = observation_size(tasks.observation_space), ActionCodec(tasks.action_space)
        model = make_ppo(
            size,
            codec,
            vector_normalizer(TaskSpec.of(tasks)),
            seed=seed,
            device=torch.device(device),
            hidden_sizes=trained.config.hidden_sizes,
            activation=trained.config.activation,
            initial_std=1.0,
            batch_size=batch_size,
            learning_rate=learning_rate,
            n_epochs=num_epochs,
            gamma=base.gamma,
            gae_lambda=base.gae_lambda,
            clip_range=trained.config.clip,
        )
        model.policy.load_state_dict(base.policy.state_dict())
        if initial_std:
            if initial_std < 0 or codec.discrete:
                accepted = "a positive number, for continuous actions, or 0"
                raise bad_option("--baselines: ppo-finetune: initial_std", initial_std, accepted)
            model.policy.log_std.data.fill_(math.log(initial_std))
        super().__init__(tasks, rounds_of(shape, episodes_per_round), model, seed, device)
        self.num_steps: int = trained.num_steps
