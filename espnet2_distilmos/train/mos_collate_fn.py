# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From utterances to a padded batch."""

from typing import Collection, Dict, List, Tuple

import numpy as np
import torch
from espnet2.train.collate_fn import CommonCollateFn

from espnet2_distilmos.mos.loss.token import NO_TOKEN


class MOSCollateFn(CommonCollateFn):
    """Pad audio with zeros, tokens and listeners with -1; labels are one number."""

    def __init__(self):
        super().__init__(
            float_pad_value=0.0,
            int_pad_value=NO_TOKEN,
            not_sequence=["mos", "corpus"],
        )

    def __call__(
        self, data: Collection[Tuple[str, Dict[str, np.ndarray]]]
    ) -> Tuple[List[str], Dict[str, torch.Tensor]]:
        """Collate.

        Args:
            data: (utterance id, prepared data) pairs; see ``MOSPreprocessor``.

        Returns:
            Ids; and ``speech`` (B, N), ``speech_lengths`` (B,), ``mos`` (B, 1),
            ``tokens`` (B, T, S), ``tokens_lengths`` (B,), ``noisy`` (B, N), ``votes``
            and ``listeners`` (B, V) and their lengths, ``corpus`` (B, 1), as far as
            they are there.
        """
        return super().__call__(data)
