"""Show a trial again, in pictures: its episodes one after the other, with what happens in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from metarl.evaluation.cameras import Camera, looking_at
from metarl.evaluation.films import Film, Shot
from metarl.evaluation.video import steps_per_frame
from metarl.experience.agent import Adapter, TrialShape
from metarl.experience.data import Trial
from metarl.experience.lanes import TrialKeys
from metarl.experience.rollout import run_trial
from metarl.stepping.actions import ActionCodec
from metarl.stepping.slots import close_quietly
from metarl.stepping.vector import SEEDS
from metarl.task import Env, Task
from metarl.tasks.arrays import ArrayTaskDistribution
from metarl.tasks.canvas import GREY, INK, Canvas, Frame, shortened
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.parameters import short_task

HOLD = 0.8
"""Seconds for which the first and the last picture of an episode are shown."""

SMALLEST, LARGEST = 240, 640
"""Smaller pictures are enlarged and larger ones reduced, so that captions can be read."""


class Played(NamedTuple):
    """An episode that was filmed."""

    number: int
    """Its number in the trial, from 0."""
    experience: int
    """The number of episodes that the agent had adapted to before."""
    steps: int
    """The number of its steps."""
    total: float
    """The sum of its rewards."""
    same: bool
    """False if the environment did not do again what it did in the trial."""

    @property
    def adaptation(self) -> str:
        """How much the agent had adapted, in words."""
        if not self.experience:
            return "before adaptation"
        return f"after {self.experience} episode{'s' * (self.experience > 1)}"


def one_trial(
    adapter: Adapter,
    tasks: TaskDistribution,
    task: Task,
    *,
    shape: TrialShape,
    keys: TrialKeys,
    greedy: bool,
) -> Trial:
    """Let an agent adapt to one task, by the same loop as in an evaluation.

    Args:
        adapter: the agent; it is not changed.
        tasks: the distribution of the task.
        task: the task.
        shape: the episodes of the trial.
        keys: the origin of all random numbers; those of an evaluation's task give its trial.
        greedy: whether the most likely actions are taken.
    """
    lanes = 1 if shape.sequential else shape.episodes_per_round
    with closing(tasks.make_vec(min(lanes, tasks.max_slots), num_workers=0)) as envs:
        return run_trial(adapter, envs, [task], shape=shape, keys=keys, greedy=greedy)


def film_trial(
    trial: Trial,
    tasks: TaskDistribution,
    film: Film,
    *,
    shape: TrialShape,
    keys: TrialKeys,
    option: str,
    rate: float,
) -> Iterator[Played]:
    """Film a trial with one task: the first episode of every point of its adaptation curve.

    The environment takes the trial's seeds and actions again. An agent that learns while it acts
    is shown in every episode, another one in the first of each round.

    Args:
        trial: the trial.
        tasks: the distribution of its task.
        film: where the pictures go.
        shape: the episodes of the trial.
        keys: the origin of its random numbers.
        option: the option that asks for the film, for messages.
        rate: the largest number of pictures a second.

    Yields:
        Every episode that has been filmed.

    Raises:
        UserError: if the environment cannot be drawn here; the message says what is missing.
    """
    (task,) = trial.tasks
    env = tasks.make(task)
    try:
        env.reset(seed=0)
        with looking_at(env, option) as camera:
            for episode in _episodes(trial, tasks, shape, keys):
                shown = episode.number in shape.points
                if shown or isinstance(
                    tasks, ArrayTaskDistribution
                ):  # Those pictures show earlier episodes too.
                    played = _play(env, episode, shape, camera, film if shown else None, rate)
                    if shown:
                        yield played
    finally:
        close_quietly(env)


class _Episode(NamedTuple):
    """What repeats an episode of a trial."""

    task: str
    number: int
    seed: int
    actions: list[Any]
    rewards: npt.NDArray[np.float32]


def _episodes(
    trial: Trial, tasks: TaskDistribution, shape: TrialShape, keys: TrialKeys
) -> Iterator[_Episode]:
    codec = ActionCodec(tasks.action_space)
    for k, episodes in enumerate(trial.rounds):
        own = keys.round(k, shape)
        for e in range(shape.episodes_per_round):
            valid = episodes.valid[0, e]
            taken = episodes.taken[0, e][valid].cpu().numpy().astype(codec.dtype)
            seed = int(own.environment_seed(0, e))
            yield _Episode(
                short_task(trial.tasks[0]),
                k * shape.episodes_per_round + e,
                seed if isinstance(tasks, ArrayTaskDistribution) else seed % SEEDS,  # as slots are
                [codec.rows.unpack(row) for row in codec.to_env(taken)],
                episodes.reward[0, e][valid].cpu().numpy(),
            )


def _play(
    env: Env,
    episode: _Episode,
    shape: TrialShape,
    camera: Camera,
    film: Film | None,
    rate: float,
) -> Played:
    """Repeat an episode, and film it if there is a ``film``."""
    every = steps_per_frame(camera, rate)
    last = len(episode.actions)
    experience = episode.number - episode.number % shape.stride
    now = Played(episode.number, experience, 0, 0.0, True)
    heading = f"episode {episode.number + 1} of {shape.num_episodes} · {now.adaptation}"

    def shoot() -> None:
        if film is not None:
            lines = episode.task, heading, f"step {now.steps} · return {now.total:.2f}"
            edge = now.steps in (0, last)
            seconds = max(every / camera.steps_per_second, HOLD if edge else 0.0)
            name = f"episode-{episode.number + 1:03d}-step-{now.steps:04d}"
            film.add(Shot(captioned(camera.frame(), lines), seconds, name))

    env.reset(seed=episode.seed)
    shoot()
    for action, recorded in zip(episode.actions, episode.rewards, strict=True):
        _, reward, *_ = env.step(action)
        same = now.same and math.isclose(reward, recorded, rel_tol=1e-4, abs_tol=1e-4)
        now = now._replace(steps=now.steps + 1, total=now.total + float(reward), same=same)
        if now.steps % every == 0 or now.steps == last:
            shoot()
    return now


def captioned(frame: Frame, lines: Sequence[str]) -> Frame:
    """Return a picture of readable size with lines of text above it, the first one in grey.

    Args:
        frame: the picture, ``[height, width, 3]``.
        lines: the text; a line that is too long is cut off.
    """
    frame = resized(frame)
    width, each = frame.shape[1], 20
    band = Canvas(width, each * len(lines) + 6)
    for i, line in enumerate(lines):
        words = shortened(line, width - 16)
        band.text((8, 3 + each * (i + 0.5)), words, 14, INK if i else GREY, "lm")
    return np.concatenate([band.frame(), frame])


def resized(frame: Frame) -> Frame:
    """Return a small picture enlarged by a whole factor, and a large one reduced."""
    height, width, _ = frame.shape
    if width < SMALLEST:
        factor = -(-SMALLEST // width)
        return frame.repeat(factor, 0).repeat(factor, 1)
    if max(height, width) > LARGEST:
        scale = LARGEST / max(height, width)
        size = round(width * scale), round(height * scale)
        return np.asarray(Image.fromarray(frame).resize(size), np.uint8)
    return frame
