"""Contact sheets: pictures of several tasks beside each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from PIL import Image

from metarl.evaluation.cameras import looking_at
from metarl.stepping.slots import close_quietly
from metarl.task import Task
from metarl.tasks.canvas import GREY, Canvas, Frame, shortened
from metarl.tasks.distribution import TaskDistribution
from metarl.tasks.parameters import short_task

COLUMNS = 3

CELL = 240
"""Width of a task's picture, and its largest height, in pixels."""

GAP, LINE, HEADING = 10, 18, 30
"""Pixels between pictures, of a line of text, and of the heading."""


def contact_sheet(
    tasks: TaskDistribution, chosen: Sequence[Task], *, steps: int, seed: int, option: str
) -> Frame:
    """Return one picture of several tasks, each after a few random steps.

    Args:
        tasks: the distribution of the tasks.
        chosen: the tasks; three are in a row.
        steps: the number of random steps; a new episode begins where one has ended.
        seed: the seed of the environments and of the actions.
        option: the option that asks for pictures, for messages.

    Raises:
        UserError: if the environments cannot be drawn here; the message says what is missing.
    """
    pictures = [_small(_seen(tasks, task, steps, seed, option)) for task in chosen]
    height = max(picture.shape[0] for picture in pictures)
    cell = height + LINE + GAP
    rows = -(-len(pictures) // COLUMNS)
    sheet = Canvas(COLUMNS * (CELL + GAP) + GAP, rows * cell + HEADING + GAP)
    width = sheet.frame().shape[1]
    after = f"after {steps} random step{'s' * (steps != 1)}" if steps else "at the start"
    sheet.text(
        (GAP, HEADING / 2), shortened(f"{tasks.name}, {after}", width - 2 * GAP), anchor="lm"
    )
    corners = [
        (GAP + i % COLUMNS * (CELL + GAP), HEADING + i // COLUMNS * cell)
        for i in range(len(pictures))
    ]
    for (left, top), task in zip(corners, chosen, strict=True):
        caption = shortened(short_task(task), CELL, 12)
        sheet.text((left, top + LINE / 2), caption, 12, anchor="lm")
        sheet.box((left - 1, top + LINE - 1), (left + CELL, top + LINE + height), GREY)
    frame = sheet.frame().copy()
    for (left, top), picture in zip(corners, pictures, strict=True):
        high, wide, _ = picture.shape
        top, left = top + LINE + (height - high) // 2, left + (CELL - wide) // 2
        frame[top : top + high, left : left + wide] = picture
    return frame


def _seen(tasks: TaskDistribution, task: Task, steps: int, seed: int, option: str) -> Frame:
    """Return a picture of a task's environment after random steps."""
    actions = copy.deepcopy(tasks.action_space)
    actions.seed(seed)
    env = tasks.make(task)
    try:
        env.reset(seed=seed)
        with looking_at(env, option) as camera:
            env.reset(seed=seed)  # Array families record what they draw from now on.
            ended = False
            for _ in range(steps):
                if ended:
                    env.reset()
                _, _, terminated, truncated, _ = env.step(actions.sample())
                ended = terminated or truncated
            return camera.frame()
    finally:
        close_quietly(env)


def _small(frame: Frame) -> Frame:
    """Return a picture that fits into a cell."""
    height, width, _ = frame.shape
    scale = CELL / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(frame).resize(size, how), np.uint8)
