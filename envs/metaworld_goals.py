"""Classes and goals of Meta-World's benchmarks, drawn without a simulator.

The goals are those of ``metaworld.ML1(…, seed)``, ``ML10`` and so on, number by number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from metaworld import env_dict
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from metarl.errors import UserError, near_matches

NUM_GOALS = 50
"""Number of goals per class and split, as in the official benchmarks."""

CLASSES: dict[str, Any] = dict(env_dict.ALL_V3_ENVIRONMENTS)
"""All 50 classes by their official names."""


def class_name(name: str) -> str:
    """Return the official name of class ``name``, which has no version here.

    Raises:
        UserError: if there is no such class; the message lists near matches.
    """
    cls = f"{name}-v3"
    if cls not in CLASSES:
        names = [known.removesuffix("-v3") for known in CLASSES]
        raise UserError(f"--env: Meta-World has no class {name!r}; {near_matches(name, names)}")
    return cls


_APART = {
    "assembly-v3": 0.1,
    "basketball-v3": 0.15,
    "box-close-v3": 0.25,
    "coffee-pull-v3": 0.15,
    "coffee-push-v3": 0.15,
    "disassemble-v3": 0.1,
    "hand-insert-v3": 0.15,
    "peg-insert-side-v3": 0.1,
    "pick-out-of-hole-v3": 0.15,
    "pick-place-v3": 0.15,
    "pick-place-wall-v3": 0.15,
    "push-back-v3": 0.15,
    "push-v3": 0.15,
    "push-wall-v3": 0.15,
    "reach-v3": 0.15,
    "reach-wall-v3": 0.15,
    "shelf-place-v3": 0.1,
    "soccer-v3": 0.15,
    "stick-pull-v3": 0.1,
    "stick-push-v3": 0.1,
    "sweep-into-v3": 0.15,
}
"""Least distance of object and goal in the plane, in metres. Closer ones are drawn again, as in
each class's ``reset_model``."""


class _Anything:
    """Stands for a simulator whose attributes and results are never used."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


class _WithoutSimulator(SawyerXYZEnv):
    """Replaces the base constructor, so that a class sets its bounds without a simulator."""

    def __init__(
        self,
        hand_low: Any = (-0.2, 0.55, 0.05),
        hand_high: Any = (0.2, 0.75, 0.3),
        **rest: Any,
    ) -> None:
        self.hand_low, self.hand_high = np.array(hand_low), np.array(hand_high)
        self.model = self.data = _Anything()


def _placement_drawer(
    cls: str,
) -> Callable[[np.random.RandomState], npt.NDArray[np.float64]]:
    """Return a function that draws a placement vector of class ``cls``: its object and goal."""
    bare = type("Bounds", (CLASSES[cls], _WithoutSimulator), {})()
    low, high = bare._random_reset_space.low, bare._random_reset_space.high
    # The goal of this class does not move.
    fixed = bare.goal[:2] if cls == "sweep-into-v3" else None

    def too_close(drawn: npt.NDArray[np.float64]) -> bool:
        goal = drawn[3:5] if fixed is None else fixed
        return cls in _APART and bool(np.linalg.norm(drawn[:2] - goal) < _APART[cls])

    def draw(rng: np.random.RandomState) -> npt.NDArray[np.float64]:
        drawn: npt.NDArray[np.float64] = rng.uniform(low, high, size=low.size)
        while too_close(drawn):
            drawn = rng.uniform(low, high, size=low.size)
        return drawn

    return draw


def draw_goals(classes: Sequence[str], seed: int) -> dict[str, npt.NDArray[np.float64]]:
    """Draw the goals of each class as ``[NUM_GOALS, placement]``.

    The draws follow ``metaworld._make_tasks``: one stream of random numbers serves all classes,
    and each goal takes two draws, of which the second counts.
    """
    rng = np.random.RandomState(seed)
    goals = {}
    for cls in classes:
        draw = _placement_drawer(cls)
        goals[cls] = np.array([(draw(rng), draw(rng))[1] for _ in range(NUM_GOALS)])
    return goals
