"""Stable-Baselines3's PPO from nothing on each held-out task, with many times the experience."""

from __future__ import annotations

from dataclasses import replace

import torch

from metarl.errors import bad_option
from metarl.experience.agent import TaskSpec, TrialShape
from metarl.learning.encoders import vector_normalizer
from metarl.sb3.models import ACTIVATIONS, make_ppo
from metarl.sb3.per_task import PPOPerTask, rounds_of
from metarl.stepping.actions import ActionCodec
from metarl.stepping.spaces import observation_size
from metarl.tasks.distribution import TaskDistribution


class PPOScratch(PPOPerTask):
    """Trains a new policy on each task, with several times the experience of the others.

    Args:
        tasks: the tasks.
        shape: the trials that it is compared in.
        seed: the seed of the initial parameters, which all tasks share, and of minibatches.
        device: where the tensors live.
        experience: how many times the episodes of ``shape`` it gets.
        hidden_size: the size of each hidden layer.
        num_layers: the number of hidden layers.
        activation: the activation function, ``relu`` or ``tanh``.
        initial_std: the initial standard deviation of continuous actions.
        episodes_per_round: the number of episodes between two updates; 0 stands for that of the
            agent it is compared with, and for one where that agent learns while it acts.
        learning_rate: Adam's learning rate.
        num_epochs: the number of passes over a round.
        batch_size: the number of steps in a minibatch.
        discount: the discount factor per step.
        gae_lambda: GAE lambda of the advantage estimates.
        normalize_observations: whether observations are normalised by the mean and variance of
            the task's own rounds so far.
    """

    def __init__(
        self,
        tasks: TaskDistribution,
        shape: TrialShape,
        *,
        seed: int = 0,
        device: str = "cpu",
        experience: int = 10,
        hidden_size: int = 64,
        num_layers: int = 2,
        activation: str = "tanh",
        initial_std: float = 1.0,
        episodes_per_round: int = 0,
        learning_rate: float = 3e-4,
        num_epochs: int = 10,
        batch_size: int = 64,
        discount: float = 0.99,
        gae_lambda: float = 0.95,
        normalize_observations: bool = False,
    ) -> None:
        if experience < 1:
            raise bad_option("--baselines: ppo-scratch: experience", experience, "at least 1")
        if activation not in ACTIVATIONS:
            raise bad_option("--baselines: ppo-scratch: activation", activation, "relu or tanh")
        size = observation_size(tasks.observation_space)
        model = make_ppo(
            size,
            ActionCodec(tasks.action_space),
            vector_normalizer(TaskSpec.of(tasks)),
            seed=seed,
            device=torch.device(device),
            hidden_sizes=[hidden_size] * num_layers,
            activation=activation,
            initial_std=initial_std,
            batch_size=batch_size,
            learning_rate=learning_rate,
            n_epochs=num_epochs,
            gamma=discount,
            gae_lambda=gae_lambda,
        )
        rounds = rounds_of(shape, episodes_per_round)
        rounds = replace(rounds, num_adaptations=experience * rounds.num_rounds - 1)
        super().__init__(
            *(tasks, rounds, model, seed, device), normalize_observations=normalize_observations
        )
