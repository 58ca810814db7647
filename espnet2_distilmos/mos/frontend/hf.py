# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Upstreams from Hugging Face transformers: hub id, local directory or bare config."""

import copy
import json
import logging
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import torch

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf_wav2vec2_bert import Wav2Vec2BertFamily
from espnet2_distilmos.mos.frontend.hf_waveform import (
    Data2VecAudioFamily,
    WaveformFamily,
    WavLMFamily,
)
from espnet2_distilmos.mos.frontend.hf_whisper import WhisperFamily
from espnet2_distilmos.mos.frontend.masked_norm import normalize_waveform
from espnet2_distilmos.mos.frontend.pruned import (
    Pruned,
    keep_heads,
    keep_inner_units,
    read_pruned,
    unpruned,
)

# Families whose hidden states are tested to be padding-exact here, by model_type.
FAMILIES = {
    "data2vec-audio": Data2VecAudioFamily,
    "hubert": WaveformFamily,
    "unispeech-sat": WaveformFamily,
    "wav2vec2": WaveformFamily,
    "wav2vec2-bert": Wav2Vec2BertFamily,
    "wavlm": WavLMFamily,
    "whisper": WhisperFamily,
}

# Fields that say how a checkpoint was stored, not what the network computes.
_STORAGE_KEYS = ("transformers_version", "dtype", "torch_dtype", "architectures")

