"""Stable-Baselines3 in and out; it is imported when one of these names is first used.

No module here has the name of a function, which importing the module would replace.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.sb3.buffers import LinearBaselineBuffer
    from metarl.sb3.exporting import export
    from metarl.sb3.network import FlatObservations, NetworkPolicy
    from metarl.sb3.trials import RewardedEnv, TrialPolicy, TrialState
    from metarl.sb3.vector import TaskVecEnv, vec_env

_HOME = {
    "FlatObservations": "network",
    "LinearBaselineBuffer": "buffers",
    "NetworkPolicy": "network",
    "RewardedEnv": "trials",
    "TaskVecEnv": "vector",
    "TrialPolicy": "trials",
    "TrialState": "trials",
    "export": "exporting",
    "vec_env": "vector",
}

__all__ = [
    "FlatObservations",
    "LinearBaselineBuffer",
    "NetworkPolicy",
    "RewardedEnv",
    "TaskVecEnv",
    "TrialPolicy",
    "TrialState",
    "export",
    "vec_env",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'metarl.sb3' has no attribute {name!r}")
    return getattr(importlib.import_module(f"metarl.sb3.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
