"""Meta-reinforcement learning: agents that adapt to a task they have never seen.

>>> import metarl
>>> tasks = metarl.make("bandit/n10-k5")
>>> tasks.episodes_per_trial
10

Names are imported when they are first used, so that a process that only steps
environments does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.adaptation import AdaptedPolicy, adapt
    from metarl.checks import check_agent, check_task_distribution
    from metarl.errors import EnvError, UserError
    from metarl.evaluation import AdaptationCurve, evaluate_adaptation
    from metarl.gym_tasks import GymTasks
    from metarl.parameters import Choice, FunctionTasks, Integers, LogUniform, Uniform
    from metarl.registry import make
    from metarl.rollout import Agent, Episodes, Timestep, Trial
    from metarl.runs import load
    from metarl.tasks import ArrayTaskDistribution, Split, Task, TaskDistribution, TaskEnv
    from metarl.vector import ArrayVectorEnv, TaskVectorEnv

_HOME = {
    "AdaptationCurve": "evaluation",
    "AdaptedPolicy": "adaptation",
    "Agent": "rollout",
    "ArrayTaskDistribution": "tasks",
    "ArrayVectorEnv": "vector",
    "Choice": "parameters",
    "EnvError": "errors",
    "Episodes": "rollout",
    "FunctionTasks": "parameters",
    "GymTasks": "gym_tasks",
    "Integers": "parameters",
    "LogUniform": "parameters",
    "Split": "tasks",
    "Task": "tasks",
    "TaskDistribution": "tasks",
    "TaskEnv": "tasks",
    "TaskVectorEnv": "vector",
    "Timestep": "rollout",
    "Trial": "rollout",
    "Uniform": "parameters",
    "UserError": "errors",
    "adapt": "adaptation",
    "check_agent": "checks",
    "check_task_distribution": "checks",
    "evaluate_adaptation": "evaluation",
    "load": "runs",
    "make": "registry",
}

__all__ = [
    "AdaptationCurve",
    "AdaptedPolicy",
    "Agent",
    "ArrayTaskDistribution",
    "ArrayVectorEnv",
    "Choice",
    "EnvError",
    "Episodes",
    "FunctionTasks",
    "GymTasks",
    "Integers",
    "LogUniform",
    "Split",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskVectorEnv",
    "Timestep",
    "Trial",
    "Uniform",
    "UserError",
    "adapt",
    "check_agent",
    "check_task_distribution",
    "evaluate_adaptation",
    "load",
    "make",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metarl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
