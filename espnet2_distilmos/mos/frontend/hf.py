# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Upstreams from Hugging Face transformers: hub id, local directory or bare config."""

import json
import logging
import math
from typing import List, Optional, Tuple, Union

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.masked_norm import (
    MaskedGroupNorm,
    full_length,
    normalize_waveform,
)
from espnet2_distilmos.mos.masking import frame_mask

# Families whose hidden states are tested to be padding-exact here.
SUPPORTED_MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")

# Fields that say how a checkpoint was stored, not what the network computes.
_STORAGE_KEYS = ("transformers_version", "dtype", "torch_dtype", "architectures")


class HFFrontend(AbsLayerFrontend):
    """A wav2vec 2.0-like network of transformers with all its layers' outputs.

    Args:
        upstream: hub id (``microsoft/wavlm-base``) or local directory with
            ``config.json`` and weights; None for a bare configuration.
        upstream_config: the network's configuration as a dict with ``model_type``.
            Without ``upstream`` the weights are random, drawn from ``init_seed``.
            A trained model's ``config.yaml`` has it filled in.
        normalize_waveform: zero mean, unit variance per utterance; None asks the
            checkpoint's own feature extractor (``do_normalize``).
        freeze: ``none``, ``cnn`` (the convolutions), ``all``, or a number n: the
            convolutions, the projection and the first n transformer layers.
        layerdrop: probability of skipping a layer in training; 0 keeps all layers,
            which the layer mix and the tokens need.
        spec_augment: the checkpoint's own random time and feature masking in
            training. Off by default: it hides the distortion that is to be heard.
        init_seed: seed of the random weights of a bare configuration.
        load_pretrained: False when the weights follow from a trained model: nothing
            is looked up on disk or on the hub.

    Raises:
        ValueError: for a model of another family or an impossible option.
        OSError: when the checkpoint is neither a directory nor in reach.
    """

    def __init__(
        self,
        upstream: Optional[str] = None,
        upstream_config: Optional[dict] = None,
        normalize_waveform: Optional[bool] = None,
        freeze: Union[str, int] = "none",
        layerdrop: float = 0.0,
        spec_augment: bool = False,
        init_seed: int = 0,
        load_pretrained: bool = True,
    ):
        super().__init__()
        if upstream is None and upstream_config is None:
            raise ValueError(
                "found neither `upstream` nor `upstream_config` in frontend_conf, "
                "expected a hub id or local directory, or a configuration with "
                "`model_type`"
            )
        # Not imported at the top: it takes seconds, and --help needs none of it.
        from transformers import AutoConfig, AutoModel

        self.upstream = upstream
        self.init_seed = init_seed
        from_checkpoint = upstream is not None and load_pretrained
        if from_checkpoint:
            hf_config = self._from_hub(AutoConfig, upstream)
            for key, value in (upstream_config or {}).items():
                if key != "model_type" and key not in _STORAGE_KEYS:
                    setattr(hf_config, key, value)
        elif upstream_config is None:
            raise ValueError(
                "found no `upstream_config` in frontend_conf although the weights "
                f"of {upstream} are not to be loaded: use the config.yaml that "
                "training wrote into the experiment directory"
            )
        else:
            plain = {k: v for k, v in upstream_config.items() if k not in _STORAGE_KEYS}
            model_type = plain.pop("model_type", None)
            self._check_family(model_type)
            hf_config = AutoConfig.for_model(model_type, **plain)
        self._check_family(hf_config.model_type)
        # Skipped layers would shorten the list of hidden states.
        hf_config.layerdrop = layerdrop
        self.config_dict = _plain_config(hf_config)
        self.normalize_waveform = (
            normalize_waveform
            if normalize_waveform is not None
            else (_asks_for_normalization(upstream) if from_checkpoint else False)
        )

        if from_checkpoint:
            self.model = self._from_hub(
                AutoModel, upstream, config=hf_config, dtype=torch.float32
            )
        else:
            # Seeded apart from the global generator, so that the token tools, the
            # untrained baseline and every training start from one network.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(init_seed)
                self.model = AutoModel.from_config(hf_config, dtype=torch.float32)
        if not spec_augment:
            # apply_spec_augment stays true and the mask embedding exists, so that
            # mask_time_indices works; only the random masking is switched off.
            self.model.config.mask_time_prob = 0.0
            self.model.config.mask_feature_prob = 0.0
        self.spec_augment = spec_augment
        self._mask_group_norm()
        self._freeze_unused(spec_augment)
        self.freeze = freeze
        self._frozen = self._frozen_modules(freeze)
        for module in self._frozen:
            module.requires_grad_(False)
        if freeze == "all":
            self.requires_grad_(False)
        if freeze != "none":
            # Else the convolutions ask for gradients of their input in training.
            self.model.feature_extractor._requires_grad = False

    @staticmethod
    def _check_family(model_type: Optional[str]) -> None:
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise ValueError(
                f"found a model of type {model_type!r}, expected one of "
                f"{', '.join(SUPPORTED_MODEL_TYPES)}"
            )

    @staticmethod
    def _from_hub(auto_class, upstream: str, **kwargs):
        try:
            return auto_class.from_pretrained(upstream, **kwargs)
        except OSError as error:
            raise OSError(
                f"{upstream} is neither a local directory with a transformers model "
                "nor a model that could be had from the Hugging Face hub: check the "
                "name, or download it once where there is a network and set "
                f"frontend_conf.upstream to its directory ({error})"
            ) from error

    def _mask_group_norm(self) -> None:
        if self.model.config.feat_extract_norm != "group":
            return
        first = self.model.feature_extractor.conv_layers[0]
        first.layer_norm = MaskedGroupNorm.from_group_norm(first.layer_norm)
        # In a tuple: the module is registered once, under its own name.
        self._masked_norms = (first.layer_norm,)

    def _freeze_unused(self, spec_augment: bool) -> None:
        """Take what no hidden state depends on out of training.

        Else DistributedDataParallel waits for gradients that never come.
        """
        embedding = getattr(self.model, "masked_spec_embed", None)
        if embedding is not None:
            embedding.requires_grad_(spec_augment)
        if self.model.config.do_stable_layer_norm:
            # The norm behind the last layer's hidden state.
            self.model.encoder.layer_norm.requires_grad_(False)

    def _frozen_modules(self, freeze: Union[str, int]) -> List[torch.nn.Module]:
        model = self.model
        if freeze == "none":
            return []
        if freeze == "cnn":
            return [model.feature_extractor]
        if freeze == "all":
            return [model]
        if isinstance(freeze, bool) or not isinstance(freeze, int):
            raise ValueError(
                f"found frontend_conf.freeze={freeze!r}, expected none, cnn, all or "
                "the number of first transformer layers"
            )
        if not 0 <= freeze <= self.num_layers:
            raise ValueError(
                f"found frontend_conf.freeze={freeze}, but {self.name} has "
                f"{self.num_layers} transformer layers"
            )
        encoder = model.encoder
        frozen = [model.feature_extractor, model.feature_projection]
        frozen += [encoder.pos_conv_embed, *encoder.layers[:freeze]]
        if not model.config.do_stable_layer_norm:
            # Stable-layer-norm models apply this norm after the last layer.
            frozen.append(encoder.layer_norm)
        return frozen

    def train(self, mode: bool = True) -> "HFFrontend":
        """Set the mode; frozen parts stay in eval mode (no dropout)."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    @property
    def name(self) -> str:
        return self.model.config.model_type

    @property
    def num_layers(self) -> int:
        return self.model.config.num_hidden_layers

    def output_size(self) -> int:
        """Dimension D of the hidden states."""
        return self.model.config.hidden_size

    @property
    def frame_shift(self) -> int:
        return math.prod(self.model.config.conv_stride)

    @property
    def minimum_samples(self) -> int:
        samples = 1
        config = self.model.config
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1]):
            samples = (samples - 1) * stride + kernel
        return samples

    def num_frames(self, num_samples: int) -> int:
        return max(0, int(self._num_frames(torch.tensor(num_samples))))

    def _num_frames(self, num_samples: torch.Tensor, layers: Optional[int] = None):
        config = self.model.config
        pairs = list(zip(config.conv_kernel, config.conv_stride))[:layers]
        for kernel, stride in pairs:
            num_samples = (
                torch.div(num_samples - kernel, stride, rounding_mode="floor") + 1
            )
        return num_samples

    def resolved_conf(self) -> dict:
        return dict(
            upstream=self.upstream,
            upstream_config=self.config_dict,
            normalize_waveform=self.normalize_waveform,
            freeze=self.freeze,
            layerdrop=self.config_dict["layerdrop"],
            spec_augment=self.spec_augment,
            init_seed=self.init_seed,
        )

    def _fingerprint_settings(self) -> str:
        return f"{super()._fingerprint_settings()}:{self.normalize_waveform}"

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """See :meth:`AbsLayerFrontend.forward`."""
        self._check_lengths(speech_lengths)
        if self.normalize_waveform:
            speech = normalize_waveform(speech, speech_lengths)
        lengths = self._num_frames(speech_lengths)
        attention_mask = None
        norms = getattr(self, "_masked_norms", ())
        if not full_length(speech_lengths, speech.size(1)):
            attention_mask = frame_mask(speech_lengths, speech.size(1)).long()
            for norm in norms:
                norm.lengths = self._num_frames(speech_lengths, layers=1)
        try:
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and self.freeze != "all"
            ):
                output = self.model(
                    speech,
                    attention_mask=attention_mask,
                    mask_time_indices=mask_time_indices,
                    output_hidden_states=True,
                )
        finally:
            for norm in norms:
                norm.lengths = None
        hidden_states = list(output.hidden_states)
        if len(hidden_states) != self.num_layers + 1:
            raise RuntimeError(
                f"found {len(hidden_states)} hidden states, expected "
                f"{self.num_layers + 1}: layerdrop must be 0"
            )
        return hidden_states, lengths


def _plain_config(hf_config) -> dict:
    """The configuration in types that YAML writes and reads safely."""
    config = json.loads(hf_config.to_json_string(use_diff=False))
    return {k: v for k, v in config.items() if k not in _STORAGE_KEYS}


def _asks_for_normalization(upstream: str) -> bool:
    """What the checkpoint's ``preprocessor_config.json`` says of ``do_normalize``."""
    from transformers import FeatureExtractionMixin

    try:
        conf, _ = FeatureExtractionMixin.get_feature_extractor_dict(upstream)
    except OSError:
        logging.warning(
            f"{upstream} has no preprocessor_config.json: the waveform is not "
            "normalised (set frontend_conf.normalize_waveform to say otherwise)"
        )
        return False
    return bool(conf.get("do_normalize", False))
