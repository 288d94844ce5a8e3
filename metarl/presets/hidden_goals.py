"""Presets for tasks in which a goal has to be found, or the way to it remembered."""

from __future__ import annotations

from typing import NamedTuple

from metarl.agents.rl2 import RL2Config
from metarl.learning.cores import CoreConfig
from metarl.learning.heads import HeadConfig
from metarl.learning.ppo import PPOConfig
from metarl.running.presets import Preset
from metarl.running.settings import Settings, TrainConfig


class Parts(NamedTuple):
    """What the presets for the same tasks differ in."""

    core: CoreConfig = CoreConfig(hidden_size=128)
    head: HeadConfig = HeadConfig()
    learning_rate: float = 1e-3
    iterations: int | None = None


AGGREGATOR = Parts(CoreConfig(kind="aggregator", hidden_size=128))
TRANSFORMER = Parts(CoreConfig(kind="transformer", hidden_size=64), learning_rate=3e-4)
HYPER = Parts(head=HeadConfig(kind="hyper", head_sizes=(32,)))


def _presets(
    env: str, tasks: int, iterations: int, vectors: bool, source: str, **others: Parts
) -> dict[str, Preset]:
    """Return presets for the same tasks: one with a GRU, the start for them, and variants."""
    found, base = {}, f"rl2-{env.replace('/', '-')}"
    for name, parts in {base: Parts(), **{f"{base}-{k}": x for k, x in others.items()}}.items():
        config = RL2Config(
            tasks_per_update=tasks,
            normalize_observations=vectors,
            gae_lambda=0.95,
            core=parts.core,
            head=parts.head,
            ppo=PPOConfig(
                learning_rate=parts.learning_rate, num_minibatches=4, entropy_coefficient=0.01
            ),
        )
        found[name] = Preset(
            Settings(
                "rl2", config, TrainConfig(env=env, iterations=parts.iterations or iterations)
            ),
            source=source,
            families=(f"{env.split('/')[0]}/*",) if "/" in env and name == base else (),
            variant=name != base,
        )
    return found


GRID = "the grid of VariBAD (arXiv 1910.08348, section 5.1); settings measured here"
MAZE = (
    "the maze of AMRL (Beck et al., ICLR 2020) for as many steps as hypernetworks have in "
    "arXiv 2210.11348; settings measured here"
)

ROOM = "the room of algorithm distillation (arXiv 2210.14215); settings measured here"

PRESETS = {
    **_presets(
        *("gridworld", 200, 800, True, GRID),
        aggregator=AGGREGATOR,
        transformer=TRANSFORMER,
        hyper=HYPER._replace(iterations=200),  # Its updates take longer; it needs fewer of them.
    ),
    **_presets(
        *("t-maze/n100", 40, 93, True, MAZE),
        aggregator=AGGREGATOR,
        transformer=TRANSFORMER,
        hyper=HYPER._replace(learning_rate=5e-4),  # With 1e-3 it learned to remember, and forgot.
    ),
    **_presets(*("dark-room/n9", 200, 1000, False, ROOM), transformer=TRANSFORMER),
}
