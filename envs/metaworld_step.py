"""Meta-World's environments with a faster step and a remembered reset, bit for bit the same.

:func:`fast` derives a class from an official one. What the task's own code computes (rewards,
success, which object is observed) stays that code; what it stands on is exchanged: named access is
looked up once, small-array helpers cost a few operations, physics that nothing reads is left out,
and a reset of a task seen before puts back what the first one computed. Observations, rewards,
info and success are the same bits as those of ``metaworld==3.1.1`` (tests/test_metaworld.py).
"""

from __future__ import annotations

import functools
import importlib
import math
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
from scipy.spatial.transform import Rotation

VERIFIED = "3.1.1"
"""The Meta-World whose numbers :func:`fast` was compared with."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_FROM_THE_START = int(mujoco.mjtStage.mjSTAGE_NONE)
_REMEMBERED = 128
"""Resets an environment remembers; a benchmark has 50 tasks a class and split."""

_DOWN = np.array([1.0, 0.0, 1.0, 0.0])
_NO_GOAL = np.zeros(3)
_Official: Any = official.SawyerXYZEnv
_LONG_TAIL = np.sqrt(1 / reward_utils._DEFAULT_VALUE_AT_MARGIN - 1)


# Helpers of the official code, with the same results


def _norm(x: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute ``np.linalg.norm``; a short cut for what rewards mostly ask for."""
    if not args and not kwargs and type(x) is np.ndarray and x.dtype == np.float64 and x.ndim == 1:
        return np.sqrt(x.dot(x))
    return np.linalg.norm(x, *args, **kwargs)


def _hstack(parts: Any) -> Any:
    """Compute ``np.hstack``; a short cut for vectors."""
    if all(type(part) is np.ndarray and part.ndim == 1 for part in parts):
        return np.concatenate(parts)
    return np.hstack(parts)


def _tolerance(
    x: Any,
    bounds: tuple[Any, Any] = (0.0, 0.0),
    margin: Any = 0.0,
    sigmoid: Any = "gaussian",
    value_at_margin: Any = reward_utils._DEFAULT_VALUE_AT_MARGIN,
) -> Any:
    """Compute ``reward_utils.tolerance``; a short cut for one number."""
    lower, upper = bounds
    if not isinstance(x, float) or not margin > 0 or lower > upper:
        return reward_utils.tolerance(x, bounds, margin, sigmoid, value_at_margin)
    if lower <= x <= upper:
        return 1.0
    distance = np.float64((lower - x if x < lower else x - upper) / margin)
    if sigmoid == "long_tail" and value_at_margin == reward_utils._DEFAULT_VALUE_AT_MARGIN:
        return float(1 / ((distance * _LONG_TAIL) ** 2 + 1))
    return float(reward_utils._sigmoids(distance, value_at_margin, sigmoid))


class _Rotation:
    """The part of SciPy's ``Rotation`` that rewards and observations use."""

    @staticmethod
    def from_matrix(matrix: Any) -> Any:
        return _Quaternion(matrix)


class _Quaternion:
    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def as_quat(self) -> Any:
        return _quaternion(self._matrix)


def _public_quaternion(matrix: Any) -> Any:
    return Rotation.from_matrix(matrix).as_quat()


def _scalar_quaternion(matrix: Any) -> Any:
    """Compute the quaternion of a rotation in SciPy's order of operations, number by number."""
    rows = matrix.tolist()
    trace = rows[0][0] + rows[1][1] + rows[2][2]
    largest = max(rows[0][0], rows[1][1], rows[2][2], trace)
    result = [0.0] * 4
    i = next((i for i in range(3) if rows[i][i] == largest), 3)
    if i < 3:
        j, k = (i + 1) % 3, (i + 2) % 3
        result[i] = 1 - trace + 2 * rows[i][i]
        result[j] = rows[j][i] + rows[i][j]
        result[k] = rows[k][i] + rows[i][k]
        result[3] = rows[k][j] - rows[j][k]
    else:
        result[0] = rows[2][1] - rows[1][2]
        result[1] = rows[0][2] - rows[2][0]
        result[2] = rows[1][0] - rows[0][1]
        result[3] = 1 + trace
    w, x, y, z = result
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return np.array((w / norm, x / norm, y / norm, z / norm))


