# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Build an entry of s3prl's hub, from its checkpoint or from a configuration."""

import argparse
import dataclasses
import difflib
import json
import logging
import os
import pickle
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

import torch

INSTALL = 'pip install "espnet-s3prl>=2026.5.14"'
# Entry of s3prl's hub that loads a local checkpoint of each family that can be
# rebuilt from its configuration.
LOCAL_ENTRIES = {
    "data2vec": "data2vec_local",
    "hf_hubert": "hf_hubert_custom",
    "hf_wav2vec2": "hf_wav2vec2_custom",
    "hubert": "hubert_local",
    "unispeech_sat": "unispeech_sat_local",
    "wav2vec2": "wav2vec2_local",
    "wavlm": "wavlm_local",
}
TRANSFORMERS_FAMILIES = ("hf_hubert", "hf_wav2vec2")
_TRANSFORMERS_ENTRIES = [LOCAL_ENTRIES[family] for family in TRANSFORMERS_FAMILIES]
# Fields of transformers' configurations that do not change the network.
_STORAGE_KEYS = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
)
# Endings of the entries that take a checkpoint instead of naming one.
PATH_SUFFIXES = ("_local", "_url", "_custom")
# What s3prl's loaders raise for a file that is no checkpoint of their kind.
_UNREADABLE = (
    RuntimeError,
    AssertionError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    EOFError,
    pickle.UnpicklingError,
)


@dataclasses.dataclass
class S3PRLEntry:
    """An upstream of s3prl and what is known about it.

    Attributes:
        expert: s3prl's module: list of waveforms in, ``hidden_states`` out.
        hidden_sizes: dimension of each hidden state.
        rates: samples from one frame to the next, of each hidden state.
        family: key of ``LOCAL_ENTRIES``; None for every other upstream.
        config: what :func:`build_entry` rebuilds the network from; None where only
            the checkpoint can.
        files: the checkpoints that were read.
        downloads: the files that s3prl fetched by itself, or found in its cache.
    """

    expert: torch.nn.Module
    hidden_sizes: List[int]
    rates: List[int]
    family: Optional[str]
    config: Optional[dict]
    files: List[str]
    downloads: List[str]


def build_entry(
    upstream: str,
    path_or_url: Optional[str] = None,
    config: Optional[Mapping[str, Any]] = None,
    extra_conf: Optional[Mapping[str, Any]] = None,
    init_seed: Optional[int] = None,
    download_dir: Optional[str] = None,
) -> S3PRLEntry:
    """Build an entry through ``s3prl.nn.S3PRLUpstream``.

    Args:
        upstream: name in s3prl's hub.
        path_or_url: checkpoint (file, directory of transformers, or URL).
        config: :attr:`S3PRLEntry.config`: build from it, without any checkpoint.
        extra_conf: further arguments of the entry.
        init_seed: with ``config``: seed of the random weights; None where trained
            weights follow, the weights are then constants.
        download_dir: where to find what s3prl would download; None for its cache.

    Raises:
        ImportError: without s3prl, or where the entry needs a further package.
        ValueError: for an unknown name, or a file of another kind.
        OSError: when the checkpoint is not there or could not be downloaded.
    """
    hub, s3prl_upstream = _import_s3prl()
    _check_name(hub, upstream)
    if config is None:
        name = _entry_for(hub, upstream, path_or_url)
        _check_path(upstream, name, path_or_url)
        if _is_transformers_directory(name, path_or_url):
            with _as_fp32(Path(path_or_url)) as directory:
                return _load(s3prl_upstream, name, directory, extra_conf, path_or_url)
        with _downloads_in(download_dir) as downloads:
            entry = _load(s3prl_upstream, name, path_or_url, extra_conf)
        entry.downloads = list(dict.fromkeys(downloads))
        return entry
    family = config.get("family")
    if family not in LOCAL_ENTRIES:
        raise ValueError(
            f"found upstream_config of family {family!r} in frontend_conf, expected "
            f"one of {', '.join(LOCAL_ENTRIES)}"
        )
    with tempfile.TemporaryDirectory() as directory:
        try:
            path = _write_bare_checkpoint(family, config, Path(directory), init_seed)
        except (KeyError, TypeError, AssertionError) as error:
            raise ValueError(
                f"found an upstream_config that s3prl builds no {family} from "
                f"({type(error).__name__}: {error}), expected the one that training "
                "wrote"
            ) from error
        entry = _load(s3prl_upstream, LOCAL_ENTRIES[family], path, extra_conf)
    entry.files = []
    for tensor in [*entry.expert.parameters(), *entry.expert.buffers()]:
        # A loader may have kept the constants of the bare checkpoint, one number each.
        tensor.data = tensor.data.contiguous()
    return entry


