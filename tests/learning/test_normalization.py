"""Running moments: are they those of all that was tracked, in copies and on devices too?"""

import copy
import pickle

import numpy as np
import pytest
import torch

from metarl.learning.normalization import ObservationNormalizer, ValueNormalizer


def numbers(seed=0):
    return torch.randn(30, 3, generator=torch.Generator().manual_seed(seed))


def test_observations_are_normalised_by_the_moments_of_all_that_was_tracked():
    x = numbers() * torch.tensor([5.0, 1e-4, 1.0]) + 3
    normalizer = ObservationNormalizer(3)
    assert normalizer(x).equal(x)
    for part in (x[:4], x[4:5], x[5:]):
        normalizer.track(part)
    expected = (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=0.01)
    torch.testing.assert_close(normalizer(x), expected, rtol=1e-4, atol=1e-4)
    assert expected[:, 1].abs().max() < 0.1  # the lower bound on the deviation
    far = normalizer(x.mean(0) + torch.tensor([1e3, -1e3, 0.0]))
    torch.testing.assert_close(far, torch.tensor([10.0, -10.0, 0.0]), rtol=0, atol=1e-4)
    loaded = ObservationNormalizer(3)
    loaded.load_state_dict(normalizer.state_dict())
    assert loaded(x).equal(normalizer(x))
    loaded.load_state_dict(ObservationNormalizer(3).state_dict())
    assert loaded(x).equal(x)


def test_moments_of_values_are_means_at_first_and_then_follow():
    normalizer, targets = ValueNormalizer(), [numbers(i)[:, 0] + i for i in range(25)]
    for target in targets[:20]:
        normalizer.track(target)
    first = np.concatenate([x.numpy() for x in targets[:20]])
    assert float(normalizer.mean) == pytest.approx(first.mean(), rel=1e-4)
    assert float(normalizer.scale) == pytest.approx(first.std(), rel=1e-3)
    mean, square = float(normalizer.mean), float(normalizer.square)
    for target in targets[20:]:
        normalizer.track(target)
        mean += (float(target.mean()) - mean) / 20
        square += (float(target.square().mean()) - square) / 20
    assert float(normalizer.mean) == pytest.approx(mean, rel=1e-4)
    assert float(normalizer.scale) == pytest.approx((square - mean**2) ** 0.5, rel=1e-3)


def test_values_are_unchanged_before_any_target_and_come_back_after():
    normalizer, x = ValueNormalizer(), numbers()
    assert normalizer.normalize(x).equal(x) and normalizer.denormalize(x).equal(x)
    normalizer.track(7 * x[:, 0] + 3)
    normalised = normalizer.normalize(7 * x[:, 0] + 3)
    assert float(normalised.mean()) == pytest.approx(0, abs=1e-4)
    assert float(normalised.std(unbiased=False)) == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(normalizer.denormalize(normalizer.normalize(x)), x)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("kind", [lambda: ObservationNormalizer(3), ValueNormalizer])
def test_a_copy_is_not_changed_by_loading_into_the_original(kind, copied):
    original = kind()
    x = numbers() + 2 if original.shift.ndim else numbers()[:, 0] + 2
    original.track(x)
    expected = original.normalize(x)
    twin = copied(original)
    original.load_state_dict(kind().state_dict())
    assert twin.normalize(x).equal(expected)
    original.load_state_dict(twin.state_dict())
    assert original.normalize(x).equal(expected)


def test_only_moments_are_saved():
    assert sorted(ObservationNormalizer(3).state_dict()) == ["count", "mean", "square"]
    assert sorted(ValueNormalizer().state_dict()) == ["mean", "square"]


def test_a_normalizer_works_on_the_device_that_it_was_moved_to():
    normalizer = ObservationNormalizer(3)
    normalizer.track(numbers())
    moved = copy.deepcopy(normalizer).to("meta")
    assert moved(torch.zeros(2, 3, device="meta")).device.type == "meta"
