"""Names of task distributions and agents, and how a name becomes one.

A name is ``family/variant``, with options of the family after a colon:
``half-cheetah/velocity:high=2.0``. The registry holds strings only, so that asking for one
family imports no other. Other packages add theirs by entry points of the groups
``metarl.task_distributions`` and ``metarl.agents``. ``package.module:Name`` is taken where the
user typed it, and so is the module of ``gym/module:Id``.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from importlib import metadata
from typing import Any

from metarl.errors import UserError, near_matches
from metarl.imports import load_object, no_exit
from metarl.tasks import gym_names
from metarl.tasks.distribution import TaskDistribution

TASK_DISTRIBUTIONS: dict[str, str] = {
    "ant/direction": "metarl.envs.ant:AntDirection",
    "ant/goal": "metarl.envs.ant:AntGoal",
    "bandit/n<N>-k<K>": "metarl.envs.bandit:BernoulliBandit",
    "gridworld": "metarl.envs.gridworld:GridWorld",
    "half-cheetah/direction": "metarl.envs.half_cheetah:HalfCheetahDirection",
    "half-cheetah/velocity": "metarl.envs.half_cheetah:HalfCheetahVelocity",
    "hopper/params": "metarl.envs.random_dynamics:HopperParams",
    "mdp/n<N>": "metarl.envs.mdp:TabularMDP",
    "metaworld/custom": "metarl.envs.metaworld:Custom",
    "metaworld/ml1-<task>": "metarl.envs.metaworld:ML1",
    "metaworld/ml10": "metarl.envs.metaworld:ML10",
    "metaworld/ml25": "metarl.envs.metaworld:ML25",
    "metaworld/ml45": "metarl.envs.metaworld:ML45",
    "navigation": "metarl.envs.navigation:Navigation",
    "walker/params": "metarl.envs.random_dynamics:WalkerParams",
}
"""Pattern of a name -> ``module:Class``; ``<N>`` stands for an integer, given as ``n=``, and
``<task>`` for a name, given as ``task=``."""


AGENTS: dict[str, str] = {
    "maml-ppo": "metarl.agents.maml_ppo:MAMLPPO",
    "rl2": "metarl.agents.rl2:RL2",
}
"""Name -> ``module:Class``; the class has its config's dataclass as ``Config``."""


ENTRY_POINTS = {"tasks": "metarl.task_distributions", "agents": "metarl.agents"}
"""Groups of other packages' entry points: a name as above = ``package.module:Class``."""


_OBJECT = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

_GYM = re.compile(
    r"gym/(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:(?=[^:=]+(?::|$)))?"
    r"(?P<id>[^:]*)(?::(?P<text>.*))?"
)
"""``gym/[module:]Id[:text]``; only ``text`` has an equals sign."""


def task_distributions() -> dict[str, str]:
    """Return the patterns of all names, those of installed packages too."""
    return _entry_points(ENTRY_POINTS["tasks"]) | TASK_DISTRIBUTIONS


def agents() -> dict[str, str]:
    """Return the names of all agents, those of installed packages too."""
    return _entry_points(ENTRY_POINTS["agents"]) | AGENTS


@functools.cache
def _entry_points(group: str) -> dict[str, str]:
    return {entry.name: entry.value for entry in metadata.entry_points(group=group)}


def make(name: str, **options: Any) -> TaskDistribution:
    """Make the task distribution ``name``.

    Args:
        name: such as ``bandit/n10-k5``, with options of the family after a colon
            (``half-cheetah/velocity:high=2.0``), ``gym/Id:name=low..high`` for any Gymnasium
            environment (``gym/module:Id`` where a module registers it), or
            ``package.module:Name``.
        options: of the family, as keywords; they win over those in the name.

    Raises:
        UserError: for an unknown name (near matches are listed) or option.

    >>> make("bandit/n10-k5").episodes_per_trial
    10
    """
    with no_exit(f"--env: {name}"):
        if _OBJECT.match(name):
            return _make_object(name, options)
        if name.startswith("gym/"):
            return _make_gym(name, options)
        return _make_family(name, options)


def _make_gym(name: str, options: dict[str, Any]) -> TaskDistribution:
    """Make what ``gym/[module:]Id[:text]`` says."""
    if options:
        raise UserError(f"--env: {name}: accepted: ranges in the name, or metarl.GymTasks")
    if "<" in name:
        raise UserError(
            f"--env: {name}: a value in angle brackets has no text; accepted: a function that "
            "returns these tasks, named as package.module:function"
        )
    found = _GYM.fullmatch(name)
    assert found is not None
    return gym_names.parse((found["module"] or "") + found["id"], found["text"] or "")


