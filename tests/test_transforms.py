"""Augmentation keeps picture and label map together, and repeats itself exactly."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from fcn_hub.datasets.sampling import EpochSampler, repeat_factors, sample_seed
from fcn_hub.datasets.transforms import (
    Augmented,
    RandomCropWithin,
    RandomPad,
    RandomScale,
    training_transform,
)

CLASSES = 5
IGNORE = 255
FILL = (200, 100, 50)


class Blocks(Dataset):
    """Label maps of 8×8 blocks with pictures whose grey is 40 times the class."""

    def __init__(self, count: int = 7, height: int = 48, width: int = 64, dtype=torch.uint8):
        rng = np.random.default_rng(0)
        blocks = rng.integers(0, CLASSES, (count, height // 8, width // 8))
        self.masks = torch.from_numpy(blocks.repeat(8, 1).repeat(8, 2)).to(dtype)

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        mask = self.masks[index]
        return (40 * mask).to(torch.uint8).expand(3, -1, -1).contiguous(), mask


def apply(transform: Callable, dataset: Dataset, index: int = 0, seed: int = 0):
    torch.manual_seed(seed)
    picture, mask = dataset[index]
    return transform(tv_tensors.Image(picture), tv_tensors.Mask(mask))


def disagreement(picture: torch.Tensor, mask: torch.Tensor) -> float:
    """The share of labelled pixels whose grey is nearer to another class's."""
    seen = (picture[0].float() / 40).round().long()
    labelled = mask != IGNORE
    return float((seen != mask)[labelled].float().mean())


@pytest.mark.parametrize("seed", range(20))
def test_picture_and_label_map_stay_aligned(seed: int) -> None:
    transform = training_transform((40, 40), scale=(0.5, 2), jitter=None, fill=FILL)

    picture, mask = apply(transform, Blocks(), seed=seed)

    assert picture.shape == (3, 40, 40)
    assert mask.shape == (40, 40)
    assert (picture.dtype, mask.dtype) == (torch.uint8, torch.uint8)
    # Between two blocks the picture blends, so a part of the pixels beside an edge may differ;
    # at half the size that is up to every fourth pixel.
    assert disagreement(picture, mask) < 0.3


def test_label_maps_are_not_shifted_when_shrunk() -> None:
    mask = torch.arange(9, dtype=torch.uint8).reshape(1, 9).expand(3, 9).contiguous()

    assert RandomScale(1 / 3, 1 / 3)(tv_tensors.Mask(mask)).tolist() == [[1, 4, 7]]


def test_pictures_are_averaged_when_shrunk() -> None:
    stripes = torch.zeros(3, 12, 12, dtype=torch.uint8)
    stripes[..., ::2] = 200  # without antialiasing some columns would come out black or white

    shrunk = RandomScale(1 / 3, 1 / 3)(tv_tensors.Image(stripes))

    assert shrunk.float().sub(100).abs().max() < 40


def test_label_maps_gain_no_new_labels() -> None:
    transform = training_transform((64, 64), scale=(0.3, 3))

    labels = {
        label
        for index in range(7)
        for seed in range(5)
        for label in apply(transform, Blocks(), index, seed)[1].unique().tolist()
    }

    assert labels <= {*range(CLASSES), IGNORE}


def test_what_lies_outside_the_picture_is_ignored_and_has_the_fill_colour() -> None:
    transform = training_transform((60, 100), scale=(0.5, 0.5), fill=FILL)

    picture, mask = apply(transform, Blocks())

    outside = mask == IGNORE
    assert int((~outside).sum()) == 24 * 32
    for channel, value in zip(picture, FILL, strict=True):
        # The jitter changes the picture's colours and leaves the padding's alone.
        assert set(channel[outside].tolist()) == {value}


@pytest.mark.parametrize(("max_side", "seen"), [(32, (24, 32)), (63, (47, 63)), (99, (48, 64))])
def test_large_pictures_are_scaled_from_the_size_at_which_the_network_sees_them(
    max_side: int, seen: tuple[int, int]
) -> None:
    transform = training_transform((100, 100), scale=(1, 1), max_side=max_side, fill=FILL)

    _, mask = apply(transform, Blocks())

    assert int((mask != IGNORE).sum()) == seen[0] * seen[1]


