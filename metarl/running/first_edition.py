"""Convert a ``config.json`` of the first edition (format 1) to the present format.

Runs of the first edition can be loaded, evaluated and drawn, and their settings can start new
runs. They cannot be resumed, since their files lack some of the present settings.
"""

from __future__ import annotations

from typing import Any

from metarl import registry
from metarl.errors import UserError
from metarl.options import nested_values

FORMAT = 1
"""The format of the first edition's ``config.json``."""

PREFIXES = {
    "rl2": {
        "network.encoder.": "core.encoder.",
        "network.gru.": "core.gru.",
        "network.memory.": "core.",
        "network.": "head.",
        "target_": "targets.",
        "scaler.": "normalizer.",
    },
    "maml-ppo": {"params.": "head.", "scaler.": "normalizer."},
}
"""By agent, prefixes of tensor names in checkpoints -> the present prefixes."""

RENAMED_IN_TRAINING = {
    "num_slots": "num_envs",
    "threads": "torch_threads",
    "wandb": "wandb_project",
}
"""Options of the training that have another name now."""

DROPPED = ("lookahead", "run_dir")
"""Options of the training that no file holds any longer."""


def modern(content: dict[str, Any], train_config: type) -> dict[str, Any]:
    """Return the content of a first edition's ``config.json`` as the present edition writes it.

    Args:
        content: what the file holds.
        train_config: the present class of the training's config.
    """
    given = content["train_config"].items()
    train = {RENAMED_IN_TRAINING.get(k, k): value for k, value in given if k not in DROPPED}
    agent = dict(content["agent_config"])
    if "schedule_updates" in agent:
        train["schedule_iterations"] = agent.pop("schedule_updates")
    if content["agent"] in ("rl2", "maml-ppo"):
        agent = _agent_config(content["agent"], agent)
    derived = ["schedule_iterations"] if "schedule_updates" in content.get("derived", []) else []
    train = nested_values(train_config, train)
    result = {**content, "train_config": train, "agent_config": agent, "derived": derived}
    if "spaces" in content:
        result["spec"] = {**content["spaces"], **_horizon(content)}
    return result


RENAMED = {
    "inner_lr": "inner_learning_rate",
    "outer_lr": "learning_rate",
    "every_step": "meta_loss",
}
"""Old names of fields of the agents' configs -> their present names."""


def _agent_config(agent: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return an agent config's flat values in the nested form of the present edition."""
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    if "meta_loss" in values:
        values["meta_loss"] = "every-step" if values["meta_loss"] else "last-step"
    if agent == "rl2":  # A size of 0 and a missing upper bound used to switch features off.
        values["memory_size"] = values.get("memory_size") or None
        values["core"] = "fast-weights" if values["memory_size"] else "gru"
        values["std"] = "shared" if values.get("max_std") is None else "state"
    return nested_values(registry.agent_class(agent).Config, values)


def _horizon(content: dict[str, Any]) -> dict[str, Any]:
    """Return ``horizon`` and ``episodes_per_trial``, if need be from the tasks named in the run."""
    env = content["train_config"]["env"]
    horizon, episodes = content.get("horizon", 0), None
    try:
        tasks = None if registry.is_import(env) else registry.make(env)
    except UserError:  # Its package is not installed here.
        tasks = None
    if tasks is not None:
        horizon, episodes = horizon or tasks.horizon, tasks.episodes_per_trial
    return {"horizon": horizon, "episodes_per_trial": episodes}
