"""Cameras: pictures of any environment that can be drawn, whatever render mode it was made with."""

from __future__ import annotations

import ctypes.util
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from metarl.errors import UserError, described
from metarl.task import Env
from metarl.tasks.canvas import Frame

SIZE = 320
"""Width and height of a picture of a MuJoCo simulator, in pixels."""

DEFAULT_RATE = 20.0
"""Steps a second of an environment that does not say how fast it is shown."""


@runtime_checkable
class Camera(Protocol):
    """Looks at one environment."""

    steps_per_second: float
    """The number of steps that a film of natural speed shows in a second."""

    def frame(self) -> Frame:
        """Return a picture of the environment's present state, ``[height, width, 3]``."""


@contextmanager
def looking_at(env: Env, option: str) -> Iterator[Camera]:
    """Yield a camera for an environment that has been reset.

    MuJoCo environments are seen by their simulator, others by their render mode ``rgb_array``,
    which they need not have been made with.

    Args:
        env: the environment.
        option: the option that asks for pictures, for messages.

    Raises:
        UserError: if the environment cannot be drawn here; the message says what is missing.
    """
    base: Any = env.unwrapped
    if hasattr(base, "model") and hasattr(base, "data"):
        simulated = _Simulated(base, option)
        try:
            yield simulated
        finally:
            simulated.close()
        return
    yield _Rendered(env, option)


class _Rendered:
    """Asks an environment to render itself."""

    def __init__(self, env: Env, option: str) -> None:
        base: Any = env.unwrapped
        self._env = env
        self._label = f"{option}: {type(base).__name__}"
        modes = base.metadata.get("render_modes") or []
        if "rgb_array" not in modes:
            raise UserError(
                f"{self._label} has no pictures; accepted: environments on MuJoCo, those with the "
                "render mode rgb_array, and array families with a method draw"
            )
        if base.render_mode != "rgb_array":
            try:
                # Task distributions make their environments without a render mode. Environments
                # look at it when they render, and array families record from the next reset on.
                base.render_mode = "rgb_array"
            except AttributeError as error:
                raise UserError(f"{self._label} cannot be rendered: {error}") from error
        rate = base.metadata.get("render_fps")
        self.steps_per_second = float(rate) if rate else DEFAULT_RATE

    def frame(self) -> Frame:
        try:
            seen = np.asarray(self._env.render())
        except Exception as error:  # Graphics libraries raise errors of many classes.
            raise UserError(f"{self._label} cannot be rendered: {described(error)}") from error
        if seen.dtype != np.uint8 or seen.ndim != 3 or seen.shape[2] != 3:
            got = f"{seen.dtype} of shape {seen.shape}"
            raise UserError(f"{self._label} renders {got}; accepted: uint8 [height, width, 3]")
        return seen


class _Simulated:
    """Renders the simulator of a MuJoCo environment."""

    def __init__(self, base: Any, option: str) -> None:
        self._env = base
        step = base.model.opt.timestep * getattr(base, "frame_skip", 1)
        self.steps_per_second = 1 / float(step)
        self._renderer = renderer_of(base.model, option)
        names = [base.model.camera(i).name for i in range(base.model.ncam)]
        self._view: Any = next((n for n in ("corner2", "track") if n in names), -1)
        self._upside_down = self._view == "corner2"  # Meta-World's camera is mounted upside down.

    def close(self) -> None:
        self._renderer.close()

    def frame(self) -> Frame:
        self._renderer.update_scene(self._env.data, camera=self._view)
        seen = np.asarray(self._renderer.render(), np.uint8)
        return seen[::-1, ::-1] if self._upside_down else seen


def prepare_rendering(option: str) -> None:
    """Choose how environments render, which must happen before their packages are imported.

    Without a screen MuJoCo renders by EGL where that is installed, and SDL, which pygame uses,
    without a window, unless MUJOCO_GL and SDL_VIDEODRIVER say otherwise.

    Raises:
        UserError: if MUJOCO_GL names what is not installed, so that MuJoCo cannot be imported.
    """
    screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform == "linux" and not screen:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        if ctypes.util.find_library("EGL"):
            os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        importlib.import_module("mujoco")
    except Exception as error:  # GL libraries raise errors of many classes.
        raise _cannot_render(option, error) from error


def renderer_of(model: Any, option: str) -> Any:
    """Return MuJoCo's renderer of a model.

    Raises:
        UserError: if nothing can be rendered here; the message says what is missing.
    """
    try:
        import mujoco

        class Renderer(mujoco.Renderer):  # type: ignore[misc]  # mujoco has no types
            """Leaves nothing to say if it cannot be made: its ``close`` misses no attribute."""

            _mjr_context = _gl_context = None

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # GLFW warns of what the error says.
            return Renderer(model, SIZE, SIZE)
    except Exception as error:  # GL libraries raise errors of many classes.
        raise _cannot_render(option, error) from error


def _cannot_render(option: str, error: Exception) -> UserError:
    said = " ".join(described(error).split())
    return UserError(
        f"{option}: MuJoCo cannot render here ({said}); accepted: MUJOCO_GL=egl with libegl1, or "
        "MUJOCO_GL=osmesa with libosmesa6"
    )
