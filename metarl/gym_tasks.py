"""Any Gymnasium environment with varied parameters as a task distribution.

    GymTasks("Pendulum-v1", {"g": Uniform(8, 12)})
    GymTasks("Hopper-v5", {"body_mass": Uniform(0.5, 2, factor=True, each=True)})
    metarl.make("gym/CartPole-v1:length=0.3..1.0,masspole=0.05..0.5")

A parameter's name is looked for among the physics of a MuJoCo model, then the constructor's
arguments, then the numbers the environment holds as attributes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from metarl.errors import UserError, bad_option, near_matches
from metarl.parameters import Choice, ParametricTasks, Range, Uniform, parse_range, text_of
from metarl.tasks import Env, Task, TaskEnv, close_quietly

MODEL_FIELDS = (
    "gravity",
    "body_mass",
    "body_inertia",
    "geom_friction",
    "dof_damping",
    "actuator_gear",
)
"""Of a MuJoCo model; ``gravity`` is the size of its acceleration."""


class GymTasks(ParametricTasks):
    """Tasks that differ in parameters of one Gymnasium environment.

    Args:
        id: the environment's, as ``gymnasium.make`` takes it.
        params: what varies. A name of :data:`MODEL_FIELDS` may be followed by a dot and the
            name of one body, geom, joint or actuator (``body_mass.torso``).
        horizon: steps of an episode; by default the environment's own.
        kwargs: for ``gymnasium.make``.
    """

    def __init__(
        self,
        id: str,
        params: Mapping[str, Range],
        *,
        horizon: int | None = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        if not params:
            raise UserError(f"gym/{id}: accepted: one parameter to vary or more, name=low..high")
        super().__init__(params)
        self.id, self.kwargs = id, kwargs
        self.name = name or f"gym/{id}:" + ",".join(text_of(k, r) for k, r in self.params.items())
        if name is None and horizon is not None:
            self.name += f",horizon={horizon}"
        env = self._build({})
        limit = horizon or gym.spec(id).max_episode_steps
        if limit is None or limit < 1:
            raise bad_option(f"gym/{id} horizon", limit, "at least 1: it has no limit of its own")
        self.horizon = int(limit)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._places = {key: place(env, id, key) for key in self.params}
        for key, where in self._places.items():
            _check(env, id, key, where, self.params[key])
        self._defaults = _constructor_numbers(env.unwrapped)
        self._entries = {key: _entries(env, key) if r.each else 1 for key, r in self.params.items()}
        close_quietly(env)

    def num_entries(self, key: str) -> int:
        """Return how many entries ``each`` varies."""
        return self._entries[key]

    def make(self, task: Task | None = None) -> Env:
        """Make the environment."""
        return _GymTaskEnv(self, task)

    def _build(self, arguments: Mapping[str, Any]) -> Env:
        try:
            return gym.make(
                self.id,
                max_episode_steps=-1,  # the horizon is counted here
                disable_env_checker=True,
                **{**self.kwargs, **arguments},
            )
        except (gym.error.Error, ImportError) as error:
            raise UserError(f"--env: gym/{self.id}: {error}") from error

    def constructor_values(self, task: Task) -> dict[str, Any]:
        """Return what of ``task`` is given to the constructor."""
        values = {}
        for key, where in self._places.items():
            if where == "constructor":
                default = self._defaults[key]
                value = task[key] * default if self.params[key].factor else task[key]
                values[key] = int(value) if isinstance(default, int) else value
        return values

    def apply(self, env: Env, task: Task, original: Mapping[str, Any]) -> None:
        """Give ``env`` the rest of ``task``; ``original`` is what :meth:`originals` returned."""
        model_values: dict[str, Any] = {}
        for key, where in self._places.items():
            value: Any = task[key]
            if where == "attribute":
                value = value * original[key] if self.params[key].factor else value
                setattr(env.unwrapped, key, value)
            elif where == "model":
                model_values[key] = value
        if model_values:
            _apply_to_model(env, model_values, self.params, original)
        if any(where == "attribute" for where in self._places.values()):
            for kind, recompute in DERIVED.items():
                if isinstance(env.unwrapped, kind):
                    recompute(env.unwrapped)

    def originals(self, env: Env) -> dict[str, Any]:
        """Return the values ``env`` came with."""
        values: dict[str, Any] = {
            key: getattr(env.unwrapped, key)
            for key, where in self._places.items()
            if where == "attribute"
        }
        model = getattr(env.unwrapped, "model", None)
        if any(where == "model" for where in self._places.values()) and model is not None:
            values["model"] = {name: _field(model, name).copy() for name in MODEL_FIELDS}
        return values


class _GymTaskEnv(TaskEnv):
    """Rebuilds its environment where a task changes the constructor's arguments."""

    def __init__(self, tasks: GymTasks, task: Task | None) -> None:
        self._tasks = tasks
        self._arguments: dict[str, Any] = {}
        env = tasks._build({})
        self._original = tasks.originals(env)
        super().__init__(env, tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        arguments = self._tasks.constructor_values(task)
        if arguments != self._arguments:
            close_quietly(self.env)
            self.env = self._tasks._build(arguments)
            self._arguments = arguments
        self._tasks.apply(self.env, task, self._original)


def _recompute_cartpole(env: Any) -> None:
    env.total_mass = env.masspole + env.masscart
    env.polemass_length = env.masspole * env.length


DERIVED: dict[type, Callable[[Any], None]] = {CartPoleEnv: _recompute_cartpole}
"""Environments whose attributes depend on each other, and what sets them right."""


def place(env: Env, id: str, key: str) -> str:
    """Return where ``key`` is set: ``model``, ``constructor`` or ``attribute``.

    Raises:
        UserError: if nothing has that name; all that can vary is listed.
    """
    names = can_vary(env)
    for where, known in names.items():
        if key in known or (where == "model" and key.partition(".")[0] in known and "." in key):
            return where
    every = [name for known in names.values() for name in known]
    raise UserError(
        f"--env: gym/{id} has nothing called {key!r} that can vary; {near_matches(key, every)}"
    )


def can_vary(env: Env) -> dict[str, list[str]]:
    """Return the names that can vary, by where they are set."""
    inner = env.unwrapped
    arguments = list(_constructor_numbers(inner))
    attributes = [
        name
        for name, value in vars(inner).items()
        if not name.startswith("_") and _is_number(value) and name not in arguments
    ]
    return {
        "model": list(MODEL_FIELDS) if _model(inner) is not None else [],
        "constructor": arguments,
        "attribute": attributes,
    }


def _constructor_numbers(env: Any) -> dict[str, Any]:
    signature = inspect.signature(type(env).__init__)
    return {k: p.default for k, p in signature.parameters.items() if _is_number(p.default)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _model(env: Any) -> Any:
    model = getattr(env, "model", None)
    return model if type(model).__name__ == "MjModel" else None


def _field(model: Any, name: str) -> npt.NDArray[np.float64]:
    field: npt.NDArray[np.float64] = getattr(model.opt if name == "gravity" else model, name)
    return field


def _entries(env: Env, key: str) -> int:
    """Return how many entries ``each`` varies."""
    return int(_field(_model(env.unwrapped), key.partition(".")[0])[_selected(env, key)].size)


def _selected(env: Env, key: str) -> Any:
    """Return the index of what ``key`` names in its field of the model."""
    name, _, part = key.partition(".")
    if not part:
        return slice(None)
    model = _model(env.unwrapped)
    kind = name.partition("_")[0]
    if kind == "dof":
        joint = model.joint(part)
        return slice(int(joint.dofadr[0]), int(joint.dofadr[0]) + len(joint.damping))
    return slice(getattr(model, kind)(part).id, getattr(model, kind)(part).id + 1)


def _check(env: Env, id: str, key: str, where: str, kind: Range) -> None:
    if where != "model":
        if kind.each:
            raise UserError(
                f"--env: gym/{id}: each:{key}: got one number; accepted: an entry of "
                f"{', '.join(MODEL_FIELDS)}"
            )
        return
    if key == "gravity" and kind.each:
        raise UserError(f"--env: gym/{id}: each:gravity: got each; accepted: one number")
    try:
        _selected(env, key)
    except KeyError as error:
        raise UserError(f"--env: gym/{id}: {key}: {error.args[0]}") from None


def _apply_to_model(
    env: Env, values: Mapping[str, Any], ranges: Mapping[str, Range], original: Mapping[str, Any]
) -> None:
    """Write a task's physics into the MuJoCo model, from the values it came with."""
    import mujoco

    inner: Any = env.unwrapped
    model = inner.model
    for name, saved in original["model"].items():
        _field(model, name)[...] = saved
    inertia_varies = any(key.partition(".")[0] == "body_inertia" for key in values)
    for key, value in values.items():
        name = key.partition(".")[0]
        field, kind = _field(model, name), ranges[key]
        if name == "gravity":
            size = float(np.linalg.norm(field))
            down = field / size if size else np.array([0.0, 0.0, -1.0])
            field[...] = field * value if kind.factor else down * value
            continue
        index = _selected(env, key)
        before = field[index].copy()
        given = np.asarray(value, np.float64)
        given = given.reshape(before.shape) if kind.each else given
        field[index] = before * given if kind.factor else np.where(before != 0, given, 0.0)
        if name == "body_mass" and not inertia_varies:
            ratio = np.divide(field[index], before, out=np.ones_like(before), where=before != 0)
            model.body_inertia[index] *= ratio[:, None]
    mujoco.mj_setConst(model, inner.data)


def parse(id: str, text: str) -> GymTasks:
    """Make the tasks of ``gym/<id>:<text>``.

    ``text`` is a list of ``name=range`` with commas between. A range is ``low..high``, the
    values ``a/b/c``, or one value; ``0.5x..2x`` are factors of the environment's own; ``log:``
    before it spreads it evenly over the orders of magnitude, ``each:`` draws one for every
    entry. ``test.name=range`` is the held-out part; ``horizon=N`` the steps of an episode.
    """
    params: dict[str, Range] = {}
    held_out: dict[str, Range] = {}
    horizon = None
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--env: gym/{id}: got {item!r}; accepted: name=low..high")
        if key == "horizon":
            if not value.isdigit() or int(value) < 1:
                raise UserError(f"--env: gym/{id}: horizon: got {value!r}; accepted: 1 or more")
            horizon = int(value)
        elif key.startswith("test."):
            held_out[key[5:]] = parse_range(id, key, value)
        else:
            params[key] = parse_range(id, key, value)
    for key, other in held_out.items():
        if key not in params or type(other) is not type(params[key]):
            raise UserError(
                f"--env: gym/{id}: test.{key}: accepted: the same kind of range as {key}'s"
            )
        kind = params[key]
        if isinstance(kind, Uniform) and isinstance(other, Uniform):
            params[key] = replace(kind, test=(other.low, other.high))
        elif isinstance(kind, Choice) and isinstance(other, Choice):
            params[key] = Choice(
                *kind.options, factor=kind.factor, each=kind.each, test=other.options
            )
    return GymTasks(id, params, horizon=horizon)