# What follows the last hidden state; neither computed nor trained.
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
        num_layers: keep the first n transformer layers; None keeps all. Hidden states
            0 to n are those of the whole network, its n-th at the top: a norm that
            the whole network has after its last layer belongs to that layer, so that
            it is not applied to another one. ``upstream_config`` stays the whole
            network's.
        freeze: ``none``, ``cnn`` (the convolutions), ``all``, or ``{layers: n}``,
            also written as the number n: all that comes before the layers, and the
            first n transformer layers.
        lora: adapters as ``{rank: 8, alpha: 16, dropout: 0.0, target_modules: null}``
            (:func:`~espnet2_distilmos.mos.frontend.lora.read_lora`), in all layers that
            ``freeze`` leaves; they alone are trained.
        gradient_checkpointing: compute the activations of convolutions and layers
            again in the backward pass: less memory, more time, the same gradients.
        layerdrop: 0; configurations of version 0.1 have it.
        spec_augment: the checkpoint's own random time and feature masking in
            training. Off by default: it hides the distortion that is to be rated.
            Whisper has none.
        init_seed: seed of the random weights of a bare configuration.
        pruned: the attention heads and inner units that are left of each layer
            (:mod:`~espnet2_distilmos.mos.frontend.pruned`); None for all. Such a
            network is smaller than its ``upstream_config`` says.
        load_pretrained: False when the weights follow from a trained model: nothing
            is looked up on disk or on the hub.

    Raises:
        ImportError: for LoRA without the package peft.
        ValueError: for a model of another family, an impossible option, or a
            checkpoint that lacks weights or wants another input.
        OSError: when the checkpoint is neither a directory nor in reach.
    """

    training_options = ("freeze", "gradient_checkpointing", "spec_augment", "init_seed")

    def __init__(
        self,
        upstream: Optional[str] = None,
        upstream_config: Optional[dict] = None,
        normalize_waveform: Optional[bool] = None,
        num_layers: Optional[int] = None,
        freeze: Union[str, int, dict] = "none",
        lora: Optional[dict] = None,
        gradient_checkpointing: bool = False,
        layerdrop: float = 0.0,
        spec_augment: bool = False,
        init_seed: int = 0,
        pruned: Optional[Mapping[str, Any]] = None,
        load_pretrained: bool = True,
    ):
        super().__init__()
        self.upstream, self.init_seed = upstream, init_seed
        self.spec_augment = spec_augment
        checkpoint = upstream if load_pretrained else None
        config = _read_config(checkpoint, upstream_config)
        # Skipped layers would be missing among the hidden states.
        config.layerdrop = 0.0
        self.config_dict = json.loads(config.to_json_string(use_diff=False))
        for key in _STORAGE_KEYS:
            self.config_dict.pop(key, None)
        self.family = FAMILIES[config.model_type](config)
        self._layers_kept = num_layers
        if num_layers is not None:
            most = config.num_hidden_layers
            if type(num_layers) is not int or not 1 <= num_layers <= most:
                raise ValueError(
                    f"found frontend_conf.num_layers={num_layers!r}, expected 1 to "
                    f"{most}, the transformer layers of {upstream or 'this network'}, "
                    "or null for all of them"
                )
            if num_layers < most:
                self.family.keep_layers(num_layers)
        if layerdrop or (spec_augment and self.family.masks_with_zeros):
            raise ValueError(
                f"found layerdrop={layerdrop} and spec_augment={spec_augment} in "
                "frontend_conf, expected no LayerDrop, and no SpecAugment of a "
                f"{config.model_type} without: leave them out"
            )
        extractor_conf = {} if checkpoint is None else self._read_extractor(checkpoint)
        if normalize_waveform is None:
            normalize_waveform = bool(extractor_conf.get("do_normalize", False))
            normalize_waveform &= self.family.takes_waveform
        self.normalize_waveform = normalize_waveform

        self.model = self._build(checkpoint, config)
        self.family.prepare(self.model)
        self.name = config.model_type
        self.num_layers = config.num_hidden_layers
        self.pruned: Optional[Pruned] = None
        if pruned is not None:
            if checkpoint is not None:
                raise ValueError(
                    f"{checkpoint}: found frontend_conf.pruned with a checkpoint of "
                    "the whole network, expected the pruned model's own weights: "
                    "start from it with --init_model"
                )
            left = read_pruned(pruned, self.unpruned_units())
            self.keep_units(left["heads"], [torch.arange(n) for n in left["ffn"]])
        self.frame_shift = self.family.frame_shift
        self.minimum_samples = self.family.minimum_samples
        parts = self.family.parts(self.model)
        self._choose_trained_parts(
            self.model, parts, freeze, lora, gradient_checkpointing, init_seed
        )
        self.set_mask_training(False)

    def _read_extractor(self, checkpoint: str) -> Dict[str, Any]:
        """The checkpoint's ``preprocessor_config.json``, checked; {} without one."""
        from transformers import FeatureExtractionMixin

        try:
            conf, _ = FeatureExtractionMixin.get_feature_extractor_dict(checkpoint)
        except OSError:
            if self.family.takes_waveform:
                logging.warning(
                    f"{checkpoint} has no preprocessor_config.json: the waveform is "
                    "not normalised (set frontend_conf.normalize_waveform to say "
                    "otherwise)"
                )
            return {}
        for key, expected in self.family.extractor_conf.items():
            if conf.get(key, expected) != expected:
                raise ValueError(
                    f"{checkpoint}: found {key}={conf[key]} in "
                    f"preprocessor_config.json, expected {expected}, the one that "
                    "this frontend computes"
                )
        return conf

    def _build(self, checkpoint: Optional[str], config) -> torch.nn.Module:
        """The network with the checkpoint's weights, or random ones without."""
        missing = set()
        # Token tools, untrained baseline and every training start from one network. A
        # fine-tuned checkpoint may lack the mask embedding: it is drawn here too.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.init_seed)
            if checkpoint is None:
                model = self.family.build(config)
            else:
                model, missing = _find(checkpoint, self.family.load, config=config)
        missing = sorted(missing - {"masked_spec_embed"})
        if missing:
            raise ValueError(
                f"{checkpoint}: found no weights that fit {len(missing)} tensors of a "
                f"{config.model_type} network, the first is {missing[0]}: use a "
                "complete checkpoint, and leave frontend_conf.upstream_config out"
            )
        # The mask embedding exists where the probabilities were not zero, and
        # apply_spec_augment lets mask_time_indices work; only the random masking is
        # switched off.
        model.config.apply_spec_augment = True
        if not self.spec_augment:
            model.config.mask_time_prob = 0.0
            model.config.mask_feature_prob = 0.0
        return model

    def unpruned_units(self) -> Pruned:
        """All units that the network had before any pruning.

        Raises:
            ValueError: of this family none is known.
        """
        if self.family.unit_names is None:
            raise ValueError(
                f"found {self.name}, of which no unit is known that can be pruned, "
                f"expected one of {', '.join(prunable_families())}: take such an "
                "upstream"
            )
        heads = self.family.config.num_attention_heads
        return unpruned(self.num_layers, heads, self.family.inner_units)

    def units(self) -> Pruned:
        """The units that the network has."""
        return self.unpruned_units() if self.pruned is None else self.pruned

    @property
    def head_size(self) -> int:
        """Dimensions of an attention head, before and after pruning."""
        return self.output_size() // self.family.config.num_attention_heads

    def keep_units(
        self, heads: Sequence[Sequence[int]], ffn: Sequence[torch.Tensor]
    ) -> None:
        """Remove all other units from the network.

        Args:
            heads: positions, rising, among the heads that each layer has.
            ffn: positions (long) among the inner units that each layer has.
        """
        before, names = self.units(), self.family.unit_names
        self.family.make_prunable(self.model)
        layers = self.family.parts(self.model).layers
        for layer, of_heads, of_ffn in zip(layers, heads, ffn, strict=True):
            keep_heads(layer, names, of_heads, self.head_size)
            keep_inner_units(layer, names, of_ffn)
        numbers = [
            [all_of[position] for position in kept]
            for all_of, kept in zip(before["heads"], heads)
        ]
        self.pruned = {"heads": numbers, "ffn": [len(kept) for kept in ffn]}

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        return getattr(self.model, "masked_spec_embed", None)

    def _check_maskable(self) -> None:
        if not self.family.masks_with_zeros:
            super()._check_maskable()

    def output_size(self) -> int:
        """Dimension D of the hidden states."""
        return self.model.config.hidden_size

    @property
    def maximum_samples(self) -> Optional[int]:
        return self.family.maximum_samples

    @property
    def frame_centre(self) -> float:
        centre = self.family.frame_centre
        return super().frame_centre if centre is None else centre

    def num_frames(self, num_samples: int) -> int:
        return max(0, int(self.family.num_frames(torch.tensor(num_samples))))

    def resolved_conf(self) -> dict:
        return dict(
            upstream=self.upstream,
            upstream_config=self.config_dict,
            normalize_waveform=self.normalize_waveform,
            num_layers=self._layers_kept,
            freeze=self.freeze,
            lora=self.lora,
            gradient_checkpointing=self.gradient_checkpointing,
            spec_augment=self.spec_augment,
            init_seed=self.init_seed,
            pruned=copy.deepcopy(self.pruned),
        )

    def _fingerprint_settings(self) -> str:
        settings = f"{super()._fingerprint_settings()}:{self.normalize_waveform}"
        # Which heads are left is in no weight.
        return settings + (f":{self.pruned['heads']}" if self.pruned else "")

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """See :meth:`AbsLayerFrontend.forward`."""
        self._check_inputs(speech_lengths, mask_time_indices)
        if self.normalize_waveform:
            lengths = speech_lengths.to(speech.device)
            speech = normalize_waveform(speech, lengths)
        with torch.set_grad_enabled(self._needs_graph(speech)):
            hidden_states = self.family.hidden_states(
                self.model, speech, speech_lengths, mask_time_indices
            )
        frames = self.family.num_frames(speech_lengths)
        return hidden_states, frames.to(speech.device)


