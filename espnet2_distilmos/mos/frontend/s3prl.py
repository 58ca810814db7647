# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Upstreams of s3prl: every entry whose hidden states have one size and rate."""

import argparse
import contextlib
import importlib
import json
import os
import random
import tempfile
from operator import attrgetter
from pathlib import Path
from typing import Any, Callable, Iterator, List, Mapping, Optional, Tuple, Union

import torch
from torch.nn.utils.rnn import pad_sequence

from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.frontend.hf_waveform import ZeroPadding
from espnet2_distilmos.mos.frontend.masked_norm import MaskedGroupNorm
from espnet2_distilmos.mos.frontend.parts import UpstreamParts
from espnet2_distilmos.mos.masking import frame_mask

# s3prl's packages of the networks whose parts are known here, those with hf_ of
# transformers, the others of fairseq: where each says whether it normalises the
# waveform, and the place of that in a fingerprint.
_FAMILIES = {
    "data2vec": ("wav_normalize", 1),
    "hf_hubert": ("extracter.do_normalize", 0),
    "hf_wav2vec2": ("extracter.do_normalize", 0),
    "hubert": ("task_cfg.normalize", 1),
    "unispeech_sat": ("cfg.normalize", 2),
    "wav2vec2": ("wav_normalize", 1),
    "wavlm": ("cfg.normalize", 2),
}
# Endings of the entries that take a checkpoint instead of naming one.
_PATH_SUFFIXES = ("_local", "_url", "_custom")