@pytest.mark.parametrize("ignore_index", [11, 300, -1])
def test_padding_has_whatever_ignore_index_there_is(ignore_index: int) -> None:
    dtype = torch.uint8 if ignore_index == 11 else torch.int64
    transform = training_transform((90, 90), scale=(0.8, 1.2), ignore_index=ignore_index)

    _, mask = apply(transform, Blocks(dtype=dtype))

    assert mask.dtype == dtype
    assert ignore_index in mask
    assert set(mask.unique().tolist()) <= {*range(CLASSES), ignore_index}


def test_crops_and_padding_reach_every_place() -> None:
    tops, lefts, paddings = set(), set(), set()
    for seed in range(200):
        torch.manual_seed(seed)
        params = RandomCropWithin((2, 3)).make_params([torch.zeros(3, 4, 3)])
        tops.add(params["top"])
        lefts.add(params["left"])
        params = RandomPad((4, 1), FILL, 0).make_params([torch.zeros(3, 2, 2)])
        paddings.add(tuple(params["padding"]))

    assert tops == {0, 1, 2}
    assert lefts == {0}
    assert paddings == {(0, 0, 0, 2), (0, 1, 0, 1), (0, 2, 0, 0)}


def test_scales_fill_their_range() -> None:
    heights = set()
    for seed in range(200):
        torch.manual_seed(seed)
        heights.add(RandomScale(0.5, 1.5).make_params([torch.zeros(3, 20, 20)])["size"][0])

    assert heights == set(range(10, 31))


def test_a_picture_never_vanishes() -> None:
    picture = torch.zeros(3, 1, 2, dtype=torch.uint8)

    assert RandomScale(0.1, 0.1)(tv_tensors.Image(picture)).shape == (3, 1, 1)


@pytest.mark.parametrize(("flip", "mirrored"), [(0.0, False), (1.0, True)])
def test_flipping_mirrors_both(flip: float, mirrored: bool) -> None:
    transform = training_transform((48, 64), scale=(1, 1), flip=flip, jitter=None)
    picture, mask = Blocks()[0]

    flipped_picture, flipped_mask = apply(transform, Blocks())

    assert torch.equal(flipped_picture, picture.flip(-1) if mirrored else picture)
    assert torch.equal(flipped_mask, mask.flip(-1) if mirrored else mask)


