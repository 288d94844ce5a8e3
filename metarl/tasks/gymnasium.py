"""Any Gymnasium environment with varied parameters as a task distribution.

    GymTasks("Pendulum-v1", {"g": Uniform(8, 12)})
    GymTasks("Hopper-v5", {"body_mass": Uniform(0.5, 2, factor=True, each=True)})
    metarl.make("gym/CartPole-v1:length=0.3..1.0,masspole=0.05..0.5")
    metarl.make("gym/gymnasium_robotics:FetchReach-v4:gravity=5..15")

A parameter's name is looked for among the physics of a MuJoCo model, then the constructor's
arguments, then the numbers the environment or its class holds as attributes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from gymnasium.envs.registration import EnvSpec

from metarl.errors import UserError, near_matches
from metarl.imports import import_module, load_object
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
    MODEL_FIELDS,
    apply_to_model,
    check_field,
    field_of,
    fields,
    is_field,
    model_of,
    num_entries,
)
from metarl.tasks.ranges import (
    ACCEPTED_RANGES,
    Choice,
    Integers,
    Range,
    Uniform,
    is_number,
    parse_range,
    text_of,
    value_text,
)

RESERVED = (
    "horizon",
    "wrappers",
    "info_keys",
    "success_key",
    "episodes_per_trial",
    "max_slots",
)
"""Words of a name that say something of the tasks instead of the environment."""


class GymTasks(ParametricTasks):
    """Tasks that differ in parameters of one Gymnasium environment.

    Args:
        id: the environment's, as ``gymnasium.make`` takes it: ``module:Id`` imports the module
            that registers it.
        params: what varies. A name of :data:`metarl.physics.MODEL_FIELDS` may be followed by a
            dot and the name of one body, geom, joint or actuator (``body_mass.torso``). A
            choice of one value for an argument of the constructor is a fixed argument.
        horizon: steps of an episode; by default the environment's own.
        wrappers: see :class:`metarl.parameters.ParametricTasks`; parameters are set on the
            environment inside all of them.
        info_keys: scalars of every step's ``info``.
        success_key: which of ``info_keys`` tells success; alone it adds itself to them.
        episodes_per_trial: episodes an agent gets with one task, where that is prescribed.
        max_slots: environments stepped at once, by default as many as memory allows, up to 400.
        name: what :func:`metarl.make` makes these tasks of, by default one that says all above.
        kwargs: fixed arguments of the constructor.

    Raises:
        UserError: if the environment cannot be made, has nothing of that name, takes no such
            value, changes it, or puts another in its place.
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
        )
        self.id, self.kwargs = id, kwargs
        self._defaults: dict[str, Any] = {}
        """Constructor arguments without a task, of those that vary and have a default."""
        self._base: dict[str, Any] = {}
        """Constructor arguments without a task, of those that vary and have no default."""
        self.name = name or f"gym/{id}"  # for messages until all is known
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
        constructor = _constructor(id, self._spec)
        self._fix(constructor, lambda key: constructor.takes(key) and not is_field(key))
        env, size = measured(self.name, self._build_base)
        constructor = constructor.with_class_of(env.unwrapped)
        names = can_vary(env, constructor)

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
        self._places = {key: place(env, id, key, constructor) for key in self.params}
        for key, kind in self.params.items():
            _check(env, id, key, self._places[key], kind)
            if self._places[key] == "constructor":
                self._check_types(key, kind, constructor.types(key), self._defaults.get(key))
            elif self._places[key] == "attribute":
                value = getattr(env.unwrapped, key)
                types = types_of(_annotation(env.unwrapped, key), value)
                self._check_types(key, kind, types, value)
            else:
                self._check_types(key, kind, (int, float), 1.0)
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
        """Make single values of constructor arguments fixed arguments; True if there are any."""
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
            self._check_types(key, Choice(value), constructor.types(key), None)
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
        words: dict[str, Any] = {
            "horizon": horizon,
            "wrappers": "+".join(map(wrapper_text, self.wrappers)),
            "info_keys": "+".join(self.info_keys),
            "success_key": self.success_key if self.success_key != "success" else None,
            "episodes_per_trial": self.episodes_per_trial,
            "max_slots": self._given_slots,
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
        """Return how many entries ``each`` varies."""
        return self._entries[key]

    def make(self, task: Task | None = None) -> Env:
        """Make the environment."""
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
                self._spec,  # not the id: a worker process has registered nothing
                max_episode_steps=-1,  # the horizon is counted here
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
        """Return what of ``task`` is given to the constructor."""
        return {
            key: task[key] * self._defaults[key] if self.params[key].factor else task[key]
            for key, where in self._places.items()
            if where == "constructor"
        }

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
            apply_to_model(env.unwrapped, model_values, self.params, original["model"])
        if any(where == "attribute" for where in self._places.values()):
            for name, compute in derived(env).items():
                setattr(env.unwrapped, name, compute(env.unwrapped))

    def originals(self, env: Env) -> dict[str, Any]:
        """Return the values that a newly built ``env`` came with."""
        values: dict[str, Any] = {
            key: getattr(env.unwrapped, key)
            for key, where in self._places.items()
            if where == "attribute"
        }
        if any(where == "model" for where in self._places.values()):
            values["model"] = fields(model_of(env.unwrapped))
        return values

    def _check_types(
        self, key: str, kind: Range, accepted: tuple[type, ...], default: object
    ) -> None:
        """Refuse values that the parameter does not take, instead of casting them.

        Args:
            key: of the parameter.
            kind: its range.
            accepted: types it takes; anything where there are none.
            default: its value without a task, which factors multiply.
        """
        name = f"--env: gym/{self.id}: {key}"
        if kind.factor and not is_number(default):
            raise UserError(f"{name}: its default is {default!r}; accepted: values, not factors")
        if kind.factor and default == 0:
            raise UserError(f"{name}: is 0, and so is every multiple; accepted: low..high")
        if not accepted:
            return
        whole = accepted == (int,)
        if isinstance(kind, Uniform) and float not in accepted:
            if whole:
                low, high = (-(-kind.low // 1), kind.high // 1) if not kind.factor else (2, 6)
                raise UserError(
                    f"{name} takes whole numbers, got {text_of(key, kind)}; accepted: "
                    f"{key}=int:{low:.0f}..{high:.0f}, or "
                    f"metarl.Integers({low:.0f}, {high:.0f})"
                )
            raise UserError(f"{name}: got a range; accepted: {_said(accepted)}")
        if isinstance(kind, Uniform):
            return
        if isinstance(kind, Integers):
            values: tuple[Any, ...] = (kind.low,)
        else:
            values = (*kind.options, *(kind.test or ()))
        for value in values:
            if kind.factor and is_number(value) and is_number(default):
                value = value * default
            if type(value) not in accepted:
                raise UserError(f"{name}: got {value!r}; accepted: {_said(accepted)}")

    def _probes(self) -> Iterator[Task]:
        """Yield tasks in which every option of a choice and the ends of integers occur."""
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
        """Give a new environment some tasks, and refuse parameters that it changes or drops."""
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
        """Return what the environment holds of every parameter now, None where it does not."""
        inner = made.unwrapped
        held: dict[str, Any] = {}
        for key, where in self._places.items():
            if where == "model":
                held[key] = field_of(model_of(inner), key).copy()
            else:
                value = getattr(inner, key, None)
                held[key] = value if is_number(value) or isinstance(value, bool | str) else None
        return held

    def _check_held(
        self, key: str, where: str, made: _GymTaskEnv, task: Task, given: Any, kept: Any
    ) -> None:
        """Refuse a value that the environment cut, or that reset() replaced."""
        name = f"--env: gym/{self.id}: {key}"
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
    """Rebuilds its environment where a task changes the constructor's arguments."""

    def __init__(
        self, tasks: GymTasks, env: Env, arguments: Mapping[str, Any], task: Task | None
    ) -> None:
        self._tasks = tasks
        self._arguments = dict(arguments)
        self._original = tasks.originals(env)
        super().__init__(env, tasks.horizon, task)

    def apply_task(self, task: Task) -> None:
        arguments = self._tasks.constructor_values(task)
        if arguments != self._arguments:
            close_quietly(self.env)
            self.env = self._tasks._build(arguments)
            self._arguments = arguments
            self._original = self._tasks.originals(self.env)
        self._tasks.apply(self.env, task, self._original)

    def asked(self, key: str, task: Task) -> Any:
        """Return the value that ``task`` asks for an attribute."""
        return task[key] * self._original[key] if self._tasks.params[key].factor else task[key]


DERIVED: dict[type, dict[str, Callable[[Any], Any]]] = {
    CartPoleEnv: {
        "total_mass": lambda env: env.masspole + env.masscart,
        "polemass_length": lambda env: env.masspole * env.length,
    }
}
"""Attributes that depend on others of the environment, and how they are computed again."""


def derived(env: Env) -> dict[str, Callable[[Any], Any]]:
    """Return the attributes of ``env`` that are computed from others."""
    found: dict[str, Callable[[Any], Any]] = {}
    for kind, computed in DERIVED.items():
        if isinstance(env.unwrapped, kind):
            found |= computed
    return found


def find_spec(id: str) -> EnvSpec:
    """Return what is registered under ``Id`` or ``module:Id``; the module is imported.

    Raises:
        UserError: if there is no such module or id; near matches are listed.
    """
    module, _, bare = id.rpartition(":")
    if module:
        import_module(module, f"--env: gym/{id}")
    try:
        return gym.spec(bare)
    except gym.error.Error as error:
        versions = [known for known in gym.registry if known.startswith(f"{bare}-v")]
        hint = ""
        if versions:
            hint = f"; did you mean {' or '.join(versions)}?"
        elif not module and isinstance(error, gym.error.NameNotFound | gym.error.NamespaceNotFound):
            hint = " An environment that another package registers is gym/<module>:<Id>."
        raise UserError(f"--env: gym/{id}: {error}{hint}") from error


def _constructor(id: str, spec: EnvSpec) -> Constructor:
    try:
        return Constructor.of_spec(spec)
    except (gym.error.Error, ImportError, AttributeError) as error:
        raise UserError(f"--env: gym/{id}: {error}") from error


def place(env: Env, id: str, key: str, constructor: Constructor) -> str:
    """Return where ``key`` is set: ``model``, ``constructor`` or ``attribute``.

    Raises:
        UserError: if nothing has that name; all that can vary is listed.
    """
    names = can_vary(env, constructor)
    if names["model"] and is_field(key):
        return "model"
    if constructor.takes(key):
        return "constructor"
    if key in names["attribute"]:
        return "attribute"
    every = [name for known in names.values() for name in known]
    if key in derived(env):
        raise UserError(
            f"--env: gym/{id}: {key} is computed from other attributes; known: "
            f"{', '.join(sorted(every))}"
        )
    raise UserError(
        f"--env: gym/{id} has nothing called {key!r} that can vary; {near_matches(key, every)}"
    )


_SHOWN_ONLY = ("render_mode", "width", "height", "camera_id", "camera_name", "max_geom")


def can_vary(env: Env, constructor: Constructor) -> dict[str, list[str]]:
    """Return the names that can vary, by where they are set."""
    inner = env.unwrapped
    held: dict[str, Any] = {}
    for cls in type(inner).__mro__:
        if cls is gym.Env:
            break
        held = {**vars(cls), **held}
    held |= vars(inner)
    return {
        "model": list(MODEL_FIELDS) if model_of(inner) is not None else [],
        "constructor": [
            name
            for name in constructor.parameters
            if constructor.types(name) and name not in _SHOWN_ONLY
        ],
        "attribute": [
            name
            for name, value in held.items()
            if is_number(value)
            and not name.startswith("_")
            and name not in constructor.parameters
            and name not in derived(env)
        ],
    }


def _annotation(inner: object, key: str) -> str:
    for cls in type(inner).__mro__:
        found = vars(cls).get("__annotations__", {}).get(key)
        if found is not None:
            return found if isinstance(found, str) else str(getattr(found, "__name__", found))
    return ""


def _said(accepted: tuple[type, ...]) -> str:
    words = {bool: "true or false", int: "whole numbers", float: ACCEPTED_RANGES, str: "texts"}
    kinds = [kind for kind in accepted if not (kind is int and float in accepted)]
    return " or ".join(words[kind] for kind in kinds)


def _check(env: Env, id: str, key: str, where: str, kind: Range) -> None:
    if where != "model":
        if kind.each:
            raise UserError(
                f"--env: gym/{id}: each:{key}: got one number; accepted: an entry of "
                f"{', '.join(MODEL_FIELDS)}"
            )
        return
    try:
        check_field(model_of(env.unwrapped), key, kind)
    except UserError as error:
        raise UserError(f"--env: gym/{id}: {error}") from None


def parse(id: str, text: str) -> GymTasks:
    """Make the tasks of ``gym/<id>:<text>``, where ``id`` may be ``module:Id``.

    ``text`` is a list of ``name=range`` with commas between. A range is ``low..high``, whole
    numbers ``int:low..high``, or the values ``a/b/c``; ``0.5x..2x`` are factors of the
    environment's own; ``log:`` before it spreads it evenly over the orders of magnitude,
    ``each:`` draws one for every entry. One value of a constructor's argument is fixed
    (``enable_wind=true``). ``test.name=range`` is the held-out part. ``horizon=N``,
    ``episodes_per_trial=N``, ``max_slots=N``, ``info_keys=a+b``, ``success_key=a`` and
    ``wrappers=module:Name+module:Other`` are those of :class:`GymTasks`.

    Raises:
        UserError: for what is none of that.
    """
    given: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--env: gym/{id}: got {item!r}; accepted: name=low..high")
        if key in given:
            raise UserError(f"--env: gym/{id}: {key}: got it twice; accepted: {key} once")
        given[key] = value
    options = {word: _word(id, word, given.pop(word)) for word in RESERVED if word in given}
    params: dict[str, Range] = {}
    held_out: dict[str, Range] = {}
    for key, value in given.items():
        if key.startswith("test."):
            held_out[key[5:]] = parse_range(f"gym/{id}", key, value)
        else:
            params[key] = parse_range(f"gym/{id}", key, value)
    constructor = _constructor(id, find_spec(id))
    for ranges in (params, held_out):
        ranges |= {key: _whole(constructor, key, kind) for key, kind in ranges.items()}
    for key, other in held_out.items():
        if key not in params or type(other) is not type(params[key]):
            raise UserError(
                f"--env: gym/{id}: test.{key}: accepted: the same kind of range as {key}'s"
            )
        params[key] = _with_test(id, key, params[key], other)
    return GymTasks(id, params, **options)


def _word(id: str, word: str, value: str) -> Any:
    """Read the value of a reserved word."""
    if word == "success_key":
        return value
    if word == "info_keys":
        return tuple(value.split("+"))
    if word == "wrappers":
        return [load_object(path) for path in value.split("+")]
    if not value.isdigit() or int(value) < 1:
        raise UserError(f"--env: gym/{id}: {word}: got {value!r}; accepted: 1 or more")
    return int(value)


def _whole(constructor: Constructor, key: str, kind: Range) -> Range:
    """Read a range with whole bounds as integers, where the parameter is annotated as an int."""
    if (
        isinstance(kind, Uniform)
        and not (kind.factor or kind.each or kind.logarithmic)
        and key in constructor.parameters
        and constructor.types(key) == (int,)
        and float(kind.low).is_integer()
        and float(kind.high).is_integer()
    ):
        return Integers(int(kind.low), int(kind.high))
    return kind


def _with_test(id: str, key: str, kind: Range, other: Range) -> Range:
    """Return ``kind`` with the held-out part ``other``, a range of the same class."""
    same = ("factor", "each", "logarithmic")
    if any(getattr(kind, mark, False) != getattr(other, mark, False) for mark in same):
        raise UserError(f"--env: gym/{id}: test.{key}: accepted: the same kind of range as {key}'s")
    try:
        if isinstance(kind, Choice) and isinstance(other, Choice):
            return Choice(*kind.options, factor=kind.factor, each=kind.each, test=other.options)
        if isinstance(kind, Integers) and isinstance(other, Integers):
            return replace(kind, test=(other.low, other.high))
        assert isinstance(kind, Uniform) and isinstance(other, Uniform)
        return replace(kind, test=(other.low, other.high))
    except UserError as error:
        raise UserError(f"--env: gym/{id}: test.{key}: {error}") from None
