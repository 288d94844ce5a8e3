"""Names of task distributions, agents and baselines, and how they are made from their names.

A name is ``family/variant``, with options of the family after a colon:
``half-cheetah/velocity:high=2.0``. Other packages add names by entry points of the groups
``metarl.task_distributions``, ``metarl.agents`` and ``metarl.baselines``. A name may also be
``package.module:Name``, or ``gym/Id:…`` and ``gym/module:Id:…`` for an environment registered with
Gymnasium.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from metarl.errors import UserError, near_matches
from metarl.imports import load_object, no_exit
from metarl.tasks import gym_names
from metarl.tasks.distribution import TaskDistribution


class Entry(NamedTuple):
    """What the registry knows of a name; a family is imported only when it is made."""

    path: str
    """Location of the class or function: ``module:Name``."""
    description: str = ""
    """One line for users; empty for entry points of other packages."""


TASK_DISTRIBUTIONS: dict[str, Entry] = {
    "ant/direction": Entry("metarl.envs.ant:AntDirection", "Ant runs in an unknown direction"),
    "ant/goal": Entry("metarl.envs.ant:AntGoal", "Ant runs to an unknown place"),
    "bandit/n<N>-k<K>": Entry(
        "metarl.envs.bandit:BernoulliBandit", "K-armed Bernoulli bandits, N episodes of one pull"
    ),
    "dark-room/n<N>": Entry(
        "metarl.envs.dark_room:DarkRoom", "NxN grid with a hidden goal, start in the middle"
    ),
    "gridworld": Entry("metarl.envs.gridworld:GridWorld", "5x5 grid with a hidden goal"),
    "half-cheetah/direction": Entry(
        "metarl.envs.half_cheetah:HalfCheetahDirection", "HalfCheetah runs forward or backward"
    ),
    "half-cheetah/velocity": Entry(
        "metarl.envs.half_cheetah:HalfCheetahVelocity", "HalfCheetah runs at an unknown velocity"
    ),
    "hopper/params": Entry(
        "metarl.envs.random_dynamics:HopperParams", "Hopper with unknown masses and frictions"
    ),
    "mdp/n<N>": Entry(
        "metarl.envs.mdp:TabularMDP", "random MDPs of 10 states and 5 actions, N episodes"
    ),
    "metaworld/custom": Entry(
        "metarl.envs.metaworld:Custom", "Meta-World, your classes for train= and test="
    ),
    "metaworld/ml1-<task>": Entry(
        "metarl.envs.metaworld:ML1", "Meta-World, one class with unknown goals"
    ),
    "metaworld/ml10": Entry(
        "metarl.envs.metaworld:ML10", "Meta-World, 10 training and 5 test classes"
    ),
    "metaworld/ml25": Entry(
        "metarl.envs.metaworld:ML25", "Meta-World, 25 training and 5 test classes"
    ),
    "metaworld/ml45": Entry(
        "metarl.envs.metaworld:ML45", "Meta-World, 45 training and 5 test classes"
    ),
    "navigation": Entry("metarl.envs.navigation:Navigation", "point in a plane with a hidden goal"),
    "point-robot": Entry(
        "metarl.envs.point_robot:PointRobot", "point that searches a half circle for its goal"
    ),
    "t-maze/n<N>": Entry(
        "metarl.envs.t_maze:TMaze", "corridor of N steps to remember a signal in (memory)"
    ),
    "walker/params": Entry(
        "metarl.envs.random_dynamics:WalkerParams", "Walker2d with unknown masses and frictions"
    ),
}
"""Task distributions by the pattern of their names; ``<N>`` stands for an integer, which is given
as the option ``n``, and ``<task>`` for a name, which is given as the option ``task``."""


AGENTS: dict[str, Entry] = {
    "maml-ppo": Entry("metarl.agents.maml_ppo:MAMLPPO", "MAML with PPO, adapts by gradient steps"),
    "ppo-multitask": Entry(
        "metarl.agents.ppo_multitask:PPOMultitask",
        "Stable-Baselines3's PPO over all tasks, does not adapt",
    ),
    "rl2": Entry("metarl.agents.rl2:RL2", "RL² with PPO, adapts by its recurrent memory"),
    "sac-multitask": Entry(
        "metarl.agents.sac_multitask:SACMultitask",
        "Stable-Baselines3's SAC over all tasks, does not adapt",
    ),
}
"""Agents by name; the class of each has its config's dataclass as ``Config``."""