def _choose_quaternion() -> Callable[[Any], Any]:
    """Return the scalar routine where it agrees with SciPy's to the bit, else SciPy's."""
    rng = np.random.default_rng(0)
    quaternions = rng.normal(size=(256, 4)) * (10.0 ** rng.integers(-9, 1, size=(256, 4)))
    cases = [*Rotation.from_quat(quaternions).as_matrix(), np.eye(3)]
    agrees = all(np.array_equal(_scalar_quaternion(m), _public_quaternion(m)) for m in cases)
    return _scalar_quaternion if agrees else _public_quaternion


_quaternion = _choose_quaternion()

_NUMPY = types.SimpleNamespace(**vars(np))
_NUMPY.linalg = types.SimpleNamespace(**(vars(np.linalg) | {"norm": _norm}))
_NUMPY.hstack = _hstack
_REWARDS = types.SimpleNamespace(**(vars(reward_utils) | {"tolerance": _tolerance}))
_EXCHANGED = {"np": _NUMPY, "reward_utils": _REWARDS, "Rotation": _Rotation}


class _Named:
    """A named part of the simulator whose arrays are looked up once; they stay where they are."""

    def __init__(self, view: Any) -> None:
        vars(self)["_view"] = view

    def __getattr__(self, name: str) -> Any:
        value = vars(self)[name] = getattr(self._view, name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._view, name, value)


class _Views:
    """``MjData`` whose named parts are looked up once."""

    def __init__(self, data: Any) -> None:
        self._data = data
        for kind in ("body", "geom", "site", "joint"):
            setattr(self, kind, functools.cache(self._named(getattr(data, kind))))

    @staticmethod
    def _named(find: Callable[[Any], Any]) -> Callable[[Any], _Named]:
        return lambda name: _Named(find(name))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)


class _SharedModel:
    """A compiled model, and the simulator whose task its bodies and sites are placed for.

    Models are large (21 MB of meshes and textures) and slow to compile; simulators of a class
    differ in nothing but the places that a reset gives to bodies and sites.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._body_pos, self._site_pos = model.body_pos, model.site_pos
        self.pristine = model.body_pos.copy(), model.site_pos.copy()
        self.owner: Any = None

    def place(self, owner: Any, body_pos: Any, site_pos: Any) -> None:
        """Place bodies and sites for ``owner``'s task."""
        self._body_pos[:], self._site_pos[:] = body_pos, site_pos
        self.owner = owner


_MODELS: dict[str, _SharedModel] = {}
"""By file, one for all simulators of a process."""


class _Helpers(_Official):  # type: ignore[misc]  # its types say less than its code
    """Goes between an official class and its base: what that class may override itself."""

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
        """Make the shared model this simulator's, if another one has used it since."""
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
            sides.append(_tolerance(abs(pad_y - y), bounds, margin, "long_tail"))
        tip = self.tcp_center
        margin = _norm(self.obj_init_pos[::2] - self.init_tcp[::2]) - xz_thresh
        across = _tolerance(_norm(tip[::2] - obj_pos[::2]), (0, xz_thresh), margin, "long_tail")
        # single precision from here on, as far as the action's is (NEP 50)
        closed = min(max(0, action[-1]), desired_gripper_effort) / desired_gripper_effort
        caging = reward_utils.hamacher_product(reward_utils.hamacher_product(*sides), float(across))
        result = reward_utils.hamacher_product(caging, closed if caging > 0.97 else 0.0)
        if high_density:
            result = (result + caging) / 2
        if medium_density:
            margin = abs(_norm(self.obj_init_pos - self.init_tcp) - object_reach_radius)
            bounds = (0, object_reach_radius)
            reach = _tolerance(_norm(obj_pos - tip), bounds, margin, "long_tail")
            result = (result + float(reach)) / 2
        return result


