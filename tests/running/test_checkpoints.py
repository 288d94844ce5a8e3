"""Checkpoints: do they load exactly what was saved, and nothing but data?"""

import errno
import json
import pickle
import warnings

import gymnasium as gym
import numpy as np
import pytest
import safetensors.torch
import torch

from metarl.agents.rl2 import RL2, RL2Config
from metarl.errors import UserError
from metarl.experience.agent import TaskSpec
from metarl.files import write_synced
from metarl.options import with_options
from metarl.running.checkpoints import Checkpoint, CheckpointStore
from metarl.stepping.space_json import space_from_json, space_to_json


def checkpoint(iteration=1, value=0.5, score=None):
    tensors = {"weight": torch.tensor([[value, -1.5], [1e-30, 3.0]]), "step": torch.tensor(7)}
    return Checkpoint(iteration, 10 * iteration, tensors, {"num_updates": iteration}, score)


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def test_what_was_saved_is_loaded_exactly(store):
    saved = checkpoint(3)
    store.save(saved)
    loaded = store.load()
    assert (loaded.iteration, loaded.env_steps, loaded.extra) == (3, 30, {"num_updates": 3})
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, tensor in saved.tensors.items():
        assert loaded.tensors[name].equal(tensor)
        assert loaded.tensors[name].dtype == tensor.dtype


def test_newest_and_best_are_kept_and_others_removed(store):
    for iteration, score in ((1, 0.0), (2, 5.0), (3, None), (4, 1.0), (5, None)):
        store.save(checkpoint(iteration, score=score))
    assert store.iterations() == [2, 4, 5]
    assert store.load("best").iteration == 2
    assert store.load("final").iteration == 5


def test_a_better_one_replaces_the_best(store):
    for iteration, score in ((1, -3.0), (2, -2.0), (3, None), (4, None)):
        store.save(checkpoint(iteration, score=score))
    assert store.load("best").iteration == 2
    assert store.iterations() == [2, 3, 4]


def test_of_equal_scores_the_first_is_the_best(store):
    for iteration in (1, 2, 3, 4):
        store.save(checkpoint(iteration, score=2.0))
    assert store.load("best").iteration == 1


def test_a_checkpoint_is_not_written_twice(store):
    store.save(checkpoint(1, score=1.0))
    before = (store.directory / "0000001" / "agent.safetensors").stat().st_ino
    store.save(checkpoint(1))  # as a resumed run does: it has forgotten the score
    assert (store.directory / "0000001" / "agent.safetensors").stat().st_ino == before
    assert store.load("best").score == 1.0


def test_a_score_that_comes_later_is_written(store):
    store.save(checkpoint(1))
    store.save(checkpoint(1, score=3.0))
    assert store.load("best").score == 3.0


def test_an_interrupted_write_is_ignored_and_overwritten(store):
    store.save(checkpoint(1))
    partial = store.directory / ".0000002.partial"
    partial.mkdir()
    (partial / "agent.safetensors").write_bytes(b"half")
    assert store.iterations() == [1]
    assert store.load().iteration == 1
    store.save(checkpoint(2))
    assert store.load().iteration == 2
    assert not partial.exists()


def test_damaged_tensors_are_refused(store):
    store.save(checkpoint(1))
    path = store.directory / "0000001" / "agent.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match="checksum"):
        store.load()


@pytest.mark.parametrize("name", ["agent.safetensors", "checkpoint.json"])
def test_a_missing_file_is_reported(store, name):
    store.save(checkpoint(1))
    (store.directory / "0000001" / name).unlink()
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        store.load()


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 1}', '{"format": 99}', "[" * 99999])
def test_another_format_is_refused(store, content):
    store.save(checkpoint(1))
    (store.directory / "0000001" / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match="0000001"):
        store.load()


def test_altered_json_is_refused(store):
    store.save(checkpoint(1))
    path = store.directory / "0000001" / "checkpoint.json"
    path.write_text(path.read_text().replace('"env_steps": 10', '"env_steps": 11'))
    with pytest.raises(UserError, match="checksum"):
        store.load()


