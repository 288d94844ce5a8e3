"""What comes between an environment and its agent: noise, delays and lost observations.

The agent sees and acts through them; scores are computed from the environment's own rewards.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl import seeding
from metarl.constraints import AtLeast, Between, NotNegative, validate
from metarl.errors import UserError, bad_option
from metarl.stepping.actions import ActionCodec
from metarl.stepping.slots import MakesEnvs, reported_keys
from metarl.stepping.spaces import reported_space
from metarl.stepping.vector import Seed, SlotVectorEnv, Step
from metarl.stepping.wrapped import WrappedVectorEnv

OWN_REWARD = "environment_reward"
"""The entry of ``info`` with the environment's own reward, where the agent is told another one."""

_STREAM = 2**61
"""The index of the random numbers of disturbances among those of an episode."""


@dataclass(frozen=True)
class Disturbances:
    """Disturbances of what an agent sees and does, in an evaluation."""

    observation_noise: Annotated[float, NotNegative] = 0.0
    """Standard deviation of normal noise on every number of the observations that the agent sees,
    in the environment's units."""
    reward_noise: Annotated[float, NotNegative] = 0.0
    """Standard deviation of normal noise on the rewards that the agent is told; scores are the
    environment's own rewards."""
    action_delay: Annotated[int, AtLeast(0)] = 0
    """Number of steps after which an action takes effect; the first actions of an episode are
    zeros, or the first one of a finite set."""
    drop_observations: Annotated[float, Between(0, 1)] = 0.0
    """Probability that an observation is lost, so that the agent sees its last one again; the
    first observation of an episode never is."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)

    def conditions(self) -> dict[str, float | int]:
        """Return what there is, by name; it is empty for an undisturbed evaluation."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value}

    def require_effect(self, tasks: MakesEnvs, horizon: int) -> None:
        """Refuse disturbances that would change nothing in ``tasks``, or that they cannot have.

        Raises:
            UserError: if there is one; the message names the option.
        """
        space = reported_space(tasks.observation_space)
        numbers = isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)
        if self.observation_noise and (_is_constant(space) or not numbers):
            accepted = f"0, since observations are not real numbers that vary but {space}"
            raise bad_option("--observation-noise", self.observation_noise, accepted)
        if self.drop_observations and (_is_constant(space) or horizon == 1):
            accepted = f"0, since an episode has no second observation that differs: {space}"
            raise bad_option("--drop-observations", self.drop_observations, accepted)
        if self.action_delay >= max(horizon, 1) and self.action_delay:
            accepted = f"less than the horizon of {horizon}, or no action has an effect"
            raise bad_option("--action-delay", self.action_delay, accepted)
        if self.reward_noise and OWN_REWARD in reported_keys(tasks):
            raise UserError(f"--reward-noise: got tasks with {OWN_REWARD!r} among their info_keys")


def _is_constant(space: gym.Space[Any]) -> bool:
    if isinstance(space, gym.spaces.Discrete):
        return bool(space.n == 1)
    return isinstance(space, gym.spaces.Box) and bool(np.all(space.low == space.high))


def disturbed(envs: SlotVectorEnv, disturbances: Disturbances) -> SlotVectorEnv:
    """Return ``envs`` behind disturbances, or ``envs`` itself if there are none."""
    return DisturbedVectorEnv(envs, disturbances) if disturbances.conditions() else envs


class DisturbedVectorEnv(WrappedVectorEnv):
    """Slots of another vector environment, seen and acted in through disturbances.

    The random numbers of a slot depend on the seed of its episode and on the step alone, not on
    the number of slots and workers. With noise on rewards, ``info`` has the environment's own.

    Args:
        envs: the slots; whoever made them closes them.
        disturbances: the disturbances.
    """

    def __init__(self, envs: SlotVectorEnv, disturbances: Disturbances) -> None:
        super().__init__(envs)
        self._what = disturbances
        codec = ActionCodec(envs.single_action_space)
        self._neutral = codec.to_env(np.zeros((envs.num_envs, *codec.shape), codec.dtype))
        self._pending = [self._neutral.copy() for _ in range(disturbances.action_delay)]
        self._time = np.zeros(envs.num_envs, np.int64)

    def reset(
        self, *, seed: Seed = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; no action is pending in them."""
        mask = self._started_by(options)
        index = np.flatnonzero(mask)
        self._next_seeds(seed, index)
        seeds: Any = self._seed.copy()
        observation, info = self._envs.reset(seed=seeds, options=options)
        self._mark_started(mask)
        self._time[index] = 0
        for pending in self._pending:
            pending[index] = self._neutral[index]
        self._see(observation, index, np.zeros(len(index), np.bool_))
        return self._observation.copy(), info

    def step_async(self, actions: Any) -> None:
        """Begin a step with the actions that are due, and keep the new ones."""
        self._pending.append(np.array(self._checked_actions(actions)))
        self._envs.step_async(self._pending.pop(0))

    def step_wait(self) -> Step:
        """Return the results of the step, as the agent is told them."""
        observation, reward, terminated, truncated, info = self._envs.step_wait()
        index = np.flatnonzero(self._live)
        self._time[index] += 1
        lost = seeding.uniform(self._keys(index, 2), 1)[:, 0] < self._what.drop_observations
        self._see(observation, index, lost)
        if self._what.reward_noise:
            info = {**info, OWN_REWARD: reward}
            reward = reward.copy()
            reward[index] += self._what.reward_noise * seeding.normal(self._keys(index, 1), 1)[:, 0]
        self._live &= ~(terminated | truncated)
        return self._observation.copy(), reward, terminated, truncated, info

    def _see(
        self,
        observation: npt.NDArray[Any],
        index: npt.NDArray[np.intp],
        lost: npt.NDArray[np.bool_],
    ) -> None:
        """Let the agent see new observations of the slots ``index``, except those that are lost."""
        seen = observation[index]
        if self._what.observation_noise:
            size = int(np.prod(seen.shape[1:]))
            noise = seeding.normal(self._keys(index, 0), size).reshape(seen.shape)
            seen = seen + (self._what.observation_noise * noise).astype(seen.dtype)
        self._observation[index[~lost]] = seen[~lost]

    def _keys(self, index: npt.NDArray[np.intp], which: int) -> seeding.KeyArray:
        """Return the keys of the present step of the slots ``index``, for one kind of number."""
        keys = seeding.fold(seeding.fold(self._seed[index], _STREAM), self._time[index])
        return seeding.fold(keys, which)
