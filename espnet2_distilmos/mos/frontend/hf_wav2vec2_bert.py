# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""wav2vec2-BERT: a Conformer over Kaldi's log-mel filter banks."""

import torch

from espnet2_distilmos.mos.frontend.hf_family import HFFamily
from espnet2_distilmos.mos.frontend.masked_norm import full_length
from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.frontend.spectrum import power_spectrum, split_frames
from espnet2_distilmos.mos.masking import frame_mask

WINDOW, HOP, FFT = 400, 160, 512
# Frames of the filter bank that make one frame of the network.
STACK = 2


class Wav2Vec2BertFamily(HFFamily):
    """wav2vec2-BERT, with the input of ``SeamlessM4TFeatureExtractor``.

    The filter bank is computed on the device, in fp64 as there: a difference of
    rounding in a quiet band is a large one in its logarithm. A last frame that has
    no partner to stack with counts in the statistics and is dropped; transformers
    pads and then masks it, with equal hidden states. ``freeze: cnn`` freezes nothing,
    for no convolution comes before the layers.
    """

    takes_waveform = False
    frame_shift = HOP * STACK
    minimum_samples = WINDOW + HOP * (STACK - 1)
    extractor_name = "SeamlessM4TFeatureExtractor"
    extractor_conf = {"sampling_rate": 16000, "stride": STACK}

    def __init__(self, config):
        super().__init__(config)
        from transformers.audio_utils import mel_filter_bank, window_function

        num_mels = config.feature_projection_input_dim // STACK
        self.extractor_conf = dict(self.extractor_conf, num_mel_bins=num_mels)
        filters = mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=num_mels,
            min_frequency=20,
            max_frequency=8000,
            sampling_rate=16000,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        window = window_function(WINDOW, "povey", periodic=False)
        self.register_buffer("filters", torch.from_numpy(filters), persistent=False)
        self.register_buffer("window", torch.from_numpy(window), persistent=False)

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        return torch.div(_num_windows(num_samples), STACK, rounding_mode="floor")

    def log_mel(self, speech: torch.Tensor) -> torch.Tensor:
        """Kaldi's filter bank: waveforms in [-1, 1], (B, N), to (B, W, bands) fp64."""
        # Kaldi's scale is that of 16-bit integers.
        frames = split_frames(speech.double() * 2.0**15, WINDOW, HOP)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        # Pre-emphasis within the window; its first sample is its own predecessor.
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - 0.97 * previous) * self.window.double()
        power = power_spectrum(frames, FFT) @ self.filters.double()
        return power.clamp(min=1.192092955078125e-07).log()

    def features(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What enters the network: two stacked frames, (B, T, 2 * bands).

        Each band has zero mean and unit variance over the utterance. Padding is zero,
        but for half a frame behind an odd number of windows.
        """
        log_mel = self.log_mel(speech)
        windows = _num_windows(lengths)
        valid = frame_mask(windows, log_mel.size(1)).unsqueeze(-1)
        count = windows[:, None, None]
        mean = log_mel.masked_fill(~valid, 0.0).sum(dim=1, keepdim=True) / count
        centred = (log_mel - mean).masked_fill(~valid, 0.0)
        var = centred.square().sum(dim=1, keepdim=True) / (count - 1)
        normed = centred * torch.rsqrt(var + 1e-7)
        normed = normed[:, : normed.size(1) // STACK * STACK]
        return normed.reshape(normed.size(0), normed.size(1) // STACK, -1)

    def hidden_states(self, model, speech, lengths, mask_time_indices):
        with torch.autocast(speech.device.type, enabled=False):
            features = self.features(speech, lengths.to(speech.device))
        frames = self.num_frames(lengths)
        attention_mask = None
        if not full_length(frames, features.size(1)):
            valid = frame_mask(frames.to(speech.device), features.size(1))
            attention_mask = valid.long()
        positions = model.encoder.embed_positions
        if hasattr(positions, "cached_sequence_length"):
            # Rotary angles are kept from the last batch, which may have been on
            # another device, in another dtype or in inference mode.
            positions.cached_sequence_length = None
        output = model(
            features.to(model.feature_projection.projection.weight.dtype),
            attention_mask=attention_mask,
            mask_time_indices=mask_time_indices,
            output_hidden_states=True,
        )
        return list(output.hidden_states)

    def parts(self, model: torch.nn.Module) -> UpstreamParts:
        encoder = model.encoder
        return UpstreamParts(
            convolutions=[],
            before_layers=[model.feature_projection, encoder.dropout],
            layers=encoder.layers,
            after_layers=[],
            lora_targets=[f"self_attn.linear_{x}" for x in ("q", "k", "v", "out")],
        )


def _num_windows(num_samples: torch.Tensor) -> torch.Tensor:
    return torch.div(num_samples - WINDOW, HOP, rounding_mode="floor") + 1
