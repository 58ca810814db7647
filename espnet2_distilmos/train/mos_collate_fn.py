# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""From utterances to a padded batch."""

from espnet2.train.collate_fn import CommonCollateFn

from espnet2_distilmos.mos.loss.token import NO_TOKEN


class MOSCollateFn(CommonCollateFn):
    """Pad audio with zeros, tokens and listeners with -1; labels are one number.

    Called with (utterance id, output of ``MOSPreprocessor``) pairs it returns the ids
    and, as far as they are there, ``speech`` (B, N), ``speech_lengths`` (B,), ``mos``
    (B, 1), ``mos_se`` (B, 1), ``aux`` (B, K), ``tokens`` (B, T, S), ``tokens_lengths``
    (B,), ``noisy`` and ``heard`` (B, N), ``distortion`` (B, K), ``snr`` (B, 1),
    ``votes`` and ``listeners`` (B, V) and their lengths, ``corpus`` (B, 1).
    """

    def __init__(self):
        super().__init__(
            float_pad_value=0.0,
            int_pad_value=NO_TOKEN,
            not_sequence=["mos", "mos_se", "aux", "corpus", "distortion", "snr"],
        )