BASELINES: dict[str, Entry] = {
    "bayes-optimal": Entry(
        "metarl.agents.bayes_optimal:BayesOptimal", "best possible: small bandits, gridworld"
    ),
    "epsilon-greedy": Entry("metarl.agents.bandits:EpsilonGreedy", "bandits: ε-greedy"),
    "gittins": Entry("metarl.agents.gittins:Gittins", "bandits: finite-horizon Gittins index"),
    "greedy": Entry("metarl.agents.bandits:Greedy", "bandits: the highest posterior mean"),
    "oracle": Entry("metarl.agents.oracle:Oracle", "best possible if the task is known"),
    "ppo-finetune": Entry(
        "metarl.agents.ppo_finetune:PPOFinetune",
        "PPO on each task, from a ppo-multitask policy (run=DIR)",
    ),
    "ppo-scratch": Entry(
        "metarl.agents.ppo_scratch:PPOScratch",
        "PPO on each task from nothing, with ten times as much",
    ),
    "psrl": Entry("metarl.agents.psrl:PSRL", "tabular MDPs: posterior sampling"),
    "random": Entry("metarl.agents.random_actions:RandomActions", "uniformly random actions"),
    "scripted": Entry(
        "metarl.agents.scripted:Scripted", "Meta-World: its scripted policies, told the goal"
    ),
    "thompson": Entry("metarl.agents.bandits:Thompson", "bandits: Thompson sampling"),
    "ucb1": Entry("metarl.agents.bandits:UCB1", "bandits: upper confidence bounds"),
}
"""Baselines by name: adapters that need no meta-training. The class of each is made as
``Class(tasks, shape, *, seed, device, **options)``; :func:`make_baseline` says what these are."""


ENTRY_POINTS = {
    "tasks": "metarl.task_distributions",
    "agents": "metarl.agents",
    "baselines": "metarl.baselines",
}
"""Groups of entry points by which other packages add names."""


_OBJECT = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")

_GYM = re.compile(
    r"gym/(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:(?=[^:=]+(?::|$)))?"
    r"(?P<id>[^:]*)(?::(?P<text>.*))?"
)
"""``gym/[module:]Id[:text]``; an equals sign is part of ``text``."""


def task_distributions() -> dict[str, Entry]:
    """Return all task distributions by pattern, including those of installed packages."""
    return _entry_points(ENTRY_POINTS["tasks"]) | TASK_DISTRIBUTIONS


def agents() -> dict[str, Entry]:
    """Return all agents by name, including those of installed packages."""
    return _entry_points(ENTRY_POINTS["agents"]) | AGENTS


def baselines() -> dict[str, Entry]:
    """Return all baselines by name, including those of installed packages."""
    return _entry_points(ENTRY_POINTS["baselines"]) | BASELINES


@functools.cache
def _entry_points(group: str) -> dict[str, Entry]:
    return {entry.name: Entry(entry.value) for entry in metadata.entry_points(group=group)}


def make(name: str, **options: Any) -> TaskDistribution:
    """Make the task distribution ``name``.

    Args:
        name: such as ``bandit/n10-k5``, with options of the family after a colon
            (``half-cheetah/velocity:high=2.0``), ``gym/Id:name=low..high`` for any Gymnasium
            environment (``gym/module:Id`` where a module registers it), or
            ``package.module:Name``.
        options: options of the family, which override those in the name.

    Raises:
        UserError: if the name or an option is unknown; the message lists near matches.

    >>> make("bandit/n10-k5").episodes_per_trial
    10
    """
    with no_exit(f"--env: {name}"):
        if _OBJECT.match(name):
            return _make_object(name, options)
        if name.startswith("gym/"):
            return _make_gym(name, options)
        return _make_family(name, options)


