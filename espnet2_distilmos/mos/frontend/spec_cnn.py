# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A small upstream to train from scratch: spectrum, CNN, Transformer."""

from typing import List, Optional, Sequence, Tuple, Union

import torch
from torch.nn import functional as F

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.masked_norm import full_length, normalize_waveform
from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.frontend.spectrum import complex_spectrum, split_frames
from espnet2_distilmos.mos.masking import frame_mask

WINDOW, HOP = 320, 160
# Windows that make one frame: the stride of the second convolution in time.
STRIDE = 2
# All bins but that of 0 Hz, which has no speech.
NUM_BINS = WINDOW // 2
# A magnitude becomes its power of 0.3.
COMPRESSION = 0.3
# Added to the squared magnitude, about what the noise of 16 bits has: digital silence
# has a finite gradient.
FLOOR = 1e-6
# Frames that the positions are made of.
POSITION_KERNEL = 31

# Dimensions of the named sizes: 0.3, 1.3 and 4.0 million parameters.
SIZES = {
    "s": dict(
        channels=[16, 32, 48, 64, 64],
        hidden_size=96,
        num_layers=3,
        num_attention_heads=3,
        intermediate_size=192,
    ),
    "m": dict(
        channels=[24, 48, 64, 96, 128],
        hidden_size=160,
        num_layers=4,
        num_attention_heads=5,
        intermediate_size=480,
    ),
    "l": dict(
        channels=[32, 64, 96, 128, 192],
        hidden_size=256,
        num_layers=5,
        num_attention_heads=8,
        intermediate_size=768,
    ),
}


