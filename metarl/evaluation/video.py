"""Film MuJoCo environments: an episode before and one after adaptation, side by side."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metarl.errors import UserError
from metarl.experience.adaptation import AdaptedPolicy, adapt
from metarl.experience.agent import Agent
from metarl.stepping.slots import close_quietly
from metarl.task import Env, Task
from metarl.tasks.distribution import TaskDistribution

SIZE = 320
"""Width and height of an episode's picture, in pixels."""

FRAMES_PER_SECOND = 25

Frame = npt.NDArray[np.uint8]
"""One picture, ``[height, width, 3]``."""


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
        tasks: a task distribution whose environments use MuJoCo.
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
    write = _writer()
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for i, task in enumerate(chosen):
        env = tasks.make(task)
        try:
            env.reset(seed=seed)
            with _Camera(env) as camera:
                policies = (
                    adapt(agent, env, episodes=n, max_steps=tasks.horizon, seed=seed)
                    for n in (0, episodes)
                )
                before, after = (_episode(policy, env, camera, seed) for policy in policies)
        finally:
            close_quietly(env)
        path = directory / f"{name}-{i}.mp4"
        write(path, side_by_side(before, after))
        files.append(path)
    return files


def side_by_side(left: Sequence[Frame], right: Sequence[Frame]) -> list[Frame]:
    """Join two episodes frame by frame; the shorter one stops at its last frame."""
    length = max(len(left), len(right))
    return [
        np.concatenate([left[min(i, len(left) - 1)], right[min(i, len(right) - 1)]], axis=1)
        for i in range(length)
    ]


def _episode(policy: AdaptedPolicy, env: Env, camera: _Camera, seed: int) -> list[Frame]:
    observation, _ = env.reset(seed=seed)
    reward, boundary, ended = None, True, False
    every = max(1, round(1 / FRAMES_PER_SECOND / camera.seconds_per_step))
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


class _Camera:
    """Renders a MuJoCo environment's simulator, whatever render mode it was made with."""

    def __init__(self, env: Env) -> None:
        base: Any = env.unwrapped
        if not hasattr(base, "model") or not hasattr(base, "data"):
            raise UserError(f"--video: got {type(base).__name__}; accepted: environments on MuJoCo")
        self._env = base
        step = base.model.opt.timestep * getattr(base, "frame_skip", 1)
        self.seconds_per_step = float(step)
        self._renderer = _renderer(base.model)
        names = [base.model.camera(i).name for i in range(base.model.ncam)]
        self._view: Any = next((n for n in ("corner2", "track") if n in names), -1)
        self._upside_down = self._view == "corner2"  # Meta-World's camera is mounted upside down.

    def __enter__(self) -> _Camera:
        return self

    def __exit__(self, *exception: object) -> None:
        self._renderer.close()

    def frame(self) -> Frame:
        """Render the present state of the simulator, ``[height, width, 3]``."""
        self._renderer.update_scene(self._env.data, camera=self._view)
        seen = np.asarray(self._renderer.render(), np.uint8)
        return seen[::-1, ::-1] if self._upside_down else seen


def check_can_record() -> None:
    """Check that videos can be made here, so that a long evaluation does not fail at its end.

    Raises:
        UserError: if they cannot; the message says what is missing.
    """
    import mujoco

    _writer()
    _renderer(mujoco.MjModel.from_xml_string("<mujoco/>")).close()


def _renderer(model: Any) -> Any:
    try:
        import mujoco

        return mujoco.Renderer(model, SIZE, SIZE)
    except Exception as error:  # GL libraries raise errors of many classes.
        raise UserError(
            f"--video: nothing can be rendered here ({type(error).__name__}: {error}); accepted: "
            "MUJOCO_GL=egl with libegl1, or MUJOCO_GL=osmesa with libosmesa6"
        ) from error


def _writer() -> Any:
    """Return a function that writes frames to an mp4 file."""
    try:
        importlib.import_module("imageio_ffmpeg")  # This is imageio's plugin for mp4 files.
        imageio: Any = importlib.import_module("imageio.v2")
    except ImportError as error:
        raise UserError(
            f"--video: {error}; accepted: pip install 'metarl-toolkit[video]'"
        ) from error

    def write(path: Path, frames: Sequence[Frame]) -> None:
        with imageio.get_writer(path, fps=FRAMES_PER_SECOND, macro_block_size=1) as video:
            for frame in frames:
                video.append_data(frame)

    return write
