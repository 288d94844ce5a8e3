"""Stable-Baselines3 in and out: task distributions for its algorithms, and its models as agents.

Names are imported when they are first used; nothing else of the library imports
``stable_baselines3``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.sb3.vector import TaskVecEnv, vec_env

_HOME = {"TaskVecEnv": "vector", "vec_env": "vector"}

__all__ = ["TaskVecEnv", "vec_env"]


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'metarl.sb3' has no attribute {name!r}")
    module = importlib.import_module(f"metarl.sb3.{_HOME[name]}")
    return vars(module)[name]


def __dir__() -> list[str]:
    return __all__
