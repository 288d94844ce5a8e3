"""How much a second episode can gain on Pendulum with g from U(2, 20), by dynamic programming.

One transition of Pendulum reveals g. An agent that makes optimal use of what it has seen therefore
acts without knowing g only in its first action; in its second episode, it knows g from the start.
The largest gain from the first episode to the second is thus the optimal return with g known,
minus the return of the best first action that is the same for all g.

The values come from backward induction over Gymnasium's Pendulum-v1 (200 steps, undiscounted) on
a grid of angles and velocities with linear interpolation; start states are uniform, as in
Gymnasium.

    python benchmarks/pendulum_limit.py --output benchmarks/pendulum-limit.json
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from metarl.files import write_json
from metarl.running.machine import commit

HORIZON, DT, MAX_SPEED, MAX_TORQUE, MAX_START_SPEED = 200, 0.05, 8.0, 2.0, 1.0


@dataclass(frozen=True)
class Options:
    """Options of the computation: the size of the grid."""

    angles: int = 481
    """Number of angles, from -pi to pi."""
    velocities: int = 321
    """Number of angular velocities, from -8 to 8 rad/s."""
    torques: int = 21
    """Number of torques, from -2 to 2 Nm."""
    gravities: int = 24
    """Number of values of g, evenly spaced in U(2, 20)."""
    output: Path = Path("benchmarks/pendulum-limit.json")
    """JSON file to write the results to."""


def first_action_values(g: float, options: Options) -> npt.NDArray[np.float32]:
    """Return the optimal action values at the first step if ``g`` is known.

    The shape is ``[angle, velocity, torque]``.
    """
    angle = np.linspace(-np.pi, np.pi, options.angles)[:, None, None]
    speed = np.linspace(-MAX_SPEED, MAX_SPEED, options.velocities)[None, :, None]
    torque = np.linspace(-MAX_TORQUE, MAX_TORQUE, options.torques)
    after = np.clip(speed + (1.5 * g * np.sin(angle) + 3 * torque) * DT, -MAX_SPEED, MAX_SPEED)
    turned = (angle + after * DT + np.pi) % (2 * np.pi)
    row, column = (
        turned / (2 * np.pi) * (options.angles - 1),
        (after + MAX_SPEED) / (2 * MAX_SPEED) * (options.velocities - 1),
    )
    i = np.minimum(row.astype(int), options.angles - 2)
    j = np.minimum(column.astype(int), options.velocities - 2)
    a, b = (row - i).astype(np.float32), (column - j).astype(np.float32)
    corner = i * options.velocities + j
    reward = (-(angle**2) - 0.1 * speed**2 - 0.001 * torque**2).astype(np.float32)
    value = np.zeros(options.angles * options.velocities, np.float32)
    for _ in range(HORIZON):
        near = (1 - b) * value[corner] + b * value[corner + 1]
        far = (1 - b) * value[corner + options.velocities] + b * value[
            corner + options.velocities + 1
        ]
        q = reward + (1 - a) * near + a * far
        value = q.max(-1).ravel()
    return q


def main(options: Options) -> None:
    """Compute the gain, print it and write it to the output file."""
    gravities = 2 + 18 * (np.arange(options.gravities) + 0.5) / options.gravities
    speed = np.linspace(-MAX_SPEED, MAX_SPEED, options.velocities)
    started = np.abs(speed) <= MAX_START_SPEED
    q = np.stack([first_action_values(g, options)[:, started] for g in gravities])
    known = q.max(-1)
    blind = q.mean(0).argmax(-1)  # The best action that is the same for all g.
    gain = known - np.take_along_axis(q, blind[None, ..., None], -1)[..., 0]
    result = {
        "format": 1,
        "commit": commit(),
        "grid": {k: v for k, v in vars(options).items() if k != "output"},
        "optimal_return": float(known.mean()),
        "by_gravity": dict(
            zip(gravities.round(2).tolist(), known.mean((1, 2)).round(1).tolist(), strict=True)
        ),
        "largest_gain": float(gain.mean()),
        "standard_deviation_of_the_gain": float(gain.std()),
    }
    write_json(options.output, result)
    print(f"optimal return {result['optimal_return']:.1f}")
    print(
        f"largest gain of a second episode {gain.mean():.2f}, standard deviation {gain.std():.2f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