class SpecCNNFrontend(AbsLayerFrontend):
    """Compressed complex spectrum, convolutions, a small Transformer.

    After the student of Stahl and Gamper, "Distillation and Pruning for Scalable
    Self-Supervised Representation-Based Speech Quality Assessment", arXiv:2502.05356:
    real and imaginary part of windows of 20 ms every 10 ms, magnitudes to the power of
    0.3, are the two channels of an image that 3 x 3 convolutions with leaky ReLU make
    smaller; a Transformer reads its rows. Other than there: any length, no windows of
    the whole (positions come from a convolution over the frames, as in wav2vec 2.0),
    far fewer channels, and the frames are halved by the second convolution and not the
    last, which is most of the cost. The layers are pre-norm; the last hidden state has
    passed the final norm, as Whisper's.

    A frame every 20 ms, the first centred at 159.5 samples: on the grid of the
    upstreams of transformers, so that their tokens can be what it learns
    (``--token_source``). But for the waveform's, no norm looks at other frames;
    convolutions read zeros behind the end of an utterance, and the attention nothing.

    Args:
        size: ``s``, ``m`` or ``l``, about 0.3, 1.3 and 4 million parameters: what the
            dimensions are where they are not given.
        channels: of each convolution, two or more. Each halves the bins (160).
        hidden_size: D of the hidden states.
        num_layers: Transformer layers L.
        num_attention_heads: of each layer; divides D.
        intermediate_size: inner units of a layer's feed-forward network.
        normalize_waveform: zero mean, unit variance per utterance: the hidden states
            then do not depend on the level.
        dropout: behind the positions, the attention and the feed-forward network.
        freeze, lora, gradient_checkpointing: as :class:`HFFrontend` has them.
        init_seed: seed of the random weights.
        load_pretrained: not used, weights are a trained model's (``--init_model``).

    Raises:
        ImportError: for LoRA without the package peft.
        ValueError: for an unknown size or an impossible dimension.
    """

    name = "spec_cnn"
    frame_shift = HOP * STRIDE
    minimum_samples = WINDOW
    training_options = ("freeze", "gradient_checkpointing", "init_seed", "dropout")

    def __init__(
        self,
        size: str = "s",
        channels: Optional[Sequence[int]] = None,
        hidden_size: Optional[int] = None,
        num_layers: Optional[int] = None,
        num_attention_heads: Optional[int] = None,
        intermediate_size: Optional[int] = None,
        normalize_waveform: bool = True,
        dropout: float = 0.1,
        freeze: Union[str, int, dict] = "none",
        lora: Optional[dict] = None,
        gradient_checkpointing: bool = False,
        init_seed: int = 0,
        load_pretrained: bool = True,
    ):
        super().__init__()
        given = dict(
            channels=channels,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
        )
        given = {key: value for key, value in given.items() if value is not None}
        dimensions = _checked(size, given, dropout)
        self.size, self.dimensions = size, dimensions
        self.num_layers = dimensions["num_layers"]
        self.normalize_waveform = normalize_waveform
        self.dropout, self.init_seed = dropout, init_seed
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(init_seed)
            self.model = SpecCNN(**dimensions, dropout=dropout)
        model = self.model
        parts = UpstreamParts(
            convolutions=[model.convolutions],
            before_layers=[
                *(model.convolutions, model.projection, model.positions),
                model.dropout,
            ],
            layers=model.layers,
            after_layers=[model.norm],
            lora_targets=[f"attention.{x}_proj" for x in ("q", "k", "v", "out")],
            blocks=model.convolutions,
        )
        self._choose_trained_parts(
            model, parts, freeze, lora, gradient_checkpointing, init_seed
        )
        self.set_mask_training(False)

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        return self.model.mask_embedding

    def output_size(self) -> int:
        """Dimension D of the hidden states."""
        return self.dimensions["hidden_size"]

    def num_frames(self, num_samples: int) -> int:
        return max(0, (num_samples - WINDOW) // self.frame_shift + 1)

    def macs(self, num_samples: int) -> int:
        """Multiply-accumulates of an utterance, without spectrum and norms.

        Every weight counts as often as it is applied, and attention both products of
        T x T.
        """
        model, macs, num_bins = self.model, 0, NUM_BINS
        windows, frames = (num_samples - WINDOW) // HOP + 1, self.num_frames(
            num_samples
        )
        for i, block in enumerate(model.convolutions):
            num_bins = -(-num_bins // 2)
            rows = windows if i == 0 else frames
            macs += block.conv.weight.numel() * rows * num_bins
        weights = model.projection.weight.numel() + model.positions.weight.numel()
        for layer in model.layers:
            maps = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
            weights += sum(m.weight.numel() for m in maps)
            weights += 2 * frames * self.output_size()
        return macs + frames * weights

    def resolved_conf(self) -> dict:
        return dict(
            size=self.size,
            **self.dimensions,
            normalize_waveform=self.normalize_waveform,
            dropout=self.dropout,
            freeze=self.freeze,
            lora=self.lora,
            gradient_checkpointing=self.gradient_checkpointing,
            init_seed=self.init_seed,
        )

    def _fingerprint_settings(self) -> str:
        settings = f"{self.normalize_waveform}:{self.dimensions['num_attention_heads']}"
        return f"{super()._fingerprint_settings()}:{settings}"

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """See :meth:`AbsLayerFrontend.forward`."""
        self._check_inputs(speech_lengths, mask_time_indices)
        # Frames are those of the longest item, whatever it is padded to.
        speech = speech[:, : speech_lengths.max()]
        # In fp64 until the spectrum is compressed: a difference of rounding in a bin
        # where nothing is would be a large one in its power of 0.3.
        speech = speech.double()
        if self.normalize_waveform:
            speech = normalize_waveform(speech, speech_lengths)
        with torch.set_grad_enabled(self._needs_graph(speech)):
            hidden_states = self.model(speech, speech_lengths, mask_time_indices)
        return hidden_states, _num_frames(speech_lengths)


class SpecCNN(torch.nn.Module):
    """The network of :class:`SpecCNNFrontend`, which explains the arguments."""

    def __init__(
        self,
        channels: Sequence[int],
        hidden_size: int,
        num_layers: int,
        num_attention_heads: int,
        intermediate_size: int,
        dropout: float,
    ):
        super().__init__()
        window = torch.hann_window(WINDOW, dtype=torch.float64)
        self.register_buffer("window", window, persistent=False)
        blocks, num_bins = [], NUM_BINS
        for i, (inputs, outputs) in enumerate(zip([2, *channels], channels)):
            blocks.append(ConvBlock(inputs, outputs, STRIDE if i == 1 else 1))
            num_bins = -(-num_bins // 2)
        self.convolutions = torch.nn.ModuleList(blocks)
        self.projection = torch.nn.Linear(channels[-1] * num_bins, hidden_size)
        self.mask_embedding = torch.nn.Parameter(torch.empty(hidden_size).uniform_())
        self.positions = torch.nn.Conv1d(
            hidden_size,
            hidden_size,
            POSITION_KERNEL,
            padding=POSITION_KERNEL // 2,
            groups=hidden_size,
        )
        self.dropout = torch.nn.Dropout(dropout)
        self.layers = torch.nn.ModuleList(
            TransformerLayer(
                hidden_size, num_attention_heads, intermediate_size, dropout
            )
            for _ in range(num_layers)
        )
        self.norm = torch.nn.LayerNorm(hidden_size)

    def spectrum(self, speech: torch.Tensor) -> torch.Tensor:
        """Compressed complex spectrum: (B, N) to (B, 2, W, bins) in fp64."""
        frames = split_frames(speech.double(), WINDOW, HOP) * self.window.double()
        parts = complex_spectrum(frames, WINDOW)[:, :, 1:].permute(0, 3, 1, 2)
        power = parts.square().sum(dim=1, keepdim=True)
        return parts * (power + FLOOR).pow((COMPRESSION - 1.0) / 2.0)

    def forward(
        self,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> List[torch.Tensor]:
        """As the frontend's: (B, N) and (B,) to L + 1 tensors (B, T, D)."""
        is_padded = not full_length(lengths, speech.size(1))
        lengths = lengths.to(speech.device)
        windows = torch.div(lengths - WINDOW, HOP, rounding_mode="floor") + 1
        frames = _num_frames(lengths)
        with torch.autocast(speech.device.type, enabled=False):
            x = self.spectrum(speech).to(self.projection.weight.dtype)
        for i, block in enumerate(self.convolutions):
            if is_padded:
                valid = frame_mask(windows if i < 2 else frames, x.size(2))
                x = x.masked_fill(~valid[:, None, :, None], 0.0)
            x = block(x)
        x = self.projection(x.transpose(1, 2).flatten(2))
        if mask_time_indices is not None:
            masked = mask_time_indices.unsqueeze(-1)
            x = torch.where(masked, self.mask_embedding.to(x.dtype), x)
        key_mask = None
        if is_padded:
            valid = frame_mask(frames, x.size(1))
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)
            key_mask = valid[:, None, None, :]
        positions = self.positions(x.transpose(1, 2)).transpose(1, 2)
        hidden_states = [self.dropout(x + F.gelu(positions))]
        for layer in self.layers:
            hidden_states.append(layer(hidden_states[-1], key_mask))
        hidden_states[-1] = self.norm(hidden_states[-1])
        return hidden_states


class ConvBlock(torch.nn.Module):
    """3 x 3 convolution that halves the bins, and leaky ReLU."""

    SLOPE = 0.1

    def __init__(self, inputs: int, outputs: int, time_stride: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(
            inputs, outputs, kernel_size=3, stride=(time_stride, 2), padding=1
        )
        # There is no norm that would make up for a signal that gets smaller.
        torch.nn.init.kaiming_normal_(self.conv.weight, a=self.SLOPE)
        torch.nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, T, F) to (B, C', ceil(T / time_stride), ceil(F / 2))."""
        return F.leaky_relu(self.conv(x), self.SLOPE)


class SelfAttention(torch.nn.Module):
    """Multi-head attention that reads what ``key_mask`` says."""

    def __init__(self, size: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = torch.nn.Linear(size, size)
        self.k_proj = torch.nn.Linear(size, size)
        self.v_proj = torch.nn.Linear(size, size)
        self.out_proj = torch.nn.Linear(size, size)

    def forward(
        self, x: torch.Tensor, key_mask: Optional[torch.Tensor]
    ) -> torch.Tensor:
        """(B, T, D) to (B, T, D); ``key_mask`` (B, 1, 1, T) bool, None reads all."""
        q, k, v = (
            projection(x).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=key_mask)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TransformerLayer(torch.nn.Module):
    """Attention and feed-forward network, each behind a norm and with a residual."""

    def __init__(self, size: int, num_heads: int, inner_size: int, dropout: float):
        super().__init__()
        self.attention_norm = torch.nn.LayerNorm(size)
        self.attention = SelfAttention(size, num_heads)
        self.feed_forward_norm = torch.nn.LayerNorm(size)
        self.fc1 = torch.nn.Linear(size, inner_size)
        self.fc2 = torch.nn.Linear(inner_size, size)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, key_mask: Optional[torch.Tensor]
    ) -> torch.Tensor:
        """(B, T, D) to (B, T, D); the mask as in :class:`SelfAttention`."""
        x = x + self.dropout(self.attention(self.attention_norm(x), key_mask))
        inner = F.gelu(self.fc1(self.feed_forward_norm(x)))
        return x + self.dropout(self.fc2(inner))


def _num_frames(num_samples: torch.Tensor) -> torch.Tensor:
    # Half the windows, upwards: the second convolution pads its input.
    return torch.div(num_samples - WINDOW, HOP * STRIDE, rounding_mode="floor") + 1


def _checked(size: str, given: dict, dropout: float) -> dict:
    """Dimensions of a size, with those that are given.

    Raises:
        ValueError: the size is unknown, or a dimension impossible.
    """
    if size not in SIZES:
        raise ValueError(
            f"found frontend_conf.size={size!r}, expected one of {', '.join(SIZES)}"
        )
    dimensions = {**SIZES[size], **given}
    channels, *numbers = dimensions.values()
    try:
        channels = dimensions["channels"] = list(channels)
        is_possible = len(channels) >= 2 and 0 <= dropout < 1
        is_possible &= all(type(n) is int and n >= 1 for n in (*channels, *numbers))
        hidden_size, _, num_heads, _ = numbers
        is_possible = is_possible and hidden_size % num_heads == 0
    except TypeError:
        is_possible = False
    if not is_possible:
        found = ", ".join(f"{key}={value!r}" for key, value in dimensions.items())
        raise ValueError(
            f"found {found} and dropout={dropout!r} in frontend_conf of spec_cnn, "
            "expected two channels or more, whole numbers of 1 or more, heads that "
            "divide hidden_size, and dropout in [0, 1)"
        )
    return dimensions