def split_name(name: str) -> tuple[str, str]:
    """Return a task distribution's name without its options, and the options as text.

    >>> split_name("gym/mine:Hopper-v5:body_mass=each:0.5x..2x")
    ('gym/mine:Hopper-v5', 'body_mass=each:0.5x..2x')
    """
    found = _GYM.fullmatch(name)
    if found is None:
        base, _, text = name.partition(":")
        return base, text
    return f"gym/{found['module'] or ''}{found['id']}", found["text"] or ""


def _make_gym(name: str, options: dict[str, Any]) -> TaskDistribution:
    """Make the tasks of a name ``gym/[module:]Id[:text]``."""
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
    """Make the task distribution of a registered name."""
    base, _, text = name.partition(":")
    for pattern, entry in task_distributions().items():
        values = _match(pattern, base)
        if values is None:
            continue
        family = load_object(entry.path)
        accepted = inspect.signature(family).parameters
        given = {**values, **_parse_options(f"--env: {name}", text), **options}
        given = _fit_options(f"--env: {name}", given, accepted)
        required = [k for k, v in accepted.items() if v.default is inspect.Parameter.empty]
        missing = [option for option in required if option not in given]
        if missing:
            example = ",".join(f"{option}=…" for option in required)
            raise UserError(f"--env: {name} lacks {missing[0]}; accepted: {base}:{example}")
        return _require_distribution(name, family(**given))
    raise UserError(f"--env: unknown environment {name!r}; {near_matches(base, env_names())}")


def _make_object(name: str, options: dict[str, Any]) -> TaskDistribution:
    """Make the task distribution ``package.module:Name``, or call the function of that name."""
    made = found = load_object(name)
    if isinstance(found, TaskDistribution):
        if options:
            raise UserError(f"--env: {name}: got options {options}; accepted: none, it is made")
    elif callable(found):
        try:
            inspect.signature(found).bind(**options)
        except ValueError:  # Some builtins have no signature.
            pass
        except TypeError as error:
            raise UserError(f"--env: {name}: {error}") from error
        made = found(**options)
    made = _require_distribution(name, made)
    own = getattr(made, "name", "")
    if not own or "<" in own or _OBJECT.match(own):  # What made it inside cannot make it again.
        made.name = name
    return made


def _require_distribution(name: str, made: object) -> TaskDistribution:
    if not isinstance(made, TaskDistribution):
        raise UserError(
            f"--env: {name} is a {type(made).__name__}; accepted: a metarl.TaskDistribution, "
            "its class, or a function that returns one"
        )
    return made


def env_names() -> list[str]:
    """Return an example name of every family, with its placeholders filled."""
    example = {"N": "10", "K": "5", "task": "reach"}
    options = {"metaworld/custom": ":train=reach+push,test=pick-place"}
    names = [
        re.sub(r"<(\w+)>", lambda m: example.get(m[1], "10"), p) + options.get(p, "")
        for p in task_distributions()
    ]
    return sorted([*names, "gym/Pendulum-v1:g=8..12"])


def agent_class(name: str) -> Any:
    """Return the class of agent ``name``, or the class ``package.module:Name``.

    Raises:
        UserError: if the name is unknown; the message lists near matches.
    """
    if _OBJECT.match(name):
        kind = load_object(name)
    elif name in agents():
        kind = load_object(agents()[name].path)
    else:
        raise UserError(f"agent: unknown agent {name!r}; {near_matches(name, agents())}")
    if not isinstance(kind, type) or not dataclasses.is_dataclass(getattr(kind, "Config", None)):
        raise UserError(f"agent: {name}: got {kind!r}; accepted: a class with a dataclass Config")
    return kind