def prunable_families() -> List[str]:
    """Families, by model_type, whose attention heads and inner units can be pruned."""
    return [name for name, family in FAMILIES.items() if family.unit_names is not None]


def _read_config(checkpoint: Optional[str], given: Optional[dict]):
    """The checkpoint's configuration, if any, overridden by ``upstream_config``."""
    from transformers import AutoConfig, PretrainedConfig

    given, stored = given or {}, {}
    if checkpoint is not None:
        stored, _ = _find(checkpoint, PretrainedConfig.get_config_dict)
    conf = {**stored, **given}
    model_type = conf.get("model_type")
    if model_type not in FAMILIES or stored.get("model_type", model_type) != model_type:
        raise ValueError(
            f"{checkpoint or 'frontend_conf'}: found a checkpoint of type "
            f"{stored.get('model_type')!r} and upstream_config of type "
            f"{given.get('model_type')!r}, expected at least one of them, and in both "
            f"the same of {', '.join(FAMILIES)} (upstream_config is in the config.yaml "
            "of a trained model)"
        )
    for key in (*_STORAGE_KEYS, "model_type"):
        conf.pop(key, None)
    config = AutoConfig.for_model(model_type, **conf)
    for key, value in _NOT_BUILT.items():
        if hasattr(config, key):
            setattr(config, key, value)
    return config


def _find(checkpoint: str, read, **kwargs):
    is_path = os.path.isabs(checkpoint) or checkpoint.startswith(".")
    if is_path and not os.path.isfile(os.path.join(checkpoint, "config.json")):
        raise OSError(
            f"found no {checkpoint}/config.json, expected the directory of a "
            "transformers model: correct the upstream's path"
        )
    try:
        return read(checkpoint, **kwargs)
    except OSError as error:
        raise OSError(
            f"{checkpoint} is neither a local directory with a transformers model "
            "nor a model that could be had from the Hugging Face hub or its cache: "
            "check the name, or download it once where there is a network and give "
            f"its directory instead ({error})"
        ) from error
