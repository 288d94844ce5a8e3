"""Options of stepping environments, which change the speed of a run but not its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from metarl.constraints import AtLeast, Positive, validate
from metarl.stepping.slots import close_quietly
from metarl.stepping.vector import SlotVectorEnv


@runtime_checkable
class MakesVectorEnvs(Protocol):
    """A task distribution, as far as :class:`Workers` needs it."""

    max_slots: int
    """The number of environments that are stepped together at most by default."""

    def make_vec(self, num_envs: int, **options: Any) -> SlotVectorEnv:
        """Make a vector environment of ``num_envs`` slots."""


@dataclass(frozen=True)
class Workers:
    """Options of stepping environments; no result depends on them, but for last bits.

    Batches of another size (``num_envs``) may round differently in a network.
    """

    num_envs: Annotated[int, AtLeast(1)] | None = None
    """Number of environments stepped together (default: as many as the agent and the task
    distribution can use)."""
    num_workers: Annotated[int, AtLeast(0)] | None = None
    """Number of processes that step simulators; with 0 the main process steps them (default: one
    per core)."""
    env_timeout: Annotated[float, Positive] = 60.0
    """Seconds that one call of an environment in a worker process may take."""
    env_restarts: Annotated[int, AtLeast(0)] = 0
    """Number of times that a killed or hung worker process is replaced and its unfinished
    episodes are replayed."""

    def __post_init__(self) -> None:
        """Refuse values that cannot be used."""
        validate(self)

    def slots(self, tasks: MakesVectorEnvs, wanted: int) -> int:
        """Return how many environments to step together.

        Args:
            tasks: the distribution whose environments are stepped.
            wanted: the number that could be used.
        """
        return self.num_envs or max(1, min(wanted, tasks.max_slots))

    def make_vec(self, tasks: MakesVectorEnvs, num_envs: int) -> SlotVectorEnv:
        """Make a vector environment of ``num_envs`` slots."""
        return tasks.make_vec(
            num_envs,
            num_workers=self.num_workers,
            timeout=self.env_timeout,
            restarts=self.env_restarts,
        )


class SharedEnvs:
    """The environments that the parts of a run share: one vector environment, resized as needed.

    Worker processes are thus started only once, and there are never two sets of simulators.
    """

    def __init__(self, workers: Workers, tasks: MakesVectorEnvs) -> None:
        self._workers, self._tasks = workers, tasks
        self._envs: SlotVectorEnv | None = None

    def sized(self, num_envs: int) -> SlotVectorEnv:
        """Return the environments as ``num_envs`` slots; earlier results become invalid."""
        if self._envs is not None and self._envs.num_envs != num_envs:
            try:
                self._envs.resize(num_envs)
            except NotImplementedError:
                self.close()
        if self._envs is None:
            self._envs = self._workers.make_vec(self._tasks, num_envs)
        return self._envs

    def close(self) -> None:
        """Close the environments, if there are any; an error while closing is a warning."""
        if self._envs is not None:
            close_quietly(self._envs)
        self._envs = None