def damage(store, iteration):
    path = store.directory / f"{iteration:07d}" / "agent.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def test_a_damaged_newest_falls_back_with_a_warning(store):
    for iteration in (1, 2, 3):
        store.save(checkpoint(iteration))
    damage(store, 3)
    with pytest.warns(UserWarning, match=r"0000003: is damaged.*iteration 2 is loaded"):
        assert store.load().iteration == 2
    store.save(checkpoint(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.load().iteration == 3  # written again
    assert store.iterations() == [2, 3]


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoints_after_a_fallback_are_no_longer_kept(store, keep):
    store.keep = keep
    for iteration, score in ((50, 9.0), (100, 1.0)):
        store.save(checkpoint(iteration, score=score))
    damage(store, 100)
    store.save(checkpoint(57))
    assert store.iterations() == [50, 57]  # the best and the newest
    assert store.load().iteration == 57


def test_a_damaged_best_falls_back_too(store):
    for iteration, score in ((1, 3.0), (2, 9.0), (3, 1.0)):
        store.save(checkpoint(iteration, score=score))
    damage(store, 2)
    with pytest.warns(UserWarning, match=r"0000002.*iteration 3 is loaded"):
        assert store.load("best").iteration == 3


def test_leftovers_of_a_killed_process_are_removed(store):
    store.save(checkpoint(1))
    (store.directory / ".0000002.partial").mkdir()
    store.save(checkpoint(3))
    assert sorted(path.name for path in store.directory.iterdir()) == ["0000001", "0000003"]


def test_if_all_checkpoints_are_damaged_the_newest_is_named(store):
    for iteration in (1, 2):
        store.save(checkpoint(iteration))
        damage(store, iteration)
    with pytest.raises(UserError, match="0000002"):
        store.load()


def test_a_pickle_in_place_of_tensors_is_not_loaded(store, tmp_path, monkeypatch):
    class Evil:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "executed",))

    monkeypatch.setattr(safetensors.torch, "save", lambda _: pickle.dumps(Evil()))
    store.save(checkpoint(1))  # with the checksum it should have
    with pytest.raises(UserError, match="contains no tensors"):
        store.load()
    assert not (tmp_path / "executed").exists()


class FullDisk:
    """Fails every write after so many bytes."""

    def __init__(self, room):
        self.room, self.write = room, write_synced

    def __call__(self, path, data):
        self.write(path, data[: max(0, self.room)])
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("room", [0, 100, 250])
def test_a_full_disk_leaves_what_was_there(store, monkeypatch, room):
    store.save(checkpoint(1, score=1.0))
    with monkeypatch.context() as patch:
        patch.setattr("metarl.running.checkpoints.write_synced", FullDisk(room))
        with pytest.raises(OSError, match="No space left"):
            store.save(checkpoint(2, score=2.0))
    assert [path.name for path in store.directory.iterdir()] == ["0000001"]
    assert store.load().iteration == store.load("best").iteration == 1
    store.save(checkpoint(2, score=2.0))
    assert store.load("best").iteration == 2


def test_no_checkpoint_at_all_is_reported(store):
    with pytest.raises(UserError, match="contains no checkpoint"):
        store.load()


def test_no_best_without_validation_is_reported(store):
    store.save(checkpoint(1))
    with pytest.raises(UserError, match="no best checkpoint"):
        store.load("best")


def test_a_checkpoint_holds_tensors_and_json_only(store):
    store.save(checkpoint(1, score=1.0))
    files = [path for path in store.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"agent.safetensors", "checkpoint.json"}
    for path in files:  # a pickle starts with 0x80, a zip (torch.save's) with PK
        assert path.read_bytes()[:1] not in (b"\x80", b"P")


def test_a_copy_does_not_follow_the_agent():
    spec = TaskSpec(gym.spaces.Discrete(1), gym.spaces.Discrete(2), 1, 2)
    agent = RL2(with_options(RL2Config(), hidden_size=2), spec)
    copied = Checkpoint.of(agent, 1, 10)
    before = float(agent.targets.mean)
    agent.targets.mean += 1
    assert float(copied.tensors["targets.mean"]) == before


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-np.inf, np.inf, (17,), np.float64),
        gym.spaces.Box(np.array([-1.0, -np.inf]), np.array([np.inf, 2.5]), dtype=np.float64),
        gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        gym.spaces.Discrete(5),
        gym.spaces.Discrete(3, start=-1),
        gym.spaces.MultiDiscrete([[2, 3], [4, 1]], dtype=np.int32, start=[[0, -1], [5, 0]]),
        gym.spaces.MultiBinary((2, 3)),
        gym.spaces.Dict(
            {"z": gym.spaces.Discrete(2), "a": gym.spaces.Tuple([gym.spaces.Discrete(3)])}
        ),
    ],
    ids=str,
)
def test_spaces_survive_strict_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


