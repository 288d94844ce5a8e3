"""HalfCheetah with a goal velocity or direction, as in the meta-RL literature.

Source: Finn et al., 2017 (arXiv 1703.03400, section 5.3). The velocities' range U(0, 3), the
horizon of 200 steps and the control weight are those of ProMP (Rothfuss et al., 2018, arXiv
1810.06784). What differs: the simulator is Gymnasium's HalfCheetah-v5 (current MuJoCo), so returns
can be compared with published ones, but do not reproduce them.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from metarl.errors import bad_option
from metarl.task import Env, Split, Task, draw_unit
from metarl.tasks.distribution import (
    TaskDistribution,
    TaskEnv,
    name_with_options,
    require_horizon,
)

CONTROL_WEIGHT = 0.05


class _Cheetah(HalfCheetahEnv):
    """HalfCheetah-v5 without its reward and contact forces, which these families do not use.

    Observations are the same bits as those of HalfCheetah-v5.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seconds = self.dt
        self._qpos, self._qvel, self._ctrl = self.data.qpos, self.data.qvel, self.data.ctrl

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance the physics; ``info`` holds position and velocity for a family's reward."""
        if np.shape(action) != self._ctrl.shape:
            raise ValueError(f"an action has shape {self._ctrl.shape}, got {np.shape(action)}")
        before = self._qpos[0]
        self._ctrl[:] = action
        mujoco.mj_step(self.model, self.data, self.frame_skip)
        after = self._qpos[0]
        observation = np.concatenate((self._qpos[1:], self._qvel))
        info = {"x_position": after, "x_velocity": (after - before) / self._seconds}
        return observation, 0.0, False, False, info


class _HalfCheetah(TaskDistribution):
    """Base of both families: name, horizon and spaces."""

    def __init__(self, name: str, horizon: int) -> None:
        require_horizon(name, horizon)
        self.name, self.horizon = name, horizon
        # The spaces are written out, so that making a distribution builds no simulator.
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (17,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (6,), np.float32)


class HalfCheetahVelocity(_HalfCheetah):
    """Run at a velocity v* in [low, high) m/s: reward -|v - v*| - 0.05·|action|²."""

    def __init__(self, low: float = 0.0, high: float = 3.0, horizon: int = 200) -> None:
        if not -np.inf < low < high < np.inf:
            raise bad_option("half-cheetah/velocity low, high", (low, high), "finite low < high")
        defaults = low == 0.0 and high == 3.0 and horizon == 200
        options = "" if defaults else f":low={low},high={high},horizon={horizon}"
        super().__init__(f"half-cheetah/velocity{options}", horizon)
        self.low, self.high = low, high

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw velocities."""
        velocities = self.low + (self.high - self.low) * draw_unit(rng, (n,), split)
        return [Task.of(self.name, velocity=velocity) for velocity in velocities.tolist()]

    def make(self, task: Task | None = None) -> Env:
        """Make HalfCheetah-v5 with this family's reward."""
        return _VelocityEnv(_Cheetah(), self.horizon, task)


class HalfCheetahDirection(_HalfCheetah):
    """Run forward (1) or backward (-1) as fast as possible: reward d·v - 0.05·|action|²."""

    shared_split = True
    group = "direction"

    def __init__(self, horizon: int = 200) -> None:
        super().__init__(
            name_with_options("half-cheetah/direction", horizon=(horizon, 200)), horizon
        )

    def tasks(self, split: Split) -> list[Task]:
        """Return both directions."""
        return [Task.of(self.name, direction=direction) for direction in (1, -1)]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw directions with equal probability."""
        both = self.tasks(split)
        return [both[i] for i in rng.integers(2, size=n)]

    def make(self, task: Task | None = None) -> Env:
        """Make HalfCheetah-v5 with this family's reward."""
        return _DirectionEnv(_Cheetah(), self.horizon, task)


def _control_cost(action: Any) -> float:
    return CONTROL_WEIGHT * float(np.dot(action, action))


class _VelocityEnv(TaskEnv):
    """Pays for the task's velocity."""

    velocity: float

    def apply_task(self, task: Task) -> None:
        self.velocity = task["velocity"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        reward = -abs(float(info["x_velocity"]) - self.velocity) - _control_cost(action)
        return observation, reward, terminated, truncated, info


class _DirectionEnv(TaskEnv):
    """Pays for speed in the task's direction."""

    direction: int

    def apply_task(self, task: Task) -> None:
        self.direction = task["direction"]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        reward = self.direction * float(info["x_velocity"]) - _control_cost(action)
        return observation, reward, terminated, truncated, info
