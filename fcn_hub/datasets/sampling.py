"""The order in which samples are drawn: a function of the seed alone.

A sampler yields (epoch, index) pairs, and what a sample looks like after augmentation depends
on the seed and that pair (see `Augmented`). Neither the number of loader workers nor an
interruption changes what the network sees.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler


def sample_seed(*numbers: int) -> int:
    """One well-mixed 64-bit seed from several non-negative integers, the same everywhere.

    Example:
        >>> sample_seed(0, 1) == sample_seed(1, 0)
        False
    """
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def repeat_factors(shown: Sequence[Sequence[int]], threshold: float) -> list[float]:
    """How much more often to draw each sample, for classes that few of them show.

    Repeat factor sampling (Gupta, Dollár and Girshick, "LVIS", CVPR 2019): a class that a share f
    of the samples shows has the factor max(1, √(threshold / f)), a sample the largest of its
    classes.

    Args:
        shown: The classes that each sample shows.
        threshold: The share, 0..1, below which a class is a rare one.

    Returns:
        One factor per sample, 1 or more.

    Example:
        >>> repeat_factors([[0], [0], [0], [0, 1]], threshold=0.49)
        [1.0, 1.0, 1.0, 1.4]
    """
    count = Counter(label for classes in shown for label in set(classes))
    factor = {c: max(1.0, math.sqrt(threshold * len(shown) / n)) for c, n in count.items()}
    return [max((factor[label] for label in classes), default=1.0) for classes in shown]


class EpochSampler(Sampler[tuple[int, int]]):
    """An endless walk over a data set, in a new random order each epoch.

    Epochs follow one another without a gap: a batch may hold the end of one and the start of
    the next, so that every sample is seen equally often and every batch is full.

    Args:
        length: How many samples the data set has.
        factors: How often to draw each sample in relation to the others; all alike where None.
            No epoch holds a sample twice: the ones with the largest factor are in every epoch
            (or nearly, as an epoch is a whole number of samples), others in a share of them.
        seed: The seed of the orders, 0 or more.
        start: How many samples of the walk to skip: where an interrupted run resumes, its steps
            times the samples that a step takes over all processes.
        stop: Where the walk ends; None for never. Without factors, ``start=n * length,
            stop=(n + 1) * length`` is epoch n.
        rank, world_size: Of `world_size` processes, this is number `rank`, and takes every
            `world_size`-th sample. Together they draw what one process would.

    Yields:
        (epoch, index) pairs, the epoch counted from 0.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> list(EpochSampler(2, seed=0, start=2, stop=4))
        [(1, 0), (1, 1)]
    """

    def __init__(
        self,
        length: int,
        *,
        factors: Sequence[float] | None = None,
        seed: int = 0,
        start: int = 0,
        stop: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < 1:
            raise ValueError(f"The data set must hold at least one sample, not {length}.")
        if seed < 0 or start < 0:
            raise ValueError(f"seed and start must be 0 or more, not {seed} and {start}.")
        if stop is not None and stop < start:
            raise ValueError(f"stop must be {start} (start) or more, not {stop}.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, not {rank}.")
        if factors is not None and (len(factors) != length or not min(factors) > 0):
            raise ValueError(f"factors must be {length} numbers above 0, one for each sample.")
        self.length = length
        self.shares = None
        if factors is not None:
            shares = torch.tensor(factors, dtype=torch.float64) / max(factors)
            # As many samples as the shares add up to, rounded down; then they add up to it.
            self.length = int(shares.sum() + 1e-6)
            self.shares = shares * (self.length / shares.sum())
        self.seed = seed
        self.start = start
        self.stop = stop
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        position = self.start + self.rank
        order_epoch, order = -1, []
        while self.stop is None or position < self.stop:
            epoch, place = divmod(position, self.length)
            if epoch != order_epoch:
                order_epoch, order = epoch, self.order(epoch)
            yield epoch, order[place]
            position += self.world_size

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("An endless EpochSampler has no length; give it a stop.")
        return len(range(self.start + self.rank, self.stop, self.world_size))

    def order(self, epoch: int) -> list[int]:
        """The sample indices of an epoch, in the order in which they are drawn."""
        generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch))
        if self.shares is None:
            return torch.randperm(self.length, generator=generator).tolist()
        # Systematic sampling: marks at equal distances along the samples' shares, laid end to end.
        order = torch.randperm(len(self.shares), generator=generator)
        ends = self.shares[order].cumsum(0)
        marks = torch.arange(self.length) + torch.rand((), generator=generator, dtype=ends.dtype)
        places = torch.searchsorted(ends, marks, right=True).clamp(max=len(order) - 1)
        return order[places].tolist()
