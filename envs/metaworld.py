"""Meta-World: one robot arm, 50 classes of manipulation, goals that the observation hides.

Source: Yu et al., 2019 (arXiv 1910.10897) in the version of McLean et al., 2025 (Meta-World+, arXiv
2505.11289), the package ``metaworld``. A task is a class and the vector that places its object and
goal; the 50 goals a class and split are those of ``metaworld.ML1(…, seed)``, ``ML10`` and so on,
drawn here without a simulator. The steps are the official ones, faster
(:mod:`metarl.metaworld_step`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import gymnasium as gym
import metaworld
import numpy as np
import numpy.typing as npt
from metaworld import env_dict
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from metarl.envs.metaworld_step import fast
from metarl.errors import UserError, bad_option, near_matches
from metarl.task import Env, Split, Task, require_task
from metarl.tasks.distribution import TaskDistribution

NUM_GOALS = 50
"""Goals a class and split, as the benchmarks have."""

HORIZON = 500

# Object and goal of these are drawn again while they lie closer than this in the plane [m]: the
# condition of each class's ``reset_model``.
_APART = {
    "assembly-v3": 0.1,
    "basketball-v3": 0.15,
    "box-close-v3": 0.25,
    "coffee-pull-v3": 0.15,
    "coffee-push-v3": 0.15,
    "disassemble-v3": 0.1,
    "hand-insert-v3": 0.15,
    "peg-insert-side-v3": 0.1,
    "pick-out-of-hole-v3": 0.15,
    "pick-place-v3": 0.15,
    "pick-place-wall-v3": 0.15,
    "push-back-v3": 0.15,
    "push-v3": 0.15,
    "push-wall-v3": 0.15,
    "reach-v3": 0.15,
    "reach-wall-v3": 0.15,
    "shelf-place-v3": 0.1,
    "soccer-v3": 0.15,
    "stick-pull-v3": 0.1,
    "stick-push-v3": 0.1,
    "sweep-into-v3": 0.15,
}

CLASSES: dict[str, Any] = dict(env_dict.ALL_V3_ENVIRONMENTS)
"""All 50, by name."""


class _Anything:
    """Stands for a simulator that nobody looks at."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


class _WithoutSimulator(SawyerXYZEnv):
    """Goes between a class and its base, so that the class sets itself up and nothing else."""

    def __init__(
        self,
        hand_low: Any = (-0.2, 0.55, 0.05),
        hand_high: Any = (0.2, 0.75, 0.3),
        **rest: Any,
    ) -> None:
        self.hand_low, self.hand_high = np.array(hand_low), np.array(hand_high)
        self.model = self.data = _Anything()


def _placement_drawer(
    cls: str,
) -> Callable[[np.random.RandomState], npt.NDArray[np.float64]]:
    """Return what draws class ``cls``'s placement vectors: within bounds, and apart."""
    bare = type("Bounds", (CLASSES[cls], _WithoutSimulator), {})()
    low, high = bare._random_reset_space.low, bare._random_reset_space.high
    fixed = bare.goal[:2] if cls == "sweep-into-v3" else None  # its goal does not move

    def too_close(drawn: npt.NDArray[np.float64]) -> bool:
        goal = drawn[3:5] if fixed is None else fixed
        return cls in _APART and bool(np.linalg.norm(drawn[:2] - goal) < _APART[cls])

    def draw(rng: np.random.RandomState) -> npt.NDArray[np.float64]:
        drawn: npt.NDArray[np.float64] = rng.uniform(low, high, size=low.size)
        while too_close(drawn):
            drawn = rng.uniform(low, high, size=low.size)
        return drawn

    return draw


def draw_goals(classes: Sequence[str], seed: int) -> dict[str, npt.NDArray[np.float64]]:
    """Draw the benchmarks' goals: ``[NUM_GOALS, placement]`` for each class.

    The order of the draws is that of ``metaworld._make_tasks``: one stream over all classes, and
    two placements a reset, of which the second counts.
    """
    rng = np.random.RandomState(seed)
    goals = {}
    for cls in classes:
        draw = _placement_drawer(cls)
        goals[cls] = np.array([(draw(rng), draw(rng))[1] for _ in range(NUM_GOALS)])
    return goals


