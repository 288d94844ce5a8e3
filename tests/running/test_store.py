"""The experience store: does it hold every trial that an agent needs again, and no other?"""

import itertools
import os
import random
import weakref

import pytest
import safetensors.torch
import torch
from damages import DAMAGES
from torch.utils import _pytree as pytree

from metarl.errors import UserError
from metarl.experience.data import Episodes, Trial, newest_trials
from metarl.running.store import ExperienceStore
from metarl.task import Task


def trial_of(number, time=3, context=None):
    """Return a trial of 2 tasks in 2 rounds, 4 * time - 1 steps, its numbers unlike any other's."""
    generator = torch.Generator().manual_seed(number)

    def episodes():
        valid = torch.ones(2, 1, time, dtype=torch.bool)
        reward = torch.randn(2, 1, time, generator=generator)
        return Episodes(
            observation=torch.randint(255, (2, 1, time, 2), generator=generator).byte(),
            action=torch.randint(3, (2, 1, time), generator=generator),
            taken=torch.randint(3, (2, 1, time), generator=generator),
            reward=reward,
            terminated=torch.zeros_like(valid),
            truncated=valid.clone(),
            valid=valid,
            record={"log.prob": reward - 1, "empty": torch.zeros(2, 1, time, 0)},
            final_observation=torch.zeros(2, 1, 2, dtype=torch.uint8),
            metrics={"return": reward.sum(-1), "success": torch.ones(2, 1)},
            info={"label": torch.randint(9, (2, 1, time), generator=generator)},
        )

    rounds = [episodes(), episodes()]
    rounds[0].valid[0, 0, -1] = False
    tasks = [Task.of("x", goal=(0.1, number / 3)), Task.of("x", kind="door", open=True)]
    return Trial(tasks, rounds, context, {"step": 1.0})


def same_trial(a, b):
    x, spec = pytree.tree_flatten(a.rounds)
    y, other = pytree.tree_flatten(b.rounds)
    return (
        a.tasks == b.tasks
        and spec == other
        and all(p.dtype == q.dtype and p.equal(q) for p, q in zip(x, y, strict=True))
    )


@pytest.fixture
def store(tmp_path):
    return ExperienceStore(tmp_path / "experience", 25)