def test_other_spaces_are_refused():
    with pytest.raises(UserError, match="accepted: Box, Discrete"):
        space_to_json(gym.spaces.Text(3))
    with pytest.raises(UserError, match="accepted: Box, Discrete"):
        space_from_json({"type": "Text"})


def test_leftovers_of_a_killed_replacement_do_not_block_the_next(tmp_path):
    """Killed after the old checkpoint was set aside: the next replacement still succeeds."""
    store = CheckpointStore(tmp_path / "checkpoints", 2)
    store.save(Checkpoint(1, 5, {"x": torch.zeros(1)}, {}, None))
    (tmp_path / "checkpoints/0000001/agent.safetensors").write_bytes(b"damaged")
    aside = tmp_path / "checkpoints/.0000001.replaced.partial"
    aside.mkdir()
    (aside / "agent.safetensors").write_bytes(b"older")
    store.save(Checkpoint(1, 5, {"x": torch.ones(1)}, {}, None))
    assert store.load().tensors["x"].item() == 1
    assert not aside.exists()


def round_trip(space):
    return space_from_json(json.loads(json.dumps(space_to_json(space), allow_nan=False)))


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "uint64", "float16", "float32", "float64"]
)
def test_any_box_comes_back_exactly(dtype):
    """Bounds of every size, the type's first and last number among them."""
    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    limits = np.finfo(dtype) if kind.kind == "f" else None if kind.kind == "b" else np.iinfo(dtype)
    for trial in range(20):
        shape = tuple(rng.integers(1, 4, rng.integers(0, 3)).tolist())
        if limits is None:
            low, high = np.zeros(shape, bool), np.ones(shape, bool)
        elif kind.kind == "f":
            low, high = np.sort(rng.normal(0, 10.0 ** rng.integers(-3, 4), (2, *shape)), 0)
            low = np.where(rng.random(shape) < 0.3, -np.inf, low)
            high = np.where(rng.random(shape) < 0.3, np.inf, high)
        else:
            numbers = rng.integers(limits.min, limits.max, (2, *shape), dtype, endpoint=True)
            low, high = np.sort(numbers, 0)
        if limits is not None:
            low = np.where(rng.random(shape) < 0.3, limits.min, low).astype(dtype)
            high = np.where(rng.random(shape) < 0.3, limits.max, high).astype(dtype)
        space = gym.spaces.Box(low, high, shape, kind.type)
        again = round_trip(space)
        assert again.dtype == space.dtype and again.shape == space.shape, trial
        assert np.array_equal(again.low, space.low) and np.array_equal(again.high, space.high)
        assert np.array_equal(again.bounded_above, space.bounded_above)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.int8])
def test_an_integer_box_without_an_end_comes_back(dtype):
    space = gym.spaces.Box(0, np.inf, (1,), dtype)
    assert np.array_equal(round_trip(space).high, space.high)


def test_any_discrete_space_comes_back():
    spaces = [
        gym.spaces.Discrete(n, start=start) for n in (1, 20_000) for start in (-(2**40), 0, 7)
    ]
    spaces.append(gym.spaces.Discrete(100, start=-50, dtype=np.int8))
    for space in spaces:
        again = round_trip(space)
        assert again == space and again.dtype == space.dtype


def test_an_integer_box_that_was_written_as_floats_is_still_read():
    saved = {"type": "Box", "low": [0.0], "high": [255.0], "shape": [2, 2], "dtype": "uint8"}
    assert space_from_json(saved) == gym.spaces.Box(0, 255, (2, 2), np.uint8)


@pytest.mark.parametrize("high", [[2.0**63], [0.5], [None], [1e400], [float("nan")]], ids=str)
def test_a_bound_that_its_type_cannot_hold_is_refused(high):
    saved = {"type": "Box", "low": [0], "high": high, "shape": [1], "dtype": "int64"}
    with pytest.raises(UserError, match="accepted: what space_to_json returns"):
        space_from_json(saved)