def name_of_baseline(text: str) -> str:
    """Return the name in ``text`` as :func:`make_baseline` takes it, without options.

    >>> name_of_baseline("ucb1:c=0.5"), name_of_baseline("mine:Agent:steps=3")
    ('ucb1', 'mine:Agent')
    """
    own = re.match(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*(?=:|$)", text)
    name = text.partition(":")[0]
    return own[0] if own and name not in baselines() else name


def make_baseline(
    text: str, tasks: TaskDistribution, shape: Any, *, seed: int = 0, device: str = "cpu"
) -> Any:
    """Make the baseline that ``text`` names, to act in ``tasks``.

    Args:
        text: a name such as ``thompson``, with options after a colon (``ucb1:c=1.5``), or
            ``package.module:Name``, a class or function, with options after a second colon.
        tasks: the task distribution it is to act in.
        shape: the :class:`metarl.TrialShape` of the evaluation that it stands beside. The shape of
            the baseline has at least as many episodes, and may divide them into other rounds.
        seed: what anything that the baseline prepares at random is drawn from.
        device: where its tensors live, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        The baseline, a :class:`metarl.Adapter`.

    Raises:
        UserError: if a name or an option is unknown, or if the baseline does not apply to
            ``tasks``; the message is one line.
    """
    name = name_of_baseline(text)
    options = text[len(name) + 1 :]
    path = baselines()[name].path if name in baselines() else name
    if ":" not in path:
        raise UserError(
            f"--baselines: unknown baseline {name!r}; {near_matches(name, baselines())}"
        )
    label = f"--baselines: {name}"
    with no_exit(label):
        kind = load_object(path)
        if not callable(kind):
            raise UserError(f"{label} is a {type(kind).__name__}; accepted: a class or function")
        accepted = {
            option: parameter
            for option, parameter in inspect.signature(kind).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and option not in ("seed", "device")
        }
        given = _fit_options(label, _parse_options(label, options), accepted)
        made = kind(tasks, shape, seed=seed, device=device, **given)
    lacking = [part for part in ("shape", "begin", "act", "adapt") if not hasattr(made, part)]
    if lacking:
        raise UserError(
            f"{label} made a {type(made).__name__} without {lacking[0]}; accepted: a metarl.Adapter"
        )
    return made


def _match(pattern: str, name: str) -> dict[str, int | str] | None:
    """Return the values that ``name`` has for the placeholders of ``pattern``, if it matches."""
    found = _expression(pattern).fullmatch(name)
    if found is None:
        return None
    return {k: int(v) if v.isdigit() else v for k, v in found.groupdict().items()}


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern; a word in capitals stands for an integer."""
    text = re.sub(r"<([a-z]\w*)>", r"(?P<\1>[a-z][a-z0-9-]*)", pattern)
    return re.compile(re.sub(r"<([A-Z]+)>", lambda word: f"(?P<{word[1].lower()}>[0-9]+)", text))


def _fit_options(
    label: str, given: dict[str, Any], accepted: Mapping[str, inspect.Parameter]
) -> dict[str, Any]:
    """Return options with whole numbers as floats where a float is the default.

    Args:
        label: the name of what the options belong to; messages begin with it.
        given: values by name.
        accepted: the parameters that may be given.

    Raises:
        UserError: if an option is unknown or a value has the wrong type.
    """
    unknown = [option for option in given if option not in accepted]
    if unknown:
        hint = near_matches(unknown[0], accepted) if accepted else "it takes none"
        raise UserError(f"{label} has no option {unknown[0]!r}; {hint}")
    for option, value in given.items():
        _check_type(label, option, value, accepted[option].default)
    return {
        option: float(value) if isinstance(accepted[option].default, float) else value
        for option, value in given.items()
    }


def _parse_options(label: str, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise UserError(f"{label}: got option {item!r}; accepted: option=value")
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


def _check_type(label: str, option: str, value: Any, default: Any) -> None:
    kinds: tuple[type, ...] = (int, float) if isinstance(default, float) else (type(default),)
    if default is not inspect.Parameter.empty and default is not None:
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong:
            accepted = " or ".join(k.__name__ for k in kinds)
            raise UserError(f"{label}: {option}: got {value!r}; accepted: {accepted}")


def is_import(name: str) -> bool:
    """Return whether making ``name`` imports a module that the name itself mentions."""
    gym = _GYM.fullmatch(name)
    if gym is not None:
        items = (gym["text"] or "").split(",")
        return bool(gym["module"]) or any(item.startswith("wrappers=") for item in items)
    return _OBJECT.match(name) is not None
