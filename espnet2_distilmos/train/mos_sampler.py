# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Batches in which categories of utterances have stated shares."""

import logging
import math
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

import numpy as np
from espnet2.samplers.abs_sampler import AbsSampler

from espnet2_distilmos.data.datadir import DataError, read_scp

# What ESPnet calls batches of a fixed number of utterances, and of a padded size.
BY_COUNT = ("sorted", "unsorted")
BY_SIZE = ("numel", "length")
# Whether a batch holds all categories or one.
MIXED, SINGLE = "mixed", "single"
_MEND = "correct --sampling_categories or --sampling_weights"


def read_categories(path: str, weights: Mapping[str, float]) -> Dict[str, str]:
    """Read lines ``utterance category``.

    Args:
        path: the file.
        weights: of the categories that there may be.

    Raises:
        DataError: an utterance is of another category, or a category has none.
    """
    categories = read_scp(path)
    expected = f"expected {', '.join(sorted(weights))}, which have weights: {_MEND}"
    for utt_id, category in categories.items():
        if category not in weights:
            raise DataError(f"{path}: utterance {utt_id} is of {category}, {expected}")
    for empty in sorted(set(weights) - set(categories.values())):
        raise DataError(f"{path}: found no utterance of {empty}, {expected}")
    return categories


class CategorySampler(AbsSampler):
    """Draw utterances so that each category has its share of every epoch and batch.

    The weight of a category over the sum of all is its share of an epoch's utterances.
    An epoch draws as many utterances as there are in all categories of weight above 0;
    or, with ``epoch_of``, so many that this category is drawn once each. Weights in
    proportion to the categories' sizes draw every utterance exactly once an epoch.

    Within a category the draws are without replacement and go on over the epochs: every
    utterance is drawn k times before one of them is drawn k + 1 times. Epoch e is a
    function of the seed and of e alone, so that a training resumes as if it had never
    been killed.

    A batch holds the categories in the ratio of the weights, as nearly as whole
    utterances allow, and utterances of like rank in length within their categories; or,
    with ``batches="single"``, each batch is of one category. No utterance stands twice
    in a batch.

    Args:
        lengths: number of samples by utterance.
        categories: category by utterance; every id of ``lengths`` needs one.
        weights: weight by category; those of weight 0 are left out.
        batch_type: ``sorted`` or ``unsorted`` (by length) batches of ``batch_size``,
            or ``numel`` or ``length`` for batches of ``batch_bins``.
        batch_size: most utterances in a batch.
        batch_bins: most padded samples in a batch of more than ``world_size``.
        epoch_of: category that is drawn once an epoch.
        batches: ``mixed`` or ``single``.
        seed: of the training.
        rank, world_size: take every ``world_size``-th utterance of each batch.

    Raises:
        DataError: an utterance has no category.
        ValueError: weights or sizes are impossible.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        categories: Mapping[str, str],
        weights: Mapping[str, float],
        batch_type: str = "sorted",
        batch_size: int = 16,
        batch_bins: int = 1000000,
        epoch_of: Optional[str] = None,
        batches: str = MIXED,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        numbers = all(
            isinstance(weight, (int, float)) and 0 <= weight < math.inf
            for weight in weights.values()
        )
        if not numbers or not any(weights.values()):
            raise ValueError(
                f"found --sampling_weights {dict(weights)}, expected numbers of 0 or "
                "more, such as 0.5, and one above 0"
            )
        if epoch_of is not None and not weights.get(epoch_of):
            raise ValueError(
                f"found --sampling_epoch {epoch_of}, expected a category of weight "
                f"above 0 among {dict(weights)}"
            )
        if batch_type not in BY_COUNT + BY_SIZE:
            raise ValueError(
                f"found --batch_type {batch_type} with --sampling_weights, expected "
                f"one of {', '.join(BY_COUNT + BY_SIZE)}"
            )
        self.lengths = lengths
        self.weights = weights
        self.batch_type = batch_type
        self.batch_size = batch_size
        self.batch_bins = batch_bins
        self.batches = batches
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.members: Dict[str, List[str]] = {c: [] for c in sorted(weights)}
        for utt_id in lengths:
            if utt_id not in categories:
                raise DataError(
                    f"utterance {utt_id} has no category, expected a line '{utt_id} "
                    f"category': complete the file of --sampling_categories"
                )
            self.members[categories[utt_id]].append(utt_id)
        self.members = {c: ids for c, ids in self.members.items() if weights[c] > 0}
        sizes = {c: len(ids) for c, ids in self.members.items()}
        self.draws = draws_of_an_epoch(sizes, weights, epoch_of)
        self.rounds = 1
        if self.draws != sizes:
            # So few of a round that no utterance is drawn twice; see _pass.
            self.rounds = max(
                math.ceil(self.draws[c] / (sizes[c] // 2 + 1)) for c in sizes
            )

    def __len__(self) -> int:
        """Batches of the first epoch; with ``numel`` another one can differ."""
        return len(self.epoch(0))

    def __iter__(self) -> Iterator[List[str]]:
        return iter(self.generate(self.seed))

    def generate(self, seed: int) -> List[List[str]]:
        """This process's batches of epoch ``seed`` minus the training's seed."""
        epoch = seed - self.seed
        batches = self.epoch(epoch)
        counts = ", ".join(f"{count} of {c}" for c, count in self.draws.items())
        logging.info(f"Epoch {epoch} draws {counts} in {len(batches)} batches")
        return [batch[self.rank :: self.world_size] for batch in batches]

    def epoch(self, epoch: int) -> List[List[str]]:
        """Batches of an epoch, of all processes together."""
        drawn = [self._draw(c, epoch) for c in self.members]
        rng = np.random.RandomState([self.seed, epoch])
        batches: List[List[str]] = []
        for r in range(self.rounds):
            parts = []
            for ids in drawn:
                start, stop = (len(ids) * k // self.rounds for k in (r, r + 1))
                part = [ids[i] for i in rng.permutation(np.arange(start, stop))]
                if self.batch_type != "unsorted":
                    part.sort(key=lambda utt_id: -self.lengths[utt_id])
                parts.append(part)
            mixed = self.batches == MIXED
            for ids in [interleave(parts)] if mixed else filter(None, parts):
                batches.extend(self._cut(ids))
        return batches

    def _draw(self, category: str, epoch: int) -> List[str]:
        """Utterances of an epoch: a piece of the endless sequence of all passes."""
        ids, count = self.members[category], self.draws[category]
        drawn: List[str] = []
        while len(drawn) < count:
            number, start = divmod(epoch * count + len(drawn), len(ids))
            drawn += self._pass(category, number)[start : start + count - len(drawn)]
        return drawn

    def _pass(self, category: str, number: int) -> List[str]:
        """All utterances of a category in a random order.

        Every pass begins with the same half of them, so that more than half of the
        others lie between an utterance and its next occurrence.
        """
        ids = self.members[category]
        key = [self.seed, list(self.members).index(category)]
        order = np.random.RandomState(key).permutation(len(ids))
        rng = np.random.RandomState([*key, number])
        half = len(ids) // 2
        parts = (rng.permutation(order[:half]), rng.permutation(order[half:]))
        return [ids[i] for i in np.concatenate(parts)]

    def _cut(self, utt_ids: Sequence[str]) -> List[List[str]]:
        """Cut into batches with an utterance for each process."""
        if self.batch_type in BY_COUNT:
            number = math.ceil(len(utt_ids) / max(self.batch_size, self.world_size))
            number = max(min(number, len(utt_ids) // self.world_size), 1)
            edges = [len(utt_ids) * k // number for k in range(number + 1)]
            batches = [list(utt_ids[a:b]) for a, b in zip(edges, edges[1:])]
        else:
            batches, longest = [[]], 0
            for utt_id in utt_ids:
                longest = max(longest, self.lengths[utt_id])
                size = len(batches[-1])
                if size >= self.world_size and longest * (size + 1) > self.batch_bins:
                    batches.append([])
                    longest = self.lengths[utt_id]
                batches[-1].append(utt_id)
            if len(batches) > 1 and len(batches[-1]) < self.world_size:
                batches[-2:] = [batches[-2] + batches[-1]]
        if len(batches[0]) < self.world_size:
            raise ValueError(
                f"found a batch of {len(batches[0])} utterances for {self.world_size} "
                "processes, expected one for each: train with fewer processes"
            )
        return batches


def draws_of_an_epoch(
    sizes: Mapping[str, int], weights: Mapping[str, float], epoch_of: Optional[str]
) -> Dict[str, int]:
    """How many utterances of each category an epoch draws; see `CategorySampler`.

    Fractions are rounded so that the sum is kept (largest remainder).

    Raises:
        ValueError: a category is not drawn at all.

    >>> draws_of_an_epoch({"a": 6, "b": 3}, {"a": 1.0, "b": 1.0}, None)
    {'a': 5, 'b': 4}
    """
    total = sum(weights[c] for c in sizes)
    if epoch_of is None:
        wanted = {c: sum(sizes.values()) * weights[c] / total for c in sizes}
    else:
        once = sizes[epoch_of] / weights[epoch_of]
        wanted = {c: once * weights[c] for c in sizes}
    draws = {c: math.floor(wanted[c] + 1e-9) for c in sizes}
    left = round(sum(wanted.values())) - sum(draws.values())
    for c in sorted(sizes, key=lambda c: draws[c] - wanted[c])[:left]:
        draws[c] += 1
    for c, count in draws.items():
        if count == 0 or sizes[c] == 0:
            raise ValueError(
                f"found {sizes[c]} utterances of {c}, of which an epoch would draw "
                f"{count}, expected at least one: {_MEND}"
            )
    return draws


def interleave(parts: Sequence[Sequence[str]]) -> List[str]:
    """Merge sequences so that every stretch holds them in the ratio of their sizes.

    >>> "".join(interleave(["aaaa", "bb"]))
    'abaaba'
    """
    keyed = [
        ((k + 0.5) / len(part), number, item)
        for number, part in enumerate(parts)
        for k, item in enumerate(part)
    ]
    return [item for _, _, item in sorted(keyed, key=lambda entry: entry[:2])]