def _make_family(name: str, options: dict[str, Any]) -> TaskDistribution:
    """Make what a registered name and its options say."""
    base, _, text = name.partition(":")
    for pattern, path in task_distributions().items():
        values = _match(pattern, base)
        if values is None:
            continue
        family = load_object(path)
        given = {**values, **_parse_options(name, text), **options}
        accepted = inspect.signature(family).parameters
        unknown = [option for option in given if option not in accepted]
        if unknown:
            hint = near_matches(unknown[0], accepted)
            raise UserError(f"--env: {name} has no option {unknown[0]!r}; {hint}")
        for option, value in given.items():
            _check_type(name, option, value, accepted[option].default)
            if isinstance(accepted[option].default, float):
                given[option] = float(value)
        required = [k for k, v in accepted.items() if v.default is inspect.Parameter.empty]
        missing = [option for option in required if option not in given]
        if missing:
            example = ",".join(f"{option}=…" for option in required)
            raise UserError(f"--env: {name} lacks {missing[0]}; accepted: {base}:{example}")
        distribution = family(**given)
        return _require_distribution(name, distribution)
    raise UserError(f"--env: unknown environment {name!r}; {near_matches(base, env_names())}")


def _make_object(name: str, options: dict[str, Any]) -> TaskDistribution:
    """Make what ``package.module:Name`` is: a distribution, or what returns one."""
    made = found = load_object(name)
    if isinstance(found, TaskDistribution):
        if options:
            raise UserError(f"--env: {name}: got options {options}; accepted: none, it is made")
    elif callable(found):
        try:
            inspect.signature(found).bind(**options)
        except ValueError:  # a builtin tells nothing of its arguments
            pass
        except TypeError as error:
            raise UserError(f"--env: {name}: {error}") from error
        made = found(**options)
    made = _require_distribution(name, made)
    own = getattr(made, "name", "")
    made.name = name if not own or "<" in own else own  # "<lambda>" makes nothing again
    return made


def _require_distribution(name: str, made: object) -> TaskDistribution:
    if not isinstance(made, TaskDistribution):
        raise UserError(
            f"--env: {name} is a {type(made).__name__}; accepted: a metarl.TaskDistribution, "
            "its class, or a function that returns one"
        )
    return made


def env_names() -> list[str]:
    """Return the names of all families, placeholders filled with an example."""
    example = {"N": "10", "K": "5", "task": "reach"}
    options = {"metaworld/custom": ":train=reach+push,test=pick-place"}
    names = [
        re.sub(r"<(\w+)>", lambda m: example.get(m[1], "10"), p) + options.get(p, "")
        for p in task_distributions()
    ]
    return sorted([*names, "gym/Pendulum-v1:g=8..12"])


def agent_class(name: str) -> Any:
    """Return the class of agent ``name``, or that of ``package.module:Name``.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    if _OBJECT.match(name):
        kind = load_object(name)
    elif name in agents():
        kind = load_object(agents()[name])
    else:
        raise UserError(f"agent: unknown agent {name!r}; {near_matches(name, agents())}")
    if not isinstance(kind, type) or not dataclasses.is_dataclass(getattr(kind, "Config", None)):
        raise UserError(f"agent: {name}: got {kind!r}; accepted: a class with a dataclass Config")
    return kind


def _match(pattern: str, name: str) -> dict[str, int | str] | None:
    regex = re.sub(
        r"<(\w+)>",
        lambda m: f"(?P<{m[1].lower()}>{'[0-9]+' if m[1].isupper() else '[a-z][a-z0-9-]*'})",
        pattern,
    )
    found = re.fullmatch(regex, name)
    if found is None:
        return None
    return {k: int(v) if v.isdigit() else v for k, v in found.groupdict().items()}


def _parse_options(name: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"--env: {name}: got option {item!r}; accepted: option=value")
        options[key.replace("-", "_")] = _literal(value)
    return options


def _literal(text: str) -> bool | int | float | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_type(name: str, option: str, value: Any, default: Any) -> None:
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if default is not inspect.Parameter.empty and default is not None:
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong:
            accepted = " or ".join(k.__name__ for k in kinds)
            raise UserError(f"--env: {name}: {option}: got {value!r}; accepted: {accepted}")


def is_import(name: str) -> bool:
    """Return whether making ``name`` imports a module that the name itself chooses."""
    gym = _GYM.fullmatch(name)
    if gym is not None:
        items = (gym["text"] or "").split(",")
        return bool(gym["module"]) or any(item.startswith("wrappers=") for item in items)
    return _OBJECT.match(name) is not None