def filled(store, iterations, every=1):
    """Add trials, writing after every so many."""
    for number in range(1, iterations + 1):
        store.add(number, trial_of(number), copied=number // every * every)
        if number % every == 0:
            store.write(number)
    return store


def test_trials_come_back_bit_for_bit_without_their_context(store):
    trials = [trial_of(number, context=torch.zeros(2, 4)) for number in (1, 2, 3)]
    for number, trial in enumerate(trials, start=1):
        store.add(number, trial, copied=0)
    store.write(3)
    again = ExperienceStore(store.directory, 25).read(3)
    assert len(again) == 3
    assert all(same_trial(a, b) for a, b in zip(again, trials, strict=True))
    assert all(trial.context is None and not trial.seconds for trial in again)
    assert [path.name for path in store.directory.iterdir()] == ["0000003.safetensors"]


TYPES = "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64"


def test_files_are_read_by_the_library_whatever_the_types(store):
    trial = trial_of(1)
    numbers = torch.tensor([[[0, 1, 1]], [[1, 0, 1]]])
    record = {name: numbers.to(getattr(torch, name)) for name in TYPES.split()}
    record |= {
        "scalars": torch.rand(2, 1, 3, 1),
        "transposed": torch.rand(3, 1, 2).permute(2, 1, 0),
    }
    trial.rounds[1] = trial.rounds[1]._replace(record=record)
    store.add(1, trial, copied=0)
    store.write(1)
    (file,) = store.directory.iterdir()
    read = safetensors.torch.load(file.read_bytes())
    for name, value in record.items():
        assert read[f"1.1.record.{name}"].equal(value)
        assert read[f"1.1.record.{name}"].dtype == value.dtype
    assert same_trial(store.read(1)[0], trial)


def test_many_trials_are_several_files(store, monkeypatch):
    monkeypatch.setattr("metarl.running.store.MOST_TRIALS", 2)
    store.remembers = 1000
    filled(store, 5, every=5)
    assert store.iterations() == [2, 4, 5]
    assert all(same_trial(a, trial_of(n)) for n, a in enumerate(store.read(5), start=1))
    store.evict([0])
    assert store.iterations() == []


def test_tensors_that_share_memory_come_back_too(store):
    trial = trial_of(1)
    first = trial.rounds[0]
    trial.rounds[0] = first._replace(
        taken=first.action, reward=first.reward[..., :1].expand(2, 1, 3)
    )
    store.add(1, trial, copied=0)
    store.write(1)
    assert same_trial(store.read(1)[0], trial)


def test_trials_wait_without_a_copy_and_without_their_context(store):
    trial = trial_of(1, context=torch.zeros(2, 4))
    context = weakref.ref(trial.context)
    store.add(1, trial, copied=0)
    reward, trial = trial.rounds[0].reward, None
    assert context() is None
    reward += 1  # nobody does so; it shows that there is only one
    store.write(1)
    assert store.read(1)[0].rounds[0].reward.equal(reward)


def test_trials_that_no_checkpoint_will_need_do_not_wait(store):
    """25 steps are three trials of 11 steps; one more is needed by a copy that is older."""
    kept = [weakref.ref(trial_of(1).rounds[0].reward)]
    for number in range(1, 11):
        trial = trial_of(number)
        kept.append(weakref.ref(trial.rounds[0].reward))
        store.add(number, trial, copied=number - 1)
        del trial
    assert [number for number, reward in enumerate(kept) if reward() is not None] == [7, 8, 9, 10]
    store.write(9)
    assert len(store.read(9)) == 3
    assert [number for number, reward in enumerate(kept) if reward() is not None] == [10]
    store.write(10)
    assert len(store.read(10)) == 3


@pytest.mark.parametrize("seed", range(20))
def test_every_checkpoint_that_is_kept_is_served_and_nothing_else_is_on_the_disk(
    tmp_path, monkeypatch, seed
):
    """Whatever the lengths of trials, the moments of checkpoints and those that are kept."""
    if seed % 2:
        monkeypatch.setattr("metarl.running.store.MOST_TRIALS", 2)
    rng = random.Random(seed)
    remembers, keep = rng.randint(1, 150), rng.randint(1, 3)
    store = ExperienceStore(tmp_path / "experience", remembers)
    trials, saved, copied, restarts = [], [0], 0, 0
    for number in range(1, 41):
        trials.append(trial_of(number, time=rng.randint(1, 8)))
        store.add(number, trials[-1], copied=copied)
        if rng.random() < 0.5:
            copied = number
        if rng.random() < 0.3:  # save the newest copy, as after an interrupted update
            store.write(copied)
            best = [max(saved, key=lambda i: hash((seed, i)))]
            saved = sorted({*saved, copied})
            saved = sorted({*saved[-keep:], *best})
            store.evict(saved)
            if rng.random() < 0.5:
                restarts += 1
                store = ExperienceStore(tmp_path / "experience", remembers)
                store.begin(copied)
                for again in range(copied + 1, number + 1):
                    store.add(again, trials[again - 1], copied=copied)
            needed = set()
            for checkpoint in saved:
                expected = newest_trials(trials[:checkpoint], remembers)
                got = store.read(checkpoint)
                assert len(got) == len(expected)
                assert all(same_trial(a, b) for a, b in zip(got, expected, strict=True))
                needed |= set(range(checkpoint - len(expected) + 1, checkpoint + 1))
            files = [0, *store.iterations()]
            for before, file in itertools.pairwise(files):
                assert needed & set(range(before + 1, file + 1)), f"{file} is needed by nothing"
    assert restarts


def test_later_experience_and_leftovers_of_a_kill_are_removed(store):
    filled(store, 6, every=2)
    leftover = store.directory / f".0000008.safetensors.{os.getpid()}-ab12.partial"  # any process
    leftover.write_bytes(b"half")
    again = ExperienceStore(store.directory, 25)
    again.begin(4)
    assert sorted(path.stem for path in store.directory.iterdir()) == ["0000002", "0000004"]
    assert len(again.read(4)) == 3


def test_a_full_disk_leaves_what_was_there_and_loses_nothing(store, monkeypatch):
    filled(store, 2)

    def full(file, tensors, content):
        file.write(b"half")
        raise OSError("No space left on device")

    store.add(3, trial_of(3), copied=2)
    with monkeypatch.context() as patch:
        patch.setattr("metarl.running.store._write_tensors", full)
        with pytest.raises(OSError, match="No space left"):
            store.write(3)
    assert len(list(store.directory.iterdir())) == 2
    store.add(4, trial_of(4), copied=3)
    store.write(4)
    assert same_trial(store.read(4)[1], trial_of(3))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(store, damage):
    filled(store, 6, every=2)
    DAMAGES[damage](store.directory / "0000004.safetensors")
    with pytest.raises(UserError, match=r"^[^\n]*experience[^\n]*$"):
        store.read(6)
    again = ExperienceStore(store.directory, 25)
    again.begin(6)  # it must not keep a run from beginning that does without it
    again.evict([6])
