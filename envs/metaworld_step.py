"""Meta-World's environments with a faster step and reset, equal to the official ones bit for bit.

An official step spends most of its time on overhead: it looks up bodies by name for every number,
calls NumPy and SciPy on vectors of three numbers, and computes sensors that nothing reads; an
official reset simulates 50 steps until the hand is settled. :func:`fast` derives a class from an
official one that avoids this and returns the same bits as ``metaworld==3.1.1``
(tests/envs/test_metaworld.py compares all 50 classes).

The task's own code (its rewards, its success and the objects it observes) is not written again. It
stays the official bytecode, in a new place:

- **Classes.** ``fast(cls)`` has the bases ``(_FastStep, cls, _FastBase)``, so that methods are
  looked up in ``_FastStep`` (step and reset), then in the official class, then in ``_FastBase``
  (faster versions of the base class's methods) and last in ``SawyerXYZEnv``. An official class
  that overrides a method of the base class thus keeps its own version.
- **Helpers.** Each function that runs in a step is copied with other globals: ``np``,
  ``reward_utils`` and ``Rotation`` are those of :mod:`metarl.envs.metaworld_helpers`. The official
  module itself is not changed. Functions that set a class up run unchanged.
- **Named parts.** During a step ``self.data`` is a :class:`_CachedData`, which looks up
  ``data.body("hand")`` and its arrays once; MuJoCo never moves them.
- **Physics.** ``mj_step`` runs as officially. The forward pass after it leaves out sensors only,
  because the next step's solver starts from its forces.
- **Resets.** A task's first reset runs the official code. What it sets (the simulator's state, the
  positions of bodies and sites, attributes) is remembered for :data:`_REMEMBERED` tasks and
  restored at later resets of the same task, which would compute the same again.
- **Models.** All simulators of a class in a process share a compiled model. A simulator writes its
  positions into it before each use, if another one used it last.

All this depends on details of one version of Meta-World: with any other, ``fast`` warns and returns
the official class.
"""

from __future__ import annotations

import functools
import importlib
import types
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

import metaworld.sawyer_xyz_env as official
import mujoco
import numpy as np
import numpy.typing as npt
from metaworld.utils import reward_utils

from metarl.envs.metaworld_helpers import REPLACEMENTS, norm, tolerance

VERIFIED = "3.1.1"
"""Version of Meta-World with which :func:`fast` was compared."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_FROM_THE_START = int(mujoco.mjtStage.mjSTAGE_NONE)
_REMEMBERED = 128
"""Number of resets that an environment remembers; a benchmark has 50 tasks per class and split."""

_DOWN = np.array([1.0, 0.0, 1.0, 0.0])
_NO_GOAL = np.zeros(3)
_Official: Any = official.SawyerXYZEnv


class _CachedPart:
    """A named part of the simulator that looks up each array once; arrays never move."""

    def __init__(self, view: Any) -> None:
        vars(self)["_view"] = view

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = getattr(self._view, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view, name, value)


class _CachedData:
    """``MjData`` that looks up each named part once."""

    def __init__(self, data: Any) -> None:
        self._data = data
        for kind in ("body", "geom", "site", "joint"):
            setattr(self, kind, functools.cache(self._named(getattr(data, kind))))

    @staticmethod
    def _named(find: Callable[[Any], Any]) -> Callable[[Any], _CachedPart]:
        return lambda name: _CachedPart(find(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


class _SharedModel:
    """A compiled model that all simulators of a class share.

    Models are large (21 MB of meshes and textures) and slow to compile. Simulators of a class
    differ only in the positions that a reset gives to bodies and sites, so each simulator writes
    its own positions into the model before it uses it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._body_pos, self._site_pos = model.body_pos, model.site_pos
        self.pristine = model.body_pos.copy(), model.site_pos.copy()
        self.owner: Any = None
        """The simulator whose positions the model holds."""

    def place(self, owner: Any, body_pos: Any, site_pos: Any) -> None:
        """Write ``owner``'s positions of bodies and sites into the model."""
        self._body_pos[:], self._site_pos[:] = body_pos, site_pos
        self.owner = owner


