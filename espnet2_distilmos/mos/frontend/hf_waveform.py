# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""wav2vec 2.0 and its kin: convolutions over the waveform, then a transformer."""

import math
from typing import Optional

import torch

from espnet2_distilmos.mos.frontend.hf_family import HFFamily
from espnet2_distilmos.mos.frontend.masked_norm import MaskedGroupNorm, full_length
from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.frontend.pruned import RelativeAttention, UnitNames
from espnet2_distilmos.mos.masking import frame_mask


class WaveformFamily(HFFamily):
    """wav2vec 2.0 (XLS-R, MMS), HuBERT (mHuBERT) and UniSpeech-SAT.

    Base models normalise the first convolution over time (group norm), under a mask
    here. Their kin with layer norm are exact as transformers has them. With stable
    layer norm the last hidden state is what the last layer puts out, before the
    encoder's final norm, as in transformers.
    """

    unit_names = UnitNames(
        attention="attention",
        inner="feed_forward.intermediate_dense",
        outer="feed_forward.output_dense",
    )

    def __init__(self, config):
        super().__init__(config)
        self._is_stable = getattr(config, "do_stable_layer_norm", False)
        # What is given the valid lengths, and after how many convolutions. In tuples:
        # the modules are registered once, under their own names.
        self._masked = []

    def prepare(self, model: torch.nn.Module) -> None:
        if getattr(self.config, "feat_extract_norm", "layer") == "group":
            first = model.feature_extractor.conv_layers[0]
            first.layer_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)
            self._masked.append((first.layer_norm, 1))
        # transformers lets the waveform require a gradient in training, which nobody
        # reads; one that does require it keeps it.
        model.feature_extractor._requires_grad = False
        if self._is_stable:
            # It follows the last hidden state.
            model.encoder.layer_norm.requires_grad_(False)

    @property
    def frame_shift(self) -> int:
        return math.prod(self.config.conv_stride)

    @property
    def minimum_samples(self) -> int:
        samples = 1
        config = self.config
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1]):
            samples = (samples - 1) * stride + kernel
        return samples

    def num_frames(
        self, num_samples: torch.Tensor, layers: Optional[int] = None
    ) -> torch.Tensor:
        """Frames after the first ``layers`` convolutions, after all by default."""
        pairs = zip(self.config.conv_kernel, self.config.conv_stride)
        for kernel, stride in list(pairs)[:layers]:
            steps = torch.div(num_samples - kernel, stride, rounding_mode="floor")
            num_samples = steps + 1
        return num_samples

    def macs_before_layers(self, model: torch.nn.Module, num_samples: int) -> int:
        samples, macs = torch.tensor(num_samples), 0
        for number, block in enumerate(model.feature_extractor.conv_layers, start=1):
            frames = int(self.num_frames(samples, number))
            macs += block.conv.weight.numel() * frames
        macs += model.feature_projection.projection.weight.numel() * frames
        for module in model.encoder.pos_conv_embed.modules():
            if isinstance(module, torch.nn.Conv1d):
                (kernel,), (padding,) = module.kernel_size, module.padding
                outputs = frames + 2 * padding - kernel + 1
                macs += module.weight.numel() * outputs
        return macs

    def _set_lengths(self, lengths: Optional[torch.Tensor]) -> None:
        """Give the valid samples to the parts that mask; None without padding."""
        for part, layers in self._masked:
            part.lengths = None if lengths is None else self.num_frames(lengths, layers)

    def hidden_states(self, model, speech, lengths, mask_time_indices):
        attention_mask = None
        # A forked child may find those of a batch that another thread was at.
        self._set_lengths(None)
        if not full_length(lengths, speech.size(1)):
            valid = frame_mask(lengths.to(speech.device), speech.size(1))
            attention_mask = valid.long()
            self._set_lengths(lengths)
        try:
            output = model(
                speech,
                attention_mask=attention_mask,
                mask_time_indices=mask_time_indices,
                output_hidden_states=True,
            )
        finally:
            self._set_lengths(None)
        return list(output.hidden_states)

    def parts(self, model: torch.nn.Module) -> UpstreamParts:
        encoder = model.encoder
        before = [model.feature_extractor, model.feature_projection]
        before += [encoder.pos_conv_embed, encoder.dropout]
        norm = [encoder.layer_norm]
        return UpstreamParts(
            convolutions=[model.feature_extractor],
            before_layers=before + ([] if self._is_stable else norm),
            layers=encoder.layers,
            after_layers=norm if self._is_stable else [],
            lora_targets=[f"attention.{x}_proj" for x in ("q", "k", "v", "out")],
            blocks=model.feature_extractor.conv_layers,
        )


class WavLMFamily(WaveformFamily):
    """WavLM: as the others, with gated relative positions in its attention."""

    unit_names = WaveformFamily.unit_names._replace(others=1)  # of its gate

    def make_prunable(self, model: torch.nn.Module) -> None:
        for layer in model.encoder.layers:
            if not isinstance(layer.attention, RelativeAttention):
                layer.attention = RelativeAttention(layer.attention)


class Data2VecAudioFamily(WaveformFamily):
    """data2vec-audio: positions from a stack of convolutions.

    transformers masks what enters the stack; from the second convolution on the
    padding is no longer zero and leaks into the last frames. Here each convolution
    reads zeros there, as it does behind the end of a single file.
    """

    def prepare(self, model: torch.nn.Module) -> None:
        super().prepare(model)
        zero_padding = ZeroPadding()
        self._masked.append((zero_padding, None))
        for layer in model.encoder.pos_conv_embed.layers:
            layer.conv.register_forward_pre_hook(zero_padding)


class ZeroPadding:
    """Forward pre-hook: the module's input (B, C, T) is zero where it is padded.

    ``lengths`` (B,) holds the valid frames; None when no item is padded.
    """

    lengths: Optional[torch.Tensor] = None

    def __call__(self, module, args):
        if self.lengths is None:
            return None
        (x,) = args
        valid = frame_mask(self.lengths.to(x.device), x.size(-1)).unsqueeze(1)
        return (x.masked_fill(~valid, 0.0),)
