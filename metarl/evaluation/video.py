"""Film an agent: an episode before and one after adaptation, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from metarl.evaluation.cameras import Camera, looking_at
from metarl.evaluation.films import FRAMES_PER_SECOND, Shot, mp4_writer, open_films
from metarl.experience.adaptation import AdaptedPolicy, adapt
from metarl.experience.agent import Agent
from metarl.stepping.slots import close_quietly
from metarl.task import Env, Task
from metarl.tasks.canvas import Frame
from metarl.tasks.distribution import TaskDistribution


def record_adaptation(
    agent: Agent,
    tasks: TaskDistribution,
    chosen: Sequence[Task],
    directory: Path,
    *,
    name: str,
    episodes: int,
    seed: int = 0,
) -> list[Path]:
    """Write one mp4 file per task: before adaptation on the left, after it on the right.

    Args:
        agent: the agent to film; it is not changed.
        tasks: a task distribution whose environments can be drawn.
        chosen: the tasks to show.
        directory: the folder for the files.
        name: the start of the files' names.
        episodes: the number of episodes of adaptation.
        seed: the seed of the adaptation; both episodes shown are greedy and start alike.

    Returns:
        The paths of the files.

    Raises:
        UserError: if videos cannot be rendered or written here; the message says what is missing.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for i, task in enumerate(chosen):
        path = directory / f"{name}-{i}.mp4"
        env = tasks.make(task)
        try:
            env.reset(seed=seed)
            with open_films([path], "--video") as film, looking_at(env, "--video") as camera:
                policies = (
                    adapt(agent, env, episodes=n, max_steps=tasks.horizon, seed=seed)
                    for n in (0, episodes)
                )
                before, after = (_episode(policy, env, camera, seed) for policy in policies)
                seconds = steps_per_frame(camera) / camera.steps_per_second
                for time, frame in enumerate(side_by_side(before, after)):
                    film.add(Shot(frame, seconds, f"{time:05d}"))
        finally:
            close_quietly(env)
        files.append(path)
    return files


def check_can_record(tasks: TaskDistribution) -> None:
    """Check that videos can be made here, so that a long evaluation does not fail at its end.

    Raises:
        UserError: if they cannot; the message says what is missing.
    """
    mp4_writer("--video")
    env = tasks.make(tasks.sample(np.random.default_rng(0), 1, "train")[0])
    try:
        env.reset(seed=0)
        with looking_at(env, "--video") as camera:
            env.reset(seed=0)  # Array families record what they draw from now on.
            camera.frame()
    finally:
        close_quietly(env)


def steps_per_frame(camera: Camera, rate: float = FRAMES_PER_SECOND) -> int:
    """Return every how many steps a picture is taken, for a film of natural speed.

    Args:
        camera: the camera, which knows how many steps a second has.
        rate: the largest number of pictures a second.
    """
    return max(1, round(camera.steps_per_second / rate))


def side_by_side(left: Sequence[Frame], right: Sequence[Frame]) -> list[Frame]:
    """Join two episodes frame by frame; the shorter one stops at its last frame."""
    length = max(len(left), len(right))
    return [
        np.concatenate([left[min(i, len(left) - 1)], right[min(i, len(right) - 1)]], axis=1)
        for i in range(length)
    ]


def _episode(policy: AdaptedPolicy, env: Env, camera: Camera, seed: int) -> list[Frame]:
    observation, _ = env.reset(seed=seed)
    reward, boundary, ended = None, True, False
    every = steps_per_frame(camera)
    frames = [camera.frame()]
    time = 0
    while not ended:
        action = policy.act(observation, reward, boundary=boundary, greedy=True)
        observation, paid, terminated, truncated, _ = env.step(action)
        reward, boundary, ended = float(paid), False, terminated or truncated
        time += 1
        if time % every == 0 or ended:
            frames.append(camera.frame())
    return frames
