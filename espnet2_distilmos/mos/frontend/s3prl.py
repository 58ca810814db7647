# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Upstreams of s3prl: every entry whose hidden states have one size and rate."""

import json
import logging
import os
from typing import Dict, List, Optional, Set, Tuple, Union

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.gradient_checkpointing import checkpoint_modules
from espnet2_distilmos.mos.frontend.lora import (
    add_lora,
    layers_without_adapters,
    read_lora,
)
from espnet2_distilmos.mos.frontend.masked_norm import (
    MaskedGroupNorm,
    normalize_waveform,
)
from espnet2_distilmos.mos.frontend.parts import (
    UpstreamParts,
    frozen_modules,
    read_freeze,
)
from espnet2_distilmos.mos.frontend.s3prl_entry import (
    PATH_SUFFIXES,
    TRANSFORMERS_FAMILIES,
    build_entry,
)
from espnet2_distilmos.mos.masking import frame_mask

# An utterance alone and in a padded batch may differ by this much, relative to the
# layer's RMS, for the entry to be run in batches. The contract is 1e-4.
PROBE_TOLERANCE = 5e-5
# Samples; odd ones, so that no frame ends where an utterance does.
_PROBE_LENGTHS = (12345, 7001, 9770)


class S3PRLFrontend(AbsLayerFrontend):
    """An upstream of ``s3prl.nn.S3PRLUpstream`` with all its layers' outputs.

    The hidden states are those of ``S3PRLUpstream`` for the single file, without the
    copies of the last frame that it appends: a second of WavLM has 49 frames, not 50.

    ``wavlm``, ``hubert``, ``wav2vec2``, ``data2vec`` and ``unispeech_sat`` entries
    (hub names and ``_local`` ones) and ``hf_hubert_custom``, ``hf_wav2vec2_custom``
    are *recognised*: their group norm, padding mask and positional convolutions are
    given the valid lengths, so that they are exact in a padded batch; parts can be
    frozen; they are rebuilt from ``upstream_config`` with no file; audio stays on its
    device. Every other entry is a closed box: run one utterance at a time unless the
    probe finds it exact, in eval mode also in training (its dropout or masking cannot
    be told apart), frozen or trained as a whole, and packed with its checkpoint.
    A few of those closed boxes (``vggish``) take audio through NumPy themselves.

    Args:
        upstream: name in s3prl's hub, such as ``wavlm_base_plus`` or ``wavlm_local``.
        path_or_url: checkpoint of a ``_local``, ``_url`` or ``_custom`` entry. With a
            plain name (``wavlm``) it replaces the download.
        download_dir: directory with the files that s3prl downloads for ``upstream``;
            None is its own cache. The ``config.yaml`` of a trained closed box has it
            filled in.
        upstream_config: the network's configuration; a trained model's
            ``config.yaml`` has it filled in. Under a ``_local`` or ``_custom`` name
            without ``path_or_url`` the weights are random; a checkpoint that is
            loaded brings its own configuration.
        extra_conf: further arguments of the entry (``extra_conf`` of S3PRLUpstream).
        freeze: ``none``, ``all``; for recognised entries ``cnn`` (the convolutions)
            or ``{layers: n}``, also written as the number n: convolutions, projection
            and first n transformer layers.
            s3prl itself never trains the convolutions; ``none`` does.
        lora, gradient_checkpointing: as in :class:`HFFrontend`; for recognised
            entries.
        one_by_one: True runs one utterance at a time, False whole padded batches;
            None compares both once and takes batches where they are exact.
        init_seed: seed of the random weights of a bare configuration.
        load_pretrained: False when the weights follow from a trained model.

    Raises:
        ImportError: if s3prl is not installed, or for LoRA without the package peft.
        ValueError: for an unknown name, an impossible option, a file of another kind
            or an entry with several sizes or rates.
        OSError: when the checkpoint is not in reach.
    """

    training_options = ("freeze", "gradient_checkpointing", "one_by_one", "init_seed")

    def __init__(
        self,
        upstream: str,
        path_or_url: Optional[str] = None,
        upstream_config: Optional[dict] = None,
        extra_conf: Optional[dict] = None,
        freeze: Union[str, int, dict] = "none",
        lora: Optional[dict] = None,
        gradient_checkpointing: bool = False,
        one_by_one: Optional[bool] = None,
        init_seed: int = 0,
        download_dir: Optional[str] = None,
        load_pretrained: bool = True,
    ):
        super().__init__()
        self.upstream = upstream
        self.path_or_url = path_or_url
        self.extra_conf = dict(extra_conf or {})
        self.freeze = read_freeze(freeze)
        self.init_seed = init_seed
        self.download_dir = download_dir
        takes_path = str(upstream).endswith(PATH_SUFFIXES)
        random_weights = load_pretrained and path_or_url is None and takes_path
        from_config = upstream_config is not None and (
            random_weights or not load_pretrained
        )
        entry = build_entry(
            upstream,
            path_or_url,
            upstream_config if from_config else None,
            self.extra_conf,
            init_seed if random_weights else None,
            download_dir,
        )
        self.model = entry.expert
        self.upstream_config = entry.config
        self._family = entry.family
        self._downloads = entry.downloads
        self._check_sizes(entry.hidden_sizes, entry.rates)
        self._num_layers = len(entry.hidden_sizes) - 1
        self._output_size = entry.hidden_sizes[0]
        self._frame_shift = entry.rates[0]

        # Valid lengths and mask of the batch at hand, for the hooks.
        self._lengths: Optional[torch.Tensor] = None
        self._time_mask: Optional[torch.Tensor] = None
        # In tuples: the modules are registered once, under their own names.
        self._norms: Tuple[MaskedGroupNorm, ...] = ()
        if self._family in TRANSFORMERS_FAMILIES:
            self._adapt_transformers()
        elif self._family is not None:
            self._adapt_fairseq()
        self.model.eval()
        self._first_frame, self._minimum_samples = self._measure_frames()
        # Constants instead of weights tell nothing.
        with_weights = load_pretrained or not from_config
        self.one_by_one = (
            self._choose_one_by_one(with_weights) if one_by_one is None else one_by_one
        )
        self._freeze_unused()
        self._parts = self._find_parts()
        self._refuse_closed_box("lora", lora is not None)
        self._refuse_closed_box("gradient_checkpointing", gradient_checkpointing)
        self.lora = read_lora(lora)
        frozen = self.freeze
        if self.lora is not None:
            frozen = layers_without_adapters(frozen, self.num_layers, self.name)
        self._frozen = frozen_modules(frozen, self.model, self._parts, self.name)
        for module in self._frozen:
            module.requires_grad_(False)
        if frozen != "none" and self._family in TRANSFORMERS_FAMILIES:
            # Else the convolutions ask for gradients of their input in training.
            self.model.model.feature_extractor._requires_grad = False
        elif frozen != "none" and self._family is not None:
            self.model.model.feature_grad_mult = 0.0
        if self.lora is not None:
            layers = self._parts.layers[frozen:]
            targets = self._lora_targets()
            self.lora = add_lora(self.model, layers, self.lora, targets, init_seed)
        self.gradient_checkpointing = gradient_checkpointing
        if gradient_checkpointing:
            checkpoint_modules([*self._parts.blocks, *self._parts.layers])
        files = self.checkpoint_files()
        if files and load_pretrained:
            logging.warning(
                f"{upstream} of s3prl cannot be rebuilt from configuration: a copy of "
                f"{', '.join(files)} is kept with the model"
            )
        elsewhere = set(map(os.path.realpath, entry.files)) - set(
            map(os.path.realpath, files)
        )
        if self.upstream_config is None and elsewhere:
            logging.warning(
                f"{upstream} of s3prl reads {', '.join(sorted(elsewhere))} from where "
                "no option can point to: a trained model needs it there again"
            )
        self.train()

    @staticmethod
    def _check_sizes(hidden_sizes: List[int], rates: List[int]) -> None:
        if len(set(hidden_sizes)) != 1 or len(set(rates)) != 1:
            raise ValueError(
                f"found hidden states of sizes {sorted(set(hidden_sizes))} and rates "
                f"{sorted(set(rates))}, expected one size and one rate: choose "
                "another entry of s3prl"
            )

    # Exactness in padded batches

    def _adapt_transformers(self) -> None:
        model = self.model.model
        # Skipped layers would shorten the list of hidden states.
        model.config.layerdrop = 0.0
        # apply_spec_augment stays: without it mask_time_indices is ignored too.
        model.config.mask_time_prob = 0.0
        model.config.mask_feature_prob = 0.0
        first = model.feature_extractor.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        if isinstance(norm, torch.nn.GroupNorm):
            first.layer_norm = MaskedGroupNorm.from_group_norm(norm)
            self._norms = (first.layer_norm,)
        self._first_conv = (first.conv.kernel_size[0], first.conv.stride[0])

    def _adapt_fairseq(self) -> None:
        model = self.model.model
        model.feature_grad_mult = 1.0
        first = model.feature_extractor.conv_layers[0]
        for index, part in enumerate(first):
            if isinstance(part, torch.nn.GroupNorm):
                first[index] = MaskedGroupNorm.from_group_norm(part)
                self._norms = (first[index],)
        self._first_conv = (first[0].kernel_size[0], first[0].stride[0])
        model.encoder.register_forward_pre_hook(
            self._before_encoder, with_kwargs=True, prepend=True
        )
        for block in model.encoder.pos_conv:
            if isinstance(block, torch.nn.Sequential):
                # data2vec stacks convolutions; padding must stay zero between them.
                block.register_forward_pre_hook(self._before_position_block)

    def _before_encoder(self, module, args, kwargs):
        """The padding mask from true frame counts, and the mask embedding.

        s3prl's WavLM and HuBERT divide the samples evenly among the frames, which
        is off by up to several frames for the shorter utterances of a batch.
        """
        x = args[0]
        if self._time_mask is not None:
            embedding = self.model.model.mask_emb.to(x.dtype)
            x = torch.where(self._time_mask.unsqueeze(-1), embedding, x)
        padding = None
        if self._lengths is not None:
            padding = ~frame_mask(self._lengths, x.size(1))
        return (x, *args[1:]), {**kwargs, "padding_mask": padding}

    def _before_position_block(self, module, args):
        if self._lengths is None:
            return None
        x = args[0]
        valid = frame_mask(self._lengths, x.size(-1)).unsqueeze(1)
        return (torch.where(valid, x, x.new_zeros(())), *args[1:])

    def _choose_one_by_one(self, with_weights: bool) -> bool:
        if not with_weights:
            return self._family is None
        difference = self._probe_exactness()
        if difference <= PROBE_TOLERANCE:
            return False
        logging.warning(
            f"{self.upstream} of s3prl is run one utterance at a time: in a padded "
            f"batch its hidden states change by up to {difference:.1e} of their RMS"
        )
        return True

    @torch.no_grad()
    def _probe_exactness(self) -> float:
        """Largest difference between alone and in a padded batch, by the RMS."""
        lengths = list(_PROBE_LENGTHS)
        speech = pad_sequence([_noise(n) for n in lengths], batch_first=True)
        largest = 0.0
        padded = self._run(speech, lengths)
        for i, n in enumerate(lengths):
            alone = self._run(speech[i : i + 1, :n], [n])
            frames = self.num_frames(n)
            for a, b in zip(padded, alone):
                rms = b.square().mean().sqrt().clamp_min(1e-12)
                largest = max(largest, float((a[i, :frames] - b[0]).abs().max() / rms))
        return largest

    # Frame counts

    @torch.no_grad()
    def _count(self, num_samples: int) -> int:
        """Frames of a waveform, by running it.

        As in s3prl, the one frame more of a centred spectrogram is left out.
        """
        hidden_states = self._expert_states(_noise(num_samples)[None], [num_samples])
        frames = min(h.size(1) for h in hidden_states)
        shifts = -(-num_samples // self._frame_shift)
        return shifts if frames == shifts + 1 else frames

    def _measure_frames(self) -> Tuple[int, int]:
        """Where the first frame ends, and the shortest input that the network takes.

        The count rises by one each frame shift; bisection finds where.
        """
        shift = self._frame_shift
        low, high = 3200, 3200 + shift
        count = self._count(low)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (
                (middle, high) if self._count(middle) == count else (low, middle)
            )
        first = high - count * shift
        for n in (high, high + shift - 1, high + 13 * shift - 1, high + 13 * shift):
            expected, found = (n - first) // shift + 1, self._count(n)
            if found != expected:
                raise ValueError(
                    f"{self.upstream} of s3prl makes {found} frames of {n} samples, "
                    f"but its rate of {shift} samples a frame says {expected}: its "
                    "frames cannot be placed in time; transformers' checkpoints with "
                    "other strides work with the frontend hf"
                )
        low, high = max(first, 1) - 1, 3200
        if self._takes(low + 1, first):
            return first, low + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._takes(middle, first) else (middle, high)
        return first, high

    @torch.no_grad()
    def _takes(self, num_samples: int, first: int) -> bool:
        """True if the network runs on so few samples, without a NaN.

        A normalisation by the deviation over time has none of a single frame.
        """
        try:
            hidden_states = self._expert_states(
                _noise(num_samples)[None], [num_samples]
            )
            found = self._count(num_samples)
        except Exception:  # Each network has its own error for too short an input.
            return False
        finite = all(bool(torch.isfinite(h).all()) for h in hidden_states)
        return finite and found == (num_samples - first) // self._frame_shift + 1

    def num_frames(self, num_samples: int) -> int:
        if num_samples < self._minimum_samples:
            return 0
        return (num_samples - self._first_frame) // self._frame_shift + 1

    # Freezing

    def _freeze_unused(self) -> None:
        """Take what no hidden state depends on out of training.

        Else DistributedDataParallel waits for gradients that never come: the mask
        embedding, the quantizers and projections of pretraining.
        """
        with torch.enable_grad():
            hidden_states = self._expert_states(_noise(3200)[None], [3200])
        used = _graph_leaves(hidden_states)
        for parameter in self.model.parameters():
            if id(parameter) not in used:
                parameter.requires_grad_(False)

    def _find_parts(self) -> Optional[UpstreamParts]:
        """The parts of a recognised entry; None for a closed box."""
        model = getattr(self.model, "model", None)
        if self._family is None or len(model.encoder.layers) != self.num_layers:
            return None
        encoder = model.encoder
        before = [model.feature_extractor]
        if self._family in TRANSFORMERS_FAMILIES:
            before += [model.feature_projection, encoder.pos_conv_embed]
            norm_first = model.config.do_stable_layer_norm
        else:
            before += [model.layer_norm, encoder.pos_conv]
            if model.post_extract_proj is not None:
                before.append(model.post_extract_proj)
            norm_first = encoder.layer_norm_first
        norm = [encoder.layer_norm]
        return UpstreamParts(
            convolutions=[model.feature_extractor],
            before_layers=before + ([] if norm_first else norm),
            layers=encoder.layers,
            after_layers=norm if norm_first else [],
            blocks=model.feature_extractor.conv_layers,
        )

    def _refuse_closed_box(self, option: str, is_set: bool) -> None:
        if is_set and self._parts is None:
            raise ValueError(
                f"found frontend_conf.{option}, but the parts of {self.name} are not "
                "known here: leave it out"
            )

    def _lora_targets(self) -> List[str]:
        """Linear maps of a layer that get adapters, unless others are named."""
        attention = (
            "attention" if self._family in TRANSFORMERS_FAMILIES else "self_attn"
        )
        return [f"{attention}.{x}_proj" for x in ("q", "k", "v", "out")]

    def layer_of_parameters(self) -> Dict[str, int]:
        if self._parts is None:
            return super().layer_of_parameters()
        return self._parts.layer_of_parameters(self)

    def train(self, mode: bool = True) -> "S3PRLFrontend":
        """Set the mode; frozen parts and closed boxes stay in eval mode."""
        super().train(mode)
        if self._family is None:
            self.model.eval()
            for module in self.model.modules():
                if isinstance(module, torch.nn.RNNBase) and module.dropout == 0:
                    # cuDNN has gradients in train mode only.
                    module.train(mode)
        for module in self.model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                # Conformers: a batch's own statistics would take in the padding.
                module.eval()
        for module in self._frozen:
            module.eval()
        return self

    # The contract

    @property
    def name(self) -> str:
        for suffix in PATH_SUFFIXES:
            if self.upstream.endswith(suffix):
                return self.upstream[: -len(suffix)]
        return self.upstream

    @property
    def num_layers(self) -> int:
        return self._num_layers

    def output_size(self) -> int:
        """Dimension D of the hidden states."""
        return self._output_size

    @property
    def frame_shift(self) -> int:
        return self._frame_shift

    @property
    def minimum_samples(self) -> int:
        return self._minimum_samples

    def resolved_conf(self) -> dict:
        return dict(
            upstream=self.upstream,
            path_or_url=self.path_or_url,
            upstream_config=self.upstream_config,
            extra_conf=self.extra_conf,
            freeze=self.freeze,
            lora=self.lora,
            gradient_checkpointing=self.gradient_checkpointing,
            one_by_one=self.one_by_one,
            init_seed=self.init_seed,
            download_dir=self.download_dir,
        )

    def checkpoint_files(self) -> List[str]:
        """See :meth:`AbsLayerFrontend.checkpoint_files`.

        Empty for recognised entries, and for those that read no file (``fbank``).
        """
        options = list(self.extra_conf.values())
        downloads = []
        if self.upstream_config is None:
            options.append(self.path_or_url)
            downloads = self._downloads
        files = [v for v in options if isinstance(v, str) and os.path.isfile(v)]
        return list(dict.fromkeys(files + downloads))

    def relocated_conf(self, folder: str) -> dict:
        files = self.checkpoint_files()
        conf = self.resolved_conf()

        def moved(value):
            if value not in files:
                return value
            return os.path.join(folder, os.path.basename(value))

        conf["path_or_url"] = moved(conf["path_or_url"])
        conf["extra_conf"] = {k: moved(v) for k, v in self.extra_conf.items()}
        used = self.upstream_config is None and self._downloads
        conf["download_dir"] = folder if used else None
        return conf

    def _fingerprint_settings(self) -> str:
        config = self.upstream_config or {}
        normalize = (
            config.get("do_normalize"),
            config.get("task_cfg", {}).get("normalize"),
            config.get("model_cfg", {}).get("normalize"),
        )
        options = {
            key: value
            for key, value in self.extra_conf.items()
            if not (isinstance(value, str) and os.sep in value)
        }
        options = json.dumps(options, sort_keys=True, default=str)
        return f"{super()._fingerprint_settings()}:{normalize}:{options}"

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        if self._family is None:
            return None
        name = "mask_emb"
        if self._family in TRANSFORMERS_FAMILIES:
            name = "masked_spec_embed"
        return getattr(self.model.model, name, None)

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        self._check_lengths(speech_lengths)
        if mask_time_indices is not None and self._family is None:
            raise ValueError(
                f"found mask_time_indices, but {self.upstream} of s3prl has no mask "
                "embedding that is known here: use a recognised entry"
            )
        lengths = speech_lengths.tolist()
        frames = [self.num_frames(n) for n in lengths]
        # Frozen weights need no graph, but a waveform may want its gradient.
        wanted = self.freeze != "all" or speech.requires_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and wanted):
            if self.one_by_one and len(lengths) > 1:
                singles = [
                    self._run(
                        speech[i : i + 1, :n],
                        [n],
                        (
                            None
                            if mask_time_indices is None
                            else mask_time_indices[i : i + 1, : frames[i]]
                        ),
                    )
                    for i, n in enumerate(lengths)
                ]
                hidden_states = [
                    pad_sequence([h[0] for h in layer], batch_first=True)
                    for layer in zip(*singles)
                ]
            else:
                speech = speech[:, : max(lengths)]
                hidden_states = self._run(speech, lengths, mask_time_indices)
        return hidden_states, torch.tensor(frames, device=speech_lengths.device)

    def _run(
        self,
        speech: torch.Tensor,
        lengths: List[int],
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> List[torch.Tensor]:
        """Hidden states (B, T, D), T the frames of the longest utterance."""
        frames = [self.num_frames(n) for n in lengths]
        self._time_mask = mask_time_indices
        if min(lengths) < max(lengths) and self._family is not None:
            self._lengths = torch.tensor(frames, device=speech.device)
            kernel, stride = self._first_conv
            convolved = [(n - kernel) // stride + 1 for n in lengths]
            for norm in self._norms:
                norm.lengths = torch.tensor(convolved, device=speech.device)
        try:
            hidden_states = self._expert_states(speech, lengths)
        finally:
            self._lengths = self._time_mask = None
            for norm in self._norms:
                norm.lengths = None
        if len(hidden_states) != self.num_layers + 1:
            raise RuntimeError(
                f"found {len(hidden_states)} hidden states, expected "
                f"{self.num_layers + 1}: {self.upstream} of s3prl skips layers"
            )
        shortest = min(h.size(1) for h in hidden_states)
        if shortest < max(frames):
            raise RuntimeError(
                f"found {shortest} frames of {max(lengths)} samples, expected "
                f"{max(frames)} from {self.upstream} of s3prl"
            )
        return [h[:, : max(frames)] for h in hidden_states]

    def _expert_states(
        self, speech: torch.Tensor, lengths: List[int]
    ) -> List[torch.Tensor]:
        if self._family not in TRANSFORMERS_FAMILIES:
            waveforms = [wave[:n] for wave, n in zip(speech, lengths)]
            return list(self.model(waveforms)["hidden_states"])
        # As the expert's own forward, without its way through NumPy.
        counts = torch.tensor(lengths, device=speech.device)
        if self.model.extracter.do_normalize:
            speech = normalize_waveform(speech, counts)
        attention_mask = None
        if min(lengths) < max(lengths):
            attention_mask = frame_mask(counts, speech.size(1)).long()
            speech = speech * attention_mask
        output = self.model.model(
            speech,
            attention_mask=attention_mask,
            mask_time_indices=self._time_mask,
            output_hidden_states=True,
        )
        return list(output.hidden_states)


def _noise(num_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.1 * torch.randn(num_samples, generator=generator)


def _graph_leaves(outputs: List[torch.Tensor]) -> Set[int]:
    """Ids of the parameters that ``outputs`` depend on, without a backward pass."""
    nodes = [h.grad_fn for h in outputs if h.grad_fn is not None]
    seen, leaves = set(nodes), set()
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return leaves