def _import_s3prl():
    try:
        from s3prl import hub
        from s3prl.nn import S3PRLUpstream
    except ImportError as error:
        raise ImportError(
            f"the frontend s3prl needs the package s3prl ({error}): {INSTALL}"
        ) from error
    return hub, S3PRLUpstream


def _check_name(hub, upstream: str) -> None:
    names = hub.options()
    if upstream not in names:
        near = difflib.get_close_matches(str(upstream), names, n=3)
        raise ValueError(
            f"found frontend_conf.upstream={upstream!r}, expected a name of s3prl's "
            "hub (s3prl.nn.S3PRLUpstream.available_names())"
            + (f", such as {', '.join(near)}" if near else "")
        )


def _entry_for(hub, upstream: str, path_or_url: Optional[str]) -> str:
    """The entry that takes the checkpoint: ``wavlm_local`` for ``wavlm`` with a path.

    ``wavlm`` itself would ignore the path and download.
    """
    if path_or_url is None or upstream.endswith(PATH_SUFFIXES):
        return upstream
    package = getattr(hub, upstream).__module__.split(".")[-2]
    local = LOCAL_ENTRIES.get(package, f"{package}_local")
    if local not in hub.options():
        raise ValueError(
            f"found frontend_conf.path_or_url={path_or_url!r}, but {upstream} of "
            "s3prl takes no checkpoint: leave path_or_url out"
        )
    return local


def _check_path(upstream: str, name: str, path: Optional[str]) -> None:
    if path is None:
        if name.endswith(PATH_SUFFIXES) and name != "baseline_local":
            raise ValueError(
                f"found no frontend_conf.path_or_url, but {upstream} of s3prl needs "
                "a checkpoint"
            )
        return
    if name.endswith("_url") or str(path).startswith(("http://", "https://")):
        return
    if _is_transformers_directory(name, path):
        if not os.path.isfile(os.path.join(path, "preprocessor_config.json")):
            # s3prl would take another model's from the hub.
            raise OSError(
                f"{path} has no preprocessor_config.json, which says whether the "
                "waveform is normalised: copy the model's own file there"
            )
    elif name not in _TRANSFORMERS_ENTRIES and not os.path.isfile(path):
        raise OSError(
            f"{path}: found no such file, expected a checkpoint for {name} of s3prl: "
            "set frontend_conf.path_or_url"
        )


def _is_transformers_directory(name: str, path: Optional[str]) -> bool:
    return name in _TRANSFORMERS_ENTRIES and path is not None and os.path.isdir(path)


