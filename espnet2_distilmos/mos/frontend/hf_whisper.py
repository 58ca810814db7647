# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The Whisper encoder at the utterance's own length."""

import copy

import torch
from torch.nn import functional as F

from espnet2_distilmos.mos.frontend.hf_family import HFFamily
from espnet2_distilmos.mos.frontend.masked_norm import full_length
from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.frontend.pruned import UnitNames
from espnet2_distilmos.mos.frontend.spectrum import power_spectrum, split_frames
from espnet2_distilmos.mos.masking import frame_mask

FFT, HOP = 400, 160
# Stride of the two convolutions together.
STRIDE = 2


class WhisperFamily(HFFamily):
    """Encoder of Whisper, with the input of ``WhisperFeatureExtractor``.

    transformers runs it on 30 s of log-mel, mostly silence, and without a mask. Here
    the log-mel is that of the utterance (the extractor's ``padding="do_not_pad"``),
    takes the first positions, and attention reads valid frames only. Utterances of
    30 s give what transformers gives; shorter ones differ, as no silence is appended.

    The last hidden state has passed the encoder's final layer norm, as in
    transformers; a network of the first layers alone has none. In the released weights
    single frames of it are so ill-conditioned that fp32 itself is good to 2e-4 of the
    layer's RMS there (whisper tiny, speech), and so is the agreement of padded batches;
    in fp64 they agree to 1e-12. Masked frames are zeros before the positions are added.
    """

    takes_waveform = False
    masks_with_zeros = True
    frame_shift = HOP * STRIDE
    # The waveform is reflected over half a window.
    minimum_samples = FFT // 2 + 1
    # Windows and convolutions are centred: the first frame is that of sample 0.
    frame_centre = 0.0
    # Its keys have no bias.
    unit_names = UnitNames("self_attn", "fc1", "fc2", biases=2)
    extractor_name = "WhisperFeatureExtractor"
    checkpoint_prefix = "encoder."
    extractor_conf = {
        "sampling_rate": 16000,
        "n_fft": FFT,
        "hop_length": HOP,
        "dither": 0.0,
    }

    def __init__(self, config):
        super().__init__(config)
        from transformers.audio_utils import mel_filter_bank

        num_mels = config.num_mel_bins
        self.extractor_conf = dict(self.extractor_conf, feature_size=num_mels)
        filters = mel_filter_bank(
            num_frequency_bins=FFT // 2 + 1,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=8000.0,
            sampling_rate=16000,
            norm="slaney",
            mel_scale="slaney",
        )
        filters = torch.from_numpy(filters).float()
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("window", torch.hann_window(FFT), persistent=False)

    def keep_layers(self, num_layers: int) -> None:
        super().keep_layers(num_layers)
        # Two names of one number in newer versions of transformers.
        self.config.encoder_layers = num_layers
        # transformers knows no encoder without the norm behind its last layer.
        self.has_config = False

    def prepare(self, model: torch.nn.Module) -> None:
        if not self.has_config:
            # It belongs to the last layer of the whole network.
            model.layer_norm = torch.nn.Identity()

    @staticmethod
    def load(upstream, config):
        from transformers import WhisperModel

        class EncoderOnly(WhisperModel):
            """Whether the checkpoint has a decoder is nothing to warn about."""

            _keys_to_ignore_on_load_missing = [r"decoder\."]
            _keys_to_ignore_on_load_unexpected = [r"decoder\.", r"proj_out\."]

        # WhisperEncoder itself finds none of its names in a checkpoint. The decoder's
        # layers are not loaded; what is left of it is thrown away.
        config = copy.deepcopy(config)
        config.decoder_layers = 0
        model, missing = HFFamily.load(upstream, config, EncoderOnly)
        missing = {name for name in missing if name.startswith("encoder.")}
        return model.encoder, {name.removeprefix("encoder.") for name in missing}

    @staticmethod
    def build(config):
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder._from_config(config, dtype=torch.float32)

    @property
    def inner_units(self) -> int:
        return self.config.encoder_ffn_dim

    def macs_before_layers(self, model: torch.nn.Module, num_samples: int) -> int:
        macs = model.conv1.weight.numel() * (num_samples // HOP)
        frames = int(self.num_frames(torch.tensor(num_samples)))
        return macs + model.conv2.weight.numel() * frames

    @property
    def maximum_samples(self) -> int:
        # Less than one hop more than the positions reach gives no frame more.
        return self.config.max_source_positions * self.frame_shift + HOP - 1

    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        # The second convolution, of kernel 3 and padding 1, halves upwards.
        windows = torch.div(num_samples, HOP, rounding_mode="floor")
        return torch.div(windows + STRIDE - 1, STRIDE, rounding_mode="floor")

    def log_mel(self, speech: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """What enters the network: (B, bands, N // 160); padding is zero."""
        # In fp32 at least: half precision would be noise to the logarithm.
        speech = speech.to(torch.promote_types(speech.dtype, torch.float32))
        # As torch.stft(center=True): both ends of each item are reflected.
        reach = FFT // 2
        samples = torch.arange(speech.size(1) + reach, device=speech.device)
        mirrored = 2 * (lengths[:, None] - 1) - samples
        index = torch.where(samples < lengths[:, None], samples, mirrored)
        speech = speech.gather(1, index.clamp(min=0))
        speech = torch.cat([speech[:, 1 : reach + 1].flip(1), speech], dim=1)
        window = self.window.to(speech.dtype)
        frames = split_frames(speech, FFT, HOP)[:, :-1] * window
        power = power_spectrum(frames, FFT) @ self.filters.to(speech.dtype)
        log_mel = power.clamp(min=1e-10).log10().transpose(1, 2)

        windows = torch.div(lengths, HOP, rounding_mode="floor")
        padded = ~frame_mask(windows, log_mel.size(-1)).unsqueeze(1)
        loudest = log_mel.masked_fill(padded, -10.0).amax(dim=(1, 2), keepdim=True)
        log_mel = (torch.maximum(log_mel, loudest - 8.0) + 4.0) / 4.0
        return log_mel.masked_fill(padded, 0.0)

    def hidden_states(self, model, speech, lengths, mask_time_indices):
        # No position is there for more padding than the longest item has.
        speech = speech[:, : lengths.max()]
        with torch.autocast(speech.device.type, enabled=False):
            log_mel = self.log_mel(speech, lengths.to(speech.device))
        windows = torch.div(lengths.to(speech.device), HOP, rounding_mode="floor")
        x = F.gelu(model.conv1(log_mel.to(model.conv1.weight.dtype)))
        # The next convolution reads zeros behind the end, as for a single file.
        x = x.masked_fill(~frame_mask(windows, x.size(-1)).unsqueeze(1), 0.0)
        x = F.gelu(model.conv2(x)).transpose(1, 2)
        if mask_time_indices is not None:
            x = x.masked_fill(mask_time_indices.unsqueeze(-1), 0.0)
        x = x + model.embed_positions.weight[: x.size(1)]
        # The mode of a module without dropout of its own: frozen parts have none.
        x = F.dropout(x, model.dropout, training=model.embed_positions.training)

        frames = self.num_frames(lengths)
        key_mask = None
        if not full_length(frames, x.size(1)):
            valid = frame_mask(frames.to(x.device), x.size(1))[:, None, None, :]
            # Added to the attention scores, (B, 1, 1, T).
            key_mask = x.new_zeros(valid.shape).masked_fill(
                ~valid, torch.finfo(x.dtype).min
            )
        hidden_states = [x]
        for layer in model.layers:
            output = layer(hidden_states[-1], key_mask)
            # A tuple in older versions of transformers.
            hidden_states.append(output[0] if isinstance(output, tuple) else output)
        hidden_states[-1] = model.layer_norm(hidden_states[-1])
        return hidden_states

    def parts(self, model: torch.nn.Module) -> UpstreamParts:
        convolutions = [model.conv1, model.conv2]
        return UpstreamParts(
            convolutions=convolutions,
            before_layers=[*convolutions, model.embed_positions],
            layers=model.layers,
            after_layers=[model.layer_norm],
            lora_targets=[f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")],
        )
