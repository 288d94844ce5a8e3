"""The settings that a command starts from if it names an agent and tasks but no settings."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import NamedTuple

from metarl import registry
from metarl.errors import UserError, near_matches
from metarl.experience.agent import TaskSpec
from metarl.experience.traits import has_continuous_actions, kind_of
from metarl.options import option_paths, with_options
from metarl.running.presets import Preset, preset, presets, presets_of
from metarl.running.settings import Settings, TrainConfig

DEFAULT_AGENT = "rl2"

NONE = "none"
"""The name of no preset: the bare defaults of the agent's config."""


INSTEAD = "--preset none starts from bare defaults"


class Start(NamedTuple):
    """Settings to start from, and where they come from."""

    settings: Settings
    """The settings."""
    origin: str = ""
    """What chose them, in a line; empty for bare defaults."""


def starting_settings(
    agent: str | None = None, env: str | None = None, named: str | None = None
) -> Start:
    """Return what an expert would start with: a preset, or settings by the kind of the tasks.

    Without the name of a preset, it is the agent's preset for these tasks if there is one, or the
    one for tasks of the same family. Without one, the agent's config chooses by
    ``Config.for_tasks(spec)``, if it has this method, and else has its defaults.

    Args:
        agent: the agent's name (default: that of the preset, or rl2).
        env: the name of the task distribution (default: that of the preset, or the default).
        named: the name of a preset, or ``none`` for bare defaults.

    Raises:
        UserError: if the agent, the tasks or the preset are unknown.
    """
    if named is not None and named != NONE:
        return Start(_preset_named(named).settings)
    agent = agent or DEFAULT_AGENT
    config, train = registry.agent_class(agent).Config, TrainConfig()
    if env is not None:
        train = dataclasses.replace(train, env=env)
    if named == NONE:
        return Start(Settings(agent, config(), train))
    found = _preset_for(agent, train.env)
    if found is not None:
        name, chosen = found
        settings = _for_other_tasks(chosen.settings, train.env)
        return Start(settings, f"preset {name} ({chosen.source}); {INSTEAD}")
    choose = getattr(config, "for_tasks", None)
    if choose is None:
        return Start(Settings(agent, config(), train))
    spec = TaskSpec.of(registry.make(train.env))
    chosen = choose(spec)
    origin = "" if chosen == config() else f"settings for {_words(spec)}; {INSTEAD}"
    return Start(Settings(agent, chosen, train), origin)


def origin_of(origin: str, changed: Mapping[str, tuple[object, object]]) -> str:
    """Return what chose the settings, with the values that did not go with the options given.

    Args:
        origin: what chose the settings.
        changed: the suggested value and the default by the name of an option.
    """
    instead = [
        f"--{name.replace('_', '-')} {default} in place of {value}"
        for name, (value, default) in changed.items()
    ]
    if not instead:
        return origin
    reason = f"{', '.join(instead)}, which does not go with the options given"
    return f"{origin}; {reason}" if origin else reason


def _words(spec: TaskSpec) -> str:
    """Return what kind of tasks these are, in words."""
    actions = "continuous" if has_continuous_actions(spec) else "discrete"
    return {
        "one-step": "episodes of one step",
        "tabular": f"finitely many states, episodes of {spec.horizon} steps",
        "images": f"images, {actions} actions, episodes of {spec.horizon} steps",
        "vectors": f"vectors, {actions} actions, episodes of {spec.horizon} steps",
    }[kind_of(spec)]


def _preset_named(name: str) -> Preset:
    """Return a preset by its name.

    Raises:
        UserError: for an unknown name; near matches are listed.
    """
    try:
        return preset(name)
    except UserError:
        known = [*presets(), NONE]
        raise UserError(f"--preset: unknown preset {name!r}; {near_matches(name, known)}") from None


def _preset_for(agent: str, env: str) -> tuple[str, Preset] | None:
    """Return the name of the agent's preset for these tasks or their family, and the preset.

    A preset for the very tasks comes before one for tasks of the same name with other options, and
    this before one that names their family.
    """
    base = registry.split_name(env)[0]
    own = {name: each for name, each in presets_of(agent).items() if not each.variant}
    for fits in (
        lambda each: each.settings.train.env == env,
        lambda each: registry.split_name(each.settings.train.env)[0] == base,
        lambda each: any(fnmatch.fnmatchcase(base, pattern) for pattern in each.families),
    ):
        for name, each in own.items():
            if fits(each):
                return name, each
    return None


def _for_other_tasks(settings: Settings, env: str) -> Settings:
    """Return a preset's settings for other tasks than its own.

    An update keeps its number of steps if trials are longer, by fewer tasks, at least ten.
    """
    own = settings.train.env
    settings = settings.with_train(env=env)
    if own == env or "tasks_per_update" not in option_paths(type(settings.agent_config)):
        return settings
    lengths = []
    for name in (own, env):
        spec = TaskSpec.of(registry.make(name))
        lengths.append(spec.horizon * (spec.episodes_per_trial or 1))
    tasks = settings.agent_config.tasks_per_update
    fewer = max(min(tasks, 10), round(tasks * min(1.0, lengths[0] / lengths[1])))
    config = with_options(settings.agent_config, tasks_per_update=fewer)
    return dataclasses.replace(settings, agent_config=config)
