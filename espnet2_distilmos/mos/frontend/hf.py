# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Upstreams from Hugging Face transformers: hub id, local directory or bare config."""

import json
import logging
from typing import Dict, List, Optional, Tuple, Union

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.gradient_checkpointing import checkpoint_modules
from espnet2_distilmos.mos.frontend.hf_wav2vec2_bert import Wav2Vec2BertFamily
from espnet2_distilmos.mos.frontend.hf_waveform import (
    Data2VecAudioFamily,
    WaveformFamily,
)
from espnet2_distilmos.mos.frontend.hf_whisper import WhisperFamily
from espnet2_distilmos.mos.frontend.lora import (
    add_lora,
    layers_without_adapters,
    read_lora,
)
from espnet2_distilmos.mos.frontend.masked_norm import normalize_waveform
from espnet2_distilmos.mos.frontend.parts import frozen_modules, read_freeze

# Families whose hidden states are tested to be padding-exact here, by model_type.
FAMILIES = {
    "data2vec-audio": Data2VecAudioFamily,
    "hubert": WaveformFamily,
    "unispeech-sat": WaveformFamily,
    "wav2vec2": WaveformFamily,
    "wav2vec2-bert": Wav2Vec2BertFamily,
    "wavlm": WaveformFamily,
    "whisper": WhisperFamily,
}

# Fields that say how a checkpoint was stored, not what the network computes.
_STORAGE_KEYS = ("transformers_version", "dtype", "torch_dtype", "architectures")

# What stands behind the last hidden state; neither computed nor trained.
_NOT_BUILT = {"add_adapter": False, "use_intermediate_ffn_before_adapter": False}