@contextmanager
def _as_fp32(directory: Path) -> Iterator[str]:
    """The directory, with a configuration that asks for fp32 weights.

    transformers 5 loads the stored dtype, and s3prl cannot be told otherwise.
    """
    with tempfile.TemporaryDirectory() as copy:
        for file in directory.iterdir():
            if file.name != "config.json":
                os.symlink(file.resolve(), os.path.join(copy, file.name))
        try:
            config = json.loads((directory / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise OSError(
                f"{directory}: found no readable config.json ({error}), expected a "
                "model directory of transformers"
            ) from error
        config.pop("torch_dtype", None)
        config["dtype"] = "float32"
        Path(copy, "config.json").write_text(json.dumps(config))
        yield copy


def _load(s3prl_upstream, name, path, extra_conf, called=None) -> S3PRLEntry:
    """Build the entry; ``called`` stands for the path in sentences."""
    called = called or path or name
    with _own_random_numbers(), _recorded_loads() as loads:
        try:
            wrapper = s3prl_upstream(name, path, extra_conf=dict(extra_conf or {}))
        except ImportError as error:
            raise ImportError(
                f"{name} of s3prl needs a package that is not installed: {error}"
            ) from error
        except OSError as error:
            raise OSError(
                f"{called} could not be had ({error}): check the name, or "
                "download the checkpoint once where there is a network and set "
                "frontend_conf.path_or_url to it"
            ) from error
        except _UNREADABLE as error:
            text = str(error).strip().split("\n")[0] or type(error).__name__
            raise ValueError(
                f"{called}: found nothing that {name} of s3prl can load and "
                f"run ({text}), expected a checkpoint in the format of this entry"
            ) from error
    expert = wrapper.upstream.float()
    module = type(expert).__module__.split(".")
    family = module[-2] if len(module) > 1 else ""
    known = family in LOCAL_ENTRIES and type(expert).__name__ == "UpstreamExpert"
    config = _config_of(expert, family, loads) if known else None
    files = [str(f) for f, _ in loads if isinstance(f, (str, Path))]
    return S3PRLEntry(
        expert,
        list(wrapper.hidden_sizes),
        list(wrapper.downsample_rates),
        family if known else None,
        config,
        list(dict.fromkeys(files)),
        [],
    )


@contextmanager
def _downloads_in(directory: Optional[str]) -> Iterator[List[str]]:
    """Watch what s3prl downloads, and let it look in a directory of ours.

    An entry that is a name alone may fetch several files, a configuration among them,
    and says nowhere which. s3prl writes a lock beside each file, which a model
    directory need not allow: it gets links in a directory that it may write to.
    """
    from s3prl.util import download as module

    found: List[str] = []
    original = module._download

    def download(filepath, url, *args, **kwargs):
        original(filepath, url, *args, **kwargs)
        found.append(str(Path(filepath).resolve()))

    cache = module._download_dir
    with tempfile.TemporaryDirectory() as links:
        if directory is not None:
            for file in Path(directory).iterdir():
                os.symlink(file.resolve(), os.path.join(links, file.name))
            module.set_dir(links)
        module._download = download
        try:
            yield found
        finally:
            module._download = original
            module.set_dir(cache)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """s3prl seeds the global generators when it builds an entry; undo that."""
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(state)


@contextmanager
def _recorded_loads() -> Iterator[List[Tuple[Any, dict]]]:
    """Watch what ``torch.load`` reads: the file, and the configurations in it.

    Only so can the cached file of a hub name be known, and HuBERT's configuration,
    which s3prl does not keep. Weights are read to the CPU. Some entries of s3prl ask
    for unpickling, which would run code that a checkpoint contains: here all of them
    read tensors and plain values only, and the options that argparse made.
    """
    loads: List[Tuple[Any, dict]] = []
    original = torch.load

    def load(f, *args, **kwargs):
        if not args:
            kwargs.setdefault("map_location", "cpu")
        kwargs["weights_only"] = True
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = original(f, *args, **kwargs)
        keys = ("model_cfg", "dictionaries_symbols")
        found = {}
        if isinstance(state, Mapping):
            found = {key: state[key] for key in keys if key in state}
        loads.append((f, found))
        return state

    torch.load = load
    try:
        yield loads
    finally:
        torch.load = original


def _plain(value: Any) -> Any:
    """In types that YAML writes and reads safely."""
    return json.loads(json.dumps(value, default=str))


def _config_of(expert, family: str, loads) -> Optional[dict]:
    if family in TRANSFORMERS_FAMILIES:
        config = json.loads(expert.model.config.to_json_string(use_diff=False))
        for key in _STORAGE_KEYS:
            config.pop(key, None)
        do_normalize = bool(expert.extracter.do_normalize)
        return {"family": family, "model_cfg": config, "do_normalize": do_normalize}
    if family in ("wavlm", "unispeech_sat"):
        return {"family": family, "model_cfg": _plain(vars(expert.cfg))}
    if family == "hubert":
        found = [state for _, state in loads if len(state) == 2]
        if len(found) != 1:
            logging.warning("Found no configuration in this HuBERT checkpoint")
            return None
        sizes = [s if s is None else len(s) for s in found[0]["dictionaries_symbols"]]
        return {
            "family": family,
            "model_cfg": _plain(found[0]["model_cfg"]),
            "task_cfg": _plain(dataclasses.asdict(expert.task_cfg)),
            "dictionary_sizes": sizes,
        }
    return {
        "family": family,
        "model_cfg": _plain(dataclasses.asdict(expert.model.cfg)),
        "task_cfg": {"normalize": bool(expert.wav_normalize)},
    }


def _bare_model(family: str, config: Mapping[str, Any]) -> torch.nn.Module:
    if family in TRANSFORMERS_FAMILIES:
        from transformers import AutoConfig, AutoModel

        plain = dict(config["model_cfg"])
        hf_config = AutoConfig.for_model(plain.pop("model_type"), **plain)
        return AutoModel.from_config(hf_config, dtype=torch.float32)
    from s3prl.upstream.utils import merge_with_parent

    model_cfg = dict(config["model_cfg"])
    if family in ("wavlm", "unispeech_sat"):
        from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

        return WavLM(WavLMConfig(model_cfg))
    if family == "hubert":
        from s3prl.upstream.hubert import hubert_model

        return hubert_model.HubertModel(
            merge_with_parent(hubert_model.HubertConfig, model_cfg),
            merge_with_parent(
                hubert_model.HubertPretrainingConfig, dict(config["task_cfg"])
            ),
            _dictionaries(config),
        )
    if family == "wav2vec2":
        from s3prl.upstream.wav2vec2 import wav2vec2_model

        return wav2vec2_model.Wav2Vec2Model(
            merge_with_parent(wav2vec2_model.Wav2Vec2Config, model_cfg)
        )
    from s3prl.upstream.data2vec import data2vec_model

    model = data2vec_model.Data2VecAudioModel(
        merge_with_parent(data2vec_model.Data2VecAudioConfig, model_cfg)
    )
    model.remove_pretraining_modules()
    return model


def _dictionaries(config: Mapping[str, Any]) -> List[Optional[List[str]]]:
    sizes = config["dictionary_sizes"]
    return [n if n is None else [str(i) for i in range(n)] for n in sizes]


def _write_bare_checkpoint(
    family: str, config: Mapping[str, Any], directory: Path, seed: Optional[int]
) -> str:
    """A checkpoint for s3prl's own loader: random weights, or constants.

    Constants are tensors of one stored number, so that the file is small however
    large the network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        weights: Dict[str, torch.Tensor] = dict(
            _bare_model(family, config).state_dict()
        )
    if seed is None:
        weights = {
            key: torch.full((), 0.01, dtype=value.dtype).expand(value.shape)
            for key, value in weights.items()
        }
    model_cfg = dict(config["model_cfg"])
    if family in TRANSFORMERS_FAMILIES:
        (directory / "config.json").write_text(json.dumps(model_cfg))
        preprocessor = {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "do_normalize": config["do_normalize"],
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
        torch.save(weights, directory / "pytorch_model.bin")
        return str(directory)
    if family in ("wavlm", "unispeech_sat"):
        contents: Dict[str, Any] = {"cfg": model_cfg, "model": weights}
    else:
        if family == "data2vec":
            # Its loader takes the teacher out, and insists that there is one.
            weights["_ema"] = {}  # type: ignore[assignment]
        contents = {
            "model_cfg": model_cfg,
            "task_cfg": dict(config["task_cfg"]),
            "model_weight": weights,
        }
        if family == "hubert":
            contents["dictionaries_symbols"] = _dictionaries(config)
    path = directory / "bare.pt"
    torch.save(contents, path)
    return str(path)
