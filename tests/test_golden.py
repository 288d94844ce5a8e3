"""Short runs end in the same bits as when their hashes were committed.

``golden.json`` holds, for each kind of machine it was made on, the hashes of all final tensors of
six short runs and of their evaluations. A change that moves a bit fails here; where it must,
write the table again (``python tests/test_golden.py``) and say why in CHANGELOG.md.
"""

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

from metarl.running.commandline import parse_train
from metarl.running.train import train

pytestmark = pytest.mark.learning

TABLE = Path(__file__).with_name("golden.json")
COMMON = "--evaluation-tasks 4 --validation-tasks 4 --seed 0 --no-check"
RUNS = {
    "rl2 on bandits": "rl2 --env bandit/n10-k5 --tasks-per-update 100 --iterations 3",
    "rl2 with memory on MDPs": "--preset rl2-mdp-n10 --tasks-per-update 20 --iterations 2",
    "rl2 on half-cheetah": "--preset rl2-half-cheetah-velocity --env "
    "half-cheetah/velocity:horizon=40 --tasks-per-update 8 --iterations 2 --num-workers 2 "
    "--no-normalize-observations",
    "rl2 on push": "--preset metaworld-rl2-ml1-push --env metaworld/ml1-push:horizon=12 "
    "--env-steps 2400 --num-workers 2",
    "maml-ppo on navigation": "maml-ppo --env navigation --tasks-per-update 4 --iterations 2 "
    "--episodes-per-adaptation 5",
    "maml-ppo on half-cheetah": "--preset maml-ppo-half-cheetah-direction --env "
    "half-cheetah/direction:horizon=20 --tasks-per-update 4 --iterations 2 --torch-threads 1 "
    "--num-workers 2",
}


def machine():
    """What the last bit of a sum may depend on."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    packages = (torch, np, mujoco, gymnasium)
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in packages)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, {versions}"


def digest(arrays):
    """Return a hash of tensors that their names and order do not change."""
    each = [
        hashlib.sha256(f"{x.shape}{x.dtype}".encode() + np.ascontiguousarray(x).tobytes()).digest()
        for x in arrays
    ]
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()[:16]


def hashes(command, folder):
    """Train, and return the hashes of the last checkpoint and of the evaluations."""
    request = parse_train([*command.split(), *COMMON.split(), "--run-dir", str(folder)])
    run = train(request.settings)
    result = {"agent": digest(x.numpy() for x in run.checkpoints.load().tensors.values())}
    for file in sorted((folder / "evaluation").glob("*.npz")):
        with np.load(file) as arrays:
            result[file.stem] = digest(arrays[name] for name in arrays)
    return result


@pytest.mark.parametrize("name", RUNS)
def test_a_short_run_ends_in_the_same_bits(name, tmp_path):
    known = json.loads(TABLE.read_text()).get(machine())
    if known is None:
        pytest.skip(f"golden.json has no hashes of this machine: {machine()}")
    assert hashes(RUNS[name], tmp_path / "run") == known[name]


def test_a_hash_tells_values_from_each_other_but_not_their_order():
    a, b = np.arange(3.0), np.ones((2, 2), np.float32)
    assert digest([a, b]) == digest([b, a])
    assert digest([a]) != digest([a.astype(np.float32)]) != digest([a + 1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = {
            name: hashes(command, Path(folder) / str(i))
            for i, (name, command) in enumerate(RUNS.items())
        }
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    TABLE.write_text(json.dumps(table | {machine(): made}, indent=1) + "\n")
    sys.stdout.write(f"{TABLE}: {machine()}\n")