class HFFrontend(AbsLayerFrontend):
    """A speech encoder of transformers with all its layers' outputs.

    The ``model_type`` of its configuration picks the family (``FAMILIES``): what is
    particular to one is in its class.

    Args:
        upstream: hub id (``microsoft/wavlm-base``) or local directory with
            ``config.json`` and weights; None for a bare configuration.
        upstream_config: the network's configuration as a dict with ``model_type``.
            Without ``upstream`` the weights are random, drawn from ``init_seed``.
            A trained model's ``config.yaml`` has it filled in.
        normalize_waveform: zero mean, unit variance per utterance; None asks the
            checkpoint's own feature extractor (``do_normalize``).
            Log-mel families (Whisper, wav2vec2-BERT) do so only when told.
        freeze: ``none``, ``cnn`` (the convolutions), ``all``, or ``{layers: n}``,
            also written as the number n: all that comes before the layers, and the
            first n transformer layers.
        lora: adapters as ``{rank: 8, alpha: 16, dropout: 0.0, target_modules: null}``
            (see :mod:`~espnet2_distilmos.mos.frontend.lora`), by default on the query,
            key, value and output projections of each layer's attention. They alone are
            trained: ``freeze: {layers: n}`` leaves the first n layers without, ``none``
            and ``cnn`` give them to all layers. What comes before the first adapter
            stays in eval mode and keeps no activations.
        gradient_checkpointing: compute the activations of convolutions and layers
            again in the backward pass instead of keeping them: less memory, more
            time, the same gradients.
        layerdrop: probability of skipping a layer in training; 0 keeps all layers,
            which the layer mix and the tokens need.
        spec_augment: the checkpoint's own random time and feature masking in
            training. Off by default: it hides the distortion that is to be heard.
            Whisper has neither this nor LayerDrop here.
        init_seed: seed of the random weights of a bare configuration.
        load_pretrained: False when the weights follow from a trained model: nothing
            is looked up on disk or on the hub.

    Raises:
        ImportError: for LoRA without the package peft.
        ValueError: for a model of another family, an impossible option, or a
            checkpoint that lacks weights or wants another input.
        OSError: when the checkpoint is neither a directory nor in reach.
    """

    training_options = (
        "freeze",
        "gradient_checkpointing",
        "layerdrop",
        "spec_augment",
        "init_seed",
    )

    def __init__(
        self,
        upstream: Optional[str] = None,
        upstream_config: Optional[dict] = None,
        normalize_waveform: Optional[bool] = None,
        freeze: Union[str, int, dict] = "none",
        lora: Optional[dict] = None,
        gradient_checkpointing: bool = False,
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
        from transformers import AutoConfig, PretrainedConfig

        self.upstream = upstream
        self.init_seed = init_seed
        from_checkpoint = upstream is not None and load_pretrained
        if from_checkpoint:
            stored, _ = _find(upstream, PretrainedConfig.get_config_dict)
            self._check_family(stored.get("model_type"), f"{upstream}: ")
            given = (upstream_config or {}).get("model_type", stored["model_type"])
            if given != stored["model_type"]:
                raise ValueError(
                    f"{upstream}: found a model of type {stored['model_type']!r}, but "
                    f"frontend_conf.upstream_config is of {given!r}: leave "
                    "upstream_config out"
                )
            hf_config = _find(upstream, AutoConfig.from_pretrained)
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
        family = FAMILIES[hf_config.model_type]
        if not family.has_training_noise and (layerdrop or spec_augment):
            raise ValueError(
                f"found frontend_conf.layerdrop={layerdrop} and spec_augment="
                f"{spec_augment}, but {hf_config.model_type} has neither here: "
                "leave them out"
            )
        # Skipped layers would shorten the list of hidden states.
        hf_config.layerdrop = layerdrop
        for key, value in _NOT_BUILT.items():
            if hasattr(hf_config, key):
                setattr(hf_config, key, value)
        self.config_dict = _plain_config(hf_config)
        self.family = family(hf_config)
        extractor_conf = self._extractor_conf() if from_checkpoint else {}
        self.normalize_waveform = (
            normalize_waveform
            if normalize_waveform is not None
            else self.family.takes_waveform
            and bool(extractor_conf.get("do_normalize", False))
        )

        # Seeded apart from the global generator, so that the token tools, the
        # untrained baseline and every training start from one network. A fine-tuned
        # checkpoint may lack the mask embedding: it is drawn here too.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(init_seed)
            if from_checkpoint:
                self.model = self._load(upstream, hf_config)
            else:
                self.model = self.family.build(hf_config)
        # The mask embedding exists where the probabilities were not zero, and
        # apply_spec_augment lets mask_time_indices work; only the random masking is
        # switched off.
        self.model.config.apply_spec_augment = True
        if not spec_augment:
            self.model.config.mask_time_prob = 0.0
            self.model.config.mask_feature_prob = 0.0
        self.spec_augment = spec_augment
        self.family.prepare(self.model)
        if self._mask_embedding is not None:
            # No hidden state depends on it without masking.
            self._mask_embedding.requires_grad_(spec_augment)
        self.freeze = read_freeze(freeze)
        self._parts = self.family.parts(self.model)
        self.lora = read_lora(lora)
        frozen = self.freeze
        if self.lora is not None:
            frozen = layers_without_adapters(frozen, self.num_layers, self.name)
        self._frozen = frozen_modules(frozen, self.model, self._parts, self.name)
        for module in self._frozen:
            module.requires_grad_(False)
            for part in module.modules():
                if hasattr(part, "_requires_grad"):
                    # Else the convolutions ask for gradients of their input.
                    part._requires_grad = False
        if self.lora is not None:
            layers = self._parts.layers[frozen:]
            targets = self.family.lora_targets
            self.lora = add_lora(self.model, layers, self.lora, targets, init_seed)
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_modules([*self._parts.blocks, *self._parts.layers])

    @staticmethod
    def _check_family(model_type: Optional[str], where: str = "") -> None:
        if model_type not in FAMILIES:
            raise ValueError(
                f"{where}found a model of type {model_type!r}, expected one of "
                f"{', '.join(FAMILIES)}"
            )

    def _extractor_conf(self) -> dict:
        """The checkpoint's ``preprocessor_config.json``, checked; {} without one."""
        from transformers import FeatureExtractionMixin

        try:
            conf, _ = FeatureExtractionMixin.get_feature_extractor_dict(self.upstream)
        except OSError:
            if self.family.takes_waveform:
                logging.warning(
                    f"{self.upstream} has no preprocessor_config.json: the waveform "
                    "is not normalised (set frontend_conf.normalize_waveform to say "
                    "otherwise)"
                )
            return {}
        for key, expected in self.family.extractor_conf.items():
            if conf.get(key, expected) != expected:
                raise ValueError(
                    f"{self.upstream}: found {key}={conf[key]} in "
                    f"preprocessor_config.json, expected {expected}, the one that "
                    "this frontend computes"
                )
        return conf

    def _load(self, upstream: str, hf_config) -> torch.nn.Module:
        try:
            model, missing = _find(upstream, self.family.load, config=hf_config)
        except RuntimeError as error:
            if "ignore_mismatched_sizes" not in str(error):
                raise
            raise ValueError(
                f"{upstream}: found weights of other shapes than its config.json and "
                "frontend_conf.upstream_config say (transformers lists them above): "
                "leave upstream_config out, or take the checkpoint's own config.json"
            ) from error
        missing = sorted(missing - {"masked_spec_embed"})
        if missing:
            raise ValueError(
                f"{upstream}: found no weights for {len(missing)} tensors of a "
                f"{hf_config.model_type} network, the first is {missing[0]}: use a "
                "complete checkpoint"
            )
        return model

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        return getattr(self.model, "masked_spec_embed", None)

    def set_mask_training(self, wanted: bool) -> None:
        if not self.family.masks_with_zeros:
            super().set_mask_training(wanted)

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
        return self.family.frame_shift

    @property
    def minimum_samples(self) -> int:
        return self.family.minimum_samples

    @property
    def maximum_samples(self) -> Optional[int]:
        return self.family.maximum_samples

    @property
    def frame_centre(self) -> float:
        return self.family.frame_centre

    def num_frames(self, num_samples: int) -> int:
        return max(0, int(self.family.num_frames(torch.tensor(num_samples))))

    def layer_of_parameters(self) -> Dict[str, int]:
        return self._parts.layer_of_parameters(self)

    def resolved_conf(self) -> dict:
        return dict(
            upstream=self.upstream,
            upstream_config=self.config_dict,
            normalize_waveform=self.normalize_waveform,
            freeze=self.freeze,
            lora=self.lora,
            gradient_checkpointing=self.gradient_checkpointing,
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
        """See :meth:`AbsLayerFrontend.forward`.

        Raises:
            ValueError: also if an item is longer than the network has positions, or
                if it is to be masked and the network has no mask embedding.
        """
        self._check_lengths(speech_lengths)
        maskable = self.family.masks_with_zeros or self._mask_embedding is not None
        if mask_time_indices is not None and not maskable:
            raise ValueError(
                f"found mask_time_indices, but this {self.name} model has no mask "
                "embedding: masked prediction needs an upstream that was pretrained "
                "with one and a configuration with mask_time_prob > 0"
            )
        if self.normalize_waveform:
            speech = normalize_waveform(speech, speech_lengths)
        # Frozen weights need no graph, but a waveform may want its gradient.
        wanted = self.freeze != "all" or speech.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            hidden_states = self.family.hidden_states(
                self.model, speech, speech_lengths, mask_time_indices
            )
        if len(hidden_states) != self.num_layers + 1:
            raise RuntimeError(
                f"found {len(hidden_states)} hidden states, expected "
                f"{self.num_layers + 1}: layerdrop must be 0"
            )
        return hidden_states, self.family.num_frames(speech_lengths)

    def _check_lengths(self, speech_lengths: torch.Tensor) -> None:
        super()._check_lengths(speech_lengths)
        most = self.maximum_samples
        if most is not None and int(speech_lengths.max()) > most:
            raise ValueError(
                f"found an utterance of {int(speech_lengths.max())} samples, expected "
                f"at most {most} ({self.name} has no positions for more): filter or "
                "split long utterances (stage 4, --max_wav_duration)"
            )


def _plain_config(hf_config) -> dict:
    """The configuration in types that YAML writes and reads safely."""
    config = json.loads(hf_config.to_json_string(use_diff=False))
    return {k: v for k, v in config.items() if k not in _STORAGE_KEYS}


def _find(upstream: str, read, **kwargs):
    """Read something of a checkpoint, with a sentence when it is out of reach."""
    try:
        return read(upstream, **kwargs)
    except OSError as error:
        raise OSError(
            f"{upstream} is neither a local directory with a transformers model "
            "nor a model that could be had from the Hugging Face hub or its cache: "
            "check the name, or download it once where there is a network and set "
            f"frontend_conf.upstream to its directory ({error})"
        ) from error
