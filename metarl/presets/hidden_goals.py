"""Presets for tasks in which a goal has to be found, or the way to it remembered."""

from __future__ import annotations

from collections.abc import Mapping

from metarl.agents.rl2 import RL2Config
from metarl.learning.cores import CoreConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig

GRU = CoreConfig(hidden_size=128)
AGGREGATOR = CoreConfig(kind="aggregator", hidden_size=128)
TRANSFORMER = CoreConfig(kind="transformer", hidden_size=64)
HYPER = HeadConfig(kind="hyper", head_sizes=(32,))
MLP = HeadConfig()

Parts = tuple[CoreConfig, HeadConfig, float]
"""A core, a head and the learning rate with them."""

CHOICES: Mapping[str, Parts] = {
    "": (GRU, MLP, 1e-3),
    "-aggregator": (AGGREGATOR, MLP, 1e-3),
    "-transformer": (TRANSFORMER, MLP, 3e-4),
    "-hyper": (GRU, HYPER, 1e-3),
}
"""The parts by the ends of the presets' names; the first are the start for these tasks."""


def _presets(
    env: str,
    tasks: int,
    iterations: int,
    vectors: bool,
    endings: tuple[str, ...],
    source: str,
    learning_rate: float | None = None,
) -> dict[str, Preset]:
    """Return presets for the same tasks with other parts."""
    found = {}
    for ending in endings:
        core, head, rate = CHOICES[ending]
        config = RL2Config(
            tasks_per_update=tasks,
            normalize_observations=vectors,
            gae_lambda=0.95,
            core=core,
            head=head,
            ppo=PPOConfig(
                learning_rate=learning_rate or rate, num_minibatches=4, entropy_coefficient=0.01
            ),
        )
        found[f"rl2-{env.replace('/', '-')}{ending}"] = Preset(
            Settings("rl2", config, TrainConfig(env=env, iterations=iterations)),
            source=source,
            families=(f"{env.split('/')[0]}/*",) if "/" in env and not ending else (),
            variant=ending != "",
        )
    return found


GRID = "the grid of VariBAD (arXiv 1910.08348, section 5.1); settings measured here"
MAZE = (
    "the maze of AMRL (Beck et al., ICLR 2020) for as many steps as hypernetworks have in "
    "arXiv 2210.11348; settings measured here"
)

PRESETS = {
    **_presets(
        "gridworld",
        tasks=200,
        iterations=800,
        vectors=True,
        endings=("", "-aggregator", "-transformer"),
        source=GRID,
    ),
    **_presets(  # A hypernetwork takes longer for an update, and fewer of them.
        "gridworld",
        tasks=200,
        iterations=200,
        vectors=True,
        endings=("-hyper",),
        source=GRID,
    ),
    **_presets(
        "t-maze/n100",
        tasks=40,
        iterations=93,
        vectors=True,
        endings=("", "-aggregator", "-transformer"),
        source=MAZE,
    ),
    **_presets(  # With 1e-3 it learned to remember and forgot again.
        "t-maze/n100",
        tasks=40,
        iterations=93,
        vectors=True,
        endings=("-hyper",),
        source=MAZE,
        learning_rate=5e-4,
    ),
    **_presets(
        "dark-room/n9",
        tasks=200,
        iterations=1000,
        vectors=False,
        endings=("", "-transformer"),
        source="the room of algorithm distillation (arXiv 2210.14215); settings measured here",
    ),
}
