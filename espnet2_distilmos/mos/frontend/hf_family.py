# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What a family of transformers networks must declare for ``frontend: hf``."""

from abc import ABC, abstractmethod
from typing import Any, List, Mapping, Optional, Set, Tuple

import torch

from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.frontend.pruned import UnitNames


class HFFamily(torch.nn.Module, ABC):
    """How one kind of network takes a waveform, and what its parts are.

    Holds constants only: no parameter, and no buffer that a state dict would have.
    The network itself belongs to :class:`HFFrontend`, which passes it to each method.

    Args:
        config: the network's configuration.
    """

    # False when the input is a log-mel spectrogram: its feature extractor then does
    # what it does whatever ``do_normalize`` says.
    takes_waveform = True
    # Whether masked frames are zeros, for want of a mask embedding and SpecAugment.
    masks_with_zeros = False
    # What the checkpoint's preprocessor_config.json must say, where it says it.
    extractor_conf: Mapping[str, Any] = {"sampling_rate": 16000}
    # Its class in transformers.
    extractor_name = "Wav2Vec2FeatureExtractor"
    # Before the names of the weights in a checkpoint.
    checkpoint_prefix = ""
    # As in AbsLayerFrontend; None for its default.
    maximum_samples: Optional[int] = None
    frame_centre: Optional[float] = None
    frame_shift: int
    minimum_samples: int
    # What of a layer can be pruned; None where that is not known.
    unit_names: Optional[UnitNames] = None

    def __init__(self, config):
        super().__init__()
        self.config = config
        # Whether a configuration of transformers says what the network is.
        self.has_config = True

    def keep_layers(self, num_layers: int) -> None:
        """Let the network that is built have its first layers only, fewer than all."""
        self.config.num_hidden_layers = num_layers

    @staticmethod
    def load(upstream: str, config, cls=None) -> Tuple[torch.nn.Module, Set[str]]:
        """Load a checkpoint in fp32 into a class of transformers.

        Returns:
            The network, and the names of its weights that the checkpoint lacks or has
            in another shape.
        """
        from transformers import AutoModel
        from transformers.utils import logging

        # What it lacks is returned, and layers that are left out are nothing to report.
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model, report = (cls or AutoModel).from_pretrained(
                upstream,
                config=config,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        finally:
            logging.set_verbosity(verbosity)
        mismatched = (name for name, *_ in report["mismatched_keys"])
        return model, {*report["missing_keys"], *mismatched}

    @staticmethod
    def build(config) -> torch.nn.Module:
        """Build the network with random weights in fp32."""
        from transformers import AutoModel

        return AutoModel.from_config(config, dtype=torch.float32)

    def prepare(self, model: torch.nn.Module) -> None:
        """Make the network padding-exact; take weights out of training that no
        hidden state depends on, as DistributedDataParallel demands."""

    @property
    def inner_units(self) -> int:
        """Inner units of the feed-forward network of an unpruned layer."""
        return self.config.intermediate_size

    def make_prunable(self, model: torch.nn.Module) -> None:
        """Replace parts of the network that cannot lose units by such as can."""

    def macs_before_layers(self, model: torch.nn.Module, num_samples: int) -> int:
        """Multiply-accumulates of weights before the first layer, of one utterance.

        Only families with ``unit_names`` have it. A spectrum, which has no weights of
        the network, is not counted.
        """
        raise NotImplementedError

    @abstractmethod
    def num_frames(self, num_samples: torch.Tensor) -> torch.Tensor:
        """Frames of each item, from the network's own kernels and strides."""

    @abstractmethod
    def hidden_states(
        self,
        model: torch.nn.Module,
        speech: torch.Tensor,
        lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor],
    ) -> List[torch.Tensor]:
        """As :meth:`AbsLayerFrontend.forward`: (B, N) and (B,) to L + 1 of (B, T, D).

        ``lengths`` may be on the CPU wherever ``speech`` is.
        ``mask_time_indices`` is not None only where the network has a mask embedding,
        or ``masks_with_zeros``.
        """

    @abstractmethod
    def parts(self, model: torch.nn.Module) -> UpstreamParts:
        """Which modules of the network are which part."""
