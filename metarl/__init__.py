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
    from metarl import sb3 as sb3
    from metarl.agents.maml_ppo import MAMLPPOConfig
    from metarl.agents.rl2 import RL2Config
    from metarl.errors import EnvError, UserError
    from metarl.evaluation.comparison import Comparison
    from metarl.evaluation.curve import AdaptationCurve
    from metarl.evaluation.evaluate import evaluate_adaptation
    from metarl.evaluation.probe import ProbeCurve, probe_context
    from metarl.experience.adaptation import AdaptedPolicy, adapt
    from metarl.experience.agent import Adapter, Agent, TaskSpec, TrialShape
    from metarl.experience.checks import check_adapter, check_agent
    from metarl.experience.data import Episodes, Timestep, Trial
    from metarl.experience.sampling import TaskSampler
    from metarl.registry import make
    from metarl.running.api import (
        compare,
        evaluate,
        evaluate_controls,
        evaluate_probe,
        evaluate_robustness,
        train,
        tune,
    )
    from metarl.running.reading import read_run
    from metarl.running.run import load
    from metarl.running.settings import TrainConfig
    from metarl.search import Tuned, TunedAmong
    from metarl.stepping.vector import TaskVectorEnv
    from metarl.task import Split, Task
    from metarl.tasks.arrays import ArrayTaskDistribution, ArrayVectorEnv
    from metarl.tasks.checks import check_task_distribution
    from metarl.tasks.distribution import TaskDistribution, TaskEnv
    from metarl.tasks.functions import FunctionTasks
    from metarl.tasks.gymnasium import GymTasks
    from metarl.tasks.ranges import Choice, Integers, LogUniform, Uniform

_HOME = {
    "AdaptationCurve": "evaluation.curve",
    "AdaptedPolicy": "experience.adaptation",
    "Adapter": "experience.agent",
    "Agent": "experience.agent",
    "ArrayTaskDistribution": "tasks.arrays",
    "ArrayVectorEnv": "tasks.arrays",
    "Choice": "tasks.ranges",
    "Comparison": "evaluation.comparison",
    "EnvError": "errors",
    "Episodes": "experience.data",
    "FunctionTasks": "tasks.functions",
    "GymTasks": "tasks.gymnasium",
    "Integers": "tasks.ranges",
    "LogUniform": "tasks.ranges",
    "MAMLPPOConfig": "agents.maml_ppo",
    "ProbeCurve": "evaluation.probe",
    "RL2Config": "agents.rl2",
    "Split": "task",
    "Task": "task",
    "TaskDistribution": "tasks.distribution",
    "TaskEnv": "tasks.distribution",
    "TaskSampler": "experience.sampling",
    "TaskSpec": "experience.agent",
    "TaskVectorEnv": "stepping.vector",
    "Timestep": "experience.data",
    "TrainConfig": "running.settings",
    "Trial": "experience.data",
    "TrialShape": "experience.agent",
    "Tuned": "search",
    "TunedAmong": "search",
    "Uniform": "tasks.ranges",
    "UserError": "errors",
    "adapt": "experience.adaptation",
    "check_adapter": "experience.checks",
    "check_agent": "experience.checks",
    "check_task_distribution": "tasks.checks",
    "compare": "running.api",
    "evaluate": "running.api",
    "evaluate_adaptation": "evaluation.evaluate",
    "evaluate_controls": "running.api",
    "evaluate_probe": "running.api",
    "evaluate_robustness": "running.api",
    "load": "running.run",
    "make": "registry",
    "probe_context": "evaluation.probe",
    "read_run": "running.reading",
    "train": "running.api",
    "tune": "running.api",
}

__all__ = [
    "AdaptationCurve",
    "AdaptedPolicy",
    "Adapter",
    "Agent",
    "ArrayTaskDistribution",
    "ArrayVectorEnv",
    "Choice",
    "Comparison",
    "EnvError",
    "Episodes",
    "FunctionTasks",
    "GymTasks",
    "Integers",
    "LogUniform",
    "MAMLPPOConfig",
    "ProbeCurve",
    "RL2Config",
    "Split",
    "Task",
    "TaskDistribution",
    "TaskEnv",
    "TaskSampler",
    "TaskSpec",
    "TaskVectorEnv",
    "Timestep",
    "TrainConfig",
    "Trial",
    "TrialShape",
    "Tuned",
    "TunedAmong",
    "Uniform",
    "UserError",
    "adapt",
    "check_adapter",
    "check_agent",
    "check_task_distribution",
    "compare",
    "evaluate",
    "evaluate_adaptation",
    "evaluate_controls",
    "evaluate_probe",
    "evaluate_robustness",
    "load",
    "make",
    "probe_context",
    "read_run",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name == "sb3":  # a package of names, which are imported in the same way
        return importlib.import_module("metarl.sb3")
    if name not in _HOME:
        raise AttributeError(f"module 'metarl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metarl.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
