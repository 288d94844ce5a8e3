"""Task families whose dynamics are two pure functions over arrays, and their environments."""

from __future__ import annotations

import contextlib
import traceback
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from metarl import seeding
from metarl.errors import EnvError, bad_option, described
from metarl.stepping.actions import ActionRows
from metarl.stepping.spaces import fit, indices_inside
from metarl.stepping.vector import Seed, SlotVectorEnv, Step
from metarl.task import Env, Task, require_task
from metarl.tasks.canvas import Frame
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.scenes import History, Scene, Values

Array: TypeAlias = Any
"""An array of any library that ``array_api_compat`` knows."""


class NoiseSpec(NamedTuple):
    """Number of random numbers that a slot needs at one reset or step."""

    uniform: int = 0
    """How many uniform numbers of (0, 1)."""
    normal: int = 0
    """How many standard normal numbers."""


class Noise(NamedTuple):
    """Random numbers for one reset or step of an array family."""

    uniform: Array
    """Uniform numbers of (0, 1): ``[slot, uniform]``."""
    normal: Array
    """Standard normal numbers: ``[slot, normal]``."""


State: TypeAlias = dict[str, Array]
"""Arrays ``[slot, …]`` by name, on which the next step depends; the task is among them."""


class Transition(NamedTuple):
    """Results of one step of an array family; the first axis of every array is the slot."""

    state: State
    """The state after the step."""
    observation: Array
    """The observation after the step."""
    reward: Array
    """The reward of the step."""
    terminated: Array
    """Whether the episode ends with the step; the time limit is counted elsewhere."""
    info: dict[str, Array]
    """Arrays ``[slot]`` by the names of ``info_keys``."""


class ArrayTaskDistribution(TaskDistribution):
    """A family whose dynamics are two pure functions over arrays of any library.

    :meth:`initial` and :meth:`transition` use ``array_api_compat.array_namespace``, draw no random
    numbers of their own, and never write into their arguments.

    >>> from metarl.task import draw_unit  # numbers that no other split draws
    >>> class Line(metarl.ArrayTaskDistribution):  # find a hidden place on a line
    ...     name, horizon = "line", 20
    ...     observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    ...     action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    ...     def sample(self, rng, n, split):
    ...         goals = 10 * draw_unit(rng, (n,), split)
    ...         return [metarl.Task.of(self.name, goal=goal) for goal in goals]
    ...     def initial(self, params, noise):
    ...         place = np.zeros_like(params["goal"])
    ...         return {"goal": params["goal"], "place": place}, place[:, None]
    ...     def transition(self, state, action, noise):
    ...         place = state["place"] + action[:, 0]
    ...         reward = -abs(state["goal"] - place)
    ...         return Transition(state | {"place": place}, place[:, None], reward, False, {})
    >>> tasks = Line()
    >>> envs = tasks.make_vec(1000)
    >>> drawn = tasks.sample(np.random.default_rng(0), 1000, "train")
    >>> observations, _ = envs.reset(seed=0, options={"tasks": drawn})
    >>> observations, rewards, *_ = envs.step(np.ones((1000, 1), np.float32))
    >>> observations.shape, rewards.shape
    ((1000, 1), (1000,))

    A family that also writes :meth:`draw` can be watched: its single environments then have the
    render mode ``rgb_array``, so that ``metarl play`` and ``metarl describe --frames`` show it. A
    picture is a function of the scene alone. :class:`metarl.tasks.canvas.Canvas` draws one in a few
    milliseconds::

        def draw(self, scene):
            canvas = Canvas(320, 320)
            canvas.disc(160 + 100 * scene.state["position"], 6)
            return canvas.frame()
    """

    array_functions = True
    max_slots = 5000
    render_fps: int = 10
    """Number of steps that a film shows in a second, if the family can be drawn."""
    initial_noise: NoiseSpec = NoiseSpec()
    """The random numbers that :meth:`initial` gets."""
    transition_noise: NoiseSpec = NoiseSpec()
    """The random numbers that :meth:`transition` gets."""

    @abstractmethod
    def initial(self, params: Mapping[str, Array], noise: Noise) -> tuple[State, Array]:
        """Return the state and observation at the start of an episode.

        Args:
            params: the tasks' parameters, as :meth:`stack` returns them.
            noise: numbers as ``initial_noise`` asks for.
        """

    @abstractmethod
    def transition(self, state: State, action: Array, noise: Noise) -> Transition:
        """Advance every slot by one step."""

    def draw(self, scene: Scene) -> Frame:
        """Return a picture of one environment, ``[height, width, 3]``; optional.

        Args:
            scene: the task's parameters, and the states, actions and rewards so far.
        """
        raise NotImplementedError(f"{self.name} has no method draw(scene)")

    @property
    def can_draw(self) -> bool:
        """True if the family has a :meth:`draw` of its own."""
        return type(self).draw is not ArrayTaskDistribution.draw

    def stack(self, tasks: Sequence[Task]) -> dict[str, npt.NDArray[Any]]:
        """Return the tasks' parameters as arrays ``[task, …]``."""
        return {name: np.array([task[name] for task in tasks]) for name, _ in tasks[0].params}

    def make(self, task: Task | None = None, *, render_mode: str | None = None) -> Env:
        """Make a single Gymnasium environment; it equals a slot of :meth:`make_vec`.

        Args:
            task: the environment's task, which it can also get by ``reset``.
            render_mode: ``"rgb_array"`` for an environment whose ``render()`` returns pictures, if
                the family has a method :meth:`draw`.

        Raises:
            UserError: if the family has no such render mode.
        """
        return ArrayEnv(self, task, render_mode)

    def make_vec(self, num_envs: int, **options: Any) -> SlotVectorEnv:
        """Make ``num_envs`` slots that are stepped together as arrays.

        ``options`` are accepted for worker processes, which array families do not need.
        """
        return ArrayVectorEnv(self, num_envs)


