# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What every upstream must offer: the hidden states of all its layers."""

import hashlib
from abc import abstractmethod
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from espnet2_distilmos.mos.frontend.lora import active_states, plain_name


class AbsLayerFrontend(AbsFrontend):
    """Waveforms in, hidden states of all layers out.

    Every implementation promises, and is tested for:

    * *padding-exact*: an utterance's hidden states are the same alone and in any
      padded batch;
    * *self-contained*: :meth:`resolved_conf` holds all that rebuilds the network
      without the upstream's files;
    * *no surprise in train mode*: no LayerDrop and no SpecAugment unless asked for,
      and frozen parts stay frozen, in ``eval`` mode too;
    * the waveform is normalised inside, under the mask, when the upstream wants it.
    """

    sample_rate: int = 16000
    # Options that say how it is trained; all others say which network it is, and a
    # trained model that training starts from fixes them.
    training_options: Tuple[str, ...] = ("freeze", "init_seed")
    # Adapters, as resolved_conf() has them; None without.
    lora: Optional[Dict[str, Any]] = None
    # As read_freeze() has it.
    freeze: Union[str, int] = "none"
    # The upstream's own random masking in training.
    spec_augment: bool = False

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
            speech_lengths: valid samples of each item, (B,).
            mask_time_indices: (B, T) bool, True where the input of the first layer
                is replaced by the upstream's mask embedding (masked prediction).

        Returns:
            ``num_layers + 1`` tensors (B, T, D): what enters the first transformer
            layer, then what each layer puts out; and the valid frames, (B,).
            Padded frames hold arbitrary finite values.

        Raises:
            ValueError: if an item is shorter than :attr:`minimum_samples`.
        """
        raise NotImplementedError

    @property
    @abstractmethod
    def name(self) -> str:
        """Stream name of the tokens made from this upstream, e.g. ``hubert``."""
        raise NotImplementedError

    @property
    @abstractmethod
    def num_layers(self) -> int:
        """Number of transformer layers L; ``forward`` returns L + 1 tensors."""
        raise NotImplementedError

    @property
    @abstractmethod
    def frame_shift(self) -> int:
        """Samples from one frame to the next."""
        raise NotImplementedError

    @property
    @abstractmethod
    def minimum_samples(self) -> int:
        """Fewest samples that give one frame."""
        raise NotImplementedError

    @property
    def maximum_samples(self) -> Optional[int]:
        """Most samples of an utterance; None when there is no limit."""
        return None

    @property
    def frame_centre(self) -> float:
        """Where the middle of the first frame's receptive field lies, in samples.

        The field is that of what comes before the transformer; networks that pad
        their input, and so centre the first frame elsewhere, say so themselves.
        """
        return (self.minimum_samples - 1) / 2

    @abstractmethod
    def num_frames(self, num_samples: int) -> int:
        """Frames that ``num_samples`` samples give, from the network's own strides."""
        raise NotImplementedError

    def layer_of_parameters(self) -> Dict[str, int]:
        """Where each parameter stands, for layer-wise learning rates.

        Returns:
            Names as in ``named_parameters()``, each with the number (0 to L) of the
            first hidden state that depends on it: 0 for all that comes before the
            layers, l for layer l, L for what comes after the last one.

        Raises:
            ValueError: where the layers are not known.
        """
        raise ValueError(
            f"the layers of {self.name} are not known here, so it has no layer-wise "
            "learning rates: leave --upstream_lr_decay out"
        )

    def set_mask_training(self, wanted: bool) -> None:
        """Say whether any loss masks the input of the first layer.

        Raises:
            ValueError: when one does, and there is nothing to mask with.
        """
        embedding = self._mask_embedding
        if embedding is not None:
            # No hidden state depends on it without masking, and it stands before what
            # freezing whole layers keeps as it is.
            trained = self.lora is None and self.freeze in ("none", "cnn")
            embedding.requires_grad_(trained and (wanted or self.spec_augment))
        elif wanted:
            raise ValueError(
                f"found a loss of the masked view, but this {self.name} has no mask "
                "embedding that is known here (in a configuration of transformers: "
                "mask_time_prob above 0): take another upstream, set "
                "model_conf.mask.start_prob to 0, or leave the loss out"
            )

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        """What hidden frames are replaced by; None where there is no such thing."""
        return None

    @abstractmethod
    def resolved_conf(self) -> dict:
        """Keyword arguments that rebuild this frontend with no upstream files.

        Goes into the experiment's ``config.yaml``: plain YAML types only.
        """
        raise NotImplementedError

    def checkpoint_files(self) -> List[str]:
        """Files without which :meth:`resolved_conf` does not rebuild the network.

        Empty wherever the configuration says it all. Training keeps a copy of each
        beside ``config.yaml``, under its own base name.
        """
        return []

    def relocated_conf(self, folder: str) -> dict:
        """:meth:`resolved_conf` with all :meth:`checkpoint_files` in ``folder``."""
        return self.resolved_conf()

    def fingerprint(self) -> str:
        """Identify the weights as they are now, and how they hear the waveform.

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

    def _check_lengths(self, speech_lengths: torch.Tensor) -> None:
        shortest = int(speech_lengths.min())
        if shortest < self.minimum_samples:
            raise ValueError(
                f"found an utterance of {shortest} samples, expected at least "
                f"{self.minimum_samples} ({self.name} needs them for one frame): "
                "filter short utterances (stage 4, --min_wav_duration)"
            )
