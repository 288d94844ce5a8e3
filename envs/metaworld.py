"""Meta-World: one robot arm, 50 classes of manipulation, goals that the observation hides.

Source: Yu et al., 2019 (arXiv 1910.10897) in the version of McLean et al., 2025 (Meta-World+, arXiv
2505.11289), the package ``metaworld``. A task is a class and the vector that places its object and
goal. The goals are the official ones (:mod:`metarl.envs.metaworld_goals`), and so are the steps,
only faster (:mod:`metarl.envs.metaworld_step`).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, cast

import gymnasium as gym
import metaworld
import numpy as np
import numpy.typing as npt
from metaworld import env_dict
from metaworld.sawyer_xyz_env import SawyerXYZEnv

from metarl.envs.metaworld_goals import CLASSES, NUM_GOALS, class_name, draw_goals
from metarl.envs.metaworld_step import fast
from metarl.errors import bad_option
from metarl.task import Env, Split, Task, require_task
from metarl.tasks.distribution import TaskDistribution, name_with_options, require_horizon

HORIZON = 500

_FURTHER: dict[Split, int] = {"train": 1000, "validation": 2000, "test": 3000}
"""What is added to the seed of a split's goals for further ones, beside 10 000 for each 50."""


class MetaWorld(TaskDistribution):
    """Goals of some classes to train on, and of the same or other classes to adapt to.

    Args:
        name: the benchmark's name, without the options below.
        train: official names of the classes to train on, such as ``"reach-v3"``. Validation goals
            are of these classes too, drawn with ``seed + 2``.
        test: official names of the classes to adapt to.
        seed: seed from which the goals are drawn.
        test_seed: seed of the test goals, by default ``seed``. If classes are in both ``train``
            and ``test``, their test goals are other goals only if this seed is another one.
        reward: ``"v2"``, or ``"v1"`` for the first benchmark's rewards, which are hundreds of
            times as large.
        horizon: steps of an episode.
    """

    info_keys = ("success",)
    group = "cls"
    drawn_set = True  # The goals of a class are a sample, the classes are not.
    episodes_per_trial = 10
    max_slots = 60  # A class takes 20 MB per process, and every slot some more.

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
        require_horizon(name, horizon)
        self.name = name_with_options(
            name, seed=(seed, 0), reward=(reward, "v2"), horizon=(horizon, HORIZON)
        )
        self.horizon, self.reward = horizon, reward
        self.classes: dict[Split, tuple[str, ...]] = {
            "train": tuple(train),
            "validation": tuple(train),
            "test": tuple(test),
        }
        seeds: dict[Split, int] = {
            "train": seed,
            # This is neither the seed of the training goals nor that of ML1's test goals.
            "validation": seed + 2,
            "test": seed if test_seed is None else test_seed,
        }
        self._seeds = seeds
        self.goals = {split: draw_goals(self.classes[split], seeds[split]) for split in seeds}
        self.observation_space = _observation_space()
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self._pool = _Pool(reward, horizon)

    def tasks(self, split: Split) -> list[Task]:
        """Return every goal of every class: the first goals of all classes, then the second."""
        goals = self.goals[split]
        return [self._task(cls, goals[cls][i]) for i in range(NUM_GOALS) for cls in goals]

    def more_tasks(self, split: Split, n: int) -> list[Task]:
        """Return the official goals, then those of further seeds, in the order of :meth:`tasks`.

        A further seed is the split's own plus a number that no other split adds, so that goals of
        no two splits are the same.
        """
        found = self.tasks(split)
        for block in itertools.count(1):
            if len(found) >= n:
                return found[:n]
            seed = (self._seeds[split] + _FURTHER[split] + 10_000 * block) % 2**32
            goals = draw_goals(self.classes[split], seed)
            found += [self._task(cls, goals[cls][i]) for i in range(NUM_GOALS) for cls in goals]
        raise AssertionError("there is always another seed")

    def sample(self, rng: np.random.Generator, n: int, split: Split) -> list[Task]:
        """Draw equally many goals of every class, in the order of the classes.

        If ``n`` does not divide evenly, the classes that get one more are drawn too. The order
        keeps a class's slots together. Within a class, goals are drawn without replacement as
        long as there are enough.
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
        """Make an environment that can be of any class, one at a time."""
        return MetaWorldEnv(self, self._pool, task)

    def release(self, env: Env, task: Task) -> None:
        """Return the simulator of ``env`` to the pool if ``task`` is of another class."""
        cast(MetaWorldEnv, env.unwrapped).release(task)

    def make_official(self, task: Task) -> Env:
        """Make the official package's environment of ``task``, for comparisons."""
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

        It is set up for ``metaworld.evaluation``, which tests 40 goals per class: every class has
        equally many slots, and the slots of a class share its goals.

        Args:
            split: the split whose goals are used.
            meta_batch_size: largest number of slots, unless there are more classes.
            vector_strategy: ``sync`` steps all slots in this process, ``async`` each in its own.
        """
        # The package knows two splits only: pass validation goals as its training goals.
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
        """Return the number of slots of :meth:`official_envs`; a class's slots share 40 goals."""
        classes = len(self.classes[split])
        each = max(
            n for n in (1, 2, 4, 5, 8, 10, 20, 40) if n <= max(1, meta_batch_size // classes)
        )
        return each * classes

    def _task(self, cls: str, placement: npt.NDArray[np.float64]) -> Task:
        return Task.of(self.name, cls=cls, rand_vec=placement)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the simulators when pickled: a worker builds its own."""
        return vars(self) | {"_pool": _Pool(self.reward, self.horizon)}


class _OfficialBenchmark(metaworld.Benchmark):
    """These goals in the form of the official package's benchmarks."""

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


def _observation_space() -> gym.spaces.Box:
    """Return the official bounds of hand, gripper and objects, now and a step ago, without goal."""
    hand, objects = SawyerXYZEnv._HAND_SPACE, np.full(14, np.inf)
    low = np.concatenate([hand.low, [-1.0], -objects])
    high = np.concatenate([hand.high, [1.0], objects])
    none = np.zeros(3)
    return gym.spaces.Box(
        np.concatenate([low, low, none]), np.concatenate([high, high, none]), dtype=np.float64
    )


class ML1(MetaWorld):
    """One class, with other goals of it for testing (``metaworld.ML1``)."""

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
    """Base of the benchmarks with fixed classes to train on and others to adapt to."""

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
    """Your own choice of classes: ``metaworld/custom:train=reach+push,test=pick-place``.

    The goals are those of ``metaworld.CustomML``.
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


class _Pool:
    """The simulators of one process, by class; environments borrow them."""

    def __init__(self, reward: str, horizon: int) -> None:
        self.reward, self.horizon = reward, horizon
        self._free: dict[str, list[Any]] = {}

    def take(self, cls: str) -> Any:
        """Return a free simulator of class ``cls``; build one if there is none."""
        free = self._free.get(cls)
        if free:
            return free.pop()
        simulator = fast(CLASSES[cls])(reward_function_version=self.reward)
        simulator.max_path_length = self.horizon
        simulator._set_task_called = simulator._freeze_rand_vec = True
        return simulator

    def give_back(self, cls: str, simulator: Any) -> None:
        """Let another environment use a simulator."""
        self._free.setdefault(cls, []).append(simulator)


class MetaWorldEnv(gym.Env[Any, Any]):
    """An environment of any class: it borrows the simulator that its task needs."""

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
        """None: the environment is made by its distribution, not by ``gymnasium.make``."""
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
        """Return the simulator to the pool if ``task`` is of another class."""
        if task["cls"] != self._cls:
            self.close()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, with a new task if ``options`` holds one."""
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
    def goal(self) -> npt.NDArray[np.float64]:
        """The position of the goal, which the observation hides; it is set by a reset."""
        return np.array(self._simulator._get_pos_goal(), np.float64)

    @property
    def model(self) -> Any:
        """MuJoCo's model, for cameras."""
        if hasattr(self._simulator, "use_model"):  # An official simulator has no such method.
            self._simulator.use_model()
        return self._simulator.model

    @property
    def data(self) -> Any:
        """MuJoCo's data, for cameras."""
        return self._simulator.data

    @property
    def frame_skip(self) -> int:
        """Number of physics steps per step."""
        return int(self._simulator.frame_skip)

    def close(self) -> None:
        """Return the simulator to the pool."""
        if self._cls is not None:
            self._pool.give_back(self._cls, self._simulator)
            self._cls, self._simulator, self.task = None, None, None