def test_jitter_changes_colours_only() -> None:
    still = training_transform((48, 64), scale=(1, 1), flip=0, jitter=None)
    jittered = training_transform((48, 64), scale=(1, 1), flip=0, jitter=(0.5, 0.5, 0.5, 0.1))

    picture, mask = apply(jittered, Blocks())
    original, truth = apply(still, Blocks())

    assert not torch.equal(picture, original)
    assert torch.equal(mask, truth)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"crop": (0, 8)}, "crop"),
        ({"scale": (0, 1)}, "scale"),
        ({"scale": (2, 1)}, "scale"),
        ({"flip": 1.5}, "flip"),
        ({"jitter": (0.1, 0.1)}, "jitter"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        training_transform(**{"crop": (8, 8), **wrong})


def augmented(seed: int = 0) -> Augmented:
    return Augmented(Blocks(), training_transform((32, 32)), seed=seed)


def drawn(workers: int = 0, start: int = 0, stop: int = 21, seed: int = 0, batch: int = 4, **more):
    """What a training run would see, as one tensor of pictures and one of label maps."""
    dataset = augmented(seed)
    sampler = EpochSampler(len(dataset), seed=seed, start=start, stop=stop, **more)
    batches = list(DataLoader(dataset, batch, sampler=sampler, num_workers=workers))
    return tuple(torch.cat(part) for part in zip(*batches, strict=True))


def same(first: tuple, second: tuple) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_samples_do_not_depend_on_the_number_of_workers() -> None:
    assert same(drawn(workers=0), drawn(workers=2))


def test_a_resumed_run_sees_what_the_interrupted_one_would_have() -> None:
    whole = drawn()

    # Step 2 of 4 samples each: in the middle of the second epoch of 7.
    resumed = drawn(start=8, workers=2)

    assert same(tuple(part[8:] for part in whole), resumed)


def test_two_processes_together_draw_what_one_does() -> None:
    whole = drawn(stop=20)
    first, second = (drawn(stop=20, rank=rank, world_size=2, batch=2) for rank in (0, 1))

    assert same(tuple(part[0::2] for part in whole), first)
    assert same(tuple(part[1::2] for part in whole), second)


def test_samples_differ_by_seed_epoch_and_index() -> None:
    dataset = Augmented([Blocks()[0]] * 2, training_transform((32, 32)), seed=0)
    other = Augmented([Blocks()[0]] * 2, training_transform((32, 32)), seed=1)

    variants = [dataset[0, 0], dataset[1, 0], dataset[0, 1], other[0, 0]]

    for i, first in enumerate(variants):
        assert not any(same(first, second) for second in variants[i + 1 :])
    assert same(dataset[0, 0], variants[0])


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    dataset = augmented()
    torch.manual_seed(1)
    first, after = dataset[0, 0], torch.rand(3)
    torch.manual_seed(1)
    undisturbed = torch.rand(3)
    second = dataset[0, 0]

    assert torch.equal(after, undisturbed)
    assert same(first, second)


def test_samples_are_plain_tensors() -> None:
    picture, mask = augmented()[0, 0]

    assert type(picture) is torch.Tensor
    assert type(mask) is torch.Tensor


def test_every_epoch_is_a_new_order_of_everything() -> None:
    walk = list(EpochSampler(7, seed=3, stop=21))

    assert [epoch for epoch, _ in walk] == [0] * 7 + [1] * 7 + [2] * 7
    orders = [[index for epoch, index in walk if epoch == n] for n in range(3)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert walk[7:14] == list(EpochSampler(7, seed=3, start=7, stop=14))
    assert walk != list(EpochSampler(7, seed=4, stop=21))


def test_samples_of_rare_classes_are_drawn_more_often() -> None:
    factors = [2.0] * 3 + [1.0] * 20
    epochs = 400
    length = 13  # what 3 samples in every epoch and 20 in every other come to
    walk = list(EpochSampler(23, factors=factors, seed=1, stop=epochs * length))

    assert [epoch for epoch, _ in walk] == [n for n in range(epochs) for _ in range(length)]
    assert len(set(walk)) == len(walk)  # none twice in an epoch: it would be the same augmentation
    drawn = [sum(index == wanted for _, index in walk) for wanted in range(23)]
    assert drawn[:3] == [epochs] * 3
    assert all(abs(count - epochs / 2) < 50 for count in drawn[3:])
    middle = EpochSampler(23, factors=factors, seed=1, start=100, stop=200)
    assert list(middle) == walk[100:200]


def test_samples_are_drawn_as_their_factors_say_however_few_they_are() -> None:
    drawn = [index for _, index in EpochSampler(2, factors=[9.0, 1.0], seed=2, stop=1000)]

    assert 870 < drawn.count(0) < 930


def test_equal_factors_leave_every_sample_in_every_epoch() -> None:
    walk = list(EpochSampler(7, factors=[3.0] * 7, stop=14))

    assert sorted(index for _, index in walk[:7]) == list(range(7))
    assert {epoch for epoch, _ in walk[7:]} == {1}


def test_repeat_factors_are_those_of_the_rarest_class_shown() -> None:
    shown = [[0]] * 6 + [[0, 1], [0, 1], [0, 1, 2], []]

    factors = repeat_factors(shown, 0.4)
    assert factors[:6] == [1.0] * 6
    assert factors[6] == pytest.approx((0.4 / 0.3) ** 0.5)
    assert factors[8] == pytest.approx((0.4 / 0.1) ** 0.5)
    assert factors[9] == 1.0


def test_without_a_stop_it_never_ends() -> None:
    sampler = EpochSampler(2)
    walk = iter(sampler)

    assert max(next(walk)[0] for _ in range(100)) == 49
    with pytest.raises(TypeError, match="no length"):
        len(sampler)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_its_length_is_what_it_yields(rank: int) -> None:
    sampler = EpochSampler(5, start=3, stop=13, rank=rank, world_size=3)

    assert len(sampler) == len(list(sampler))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"length": 0}, "at least one sample, not 0"),
        ({"seed": -1}, "seed and start must be 0 or more"),
        ({"start": 5, "stop": 4}, "stop must be 5"),
        ({"factors": [1.0, 1.0]}, "factors must be 3 numbers above 0"),
        ({"factors": [1.0, 1.0, 0.0]}, "factors must be 3 numbers above 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0\.\.1, not 2"),
    ],
)
def test_wrong_sampler_arguments_are_named(wrong: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        EpochSampler(**{"length": 3, **wrong})


def test_seeds_are_the_same_everywhere() -> None:
    # Written down once: a change would make old runs impossible to resume.
    assert sample_seed(0, 0, 0) == 15793235383387715774
    assert sample_seed(1, 2, 3) != sample_seed(3, 2, 1)
