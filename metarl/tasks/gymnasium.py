"""Task distributions made of any Gymnasium environment by varying its parameters.

    GymTasks("Pendulum-v1", {"g": Uniform(8, 12)})
    GymTasks("Hopper-v5", {"body_mass": Uniform(0.5, 2, factor=True, each=True)})
    metarl.make("gym/CartPole-v1:length=0.3..1.0,masspole=0.05..0.5")
    metarl.make("gym/gymnasium_robotics:FetchReach-v4:gravity=5..15")

:mod:`metarl.tasks.places` says where a parameter is looked for, :mod:`metarl.tasks.gym_names` how
such tasks are named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from metarl.errors import UserError
from metarl.imports import import_module
from metarl.stepping.slots import close_quietly
from metarl.task import Env, Task
from metarl.tasks.constructors import Constructor, types_of
from metarl.tasks.distribution import TaskEnv, time_limit
from metarl.tasks.functions import (
    ParametricTasks,
    Wrapper,
    build_error,
    choose_horizon,
    measured,
    wrapper_text,
)
from metarl.tasks.physics import (
    apply_to_model,
    field_of,
    fields,
    is_field,
    model_of,
    num_entries,
)
from metarl.tasks.places import (
    SEED,
    Place,
    annotation_of,
    check_entries,
    check_seeds,
    check_types,
    constructor_of,
    derived,
    find_spec,
    names_that_vary,
    place_of,
)
from metarl.tasks.ranges import (
    Choice,
    Integers,
    Range,
    is_number,
    text_of,
    value_text,
)
from metarl.tasks.wrappers import Hide

RESERVED = (
    "horizon",
    "wrappers",
    "info_keys",
    "success_key",
    "episodes_per_trial",
    "max_slots",
    "fresh",
)
"""Words of a name that are arguments of :class:`GymTasks`, not of the environment."""


class GymTasks(ParametricTasks):
    """Tasks that differ in parameters of one Gymnasium environment.

    Args:
        id: the environment's id for ``gymnasium.make``; ``module:Id`` imports the module that
            registers it.
        params: range of every parameter that varies. A name of
            :data:`metarl.tasks.physics.MODEL_FIELDS` may be followed by a dot and the name of one
            body, geom, joint or actuator (``body_mass.torso``). A choice of one value for an
            argument of the constructor makes it a fixed argument.
        horizon: steps of an episode; by default the environment's own limit.
        wrappers: see :class:`metarl.tasks.functions.ParametricTasks`; parameters are set on the
            environment inside all of them.
        info_keys: names of numbers that every step's ``info`` holds.
        success_key: the entry of ``info_keys`` that tells success; without ``info_keys`` it is
            their only entry.
        episodes_per_trial: episodes an agent gets with one task, if the benchmark prescribes it.
        max_slots: environments stepped at once, by default as many as memory allows, up to 400.
        fresh: whether every episode begins with a new environment, for those whose ``reset`` leaves
            something of the episode before, as a world of Box2D may.
        name: name that :func:`metarl.make` makes these tasks of; by default it is made of the
            other arguments.
        kwargs: fixed arguments of the constructor.

    Raises:
        UserError: if the environment cannot be made, has no parameter of a given name, does not
            take a value, changes it, or replaces it on reset.

    >>> tasks = metarl.GymTasks("Pendulum-v1", {"g": metarl.Uniform(8, 12)}, horizon=100)
    >>> tasks.name
    'gym/Pendulum-v1:g=8..12,horizon=100'
    >>> [task] = tasks.sample(np.random.default_rng(0), 1, "test")
    >>> env = tasks.make(task)  # an ordinary Gymnasium environment
    >>> env.unwrapped.g == task["g"]
    True
    """

    def __init__(
        self,
        id: str,
        params: Mapping[str, Range],
        *,
        horizon: int | None = None,
        wrappers: Sequence[Wrapper] = (),
        info_keys: Sequence[str] = (),
        success_key: str | None = None,
        episodes_per_trial: int | None = None,
        max_slots: int | None = None,
        fresh: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            params,
            wrappers=wrappers,
            info_keys=info_keys,
            success_key=success_key,
            episodes_per_trial=episodes_per_trial,
            max_slots=max_slots,
            fresh=fresh,
        )
        self.id, self.kwargs = id, kwargs
        self._defaults: dict[str, Any] = {}
        """Defaults of the constructor arguments that vary."""
        self._base: dict[str, Any] = {}
        """Values, before the first task, of the constructor arguments that have no default."""
        self.name = name or f"gym/{id}"  # for messages until the name is complete
        for key in ("max_episode_steps", "disable_env_checker"):
            if key in kwargs:
                raise UserError(f"--env: gym/{id}: {key}: accepted: horizon=N, and no check")
        for key in params:
            if key in RESERVED:
                raise UserError(
                    f"--env: gym/{id}: {key}: got a range; accepted: another parameter, since "
                    f"{key} says how tasks are made (metarl.FunctionTasks varies any name)"
                )
            if key in kwargs:
                raise UserError(
                    f"--env: gym/{id}: {key}: got a range and the fixed value {kwargs[key]!r}; "
                    "accepted: one of them"
                )
        self._spec = find_spec(id)
        constructor = constructor_of(id, self._spec)
        self._fix(constructor, lambda key: constructor.takes(key) and not is_field(key))
        env, size = measured(self.name, self._build_base)
        constructor = constructor.with_class_of(env.unwrapped)
        names = names_that_vary(env, constructor)

        def is_argument(key: str) -> bool:
            if names["model"] and is_field(key):
                return False
            known = key in names["attribute"] or key in derived(env)
            unknown = not known and key not in constructor.parameters
            return constructor.takes(key) or (constructor.open and unknown)

        if self._fix(constructor, is_argument):
            close_quietly(env)
            env, size = measured(self.name, self._build_base)
        if not self.params:
            every = sorted(name for known in names.values() for name in known)
            raise UserError(
                f"gym/{id}: accepted: one parameter to vary or more, name=low..high; "
                f"known: {', '.join(every)}"
            )
        self._places = {key: place_of(env, id, key, constructor) for key in self.params}
        self.sets_seed = self._places.get(SEED) == "reset"
        """Whether every episode of a task begins with the task's own seed."""
        for key, kind in self.params.items():
            check_entries(env, id, key, self._places[key], kind)
            if self._places[key] == "constructor":
                check_types(id, key, kind, constructor.types(key), self._defaults.get(key))
            elif self._places[key] == "attribute":
                value = getattr(env.unwrapped, key)
                types = types_of(annotation_of(env.unwrapped, key), value)
                check_types(id, key, kind, types, value)
            elif self._places[key] == "reset":
                check_seeds(id, kind)
            else:
                check_types(id, key, kind, (int, float), 1.0)
        self.observation_space, self.action_space = env.observation_space, env.action_space
        model = model_of(env.unwrapped)
        self._entries = {
            key: num_entries(model, key, kind) if kind.each else 1
            for key, kind in self.params.items()
        }
        own = time_limit(env)
        if horizon is None and self._spec.max_episode_steps is not None:
            own = min(own or self._spec.max_episode_steps, self._spec.max_episode_steps)
        self.horizon = choose_horizon(f"gym/{id}", horizon, own)
        self.name = name or self._canonical_name(horizon, is_argument)
        self.limit_slots(self._build_base, size)
        self._try(env)

    def _fix(self, constructor: Constructor, is_argument: Callable[[str], bool]) -> bool:
        """Fix the constructor arguments that have a single value; return whether there are any."""
        fixed = {
            key: kind.options[0]
            for key, kind in self.params.items()
            if isinstance(kind, Choice)
            and len(kind.options) == 1
            and not kind.factor
            and not kind.each
            and kind.test is None
            and is_argument(key)
        }
        for key, value in fixed.items():
            check_types(self.id, key, Choice(value), constructor.types(key), None)
            del self.params[key]
        self.kwargs = self.kwargs | fixed
        given = constructor.defaults() | self._spec.kwargs | self.kwargs
        self._defaults = {key: value for key, value in given.items() if key in self.params}
        self._base = {
            key: kind.middle()
            for key, kind in self.params.items()
            if key in constructor.parameters and key not in given and not is_field(key)
        }
        return bool(fixed)

    def _canonical_name(self, horizon: int | None, is_argument: Callable[[str], bool]) -> str:
        """Return the name that makes these tasks again, as far as they can be named."""
        hidden = [x for x in self.wrappers[-1:] if isinstance(x, Hide)]
        words: dict[str, Any] = {
            "horizon": horizon,
            "wrappers": "+".join(
                map(wrapper_text, self.wrappers[: len(self.wrappers) - len(hidden)])
            ),
            "hide": "+".join(map(repr, hidden)),
            "info_keys": "+".join(self.info_keys),
            "success_key": self.success_key if self.success_key != "success" else None,
            "episodes_per_trial": self.episodes_per_trial,
            "max_slots": self._given_slots,
            "fresh": "true" if self.fresh else None,
        }
        ambiguous = any("+" in key or "," in key or "=" in key for key in self.info_keys)
        if ambiguous:
            words["info_keys"] = "<tuple>"
        if words["success_key"] and value_text(self.success_key).startswith("<"):
            words["success_key"] = "<str>"
        parts = [text_of(key, kind) for key, kind in self.params.items()]
        for key, value in self.kwargs.items():
            text = value_text(value) if is_argument(key) else "<argument>"
            parts.append(f"{key}={text}")
        parts += [f"{word}={value}" for word, value in words.items() if value not in (None, "")]
        return f"gym/{self.id}:" + ",".join(parts)

    def num_entries(self, key: str) -> int:
        """Return how many numbers a parameter with ``each`` has."""
        return self._entries[key]

    def make(self, task: Task | None = None) -> Env:
        """Make the environment; it is built again when a task changes the constructor's values."""
        arguments = self._base if task is None else self.constructor_values(task)
        return _GymTaskEnv(self, self._build(arguments), arguments, task)

    def _build_base(self) -> Env:
        return self._build(self._base)

    def _build(self, arguments: Mapping[str, Any]) -> Env:
        values = {**self.kwargs, **arguments}
        module = self.id.rpartition(":")[0]
        if module:
            import_module(module, f"--env: gym/{self.id}")
        try:
            env: Env = gym.make(
                self._spec,  # A worker process may not know the id.
                max_episode_steps=-1,  # _GymTaskEnv counts the horizon.
                disable_env_checker=True,
                **values,
            )
        except (gym.error.Error, ImportError) as error:
            raise UserError(f"--env: gym/{self.id}: {error}") from error
        except Exception as error:
            raise self._failure("building it", values, error) from error
        return self.wrap(env)

    def _failure(self, doing: str, values: Mapping[str, Any], error: Exception) -> UserError:
        whole = [key for key, value in self._defaults.items() if isinstance(value, int)]
        name = f"--env: gym/{self.id}"
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        return build_error(name, values, cause, whole, doing)

    def constructor_values(self, task: Task) -> dict[str, Any]:
        """Return the arguments of the constructor that ``task`` sets."""
        return {
            key: task[key] * self._defaults[key] if self.params[key].factor else task[key]
            for key, where in self._places.items()
            if where == "constructor"
        }

    def apply(self, env: Env, task: Task, original: Mapping[str, Any]) -> None:
        """Set the attributes and physics of ``task``, starting from the :meth:`originals`."""
        model_values: dict[str, Any] = {}
        for key, where in self._places.items():
            value: Any = task[key]
            if where == "attribute":
                value = value * original[key] if self.params[key].factor else value
                setattr(env.unwrapped, key, value)
            elif where == "model":
                model_values[key] = value
        if model_values:
            apply_to_model(env.unwrapped, model_values, self.params, original["model"])
        if any(where == "attribute" for where in self._places.values()):
            for name, compute in derived(env).items():
                setattr(env.unwrapped, name, compute(env.unwrapped))

    def originals(self, env: Env) -> dict[str, Any]:
        """Return the attributes and physics of a newly built ``env`` that tasks change."""
        values: dict[str, Any] = {
            key: getattr(env.unwrapped, key)
            for key, where in self._places.items()
            if where == "attribute"
        }
        if any(where == "model" for where in self._places.values()):
            values["model"] = fields(model_of(env.unwrapped))
        return values

    def _probes(self) -> Iterator[Task]:
        """Yield tasks that hold every option of a choice and the ends of every integer range."""
        (drawn,) = self.sample(np.random.default_rng(0), 1, "train")
        some: dict[str, list[Any]] = {key: [drawn[key]] for key in self.params}
        for key, kind in self.params.items():
            if isinstance(kind, Choice) and not kind.each:
                some[key] = [*kind.options, *(kind.test or ())]
            elif isinstance(kind, Integers):
                some[key] = list(dict.fromkeys((kind.low, kind.middle(), kind.high)))
        for i in range(max(map(len, some.values()))):
            yield Task.of(
                self.name, **{key: values[i % len(values)] for key, values in some.items()}
            )

    def _try(self, env: Env) -> None:
        """Give a new environment some tasks, and refuse parameters that it changes or ignores."""
        made = _GymTaskEnv(self, env, self._base, None)
        actions = copy.deepcopy(self.action_space)
        actions.seed(0)
        for task in self._probes():
            values = dict(task.params)
            doing = "setting it up"
            try:
                made._take(task)
                given = self._held(made)
                doing = "resetting it"
                made.reset(seed=0)
                kept = self._held(made)
                self._check_spaces(made, self.constructor_values(task) or values)
                doing = "stepping it"
                made.step(actions.sample())
            except UserError:
                raise
            except Exception as error:
                raise self._failure(doing, values, error) from error
            for key, where in self._places.items():
                self._check_held(key, where, made, task, given[key], kept[key])
        close_quietly(made)

    def _held(self, made: _GymTaskEnv) -> dict[str, Any]:
        """Return each parameter's present value, or None if the environment does not hold it."""
        inner = made.unwrapped
        held: dict[str, Any] = {}
        for key, where in self._places.items():
            if where == "reset":
                held[key] = None
            elif where == "model":
                held[key] = field_of(model_of(inner), key).copy()
            else:
                value = getattr(inner, key, None)
                held[key] = value if is_number(value) or isinstance(value, bool | str) else None
        return held

    def _check_held(
        self, key: str, where: Place, made: _GymTaskEnv, task: Task, given: Any, kept: Any
    ) -> None:
        """Refuse a value that the environment rounded, or that reset() replaced."""
        name = f"--env: gym/{self.id}: {key}"
        if where == "reset":
            return
        if where == "model":
            if not np.array_equal(given, kept):
                raise UserError(
                    f"{name}: reset() puts the model's own values back, so that {_SAME}"
                )
            return
        if where == "constructor":
            value = self.constructor_values(task)[key]
        else:
            value = made.asked(key, task)
        if given is not None and given == value:
            if kept != value:
                raise UserError(
                    f"{name}: reset() puts {kept} in the place of {value}, so that {_SAME}"
                )
            return
        for held in (given, kept):
            cut = is_number(value) and is_number(held) and held != value
            if cut and held in (int(value), round(value)):
                raise UserError(
                    f"{name}: the environment makes {held} of {value}; accepted: whole numbers, "
                    f"{key}=int:low..high, or metarl.Integers(low, high)"
                )
        if where == "attribute":
            raise UserError(f"{name}: the environment makes {given} of {value}, so that {_SAME}")

    def _check_spaces(self, env: Env, values: Mapping[str, Any]) -> None:
        for kind in ("observation_space", "action_space"):
            ours, other = getattr(self, kind), getattr(env, kind)
            if ours != other:
                given = ", ".join(f"{key}={value}" for key, value in values.items())
                raise UserError(
                    f"--env: gym/{self.id}: with {given} the {kind.replace('_', ' ')} is {other}, "
                    f"otherwise {ours}; accepted: values that leave the spaces the same"
                )


_SAME = "tasks would not differ; accepted: another parameter"


class _GymTaskEnv(TaskEnv):
    """Builds its environment again when a task changes the constructor's arguments."""

    def __init__(
        self, tasks: GymTasks, env: Env, arguments: Mapping[str, Any], task: Task | None
    ) -> None:
        self._tasks, self.fresh = tasks, tasks.fresh
        self._arguments = dict(arguments)
        self._original = tasks.originals(env)
        super().__init__(env, tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        arguments = self._tasks.constructor_values(task)
        if arguments != self._arguments or self.stale:
            close_quietly(self.env)
            self.env = self._tasks._build(arguments)
            self._arguments = arguments
            self._original = self._tasks.originals(self.env)
        self._tasks.apply(self.env, task, self._original)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, by the task's own seed if tasks differ in it."""
        if self._tasks.sets_seed:
            task = (options or {}).get("task") or self.task
            seed = None if task is None else task[SEED]
        return super().reset(seed=seed, options=options)

    def asked(self, key: str, task: Task) -> Any:
        """Return the value that ``task`` asks for an attribute."""
        return task[key] * self._original[key] if self._tasks.params[key].factor else task[key]