class _Step(_Helpers):
    """Goes before an official class: the step and the reset themselves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._data = self.data
        self._views = _Views(self.data)
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
        """Advance one step, with the results of the official one."""
        action = np.asarray(action)
        if action.shape != (4,):
            raise ValueError(f"an action has 4 numbers, got shape {action.shape}")
        if self.curr_path_length >= self.max_path_length:
            raise ValueError("You must reset the env manually once truncate==True")
        self.use_model()
        model, data = self.model, self._data
        place, scale = self._mocap, self.action_scale
        for i in range(3):
            moved = action[i]  # of the action's own precision, and so its product (NEP 50)
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
        # All of it but the sensors: the next step's solver starts from these forces.
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
        """Start an episode; a task seen before is put back as the first reset left it."""
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
        state = np.empty(self._size)
        mujoco.mj_getState(self.model, self._data, state, _STATE)
        kept, copied = {}, {}
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray) and not _foreign(value):
                copied[name] = value.copy()
            elif value is None or isinstance(value, np.ndarray | np.generic | bool | int | float):
                kept[name] = value
        self._places = self.model.body_pos.copy(), self.model.site_pos.copy()
        return _Snapshot(state, self._places, kept, copied, observation.copy())

    def _restore(self, snapshot: _Snapshot) -> Any:
        model, data = self.model, self._data
        self._places = snapshot.places
        self._shared.place(self, *self._places)
        mujoco.mj_setState(model, data, snapshot.state, _STATE)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, snapshot.state, _STATE)
        attributes: dict[str, Any] = self.__dict__
        attributes.update(snapshot.kept)
        for name, value in snapshot.copied.items():
            attributes[name] = value.copy()
        return snapshot.observation.copy()


class _Snapshot(NamedTuple):
    """What a reset leaves behind."""

    state: npt.NDArray[np.float64]
    places: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
    """Of the model's bodies and sites."""
    kept: dict[str, Any]
    """Attributes that are numbers, or windows into the simulator's own memory."""
    copied: dict[str, npt.NDArray[Any]]
    observation: npt.NDArray[np.float64]


def _foreign(array: Any) -> bool:
    """Tell whether ``array`` is a window into memory that NumPy did not allocate."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array.base is not None


# Which of an official class's own functions run at every step: all but those that set it up.
_SETTING_UP = ("__", "reset", "_reset", "_set", "fix_", "adjust_")


def _rebound(function: Any, module: dict[str, Any]) -> types.FunctionType:
    """Return ``function`` as it stands, with helpers exchanged."""
    wrapped = next(
        (
            cell.cell_contents
            for name, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=True
            )
            if name == "func"
        ),
        function,  # not behind the check that a task is set, which our reset makes
    )
    result = types.FunctionType(
        wrapped.__code__, module, wrapped.__name__, wrapped.__defaults__, wrapped.__closure__
    )
    result.__kwdefaults__ = wrapped.__kwdefaults__
    return result


@functools.cache
def fast(cls: Any) -> Any:
    """Return a subclass of the official ``cls`` with a faster step, the same bit for bit.

    For a Meta-World other than the verified one it is ``cls`` itself, and a warning.
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
    module.update({name: new for name, new in _EXCHANGED.items() if name in module})
    own: dict[str, Any] = {}
    for name, value in vars(cls).items():
        if name.startswith(_SETTING_UP):
            continue
        if isinstance(value, staticmethod):
            own[name] = staticmethod(_rebound(value.__func__, module))
        elif isinstance(value, types.FunctionType):
            own[name] = _rebound(value, module)
    result = type(f"Fast{cls.__name__}", (_Step, cls, _Helpers), own)
    module[cls.__name__] = result
    return result
