"""Ant with a direction to run in, or a place to run to.

Source: the environments of PEARL (Rakelly et al., 2019, arXiv 1903.08254) and VariBAD (Zintgraf
et al., 2020, arXiv 1910.08348): angles U(0, 2π), goals at radius 3·√U(0, 1), reward minus the
L1 distance, control weights 0.5 and 0.1, horizon 200. What differs: the simulator is
Gymnasium's Ant-v5 (current MuJoCo), and contact forces are not observed.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv

from metarl.task import Env, Split, Task, draw_unit
from metarl.tasks.distribution import (
    TaskDistribution,
    TaskEnv,
    name_with_options,
    require_horizon,
)

CONTACT_WEIGHT = 5e-4


class _Ant(TaskDistribution):
    """Base of both families: name, horizon and spaces."""

    def __init__(self, name: str, horizon: int, observation_size: int) -> None:
        require_horizon(name, horizon)
        self.name = name_with_options(name, horizon=(horizon, 200))
        self.horizon = horizon
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (observation_size,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (8,), np.float32)


class AntDirection(_Ant):
    """Run along an angle: reward v·(cos, sin) + 1 - 0.5·|action|² - contacts.

    An episode ends when the ant falls.
    """

    def __init__(self, horizon: int = 200) -> None:
        super().__init__("ant/direction", horizon, 27)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw angles."""
        angles = 2 * math.pi * draw_unit(rng, (n,), split)
        return [Task.of(self.name, angle=angle) for angle in angles.tolist()]

    def make(self, task: Task | None = None) -> Env:
        """Make Ant-v5 with this family's reward."""
        env = AntEnv(
            forward_reward_weight=0.0,
            ctrl_cost_weight=0.5,
            contact_cost_weight=CONTACT_WEIGHT,
            healthy_reward=1.0,
            include_cfrc_ext_in_observation=False,
        )
        return _DirectionEnv(env, self.horizon, task)


class AntGoal(_Ant):
    """Run to a place: reward -|x - x*| - |y - y*| - 0.1·|action|² - contacts.

    The observation includes the ant's position.
    """

    def __init__(self, horizon: int = 200) -> None:
        super().__init__("ant/goal", horizon, 29)

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw places uniformly from a disc of radius 3 m."""
        angle, radius = draw_unit(rng, (2, n), split) * [[2 * math.pi], [1.0]]
        goals = 3 * np.sqrt(radius) * np.array([np.cos(angle), np.sin(angle)])
        return [Task.of(self.name, goal=goal) for goal in goals.T]

    def make(self, task: Task | None = None) -> Env:
        """Make Ant-v5 with this family's reward."""
        env = AntEnv(
            forward_reward_weight=0.0,
            ctrl_cost_weight=0.1,
            contact_cost_weight=CONTACT_WEIGHT,
            healthy_reward=0.0,
            terminate_when_unhealthy=False,
            exclude_current_positions_from_observation=False,
            include_cfrc_ext_in_observation=False,
        )
        return _GoalEnv(env, self.horizon, task)


class _DirectionEnv(TaskEnv):
    """Adds the velocity along the task's angle to the reward."""

    heading: tuple[float, float]

    def apply_task(self, task: Task) -> None:
        self.heading = math.cos(task["angle"]), math.sin(task["angle"])

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        x, y = self.heading
        reward += x * float(info["x_velocity"]) + y * float(info["y_velocity"])
        return observation, reward, terminated, truncated, info


class _GoalEnv(TaskEnv):
    """Subtracts the L1 distance to the task's goal from the reward."""

    goal: tuple[float, float]

    def apply_task(self, task: Task) -> None:
        self.goal = task["goal"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        x, y = self.goal
        reward -= abs(float(info["x_position"]) - x) + abs(float(info["y_position"]) - y)
        return observation, reward, terminated, truncated, info