_MODELS: dict[str, _SharedModel] = {}
"""Models of this process, by file."""


class _FastBase(_Official):  # type: ignore[misc]  # _Official is Any
    """Faster methods of Meta-World's base class; it stands between that and an official class.

    An official class that overrides one of these methods keeps its own. Outside a step, the
    methods do what the base class does.
    """

    model: Any
    data: Any
    _prev_obs: Any
    _in_step = False
    _tip: npt.NDArray[np.float64] | None = None

    def _initialize_simulation(self) -> tuple[Any, Any]:
        if self.fullpath not in _MODELS:
            model, _ = super()._initialize_simulation()
            _MODELS[self.fullpath] = _SharedModel(model)
        self._shared = _MODELS[self.fullpath]
        self._places = self._shared.pristine
        self._shared.place(self, *self._places)
        return self._shared.model, mujoco.MjData(self._shared.model)

    def use_model(self) -> None:
        """Write this simulator's positions into the shared model, if another one used it last."""
        if self._shared.owner is not self:
            self._shared.place(self, *self._places)

    def get_body_com(self, body_name: str) -> Any:
        return self.data.body(body_name).xpos

    @property
    def tcp_center(self) -> Any:
        if not self._in_step:
            return super().tcp_center
        if self._tip is None:
            self._tip = (self._right_tip + self._left_tip) / 2.0
        return self._tip

    def touching_object(self, object_geom_id: int) -> bool:
        if not self._in_step:
            return bool(super().touching_object(object_geom_id))
        contact = self._data.contact
        left, right = self._pads
        touched: tuple[list[int], list[int]] = [], []
        for row, (first, second) in enumerate(contact.geom.tolist()):
            if object_geom_id in (first, second):
                if left in (first, second):
                    touched[0].append(row)
                if right in (first, second):
                    touched[1].append(row)
        if not (touched[0] and touched[1]):
            return False
        force, address = self._data.efc_force, contact.efc_address
        return all(sum(force[address[row]] for row in rows) > 0 for rows in touched)

    def _get_curr_obs_combined_no_goal(self) -> Any:
        if not self._in_step:
            return super()._get_curr_obs_combined_no_goal()
        result = np.zeros(4 + self._obs_obj_max_len)
        result[:3] = self._hand
        between = self._right_claw - self._left_claw
        apart = np.sqrt(between.dot(between)) / 0.1
        result[3] = 0.0 if apart < 0.0 else 1.0 if apart > 1.0 else apart
        positions, quaternions = self._get_pos_objects(), self._get_quat_objects()
        for i in range(len(positions) // 3):
            result[4 + 7 * i : 7 + 7 * i] = positions[3 * i : 3 * i + 3]
            result[7 + 7 * i : 11 + 7 * i] = quaternions[4 * i : 4 * i + 4]
        return result

    def _gripper_caging_reward(
        self,
        action: Any,
        obj_pos: Any,
        obj_radius: Any,
        pad_success_thresh: Any,
        object_reach_radius: Any,
        xz_thresh: Any,
        desired_gripper_effort: Any = 1.0,
        high_density: bool = False,
        medium_density: bool = False,
    ) -> Any:
        if (high_density and medium_density) or not self._in_step:
            return super()._gripper_caging_reward(
                action,
                obj_pos,
                obj_radius,
                pad_success_thresh,
                object_reach_radius,
                xz_thresh,
                desired_gripper_effort,
                high_density,
                medium_density,
            )
        y, start_y = float(obj_pos[1]), float(self.obj_init_pos[1])
        sides = []
        for pad in (self._left_pad, self._right_pad):
            pad_y = float(pad[1])
            margin = abs(abs(pad_y - start_y) - pad_success_thresh)
            bounds = (obj_radius, pad_success_thresh)
            sides.append(tolerance(abs(pad_y - y), bounds, margin, "long_tail"))
        tip = self.tcp_center
        margin = norm(self.obj_init_pos[::2] - self.init_tcp[::2]) - xz_thresh
        across = tolerance(norm(tip[::2] - obj_pos[::2]), (0, xz_thresh), margin, "long_tail")
        # From here on the numbers have the action's own precision, as officially (NEP 50).
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        caging = reward_utils.hamacher_product(reward_utils.hamacher_product(*sides), float(across))
        result = reward_utils.hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            result = (result + caging) / 2
        if medium_density:
            margin = abs(norm(self.obj_init_pos - self.init_tcp) - object_reach_radius)
            bounds = (0, object_reach_radius)
            reach = tolerance(norm(obj_pos - tip), bounds, margin, "long_tail")
            result = (result + float(reach)) / 2
        return result


class _FastStep(_FastBase):
    """The faster step and reset; it overrides those of an official class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._data = self.data
        self._views = _CachedData(self.data)
        body, site = self._views.body, self._views.site
        self._hand, self._right_claw, self._left_claw, self._left_pad, self._right_pad = (
            body(name).xpos for name in ("hand", "rightclaw", "leftclaw", "leftpad", "rightpad")
        )
        self._right_tip, self._left_tip = (
            site(name).xpos for name in ("rightEndEffector", "leftEndEffector")
        )
        (self._mocap,), (self._turned,) = self.data.mocap_pos, self.data.mocap_quat
        self._ctrl = self.data.ctrl
        self._reach = list(zip(self.mocap_low.tolist(), self.mocap_high.tolist(), strict=True))
        self._pads = [self.data.geom(name).id for name in ("leftpad_geom", "rightpad_geom")]
        self._resets: dict[tuple[float, ...], _Snapshot] = {}
        self._size = mujoco.mj_stateSize(self.model, _STATE)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Advance one step; the results are those of the official step."""
        action = np.asarray(action)
        if action.shape != (4,):
            raise ValueError(f"an action has 4 numbers, got shape {action.shape}")
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.use_model()
        model, data = self.model, self._data
        place, scale = self._mocap, self.action_scale
        for i in range(3):
            moved = action[i]  # The product below keeps the action's own precision (NEP 50).
            if not -1 <= moved <= 1:
                moved = np.clip(moved, -1, 1)
            to = place[i] + moved * scale
            low, high = self._reach[i]
            place[i] = low if to < low else high if to > high else to
        self._turned[:] = _DOWN
        closing = action[3]
        self._ctrl[0], self._ctrl[1] = closing, -closing
        mujoco.mj_step(model, data, nstep=self.frame_skip)
        self.curr_path_length += 1
        # Compute all but the sensors, which nothing reads; the next step's solver starts from
        # these forces.
        mujoco.mj_forwardSkip(model, data, _FROM_THE_START, 1)
        self._in_step, self._tip = True, None
        self.data = self._views
        try:
            current = self._get_curr_obs_combined_no_goal()
            bounds = self.sawyer_observation_space
            observation = np.concatenate((current, self._prev_obs, _NO_GOAL))
            if not self._partially_observable:
                observation[-3:] = self._get_pos_goal()
            self._prev_obs = current
            np.maximum(observation, bounds.low, out=observation)
            np.minimum(observation, bounds.high, out=observation)
            self._last_stable_obs = observation
            reward, info = self.evaluate_state(observation, action)
        finally:
            self.data, self._in_step = data, False
        truncated = self.curr_path_length == self.max_path_length
        return observation.copy(), reward, False, truncated, info

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; restore the state after the first reset if the task was seen before."""
        self.use_model()
        if not self._freeze_rand_vec:
            drawn: tuple[Any, dict[str, Any]] = super().reset(seed=seed, options=options)
            self._places = self.model.body_pos.copy(), self.model.site_pos.copy()
            return drawn
        key = tuple(self._last_rand_vec.tolist())
        if key in self._resets:
            return self._restore(self._resets[key]), {}
        observation, info = super().reset(seed=seed, options=options)
        while len(self._resets) >= _REMEMBERED:
            del self._resets[next(iter(self._resets))]
        self._resets[key] = self._snapshot(observation)
        return observation, info

    def _snapshot(self, observation: Any) -> _Snapshot:
        """Return all that a reset has set."""
        state = np.empty(self._size)
        mujoco.mj_getState(self.model, self._data, state, _STATE)
        kept, copied = {}, {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and not _is_window(value):
                copied[name] = value.copy()
            elif value is None or isinstance(value, np.ndarray | np.generic | bool | int | float):
                kept[name] = value
        self._places = self.model.body_pos.copy(), self.model.site_pos.copy()
        return _Snapshot(state, self._places, kept, copied, observation.copy())

    def _restore(self, snapshot: _Snapshot) -> Any:
        """Set all that a reset has set before, and return its observation."""
        model, data = self.model, self._data
        self._places = snapshot.places
        self._shared.place(self, *self._places)
        mujoco.mj_setState(model, data, snapshot.state, _STATE)
        mujoco.mj_forward(model, data)
        # mj_forward changes the solver's warm start, which is part of the state: set it again.
        mujoco.mj_setState(model, data, snapshot.state, _STATE)
        attributes: dict[str, Any] = self.__dict__
        attributes.update(snapshot.kept)
        for name, value in snapshot.copied.items():
            attributes[name] = value.copy()
        return snapshot.observation.copy()


class _Snapshot(NamedTuple):
    """State of a simulator after a reset."""

    state: npt.NDArray[np.float64]
    places: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    """Positions of the model's bodies and sites."""
    kept: dict[str, Any]
    """Attributes that are immutable, or windows into the simulator's own memory."""
    copied: dict[str, npt.NDArray[Any]]
    """Copies of attributes that are arrays of their own."""
    observation: npt.NDArray[np.float64]


def _is_window(array: Any) -> bool:
    """Return whether ``array`` is a window into memory that NumPy did not allocate."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None


_SET_UP_PREFIXES = ("__", "reset", "_reset", "_set", "fix_", "adjust_")
"""Prefixes of an official class's functions that run at a reset only; they stay official."""


def _with_fast_helpers(function: Any, module: dict[str, Any]) -> types.FunctionType:
    """Return a copy of ``function`` that finds its global names in ``module``."""
    # Leave out the decorator that checks whether a task is set, since every reset here sets one.
    wrapped = next(
        (
            cell.cell_contents
            for name, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=True
            )
            if name == "func"
        ),
        function,
    )
    result = types.FunctionType(
        wrapped.__code__, module, wrapped.__name__, wrapped.__defaults__, wrapped.__closure__
    )
    result.__kwdefaults__ = wrapped.__kwdefaults__
    return result


@functools.cache
def fast(cls: Any) -> Any:
    """Return a subclass of the official ``cls`` with a faster step and the same results.

    For any version of Meta-World but the verified one, return ``cls`` itself and warn.
    """
    version = metadata.version("metaworld")
    if version != VERIFIED:
        warnings.warn(
            f"metaworld {version} is installed; the fast step was verified for {VERIFIED} only: "
            "using the official step",
            stacklevel=2,
        )
        return cls
    module = dict(vars(importlib.import_module(cls.__module__)))
    module.update({name: new for name, new in REPLACEMENTS.items() if name in module})
    own: dict[str, Any] = {}
    for name, value in vars(cls).items():
        if name.startswith(_SET_UP_PREFIXES):
            continue
        if isinstance(value, staticmethod):
            own[name] = staticmethod(_with_fast_helpers(value.__func__, module))
        elif isinstance(value, types.FunctionType):
            own[name] = _with_fast_helpers(value, module)
    result = type(f"Fast{cls.__name__}", (_FastStep, cls, _FastBase), own)
    module[cls.__name__] = result  # Some classes call their static methods by the class's name.
    return result
