"""Checkpoints: is what was saved what is loaded, whole, and nothing but data?"""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from metarl.agents.rl2 import RL2, RL2Config
from metarl.checkpoints import Checkpoint, CheckpointStore, space_from_json, space_to_json
from metarl.errors import UserError


def checkpoint(iteration=1, value=0.5):
    tensors = {"weight": torch.tensor([[value, -1.5], [1e-30, 3.0]]), "step": torch.tensor(7)}
    return Checkpoint(iteration, 10 * iteration, tensors, {"num_updates": iteration})


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
        store.save(checkpoint(iteration), score)
    assert store.iterations() == [2, 4, 5]
    assert store.load("best").iteration == 2
    assert store.load("final").iteration == 5


def test_a_better_one_replaces_the_best(store):
    for iteration, score in ((1, -3.0), (2, -2.0), (3, None), (4, None)):
        store.save(checkpoint(iteration), score)
    assert store.load("best").iteration == 2
    assert store.iterations() == [2, 3, 4]


def test_a_checkpoint_is_not_written_twice(store):
    store.save(checkpoint(1, value=0.5))
    store.save(checkpoint(1, value=9.0), score=1.0)
    assert float(store.load("best").tensors["weight"][0, 0]) == 0.5


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


@pytest.mark.parametrize("content", ["{", "{}", '{"format": 99}'])
def test_another_format_is_refused(store, content):
    store.save(checkpoint(1))
    (store.directory / "0000001" / "checkpoint.json").write_text(content)
    with pytest.raises(UserError, match="0000001"):
        store.load()


def test_no_checkpoint_at_all_is_reported(store):
    with pytest.raises(UserError, match="holds no checkpoint"):
        store.load()


def test_no_best_without_validation_is_reported(store):
    store.save(checkpoint(1))
    with pytest.raises(UserError, match="no best checkpoint"):
        store.load("best")


def test_a_checkpoint_holds_tensors_and_json_only(store):
    store.save(checkpoint(1), score=1.0)
    files = [path for path in store.directory.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"agent.safetensors", "checkpoint.json", "best.json"}
    for path in files:  # a pickle starts with 0x80, a zip (torch.save's) with PK
        assert path.read_bytes()[:1] not in (b"\x80", b"P")


def test_a_copy_does_not_follow_the_agent():
    spaces = gym.spaces.Discrete(1), gym.spaces.Discrete(2)
    agent = RL2(RL2Config(hidden_size=2), *spaces)
    copied = Checkpoint.of(agent, 1, 10)
    before = float(agent.target_mean)
    agent.target_mean += 1
    assert float(copied.tensors["target_mean"]) == before


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(-np.inf, np.inf, (17,), np.float64),
        gym.spaces.Box(np.array([-1.0, -np.inf]), np.array([np.inf, 2.5]), dtype=np.float64),
        gym.spaces.Box(-1.0, 1.0, (2, 3), np.float32),
        gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
        gym.spaces.Discrete(5),
        gym.spaces.Discrete(3, start=-1),
    ],
    ids=str,
)
def test_spaces_survive_strict_json(space):
    text = json.dumps(space_to_json(space), allow_nan=False)
    assert space_from_json(json.loads(text)) == space


def test_other_spaces_are_refused():
    with pytest.raises(UserError, match="accepted: Box, Discrete"):
        space_to_json(gym.spaces.MultiBinary(3))
    with pytest.raises(UserError, match="accepted: Box, Discrete"):
        space_from_json({"type": "MultiBinary"})


@pytest.mark.parametrize("text", ["", "[1]", '{"format": 1}', '{"format": 1, "iteration": 3}'])
@pytest.mark.parametrize("name", ["best.json", "0000003/checkpoint.json"])
def test_damaged_json_is_named(store, name, text):
    store.save(checkpoint(3), score=1.0)
    (store.directory / name).write_text(text)
    with pytest.raises(UserError, match=name.split("/")[-1] if "{" not in text else "no|names"):
        store.load("best")