class S3PRLFrontend(AbsLayerFrontend):
    """An upstream of ``s3prl.nn.S3PRLUpstream`` with all its layers' outputs.

    The hidden states are those of ``S3PRLUpstream`` for the single file, without the
    copies of the last frame that it appends: a second of WavLM has 49 frames, not 50.

    The families of fairseq and the ``hf_..._custom`` entries are *recognised*: group
    norm, padding mask and positional convolutions are given the valid lengths, so that
    they are exact in a padded batch, and parts can be frozen. Every other entry is a
    closed box: run one utterance at a time, in eval mode also in training (its dropout
    or masking is not known), frozen or trained as a whole.

    Args:
        upstream: name in s3prl's hub, such as ``wavlm_base_plus`` or ``wavlm_local``.
        path_or_url: checkpoint of a ``_local``, ``_url`` or ``_custom`` entry. With a
            plain name (``wavlm``) it replaces the download.
        upstream_config: what version 0.1 kept in place of the file; the weights are
            then random, drawn from ``init_seed``.
        extra_conf: further arguments of the entry (``extra_conf`` of S3PRLUpstream).
        freeze: ``none``, ``all``; for recognised entries also ``cnn`` or
            ``{layers: n}``. s3prl itself never trains the convolutions; ``none`` does.
        lora, gradient_checkpointing: as in :class:`HFFrontend`, for recognised entries.
        one_by_one: True runs one utterance at a time, False whole padded batches;
            None takes batches where they are known to be exact.
        init_seed: seed of adapters, and of random weights.
        download_dir: where s3prl finds what it downloads; None is its own cache.
        load_pretrained: False when the weights follow from a trained model.

    Raises:
        ImportError: if s3prl or peft (for LoRA) is not installed.
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
        self.upstream, self.path_or_url = upstream, path_or_url
        self.extra_conf = dict(extra_conf or {})
        self.init_seed = init_seed
        self.name = upstream
        for suffix in _PATH_SUFFIXES:
            self.name = self.name.removesuffix(suffix)
        has_source = path_or_url is not None or not upstream.endswith(_PATH_SUFFIXES)
        if load_pretrained and has_source:
            upstream_config = None
        self.upstream_config = upstream_config
        wrapper = self._build(download_dir)
        self.model = wrapper.upstream.float().eval()
        # None for a network that is not known here.
        family = type(self.model).__module__.split(".")[-2]
        is_known = type(self.model).__name__ == "UpstreamExpert"
        self._family = family if is_known and family in _FAMILIES else None
        sizes, rates = set(wrapper.hidden_sizes), set(wrapper.downsample_rates)
        if len(sizes) != 1 or len(rates) != 1:
            raise ValueError(
                f"found hidden states of sizes {sizes} and rates {rates}, expected one "
                "size and one rate: choose another entry of s3prl"
            )
        (self._output_size,), (self.frame_shift,) = sizes, rates
        self.num_layers = wrapper.num_layers - 1
        self.download_dir = download_dir if self._downloads else None

        # For the hooks: the mask and valid frames of the batch at hand.
        self._time_mask: Optional[torch.Tensor] = None
        self._zero_padding = ZeroPadding()
        # In a list: the modules are registered once, under their own names.
        self._norms: List[MaskedGroupNorm] = []
        self._first_frame = self.minimum_samples = 0
        parts = self._find_parts()
        if parts is not None:
            self._make_exact()
        self._measure_frames()
        if one_by_one is None:
            # Convolutions of a conformer, which has batch norms, read the padding.
            one_by_one = parts is None or any(map(_is_batch_norm, self.model.modules()))
        self.one_by_one = one_by_one
        self._freeze_unused()
        self._choose_trained_parts(
            self.model, parts, freeze, lora, gradient_checkpointing, init_seed
        )
        self.train()

    def _build(self, download_dir: Optional[str]):
        """``S3PRLUpstream`` of the entry."""
        entry, path = self.upstream, self.path_or_url
        try:
            from s3prl import hub
            from s3prl.nn import S3PRLUpstream

            with tempfile.TemporaryDirectory() as folder, _isolated(
                download_dir
            ) as self._downloads:
                if self.upstream_config is not None:
                    torch.default_generator.manual_seed(self.init_seed)
                    entry, path = _write_checkpoint(self.upstream_config, folder)
                elif path is not None and not entry.endswith(_PATH_SUFFIXES):
                    # An entry such as ``wavlm`` would ignore the path and download.
                    entry = getattr(hub, entry).__module__.split(".")[-2] + "_local"
                if path is not None and "://" not in path:
                    # Without its own, an hf_ entry would take another model's.
                    own = "preprocessor_config.json" if entry.startswith("hf_") else ""
                    Path(path, own).stat()
                return S3PRLUpstream(entry, path, extra_conf=self.extra_conf)
        except ImportError as error:
            raise ImportError(
                f"{entry} of s3prl needs a package that is not installed ({error}): "
                'pip install "espnet-s3prl>=2026.5.14", or that package'
            ) from error
        except Exception as error:  # Each loader of s3prl has its own.
            reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
            kind = OSError if isinstance(error, OSError) else ValueError
            raise kind(
                f"{path or entry}: found nothing that s3prl can load as {entry} "
                f"({reason}), expected one of S3PRLUpstream.available_names() in "
                "frontend_conf.upstream and, where it takes a checkpoint or cannot be "
                "downloaded, one in its format in frontend_conf.path_or_url"
            ) from error

    def _find_parts(self) -> Optional[UpstreamParts]:
        """The parts of a recognised entry; None for a closed box."""
        if self._family is None:
            return None
        model = self.model.model
        encoder = model.encoder
        if len(encoder.layers) != self.num_layers:
            return None
        if self._family.startswith("hf_"):
            before = [model.feature_projection, encoder.pos_conv_embed]
            norm_first, attention = model.config.do_stable_layer_norm, "attention"
        else:
            before = [model.layer_norm, encoder.pos_conv, model.post_extract_proj]
            norm_first, attention = encoder.layer_norm_first, "self_attn"
        before = [model.feature_extractor] + [m for m in before if m is not None]
        norm = [encoder.layer_norm]
        return UpstreamParts(
            convolutions=[model.feature_extractor],
            before_layers=before + ([] if norm_first else norm),
            layers=encoder.layers,
            after_layers=norm if norm_first else [],
            lora_targets=[f"{attention}.{x}_proj" for x in ("q", "k", "v", "out")],
            blocks=model.feature_extractor.conv_layers,
        )

    def _make_exact(self) -> None:
        """Give the valid lengths to what depends on them; no random masking."""
        model = self.model.model
        first = model.feature_extractor.conv_layers[0]
        for name, module in list(first.named_children()):
            if isinstance(module, torch.nn.GroupNorm):
                self._norms.append(MaskedGroupNorm.from_group_norm(module))
                setattr(first, name, self._norms[-1])
            elif isinstance(module, torch.nn.Conv1d):
                self._first_conv = (module.kernel_size[0], module.stride[0])
        model.encoder.register_forward_pre_hook(
            self._before_encoder, with_kwargs=True, prepend=True
        )
        if self._family.startswith("hf_"):
            model.config.layerdrop = 0.0
            model.config.apply_spec_augment = False
            return
        # s3prl has set the factor of the convolutions' gradients to 0.
        model.feature_grad_mult = 1.0
        for block in model.encoder.pos_conv:
            if isinstance(block, torch.nn.Sequential):
                # data2vec stacks convolutions; padding must stay zero between them.
                block.register_forward_pre_hook(self._zero_padding)

    def _before_encoder(self, module, args, kwargs):
        """The padding mask from true frame counts, and the mask embedding.

        s3prl's WavLM and HuBERT divide the samples evenly among the frames, which
        is off by up to several frames for the shorter utterances of a batch.
        """
        x = args[0]
        if self._time_mask is not None:
            embedding = self._mask_embedding.to(x.dtype)
            x = torch.where(self._time_mask.unsqueeze(-1), embedding, x)
        if "padding_mask" in kwargs:
            frames = self._zero_padding.lengths
            padding = None if frames is None else ~frame_mask(frames, x.size(1))
            kwargs = {**kwargs, "padding_mask": padding}
        return (x, *args[1:]), kwargs

    @property
    def _mask_embedding(self) -> Optional[torch.nn.Parameter]:
        if self._parts is None:
            return None
        model = self.model.model
        return getattr(model, "mask_emb", getattr(model, "masked_spec_embed", None))

    def _freeze_unused(self) -> None:
        """Take out of training what no hidden state depends on.

        DistributedDataParallel would wait for its gradients: those of the mask
        embedding, the quantizers and projections of pretraining.
        """
        with torch.enable_grad():
            hidden_states = self._states(_noise(3200)[None], [3200])
        # Of no use but that there is something to differentiate.
        nothing = torch.zeros((), requires_grad=True)
        output = nothing + sum(h.sum() for h in hidden_states)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        used = torch.autograd.grad(output, [nothing, *parameters], allow_unused=True)
        for parameter, gradient in zip(parameters, used[1:]):
            parameter.requires_grad_(gradient is not None)

    def _measure_frames(self) -> None:
        """Find where the first frame ends, and the shortest input.

        The count rises by one each frame shift; bisection finds where.
        """
        shift, low = self.frame_shift, 3200
        count = self._count(low)
        rise = _first(low + 1, low + shift, lambda n: self._count(n) > count)
        self._first_frame = rise - count * shift
        for n in (rise, rise + shift - 1, rise + 13 * shift - 1, rise + 13 * shift):
            expected, found = (n - self._first_frame) // shift + 1, self._count(n)
            if found != expected:
                raise ValueError(
                    f"found {found} frames of {n} samples from {self.upstream} of "
                    f"s3prl, but its rate of {shift} samples says {expected}: its "
                    "frames cannot be placed in time; transformers' checkpoints with "
                    "other strides work with the frontend hf"
                )
        self.minimum_samples = _first(
            max(self._first_frame, 1),
            low,
            lambda n: self._count(n) == (n - self._first_frame) // shift + 1,
        )

    @torch.no_grad()
    def _count(self, num_samples: int) -> int:
        """Frames of a waveform, by running it; 0 where the network fails."""
        try:
            hidden_states = self._states(_noise(num_samples)[None], [num_samples])
        except Exception:  # Each network has its own error for too short an input.
            return 0
        # A normalisation by the deviation over time gives NaN for a single frame.
        if not all(bool(h.isfinite().all()) for h in hidden_states):
            return 0
        frames = min(h.size(1) for h in hidden_states)
        # As in s3prl, without the one frame more of a centred spectrogram.
        shifts = -(-num_samples // self.frame_shift)
        return shifts if frames == shifts + 1 else frames

    def train(self, mode: bool = True) -> "S3PRLFrontend":
        """Set the mode; frozen parts and closed boxes stay in eval mode."""
        super().train(mode)
        for module in self.model.modules():
            # A batch's own statistics would take in the padding.
            closed = self._parts is None or _is_batch_norm(module)
            if isinstance(module, torch.nn.RNNBase) and module.dropout == 0:
                # cuDNN has gradients in train mode only.
                closed = False
            if closed:
                module.training = False
        return self

    def output_size(self) -> int:
        """Dimension D of the hidden states."""
        return self._output_size

    def num_frames(self, num_samples: int) -> int:
        if num_samples < self.minimum_samples:
            return 0
        return (num_samples - self._first_frame) // self.frame_shift + 1

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
        """The upstream's own files; none for one that reads none (``fbank``)."""
        files = [v for v in self.extra_conf.values() if _is_file(v)] + self._downloads
        path = self.path_or_url if self.upstream_config is None else None
        if _is_file(path):
            files.append(path)
        elif path is not None and os.path.isdir(path):
            files += [str(p) for p in sorted(Path(path).iterdir()) if p.is_file()]
        return list(dict.fromkeys(files))

    def relocated_conf(self, folder: str) -> dict:
        """See :meth:`AbsLayerFrontend.relocated_conf`."""

        def moved(value: Any) -> Any:
            return f"{folder}/{os.path.basename(value)}" if _is_file(value) else value

        conf = self.resolved_conf()
        conf["extra_conf"] = {k: moved(v) for k, v in self.extra_conf.items()}
        if self._downloads:
            conf["download_dir"] = folder
        if self.upstream_config is None and self.path_or_url is not None:
            is_folder = os.path.isdir(self.path_or_url)
            conf["path_or_url"] = folder if is_folder else moved(self.path_or_url)
        return conf

    def _fingerprint_settings(self) -> str:
        normalize: List[Optional[bool]] = [None, None, None]
        if self._family is not None:
            attribute, place = _FAMILIES[self._family]
            normalize[place] = attrgetter(attribute)(self.model)
        options = {
            key: value
            for key, value in self.extra_conf.items()
            if not (isinstance(value, str) and os.sep in value)
        }
        options = json.dumps(options, sort_keys=True, default=str)
        return f"{super()._fingerprint_settings()}:{tuple(normalize)}:{options}"

    def forward(
        self,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> Tuple[List[torch.Tensor], torch.Tensor]:
        """See :meth:`AbsLayerFrontend.forward`."""
        self._check_inputs(speech_lengths, mask_time_indices)
        lengths = speech_lengths.tolist()
        frames = [self.num_frames(n) for n in lengths]
        with torch.set_grad_enabled(self._needs_graph(speech)):
            if self.one_by_one:
                singles = []
                for i, (n, t) in enumerate(zip(lengths, frames)):
                    mask = mask_time_indices
                    mask = None if mask is None else mask[i : i + 1, :t]
                    states = self._states(speech[i : i + 1, :n], [n], mask)
                    singles.append([h[0, :t] for h in states])
                hidden_states = [
                    pad_sequence(layer, batch_first=True) for layer in zip(*singles)
                ]
            else:
                hidden_states = self._states(speech, lengths, mask_time_indices)
                hidden_states = [h[:, : max(frames)] for h in hidden_states]
        return hidden_states, torch.tensor(frames, device=speech.device)

    def _states(
        self,
        speech: torch.Tensor,
        lengths: List[int],
        mask_time_indices: Optional[torch.Tensor] = None,
    ) -> List[torch.Tensor]:
        """Hidden states (B, T, D), also with what s3prl has after the last frame."""
        self._time_mask = mask_time_indices
        # A forked child may find those of a batch that another thread was at.
        parts = (self._zero_padding, *self._norms)
        for part in parts:
            part.lengths = None
        if min(lengths) < max(lengths):
            frames = [self.num_frames(n) for n in lengths]
            self._zero_padding.lengths = torch.tensor(frames, device=speech.device)
            for norm in self._norms:
                kernel, stride = self._first_conv
                convolved = [(n - kernel) // stride + 1 for n in lengths]
                norm.lengths = torch.tensor(convolved)
        try:
            waveforms = [wave[:n] for wave, n in zip(speech, lengths)]
            return list(self.model(waveforms)["hidden_states"])
        finally:
            self._time_mask = None
            for part in parts:
                part.lengths = None


def _noise(num_samples: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.1 * torch.randn(num_samples, generator=generator)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number from ``low`` to ``high`` from which on ``holds`` is true."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and os.path.isfile(value)


def _is_batch_norm(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.modules.batchnorm._BatchNorm)


def _write_checkpoint(config: Mapping[str, Any], folder: str) -> Tuple[str, str]:
    """Random weights for an ``upstream_config`` of version 0.1.

    Returns:
        The entry of s3prl that loads them, and their path.
    """
    family, cfg = config["family"], dict(config["model_cfg"])
    if family.startswith("hf_"):
        from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

        network = AutoModel.from_config(AutoConfig.for_model(**cfg))
        network.save_pretrained(folder)
        extractor = Wav2Vec2FeatureExtractor(do_normalize=config["do_normalize"])
        extractor.save_pretrained(folder)
        return f"{family}_custom", folder
    from s3prl.upstream.utils import merge_with_parent as merge

    contents = {"cfg": cfg, "model_cfg": cfg, "task_cfg": config.get("task_cfg")}
    if family in ("wavlm", "unispeech_sat"):
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        network = WavLM(WavLMConfig(cfg))
    else:
        package = importlib.import_module(f"s3prl.upstream.{family}.{family}_model")
        if family == "hubert":
            sizes = config["dictionary_sizes"]
            symbols = [n if n is None else list(map(str, range(n))) for n in sizes]
            contents["dictionaries_symbols"] = symbols
            task = merge(package.HubertPretrainingConfig, config["task_cfg"])
            cfg = merge(package.HubertConfig, cfg)
            network = package.HubertModel(cfg, task, symbols)
        elif family == "wav2vec2":
            network = package.Wav2Vec2Model(merge(package.Wav2Vec2Config, cfg))
        else:
            cfg = merge(package.Data2VecAudioConfig, cfg)
            network = package.Data2VecAudioModel(cfg)
            network.remove_pretraining_modules()
    contents["model"] = contents["model_weight"] = network.state_dict()
    if family == "data2vec":
        # Its loader takes the teacher out, and insists that there is one.
        contents["model_weight"]["_ema"] = {}
    path = os.path.join(folder, "random.pt")
    torch.save(contents, path)
    return f"{family}_local", path


@contextlib.contextmanager
def _isolated(download_dir: Optional[str]) -> Iterator[List[str]]:
    """Build entries of s3prl without traces, and without running code from them.

    s3prl seeds the global random generators. Some entries ask for unpickling; torch's
    own switch lets them read tensors, plain values and the options of argparse only.
    Downloads that are there already are taken without s3prl's locks, for which a
    directory that can only be read has no place.

    Yields:
        The files that an entry asked to download, complete when it is built.
    """
    from s3prl.util import download as module

    files: List[str] = []
    cache, download = module._download_dir, module._download

    def fetch(filepath: Path, url: str, refresh: bool = False, **kwargs) -> None:
        if refresh or not filepath.is_file():
            download(filepath, url, refresh=refresh, **kwargs)
        files.append(str(filepath.resolve()))

    switch = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before, state = os.environ.get(switch), random.getstate()
    os.environ[switch] = "1"
    module._download = fetch
    module.set_dir(cache if download_dir is None else download_dir)
    try:
        with torch.random.fork_rng(devices=[]):
            with torch.serialization.safe_globals([argparse.Namespace]):
                yield files
    finally:
        module._download = download
        module.set_dir(cache)
        random.setstate(state)
        os.environ.pop(switch)
        if before is not None:
            os.environ[switch] = before
