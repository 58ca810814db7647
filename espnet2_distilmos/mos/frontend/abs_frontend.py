# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every upstream must offer: the hidden states of all its layers."""

import hashlib
import math
from abc import abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet2_distilmos.mos.frontend.gradient_checkpointing import checkpoint_modules
from espnet2_distilmos.mos.frontend.lora import (
    active_states,
    add_lora,
    plain_name,
    read_lora,
)
from espnet2_distilmos.mos.frontend.parts import UpstreamParts, read_freeze


class AbsLayerFrontend(AbsFrontend):
    """Waveforms in, hidden states of all layers out.

    Every implementation promises, and is tested for:

    * *padding-exact*: an utterance's hidden states are the same alone and in any
      padded batch;
    * *self-contained*: :meth:`resolved_conf`, and copies of :meth:`checkpoint_files`,
      are all that rebuilds the network;
    * *no surprise in train mode*: no LayerDrop, no SpecAugment unless asked for, and
      frozen parts stay frozen, in ``eval`` mode too;
    * the waveform is normalised inside, under the mask, when the upstream wants it.
    """

    # Stream name of the tokens made from this upstream, e.g. ``hubert``.
    name: str
    # Transformer layers L; ``forward`` returns L + 1 tensors.
    num_layers: int
    # Samples from one frame to the next, and fewest samples that give a frame.
    frame_shift: int
    minimum_samples: int
    # Most samples of an utterance; None when there is no limit.
    maximum_samples: Optional[int] = None
    sample_rate: int = 16000
    # Options that say how it is trained; all others say which network it is, and a
    # trained model that training starts from fixes them.
    training_options: Tuple[str, ...] = ("freeze", "init_seed")
    # As read_freeze() and read_lora() have them.
    freeze: Union[str, int] = "none"
    lora: Optional[Dict[str, Any]] = None
    # The upstream's own random masking in training.
    spec_augment: bool = False
    # None where the parts of the network are not known.
    _parts: Optional[UpstreamParts] = None
    _frozen: Sequence[torch.nn.Module] = ()

    @abstractmethod
    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """Compute the hidden states of all layers.

        Args:
            speech: waveforms in [-1, 1] at ``sample_rate``, (B, N), padded right.
            speech_lengths: valid samples of each item, (B,); best on the CPU, wherever
                ``speech`` is, since they are read.
            mask_time_indices: (B, T) bool, True where the input of the first layer
                is replaced by the upstream's mask embedding (masked prediction).

        Returns:
            ``num_layers + 1`` tensors (B, T, D): what enters the first transformer
            layer, then what each layer puts out; and the valid frames, (B,), where
            ``speech`` is.
            Padded frames hold arbitrary finite values.

        Raises:
            ValueError: an item is too short or too long, or is to be masked and there
                is nothing to mask with.
        """

    @property
    def frame_centre(self) -> float:
        """Centre, in samples, of what the first frame before the transformer reads.

        Networks that pad their input override this.
        """
        return (self.minimum_samples - 1) / 2

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples give, from the network's own strides."""

    @abstractmethod
    def resolved_conf(self) -> dict:
        """Keyword arguments that rebuild this frontend, of plain YAML types."""

    def checkpoint_files(self) -> List[str]:
        """Files without which :meth:`resolved_conf` does not rebuild the network.

        Training keeps a copy of each beside ``config.yaml``, under its own base name.
        """
        return []

    def relocated_conf(self, folder: str) -> dict:
        """:meth:`resolved_conf` with all :meth:`checkpoint_files` in ``folder``."""
        return self.resolved_conf()

    def layer_of_parameters(self) -> Dict[str, int]:
        """Map each parameter to its layer, for layer-wise learning rates.

        Returns:
            Names as in ``named_parameters()``, each with the number (0 to L) of the
            first hidden state that depends on it.

        Raises:
            ValueError: where the layers are not known.
        """
        parts = self._known_parts("upstream_lr_decay")
        layer_of = {}
        for number, layer in enumerate(parts.layers, start=1):
            layer_of.update((id(p), number) for p in layer.parameters())
        for part in parts.after_layers:
            layer_of.update((id(p), self.num_layers) for p in part.parameters())
        return {name: layer_of.get(id(p), 0) for name, p in self.named_parameters()}

    def set_mask_training(self, wanted: bool) -> None:
        """Say whether any loss masks the input of the first layer.

        Raises:
            ValueError: when one does, and there is nothing to mask with.
        """
        if wanted:
            self._check_maskable()
        if self._mask_embedding is not None:
            # Without masking no hidden state depends on it; it precedes the layers.
            is_free = self.lora is None and self.freeze in ("none", "cnn")
            is_used = wanted or self.spec_augment
            self._mask_embedding.requires_grad_(is_free and is_used)

    def _check_maskable(self) -> None:
        if self._mask_embedding is None:
            raise ValueError(
                "found masked prediction (mask_time_indices, or a loss of the masked "
                f"view), but this {self.name} has no mask embedding that is known here "
                "(in a configuration of transformers: mask_time_prob above 0): take "
                "another upstream, set model_conf.mask.start_prob to 0, or leave the "
                "loss out"
            )

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        """What replaces masked frames; None where there is no such thing."""
        return None

    def train(self, mode: bool = True) -> "AbsLayerFrontend":
        """Set the mode; frozen parts stay in eval mode (no dropout)."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def _known_parts(self, option: str) -> UpstreamParts:
        if self._parts is None:
            raise ValueError(
                f"found {option}, but the parts of {self.name} are not known here: "
                "leave it out (freeze may be none or all)"
            )
        return self._parts

    def _choose_trained_parts(
        self,
        model: torch.nn.Module,
        parts: Optional[UpstreamParts],
        freeze: Union[str, int, dict],
        lora: Optional[dict],
        gradient_checkpointing: bool,
        seed: int,
    ) -> None:
        """Freeze parts of ``model`` and add adapters drawn from ``seed``.

        Raises:
            ValueError: an option is impossible, or needs parts that are not known.
        """
        self._parts = parts
        self.freeze, self.lora = read_freeze(freeze), read_lora(lora)
        self.gradient_checkpointing = gradient_checkpointing
        first = self.freeze
        if self.lora is not None:
            # They alone are trained, so that whole layers are frozen in any case.
            first = {"none": 0, "cnn": 0, "all": self.num_layers}.get(first, first)
        if first == "all":
            self._frozen = [model]
        elif first == "cnn":
            self._frozen = self._known_parts("frontend_conf.freeze").convolutions
        elif first != "none":
            parts = self._known_parts("frontend_conf.freeze or lora")
            if not 0 <= first <= self.num_layers - (self.lora is not None):
                raise ValueError(
                    f"found frontend_conf.freeze={freeze} and lora={lora}, but "
                    f"{self.name} has {self.num_layers} transformer layers: freeze "
                    "fewer (with lora at least one is left)"
                )
            after = parts.after_layers if first == self.num_layers else []
            self._frozen = [*parts.before_layers, *parts.layers[:first], *after]
        for module in self._frozen:
            module.requires_grad_(False).eval()
        if self.lora is not None:
            layers = parts.layers[first:]
            self.lora = add_lora(model, layers, self.lora, parts.lora_targets, seed)
        if gradient_checkpointing:
            parts = self._known_parts("frontend_conf.gradient_checkpointing")
            checkpoint_modules([*parts.blocks, *parts.layers])

    def _needs_graph(self, speech: torch.Tensor) -> bool:
        """Whether to build a graph: frozen weights need none, a waveform may."""
        wanted = self.freeze != "all" or speech.requires_grad
        return torch.is_grad_enabled() and wanted

    def fingerprint(self) -> str:
        """Identify the weights as they are now, and the treatment of the waveform.

        An adapter that adds nothing yet changes no hidden state, and counts as absent:
        tokens of an upstream serve its training with LoRA.

        Returns:
            32 hexadecimal digits over names, shapes and fp32 bytes of all tensors.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(self._fingerprint_settings().encode())
        states = active_states(self.state_dict())
        if any(plain_name(key) is None for key in states):
            digest.update(f"alpha {self.lora['alpha']}".encode())
        for key, value in sorted(states.items()):
            array = value.detach().to("cpu", torch.float32).contiguous().numpy()
            digest.update(f"{key}{tuple(array.shape)}".encode())
            digest.update(memoryview(array).cast("B") if array.size else b"")
        return digest.hexdigest()

    def _fingerprint_settings(self) -> str:
        """Settings that change the hidden states without changing a weight."""
        return f"{self.name}:{self.frame_shift}"

    def _check_inputs(
        self, speech_lengths: torch.Tensor, mask_time_indices: Optional[torch.Tensor]
    ) -> None:
        if mask_time_indices is not None:
            self._check_maskable()
        shortest, longest = int(speech_lengths.min()), int(speech_lengths.max())
        least, most = self.minimum_samples, self.maximum_samples or math.inf
        if shortest < least or longest > most:
            raise ValueError(
                f"found utterances of {shortest} to {longest} samples, expected "
                f"{least} to {most} (what {self.name} takes): filter short and long "
                "ones (stage 4, --min_wav_duration and --max_wav_duration)"
            )
