"""What has happened in an environment of an array family: all that a picture of it shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Values = Mapping[str, Any]
"""NumPy arrays by name, of one environment: without the axis of slots."""


class Scene(NamedTuple):
    """An episode up to now, and the earlier ones with the same task."""

    params: Values
    """The task's parameters, as the family's ``stack`` returns them, without the first axis."""
    states: tuple[Values, ...]
    """The states since the episode's start, one more than steps; the last one is the present."""
    actions: tuple[Any, ...]
    """The actions of the episode so far."""
    rewards: tuple[float, ...]
    """The rewards of the episode so far."""
    earlier: tuple[Scene, ...] = ()
    """The episodes before with the same task, oldest first; they have no ``earlier`` ones."""

    @property
    def state(self) -> Values:
        """The present state."""
        return self.states[-1]


class History:
    """Records what :class:`Scene` holds."""

    def __init__(self) -> None:
        self._now: Scene | None = None

    def start(self, params: Values, state: Values, *, same_task: bool) -> None:
        """Begin an episode; without the ``same_task`` the earlier ones are forgotten."""
        earlier: tuple[Scene, ...] = ()
        if self._now is not None and same_task:
            stepped = [self._now._replace(earlier=())] if self._now.actions else []
            earlier = (*self._now.earlier, *stepped)
        self._now = Scene(params, (state,), (), (), earlier)

    def step(self, action: Any, reward: float, state: Values) -> None:
        """Add a step; nothing happens before the first episode has begun."""
        if self._now is not None:
            self._now = self._now._replace(
                states=(*self._now.states, state),
                actions=(*self._now.actions, action),
                rewards=(*self._now.rewards, reward),
            )

    @property
    def scene(self) -> Scene | None:
        """The present scene; None before the first episode that was recorded."""
        return self._now
