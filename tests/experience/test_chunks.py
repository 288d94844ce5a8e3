"""Chunks: do they hold each step once, and say which trial they were cut from?"""

import pytest
import torch

from metarl.experience.data import Stream

LENGTHS = (7, 3, 1)


def stream_of(lengths):
    tasks, time = len(lengths), max(lengths)
    valid = torch.arange(time) < torch.tensor(lengths).unsqueeze(1)
    numbers = torch.arange(1.0, tasks * time + 1).reshape(tasks, time)
    flags = torch.zeros(tasks, time, dtype=torch.bool)
    return Stream(
        observation=numbers.unsqueeze(-1),
        action=numbers.unsqueeze(-1),
        previous_action=numbers.unsqueeze(-1),
        previous_reward=numbers,
        reward=numbers,
        next_observation=numbers.unsqueeze(-1),
        boundary=flags,
        trial_start=flags,
        terminated=flags,
        truncated=flags,
        valid=valid,
        record={},
    )


@pytest.mark.parametrize("length", [1, 2, 3, 7, 9, None])
def test_chunks_equal_cutting_by_a_plain_loop(length):
    stream = stream_of(LENGTHS)
    chunks = stream.chunks(length)
    size = length or 7
    rows, tasks, firsts = [], [], []
    for task, steps in enumerate(LENGTHS):
        for start in range(0, steps, size):
            part = stream.reward[task, start : start + size].tolist()
            rows.append(part + [0.0] * (size - len(part)))
            tasks.append(task)
            firsts.append(part[0])
    assert chunks.cut(stream.reward).tolist() == rows
    assert chunks.cut(stream.observation)[..., 0].tolist() == rows
    assert chunks.task.tolist() == tasks
    assert chunks.first(stream.observation)[:, 0].tolist() == firsts
    assert int(chunks.cut(stream.valid).sum()) == sum(LENGTHS)


def test_chunks_by_hand():
    stream = stream_of((3, 1))
    chunks = stream.chunks(2)
    assert chunks.cut(stream.reward).tolist() == [[1.0, 2.0], [3.0, 0.0], [4.0, 5.0]]
    assert chunks.cut(stream.valid).tolist() == [[True, True], [True, False], [True, False]]
    assert chunks.task.tolist() == [0, 0, 1]
