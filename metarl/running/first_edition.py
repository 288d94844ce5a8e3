"""Read what the first edition wrote: ``config.json`` of format 1.

Its runs load, evaluate and are drawn; their settings start new runs. They are not resumed, since
the settings they lack cannot be told from the file.
"""

from __future__ import annotations

from typing import Any

from metarl import registry
from metarl.errors import UserError

FORMAT = 1
"""The format of the first edition's ``config.json``."""


def modern(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a first edition's ``config.json`` as the present edition writes it."""
    train, agent = dict(content["train_config"]), dict(content["agent_config"])
    train.pop("lookahead", None)
    if "schedule_updates" in agent:
        train["schedule_iterations"] = agent.pop("schedule_updates")
    derived = ["schedule_iterations"] if "schedule_updates" in content.get("derived", []) else []
    result = {**content, "train_config": train, "agent_config": agent, "derived": derived}
    if "spaces" in content:
        result["spec"] = {**content["spaces"], **_horizon(content)}
    return result


def _horizon(content: dict[str, Any]) -> dict[str, Any]:
    """Return the episodes' length and number, by the tasks' name if the run does not say it."""
    env = content["train_config"]["env"]
    horizon, episodes = content.get("horizon", 0), None
    try:
        tasks = None if registry.is_import(env) else registry.make(env)
    except UserError:  # a package that is not installed here
        tasks = None
    if tasks is not None:
        horizon, episodes = horizon or tasks.horizon, tasks.episodes_per_trial
    return {"horizon": horizon, "episodes_per_trial": episodes}
