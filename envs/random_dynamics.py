"""Walker2d and Hopper whose bodies, contacts and joints are drawn at random.

Source: rand_param_envs, as used by PEARL (Rakelly et al., 2019, arXiv 1903.08254): every entry
of body_mass, body_inertia and geom_friction is multiplied by 1.5^U(-3, 3), every entry of
dof_damping by 1.3^U(-3, 3); horizon 200. What differs: the simulators and rewards are those of
Gymnasium's Walker2d-v5 and Hopper-v5 (current MuJoCo).
"""

from __future__ import annotations

from metarl.tasks.distribution import name_with_options, require_horizon
from metarl.tasks.gymnasium import GymTasks
from metarl.tasks.ranges import LogUniform


class _RandomDynamics(GymTasks):
    """Base of both families: the ranges of the bodies, contacts and joints."""

    def __init__(self, id: str, name: str, horizon: int) -> None:
        require_horizon(name, horizon)
        wide = LogUniform(1.5**-3, 1.5**3, factor=True, each=True)
        narrow = LogUniform(1.3**-3, 1.3**3, factor=True, each=True)
        params = dict.fromkeys(("body_mass", "body_inertia", "geom_friction"), wide)
        super().__init__(
            id,
            params | {"dof_damping": narrow},
            horizon=horizon,
            name=name_with_options(name, horizon=(horizon, 200)),
        )


class WalkerParams(_RandomDynamics):
    """Walk forward with an unknown body: Walker2d-v5's own reward."""

    def __init__(self, horizon: int = 200) -> None:
        super().__init__("Walker2d-v5", "walker/params", horizon)


class HopperParams(_RandomDynamics):
    """Hop forward with an unknown body: Hopper-v5's own reward."""

    def __init__(self, horizon: int = 200) -> None:
        super().__init__("Hopper-v5", "hopper/params", horizon)