class ArrayVectorEnv(SlotVectorEnv):
    """Slots of a family written as array functions, all stepped by a few NumPy calls.

    A slot's random numbers at a step depend only on the slot's seed and the step's number.

    >>> tasks = metarl.make("bandit/n10-k5")
    >>> envs = metarl.ArrayVectorEnv(tasks, 1000)  # tasks.make_vec makes one, too
    >>> drawn = tasks.sample(np.random.default_rng(0), 1000, "train")
    >>> observations, _ = envs.reset(seed=0, options={"tasks": drawn})
    >>> _, rewards, *_ = envs.step(np.zeros(1000, np.int64))  # the first arm of every bandit
    >>> round(float(rewards.mean()), 1)
    0.5
    """

    distribution: ArrayTaskDistribution

    def __init__(self, tasks: ArrayTaskDistribution, num_envs: int) -> None:
        super().__init__(tasks, num_envs)
        self._params: dict[str, npt.NDArray[Any]] = {}
        self._tasks: dict[int, Task] = {}
        self._state: State = {}
        self._elapsed = np.zeros(num_envs, np.int64)
        self._stepped: Step | None = None

    def reset(
        self,
        *,
        seed: Seed = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Start episodes; :mod:`metarl.stepping.vector` describes the arguments."""
        mask, slots, tasks = self._checked_request(options)
        if tasks:
            with _family_exits():
                params = self.distribution.stack(tasks)
            _write(self._params, np.array(slots), params, self.num_envs)
            self._has_task[slots] = True
            self._tasks.update(zip(slots, tasks, strict=True))
        index = np.flatnonzero(mask)
        self._next_seeds(seed, index)
        if index.size:
            self._elapsed[index] = 0
            params = {name: values[index] for name, values in self._params.items()}
            noise = self._noise(index, self.distribution.initial_noise)
            with _family_exits():
                state, observation = self.distribution.initial(params, noise)
            _write(self._state, index, state, self.num_envs)
            self._observe(index, observation)
            self._mark_started(mask)
        return self._observation.copy(), {}

    def row(self, slot: int) -> tuple[Values, Values]:
        """Return the parameters of a slot's task and its present state, without the slot's axis."""
        params = {name: values[slot] for name, values in self._params.items()}
        return params, {name: values[slot] for name, values in self._state.items()}

    def step_async(self, actions: Any) -> None:
        """Step at once, since array code has nothing to wait for."""
        self._stepped = self._step(actions)

    def step_wait(self) -> Step:
        """Return the results of the step that :meth:`step_async` took."""
        if self._stepped is None:
            raise RuntimeError("step_wait was called without step_async")
        result, self._stepped = self._stepped, None
        return result

    def _step(self, actions: Any) -> Step:
        actions = self._checked_actions(actions)
        reward = np.zeros(self.num_envs)
        info = {key: np.zeros(self.num_envs) for key in self._info_names}
        index = np.flatnonzero(self._live)
        if index.size:
            self._elapsed[index] += 1
            noise = self._noise(index, self.distribution.transition_noise)
            state = {name: values[index] for name, values in self._state.items()}
            with _family_exits():
                result = self.distribution.transition(
                    state, self._rows.unpack_batch(actions[index]), noise
                )
            _write(self._state, index, result.state, self.num_envs)
            self._observe(index, result.observation)
            reward[index] = self._numbers(index, result.reward, "a reward")
            terminated = self._fit(index, result.terminated, np.bool_, "terminated")
            self._terminated[index] = terminated
            self._truncated[index] = ~terminated & (
                self._elapsed[index] >= self.distribution.horizon
            )
            for key, values in zip(self.distribution.info_keys, info.values(), strict=True):
                if key not in result.info:
                    cause = f"step's info has no {key!r}; info_keys promises a finite number"
                    raise self._failure(None, cause)
                values[index] = self._numbers(index, result.info[key], f"step's info[{key!r}]")
            self._live &= ~(self._terminated | self._truncated)
        return (
            self._observation.copy(),
            reward,
            self._terminated.copy(),
            self._truncated.copy(),
            info,
        )

    def _observe(self, index: npt.NDArray[np.intp], observation: Array) -> None:
        space = self.single_observation_space
        shape, dtype = space.shape or (), np.dtype(space.dtype)
        rows = self._fit(index, observation, dtype, "an observation", shape)
        inside = indices_inside(space, rows)
        if inside is not None and not inside.all():
            first = int(np.argmin(inside))
            raise self._failure(
                int(index[first]), f"an observation is {rows[first]}, outside {space}"
            )
        self._observation[index] = rows

    def _numbers(
        self, index: npt.NDArray[np.intp], values: Array, name: str
    ) -> npt.NDArray[np.float64]:
        """Return one finite number for each of the slots ``index``."""
        rows = self._fit(index, values, np.float64, name)
        finite = np.isfinite(rows)
        if not finite.all():
            first = int(np.argmin(finite))
            cause = f"{name} is {rows[first]}; accepted: a finite number"
            raise self._failure(int(index[first]), cause)
        return rows

    def _fit(
        self,
        index: npt.NDArray[np.intp],
        values: Array,
        dtype: npt.DTypeLike,
        name: str,
        shape: tuple[int, ...] = (),
    ) -> npt.NDArray[Any]:
        """Return the family's values for the slots ``index`` as ``[slot, *shape]`` of ``dtype``."""
        rows, expected = np.asarray(values), (len(index), *shape)
        if not shape and rows.ndim == 0:  # One value serves all slots.
            rows = np.broadcast_to(rows, expected)
        if rows.shape != expected:
            raise self._failure(None, f"{name} has shape {rows.shape}, expected {expected}")
        try:
            return fit(rows, dtype, name)
        except ValueError as error:
            raise self._failure(None, str(error)) from error

    def _failure(self, slot: int | None, cause: str) -> EnvError:
        task = None if slot is None else self._tasks.get(slot)
        return EnvError(None, slot, task, f"ValueError: {cause}")

    def _noise(self, index: npt.NDArray[np.intp], spec: NoiseSpec) -> Noise:
        """Draw each slot's numbers for its present step; the reset is step 0."""
        if not any(spec):
            empty = np.zeros((len(index), 0))
            return Noise(empty, empty)
        keys = seeding.fold(self._seed[index], self._elapsed[index])
        return Noise(
            seeding.uniform(seeding.fold(keys, 0), spec.uniform),
            seeding.normal(seeding.fold(keys, 1), spec.normal),
        )


@contextlib.contextmanager
def _family_exits() -> Iterator[None]:
    """Turn a family's ``sys.exit()`` into an error; otherwise the program would end silently."""
    try:
        yield
    except SystemExit as error:
        raise EnvError(None, None, None, described(error), traceback.format_exc()) from error


def _write(
    target: dict[str, Array], index: npt.NDArray[Any], rows: dict[str, Array], size: int
) -> None:
    """Write ``rows`` into the arrays of ``target`` at ``index``; absent arrays are made."""
    for name, values in rows.items():
        values = np.asarray(values)
        if len(index) == size:  # All slots, in order.
            # Copy: the array may be read-only, or the same under several names.
            target[name] = values.copy()
            continue
        if name not in target:
            target[name] = np.zeros((size, *values.shape[1:]), values.dtype)
        # Widen the type if needed: 0.5 may follow 1, and "right" may follow "left".
        kind = np.result_type(target[name], values)
        target[name] = target[name].astype(kind, copy=False)
        target[name][index] = values


class ArrayEnv(gym.Env[Any, Any]):
    """One slot of an array family as an ordinary Gymnasium environment.

    With the render mode ``rgb_array``, ``render()`` returns the family's picture of what has
    happened since the task was given.
    """

    def __init__(
        self,
        tasks: ArrayTaskDistribution,
        task: Task | None = None,
        render_mode: str | None = None,
    ) -> None:
        modes = ["rgb_array"] if tasks.can_draw else []
        self.metadata = {"render_modes": modes, "render_fps": tasks.render_fps}
        if render_mode is not None and render_mode not in modes:
            accepted = "rgb_array or None" if modes else "None: the family has no method draw"
            raise bad_option(f"{tasks.name} render_mode", render_mode, accepted)
        self.render_mode = render_mode
        self._draw = tasks.draw
        self._history = History()
        self.observation_space = tasks.observation_space
        self.action_space, self._rows = tasks.action_space, ActionRows(tasks.action_space)
        self.horizon = tasks.horizon
        self._slot = ArrayVectorEnv(tasks, 1)
        self._own_names = dict(zip(tasks.reported_keys, tasks.info_keys, strict=True))
        self.task = task
        self._fresh_task = task

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with a new task if ``options`` holds one."""
        super().reset(seed=seed)
        new = (options or {}).get("task")
        if new is not None and not isinstance(new, Task):
            raise TypeError(f"options['task'] must be a metarl.Task, got {type(new).__name__}")
        new = new or self._fresh_task
        self.task = new or self.task
        require_task(self.task)
        slot_seed = int(self.np_random.integers(2**63)) if seed is None else seed
        observation, _ = self._slot.reset(
            seed=np.array([slot_seed], np.uint64), options={"tasks": [new]} if new else None
        )
        self._fresh_task = None
        if self.render_mode is not None:
            self._history.start(*self._slot.row(0), same_task=new is None)
        return observation[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step."""
        row = self._rows.row(action)
        observation, reward, terminated, truncated, info = self._slot.step(row[None])
        if self.render_mode is not None:
            self._history.step(row, float(reward[0]), self._slot.row(0)[1])
        return (
            observation[0],
            float(reward[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            {self._own_names[key]: values[0] for key, values in info.items()},
        )

    def render(self) -> Frame | None:
        """Return a picture, ``[height, width, 3]``, or warn and return None without a render mode.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset in the render mode.
            ValueError: if the family's ``draw`` returns something else.
        """
        if self.render_mode is None:
            gym.logger.warn("render() shows nothing: make the environment with a render_mode")
            return None
        scene = self._history.scene
        if scene is None:
            raise gym.error.ResetNeeded("reset the environment before it is rendered")
        frame = np.asarray(self._draw(scene))
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} of shape {frame.shape}"
            raise ValueError(f"draw returned {got}; accepted: uint8 [height, width, 3]")
        return frame
