# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""MFCC as an upstream of one layer: what HuBERT's first iteration clusters."""

from typing import List, Optional, Tuple

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.masked_norm import normalize_waveform

# Of torchaudio.compliance.kaldi.mfcc at 16 kHz.
WINDOW = 400
HOP = 160
NUM_CEPS = 13


class MFCCFrontend(AbsLayerFrontend):
    """13 MFCC with first and second differences, 39 numbers a frame.

    The targets of HuBERT's first iteration (Hsu et al. 2021, section IV.B, by the
    settings of the authors' code: Kaldi's MFCC every 10 ms, differences over five
    frames, no normalisation of the features), of which every second frame is kept.
    Frames have the centres of those of an upstream with this receptive field, so that
    the tokens fit that upstream frame by frame.

    Args:
        normalize_waveform: zero mean, unit variance per utterance: the tokens then do
            not depend on the level.
        receptive_field: samples of one frame of that upstream: 400 in the stack of
            wav2vec2, HuBERT and WavLM.
        frame_shift: samples from one frame to the next, a multiple of 160.
        load_pretrained: not used, there are no weights.

    Raises:
        ValueError: for a grid on which no MFCC can be centred.
    """

    name = "mfcc"
    # The one tensor of forward() is that of layer 0.
    num_layers = 0

    def __init__(
        self,
        normalize_waveform: bool = False,
        receptive_field: int = WINDOW,
        frame_shift: int = 2 * HOP,
        load_pretrained: bool = True,
    ):
        super().__init__()
        if receptive_field < WINDOW or frame_shift <= 0 or frame_shift % HOP:
            raise ValueError(
                f"found receptive_field={receptive_field} and frame_shift={frame_shift}"
                f" in frontend_conf, expected at least {WINDOW} samples and a multiple "
                f"of {HOP} samples"
            )
        self.normalize_waveform = normalize_waveform
        self.receptive_field = self.minimum_samples = receptive_field
        self.frame_shift = frame_shift

    def output_size(self) -> int:
        """Dimension D of a frame."""
        return 3 * NUM_CEPS

    def num_frames(self, num_samples: int) -> int:
        return max(0, (num_samples - self.receptive_field) // self.frame_shift + 1)

    def resolved_conf(self) -> dict:
        return dict(
            normalize_waveform=self.normalize_waveform,
            receptive_field=self.receptive_field,
            frame_shift=self.frame_shift,
        )

    def _fingerprint_settings(self) -> str:
        settings = f"{self.normalize_waveform}:{self.receptive_field}"
        return f"{super()._fingerprint_settings()}:{settings}"

    @torch.no_grad()
    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """See :meth:`AbsLayerFrontend.forward`: one tensor (B, T, 39)."""
        self._check_inputs(speech_lengths, mask_time_indices)
        if self.normalize_waveform:
            on_device = speech_lengths.to(speech.device)
            speech = normalize_waveform(speech, on_device)
        # One by one: no padding may enter the windows and differences at an item's end.
        lengths = speech_lengths.tolist()
        features = [self._mfcc(item[:n]) for item, n in zip(speech, lengths)]
        num_frames = [len(item) for item in features]
        padded = torch.nn.utils.rnn.pad_sequence(features, batch_first=True)
        return [padded], torch.tensor(num_frames, device=speech.device)

    def _mfcc(self, speech: torch.Tensor) -> torch.Tensor:
        """(N,) to (T, 39)."""
        # Where it is used: one that does not fit its torch does not even import.
        from torchaudio.compliance import kaldi
        from torchaudio.functional import compute_deltas

        # The first kept window lies in the middle of the receptive field; those
        # before it serve the differences.
        before, skipped = divmod((self.receptive_field - WINDOW) // 2, HOP)
        ceps = kaldi.mfcc(
            speech[None, skipped:].float(),
            num_ceps=NUM_CEPS,
            use_energy=False,
            sample_frequency=self.sample_rate,
        )
        delta = compute_deltas(ceps.T)
        both = [ceps.T, delta, compute_deltas(delta)]
        kept = torch.cat(both).T[before :: self.frame_shift // HOP]
        return kept[: self.num_frames(len(speech))]
