"""An agent that learns while it acts, as a policy of Stable-Baselines3."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from metarl.errors import UserError
from metarl.experience.adaptation import AdaptedPolicy, PolicyState
from metarl.experience.agent import Adapter


class RewardedEnv(VecEnvWrapper):
    """Environments that keep the last rewards, which a policy of Stable-Baselines3 is not given.

    >>> envs = metarl.sb3.vec_env(metarl.make("bandit/n10-k5"), 3)
    >>> wrapped = metarl.sb3.RewardedEnv(envs)
    >>> observations = wrapped.reset()
    >>> observations, rewards, dones, infos = wrapped.step(np.zeros(3, np.int64))
    >>> bool((wrapped.rewards == rewards).all())
    True
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.rewards: npt.NDArray[np.float32] = np.zeros(venv.num_envs, np.float32)
        self.num_steps = 0

    def reset(self) -> VecEnvObs:
        """Start an episode everywhere."""
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Keep the rewards of the step, and return what the environments do."""
        result = self.venv.step_wait()
        self.rewards = np.array(result[1], np.float32)
        self.num_steps += 1
        return result


class TrialState(NamedTuple):
    """What :meth:`TrialPolicy.predict` hands on from one step of a trial to the next.

    >>> envs = metarl.sb3.vec_env(metarl.make("bandit/n10-k5"), 3, episodes_per_task=10)
    >>> policy = metarl.sb3.export("runs/first", envs)
    >>> actions, state = policy.predict(policy.env.reset())  # None: a new trial begins
    >>> isinstance(state, metarl.sb3.TrialState), state.num_steps
    (True, 0)
    >>> observations, *_ = policy.env.step(actions)
    >>> actions, state = policy.predict(observations, state, episode_start=True)
    >>> state.num_steps
    1
    """

    known: PolicyState
    """What the agent knows about every environment's task, and where it is."""
    num_steps: int
    """The number of steps of ``TrialPolicy.env`` before the last actions."""


class TrialPolicy:
    """An agent that learns while it acts (RL²), with the ``predict`` of recurrent policies.

    A trial begins where ``state`` is None. The state then carries what the agent has learned
    about the task through all of its episodes; ``episode_start`` tells where one begins and does
    not clear the state. Such an agent learns from rewards, which Stable-Baselines3 does not pass
    to policies: they are read from :attr:`env`, or given as ``reward``.

    >>> from stable_baselines3.common.evaluation import evaluate_policy
    >>> task = metarl.Task.of("bandit/n10-k5", p=(0.1, 0.1, 1.0, 0.1, 0.1))
    >>> policy = metarl.sb3.export("runs/first", metarl.make("bandit/n10-k5").make(task))
    >>> rewards, lengths = evaluate_policy(  # one trial of ten pulls
    ...     policy, policy.env, n_eval_episodes=10, return_episode_rewards=True
    ... )
    >>> len(rewards), rewards[-1]
    (10, 1.0)
    """

    env: RewardedEnv
    """The environments that were given, to be stepped in their place; other wrappers of
    Stable-Baselines3 may be put around them."""

    def __init__(self, agent: Adapter, env: VecEnv, seed: int = 0) -> None:
        self.env = RewardedEnv(env)
        spaces = env.observation_space, env.action_space
        self._policy = AdaptedPolicy(agent, agent.begin(1), None, *spaces, seed)

    def predict(
        self,
        observation: Any,
        state: tuple[Any, ...] | None = None,
        episode_start: object = None,
        deterministic: bool = False,
        *,
        reward: object = None,
    ) -> tuple[Any, TrialState]:
        """Return actions in the environment's units, and the state after them.

        Args:
            observation: one, or those of n environments, ``[n, *shape]``.
            state: what the last call returned; None where a new trial begins in all of them.
            episode_start: True where an episode begins, one boolean or ``[n]``.
            deterministic: take the most likely actions; otherwise every call draws new ones.
            reward: what the last actions have earned, one number or ``[n]``; by default what
                :attr:`env` has paid for them.

        Raises:
            UserError: for a shape or a state that does not fit, and if the rewards are unknown.
        """
        known = None
        if state is not None:
            if not isinstance(state, TrialState):
                got = type(state).__name__
                raise UserError(f"state: got a {got}; accepted: None, or what predict returned")
            known = state.known
            if reward is None:
                reward = self._paid(state)
        act = self._policy.predict
        actions, known = act(observation, known, episode_start, deterministic, reward=reward)
        return actions, TrialState(known, self.env.num_steps)

    def _paid(self, state: TrialState) -> npt.NDArray[np.float32]:
        """Return the rewards for the last actions of ``state``."""
        if self.env.num_steps == state.num_steps:
            raise UserError(
                "reward: got None, and policy.env was not stepped since the last predict; "
                "accepted: rewards, or actions that are taken in policy.env"
            )
        if state.known.lanes.size != len(self.env.rewards):
            raise UserError(
                f"reward: got None for {state.known.lanes.size} environments; accepted: rewards, "
                f"or the {len(self.env.rewards)} of policy.env"
            )
        return self.env.rewards