class MetaWorld(TaskDistribution):
    """Goals of some classes to train on, and of the same or other classes to adapt to.

    Args:
        name: without options.
        train, test: classes, such as ``"reach-v3"``.
        seed: of the goals.
        test_seed: of the held-out goals; they are other goals only where classes or seeds differ.
            Validation goals are of the training classes, drawn with ``seed + 2``.
        reward: ``"v2"``, or ``"v1"``: the first benchmark's, hundreds of times as large.
        horizon: steps an episode.
    """

    info_keys = ("success",)
    group = "cls"
    episodes_per_trial = 10
    max_slots = 60  # 20 MB a class and process, and some for every slot

    def __init__(
        self,
        name: str,
        train: Sequence[str],
        test: Sequence[str],
        *,
        seed: int = 0,
        test_seed: int | None = None,
        reward: str = "v2",
        horizon: int = HORIZON,
    ) -> None:
        if seed < 0:
            raise bad_option(f"{name} seed", seed, "0 or more")
        if reward not in ("v1", "v2"):
            raise bad_option(f"{name} reward", reward, "v2 or v1")
        if horizon < 2:
            raise bad_option(f"{name} horizon", horizon, "at least 2 steps")
        options = {"seed": (seed, 0), "reward": (reward, "v2"), "horizon": (horizon, HORIZON)}
        text = ",".join(f"{k}={v}" for k, (v, default) in options.items() if v != default)
        self.name = f"{name}{',' if ':' in name else ':'}{text}" if text else name
        self.horizon, self.reward = horizon, reward
        self.classes: dict[Split, tuple[str, ...]] = {
            "train": tuple(train),
            "validation": tuple(train),
            "test": tuple(test),
        }
        seeds: dict[Split, int] = {
            "train": seed,
            # neither the training goals' seed nor the one ML1 holds out
            "validation": seed + 2,
            "test": seed if test_seed is None else test_seed,
        }
        self.goals = {split: draw_goals(self.classes[split], seeds[split]) for split in seeds}
        self.observation_space = _observation_space()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._pool = _Pool(reward, horizon)

    def tasks(self, split: Split) -> list[Task]:
        """Return every goal of every class: the first of each class, then the second."""
        goals = self.goals[split]
        return [self._task(cls, goals[cls][i]) for i in range(NUM_GOALS) for cls in goals]

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw goals, as many of every class as can be, in the order of the classes.

        Which classes are one ahead is drawn too. The order keeps a class's slots together, and
        the goals of a class are drawn without replacement as long as there are enough.
        """
        goals = self.goals[split]
        each, rest = divmod(n, len(goals))
        ahead = set(rng.permutation(len(goals))[:rest].tolist())
        tasks = []
        for i, (cls, placements) in enumerate(goals.items()):
            count = each + (i in ahead)
            for start in range(0, count, NUM_GOALS):
                chosen = rng.permutation(NUM_GOALS)[: count - start]
                tasks += [self._task(cls, placements[j]) for j in chosen]
        return tasks

    def make(self, task: Task | None = None) -> Env:
        """Make an environment that can be every class, one at a time."""
        return MetaWorldEnv(self, self._pool, task)

    def release(self, env: Env, task: Task) -> None:
        """Give a simulator of another class back, for the slot that needs it."""
        cast(MetaWorldEnv, env.unwrapped).release(task)

    def make_official(self, task: Task) -> Env:
        """Make the official package's environment of ``task``, for comparison."""
        simulator = CLASSES[task["cls"]](reward_function_version=self.reward)
        goal = np.array(task["rand_vec"], np.float64)
        simulator.set_task(_official_task(task["cls"], goal))
        return gym.wrappers.TimeLimit(simulator, self.horizon)

    def official_envs(
        self,
        split: Split,
        meta_batch_size: int = 20,
        vector_strategy: Literal["sync", "async"] = "sync",
    ) -> Any:
        """Make the official package's vector environment with these goals.

        It is set up for ``metaworld.evaluation``: as many slots for every class, at most
        ``meta_batch_size`` together, and goals in turn of which a slot sees 40 divided by the
        slots of its class. ``vector_strategy`` is the package's own: one process, or one each.
        """
        # the package knows two sides; validation goals are handed over as its training goals
        train = self.goals["validation" if split == "validation" else "train"]
        return metaworld._make_ml_envs_inner(
            _OfficialBenchmark(train, self.goals["test"]),
            meta_batch_size=self.official_slots(split, meta_batch_size),
            seed=0,
            total_tasks_per_cls=40,
            split="test" if split == "test" else "train",
            vector_strategy=vector_strategy,
            terminate_on_success=True,
            task_select="pseudorandom",
            reward_function_version=self.reward,
            max_episode_steps=self.horizon,
        )

    def official_slots(self, split: Split, meta_batch_size: int = 20) -> int:
        """Return how many environments :meth:`official_envs` has: 40 goals divide evenly."""
        classes = len(self.classes[split])
        each = max(
            n for n in (1, 2, 4, 5, 8, 10, 20, 40) if n <= max(1, meta_batch_size // classes)
        )
        return each * classes

    def _task(self, cls: str, placement: npt.NDArray[np.float64]) -> Task:
        return Task.of(self.name, cls=cls, rand_vec=placement)

    def __getstate__(self) -> dict[str, Any]:
        """Leave simulators behind: a worker builds its own."""
        return vars(self) | {"_pool": _Pool(self.reward, self.horizon)}


class _OfficialBenchmark(metaworld.Benchmark):
    """Our goals as the official package hands them on."""

    def __init__(
        self,
        train: dict[str, npt.NDArray[np.float64]],
        test: dict[str, npt.NDArray[np.float64]],
    ) -> None:
        self._train_classes, self._train_tasks = self._side(train)
        self._test_classes, self._test_tasks = self._side(test)

    @staticmethod
    def _side(goals: dict[str, npt.NDArray[np.float64]]) -> tuple[Any, list[Any]]:
        classes = OrderedDict((cls, CLASSES[cls]) for cls in goals)
        return classes, [
            _official_task(cls, goal) for cls, placements in goals.items() for goal in placements
        ]


def _official_task(cls: str, goal: npt.NDArray[np.float64]) -> Any:
    data = {"rand_vec": goal, "env_cls": CLASSES[cls], "partially_observable": True}
    return metaworld._encode_task(cls, data)


class ML1(MetaWorld):
    """One class; held out are other goals of it (``metaworld.ML1``)."""

    def __init__(
        self, task: str, seed: int = 0, reward: str = "v2", horizon: int = HORIZON
    ) -> None:
        cls = class_name(task)
        super().__init__(
            f"metaworld/ml1-{task}",
            [cls],
            [cls],
            seed=seed,
            test_seed=seed + 1,
            reward=reward,
            horizon=horizon,
        )


class _Benchmark(MetaWorld):
    """Classes to train on and others to adapt to."""

    label: str
    split: Any

    def __init__(self, seed: int = 0, reward: str = "v2", horizon: int = HORIZON) -> None:
        super().__init__(
            f"metaworld/{self.label}",
            list(self.split["train"]),
            list(self.split["test"]),
            seed=seed,
            reward=reward,
            horizon=horizon,
        )


class ML10(_Benchmark):
    """10 classes to train on, 5 others to adapt to (``metaworld.ML10``)."""

    label, split = "ml10", env_dict.ML10_V3


class ML25(_Benchmark):
    """25 classes to train on, 5 others to adapt to (``metaworld.ML25``)."""

    label, split = "ml25", env_dict.ML25_V3


class ML45(_Benchmark):
    """45 classes to train on, 5 others to adapt to (``metaworld.ML45``)."""

    label, split = "ml45", env_dict.ML45_V3


class Custom(MetaWorld):
    """Classes of your own choice: ``metaworld/custom:train=reach+push,test=pick-place``.

    Goals are those of ``metaworld.CustomML``.
    """

    def __init__(
        self, train: str, test: str, seed: int = 0, reward: str = "v2", horizon: int = HORIZON
    ) -> None:
        lists = [text.split("+") for text in (train, test)]
        both = set(lists[0]) & set(lists[1])
        if both:
            raise bad_option(
                "metaworld/custom", f"{', '.join(sorted(both))} in train and test", "other classes"
            )
        for names in lists:
            if len(set(names)) < len(names):
                raise bad_option("metaworld/custom", "+".join(names), "each class once")
        super().__init__(
            f"metaworld/custom:train={train},test={test}",
            [class_name(name) for name in lists[0]],
            [class_name(name) for name in lists[1]],
            seed=seed,
            reward=reward,
            horizon=horizon,
        )


def class_name(name: str) -> str:
    """Return the official name of class ``name``, which goes without its version here.

    Raises:
        UserError: for an unknown one; near matches are listed.
    """
    cls = f"{name}-v3"
    if cls not in CLASSES:
        names = [known.removesuffix("-v3") for known in CLASSES]
        raise UserError(f"--env: Meta-World has no class {name!r}; {near_matches(name, names)}")
    return cls


def _observation_space() -> gym.spaces.Box:
    """Return the official bounds: hand, gripper and objects, now and before; no goal."""
    hand, objects = SawyerXYZEnv._HAND_SPACE, np.full(14, np.inf)
    low = np.concatenate([hand.low, [-1.0], -objects])
    high = np.concatenate([hand.high, [1.0], objects])
    none = np.zeros(3)
    return gym.spaces.Box(
        np.concatenate([low, low, none]), np.concatenate([high, high, none]), dtype=np.float64
    )


class _Pool:
    """Simulators of one process, by class: one is built when none of its class is free."""

    def __init__(self, reward: str, horizon: int) -> None:
        self.reward, self.horizon = reward, horizon
        self._free: dict[str, list[Any]] = {}

    def take(self, cls: str) -> Any:
        free = self._free.get(cls)
        if free:
            return free.pop()
        simulator = fast(CLASSES[cls])(reward_function_version=self.reward)
        simulator.max_path_length = self.horizon
        simulator._set_task_called = simulator._freeze_rand_vec = True
        return simulator

    def give_back(self, cls: str, simulator: Any) -> None:
        self._free.setdefault(cls, []).append(simulator)


class MetaWorldEnv(gym.Env[Any, Any]):
    """One slot: of whatever class its task is."""

    def __init__(self, tasks: MetaWorld, pool: _Pool, task: Task | None = None) -> None:
        self.observation_space, self.action_space = tasks.observation_space, tasks.action_space
        self.horizon = tasks.horizon
        self._known = {cls for classes in tasks.classes.values() for cls in classes}
        self._pool = pool
        self._cls: str | None = None
        self._simulator: Any = None
        self.task: Task | None = None
        if task is not None:
            self._take(task)

    @property
    def spec(self) -> None:  # type: ignore[override]  # never set
        """None: it is made by its distribution, not by ``gymnasium.make``."""
        return None

    def _take(self, task: Task) -> None:
        if not isinstance(task, Task):
            raise TypeError(f"options['task'] must be a metarl.Task, got {type(task).__name__}")
        cls = task["cls"]
        if cls not in self._known:
            raise ValueError(f"this is none of the distribution's tasks: {task}")
        if cls != self._cls:
            self.close()
            self._simulator, self._cls = self._pool.take(cls), cls
        self._simulator._last_rand_vec = np.array(task["rand_vec"], np.float64)
        self.task = task

    def release(self, task: Task) -> None:
        """Give the simulator back if ``task`` needs that of another class."""
        if task["cls"] != self._cls:
            self.close()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, of a new task if ``options`` has one."""
        super().reset(seed=seed)
        if options and options.get("task") is not None:
            self._take(options["task"])
        require_task(self.task)
        observation, _ = self._simulator.reset()
        return observation, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Advance one step."""
        observation, reward, terminated, truncated, info = self._simulator.step(action)
        return observation, float(reward), terminated, truncated, info

    @property
    def model(self) -> Any:
        """MuJoCo's, for cameras."""
        if hasattr(self._simulator, "use_model"):  # the official class stands in elsewhere
            self._simulator.use_model()
        return self._simulator.model

    @property
    def data(self) -> Any:
        """MuJoCo's, for cameras."""
        return self._simulator.data

    @property
    def frame_skip(self) -> int:
        """Physics steps of a step."""
        return int(self._simulator.frame_skip)

    def close(self) -> None:
        """Give the simulator back."""
        if self._cls is not None:
            self._pool.give_back(self._cls, self._simulator)
            self._cls, self._simulator, self.task = None, None, None
