# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Which frames masked prediction hides."""

import dataclasses
import zlib
from typing import Sequence

import numpy as np
import torch


@dataclasses.dataclass
class SpanMask:
    """Spans of frames, drawn for each utterance on its own.

    A share ``start_prob`` of the frames starts a span of ``span`` frames; spans may
    overlap, so about 1 - (1 - start_prob)^span of the frames are masked: 57 % with
    the default values, which are those of HuBERT (Hsu et al. 2021, section IV-C).

    An utterance's mask is a function of the seed, its id and its number of frames,
    hence the same in any batch and with any number of processes.

    Args:
        start_prob: spans that start, per valid frame; 0 masks nothing.
        span: frames of a span; at most half of an utterance's frames are taken.

    Raises:
        ValueError: for a share outside [0, 1] or a span below one frame.
    """

    start_prob: float = 0.08
    span: int = 10

    def __post_init__(self):
        if not 0 <= self.start_prob <= 1 or self.span < 1:
            raise ValueError(
                f"found model_conf.mask {self}, expected a share from 0 to 1 and at "
                "least one frame"
            )

    def __call__(
        self, lengths: Sequence[int], utt_ids: Sequence[str], seed: int
    ) -> torch.Tensor:
        """Draw the masks of a batch.

        Args:
            lengths: valid frames of each item, at least one.
            utt_ids: of each item.
            seed: 0 or more.

        Returns:
            (B, longest) bool on the CPU, True where a frame is masked; False in the
            padding. Unless ``start_prob`` is 0 each item has at least one span.
        """
        mask = np.zeros((len(lengths), max(lengths)), dtype=bool)
        for row, frames, utt_id in zip(mask, lengths, utt_ids):
            generator = np.random.default_rng([seed, zlib.crc32(utt_id.encode())])
            span = min(self.span, max(1, frames // 2))
            # The fraction of a span is one by chance, so the share holds on average.
            count = int(self.start_prob * frames + generator.random())
            places = frames - span + 1
            if self.start_prob > 0:
                count = min(max(count, 1), places)
            for start in generator.choice(places, count, replace=False):
                row[start : start + span] = True
        return torch.from_numpy(mask)
