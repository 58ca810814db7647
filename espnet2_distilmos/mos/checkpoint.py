# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Which weights and which configuration: trained models, and what training starts from.

The one module of ``mos`` that knows files.
"""

import argparse
import contextlib
import inspect
import logging
import os
import re
import shlex
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.utils.nested_dict_action import NestedDictAction
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    build_frontend,
    build_model,
    token_columns_of,
)
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import TOKEN_PREDICTORS
from espnet2_distilmos.named_models import NAMED_MODELS, locate

# Folder beside config.yaml: files without which some upstreams cannot be rebuilt.
UPSTREAM_FILES = "upstream_files"
# What to do where weights do not fit a configuration.
_MEND = "use the config.yaml of the same experiment"

# --- Files of a trained model ---------------------------------------------------------


class TrainedModel(NamedTuple):
    """The two files of a trained model, under the names that packing gives them."""

    train_config: str
    model_file: str


@contextlib.contextmanager
def open_trained_model(path: str) -> Iterator[TrainedModel]:
    """Find a trained model's files; those of a .zip last as long as the context.

    Args:
        path: One of

            * ``user/name`` of the Hugging Face hub, or a name of ``NAMED_MODELS``
              (fetched the first time), where no file has that name;
            * a packed ``.zip``;
            * a directory that ``unpack`` made, with ``meta.yaml``;
            * a model file (``*.pth``) beside its ``config.yaml``;
            * an experiment directory, or its ``config.yaml``. The model file is that
              of the first ``best_model_criterion`` of the ``config.yaml`` that is
              there (``valid.sys_srcc.best.pth``), else ``model.pth``, else the only
              ``.pth`` beside the checkpoints.

    Raises:
        DataError: There is no model, or several and nothing says which.
    """
    path = os.path.expanduser(os.fspath(path))
    is_tag = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path) and not os.path.exists(path)
    # A path whose folder is there is mistyped, not a tag.
    if is_tag and not os.path.isdir(os.path.dirname(path)):
        yield _unpacked(_download(path), path)
    elif path in NAMED_MODELS and not os.path.exists(path):
        yield _in_experiment(locate(path, import_official))
    elif zipfile.is_zipfile(path) and not path.endswith(".pth"):
        with tempfile.TemporaryDirectory() as folder:
            yield unpack_zip(path, folder)
    elif os.path.isfile(os.path.join(path, "meta.yaml")):
        yield _unpacked(path, path)
    else:
        yield _in_experiment(path)


def unpack_zip(path: str, output_dir: str) -> TrainedModel:
    """Unpack a model that mos_pack wrote.

    Raises:
        DataError: It is no such file.
    """
    try:
        # Not what an older .zip left there: ESPnet would return that.
        unpack(path, output_dir, use_cache=False)
    except Exception as error:  # among others, of ESPnet's assertions
        raise DataError(
            f"{path} is not a packed model ({error}), expected a .zip of stage 10; "
            "pack the model again."
        ) from error
    return _unpacked(output_dir, path)


def _unpacked(folder: str, source: str) -> TrainedModel:
    meta_yaml = os.path.join(folder, "meta.yaml")
    meta = read_yaml(meta_yaml, "what packing wrote; copy the model anew")
    files = {**(meta.get("yaml_files") or {}), **(meta.get("files") or {})}
    if not set(TrainedModel._fields) <= set(files):
        raise DataError(
            f"{source} holds {', '.join(files) or 'nothing'}, expected train_config "
            "and model_file; choose a model of espnet2_distilmos."
        )
    return TrainedModel(*(os.path.join(folder, files[f]) for f in TrainedModel._fields))


def _download(tag: str) -> str:
    """Directory of a model of the hub, downloaded unless it is in the hub's cache."""
    import huggingface_hub

    try:
        return huggingface_hub.snapshot_download(tag)
    except Exception as error:  # whatever its transports raise
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{tag}: found neither a file nor a model of the Hugging Face hub "
            f"({type(error).__name__}: {reason}), expected an experiment directory, a "
            ".zip of stage 10 or the name of such a model; correct the path, or "
            "download the model where there is a network."
        ) from error


def _in_experiment(path: str) -> TrainedModel:
    is_file = os.path.isfile(path)
    folder = (os.path.dirname(path) or ".") if is_file else path
    config = os.path.join(folder, "config.yaml")
    if not os.path.exists(path):
        _expect_model_file(path)
    if not os.path.isfile(config):
        found = "no config.yaml" if os.path.exists(path) else "nothing"
        raise DataError(
            f"{path!r}: found {found}, expected an experiment directory, a model file "
            f"in one, a .zip of stage 10, a .onnx of `distilmos export`, box, "
            f"{' or '.join(NAMED_MODELS)}; correct the path."
        )
    if is_file and os.path.basename(path) != "config.yaml":
        return TrainedModel(config, path)
    settings = read_yaml(config, "what training wrote; copy the model anew")
    criteria = settings.get("best_model_criterion") or []
    names = [f"{phase}.{name}.best.pth" for phase, name, _ in criteria] + ["model.pth"]
    others = _model_files(folder)
    chosen = [name for name in names if name in others][:1] or others
    if len(chosen) != 1:
        raise DataError(
            f"{folder}: found {', '.join(others) or 'no model file'}, expected "
            f"{' or '.join(names)}; "
            + ("name the model file itself." if others else "train or copy the model.")
        )
    return TrainedModel(config, os.path.join(folder, chosen[0]))


def _model_files(folder: str) -> List[str]:
    """Names of the model files in an experiment directory."""
    return [
        path.name
        for path in sorted(Path(folder).glob("*.pth"))
        if path.exists() and not path.name.startswith("checkpoint")
    ]


def _expect_model_file(path: str) -> None:
    """Refuse a model file that an experiment does not have, and name those it has."""
    folder = os.path.dirname(path) or "."
    if os.path.exists(path) or not os.path.isfile(os.path.join(folder, "config.yaml")):
        return
    names = _model_files(folder)
    mend = "name one of these" if names else "train (stage 7)"
    raise DataError(
        f"{path} is not there; found {', '.join(names) or 'none'} in {folder}, "
        f"expected a model file that training kept: {mend}"
    )


def import_official(
    checkpoint: str, config: str, output: str, backbone: Optional[str] = None
) -> None:
    """Write an experiment directory that scores as a released DistilMOS model does.

    Args:
        checkpoint: ``model.pth.tar`` as released (arXiv 2601.13700).
        config: ``model_cfg.yaml`` as released with it.
        output: directory; gets ``model.pth``, then ``config.yaml``.
        backbone: ``wavlm`` or ``w2v2``, instead of the configuration's ``ssl_backbone``
            as the authors' code has it; None for what the configuration says.

    Raises:
        DataError, OSError: one sentence on the file that is not what it should be.
    """
    # That module loads with load_states of this one.
    from espnet2_distilmos.mos.official import convert

    target = os.path.join(output, "config.yaml")
    if os.path.exists(target):
        raise DataError(
            f"{target} is there already, expected a directory without an experiment; "
            "choose another --output or remove it."
        )
    given = read_yaml(config, "the model_cfg.yaml that was released; correct --config")
    if backbone is not None:
        given["ssl_backbone"] = backbone
    states = read_states(checkpoint)
    try:
        model, converted = convert(given, states)
    except ValueError as error:
        raise DataError(f"{checkpoint} with {config}: {error}") from error
    with atomic_write(os.path.join(output, "model.pth"), "wb") as file:
        torch.save(model.state_dict(), file)
    # Last, so that a config.yaml says that everything is there.
    with atomic_write(target) as file:
        yaml.safe_dump(converted, file, sort_keys=False)
    logging.info(
        f"{output}: {model.frontend.name} of {model.frontend.num_layers} layers, "
        f"{sum(p.numel() for p in model.parameters())} parameters"
    )


def keep_files(files: Sequence[str], folder: str) -> None:
    """Copy files into a folder, under their own base names, each whole or not at all.

    Copies, not links: whoever writes the original anew shall not change what a
    trained model was built from.

    Raises:
        DataError: Two files have one name, or a file cannot be written.
        OSError: A file cannot be read.
    """
    sources = {os.path.basename(file): file for file in files}
    if len(sources) < len({os.path.realpath(file) for file in files}):
        raise DataError(
            f"found files of one name among {', '.join(files)}, expected different "
            "names since they are kept with the model; rename them."
        )
    for name, source in sources.items():
        target = os.path.join(folder, name)
        with open(source, "rb") as original, atomic_write(target, "wb") as copy:
            shutil.copyfileobj(original, copy)


# --- Configurations -------------------------------------------------------------------


def read_yaml(path: str, expected: str) -> Dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.
        expected: What it should be and how to mend it, for the error.

    Raises:
        DataError: It cannot be read or holds something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            contents = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DataError(
            f"{path} cannot be read ({reason}), expected {expected}."
        ) from error
    if not isinstance(contents, dict):
        raise DataError(f"{path} holds no mapping, expected {expected}.")
    return contents


def read_config(train_config: str) -> Dict[str, Any]:
    """Configuration of a trained model, for ``build_model``.

    What it names in the folder ``upstream_files`` is looked for beside the file itself,
    so that an experiment or an unpacked model may be moved or copied as a whole.

    Args:
        train_config: the experiment's ``config.yaml``.

    Raises:
        DataError: It cannot be read or is of another format version.
    """
    expected = "the config.yaml that training wrote"
    config = read_yaml(train_config, expected)
    version = config.get("mos_format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"{train_config}: found format version {version}, expected "
            f"{FORMAT_VERSION}: use {expected}"
        )
    conf = config.get("frontend_conf") or {}
    config["frontend_conf"] = _beside(Path(train_config).parent, conf)
    return config


def _beside(folder: Path, value: Any) -> Any:
    """The option's value; a path of ``upstream_files`` as it stands in ``folder``."""
    if isinstance(value, Mapping):
        return {k: _beside(folder, v) for k, v in value.items()}
    parts = Path(value).parts if isinstance(value, str) else ()
    if UPSTREAM_FILES not in parts:
        return value
    # ESPnet's unpacking puts in front where it unpacked; it may have moved since.
    start = len(parts) - 1 - parts[::-1].index(UPSTREAM_FILES)
    here = folder.joinpath(*parts[start:])
    return str(here) if here.exists() else value


class FrontendSettings(NamedTuple):
    """``frontend``, ``frontend_conf`` and ``init_model`` of a training configuration.

    The name is None where only ``init_model`` says it.
    """

    name: Optional[str]
    conf: Dict[str, Any]
    init_model: Optional[str]


def read_frontend_conf(path: str, train_args: str = "") -> FrontendSettings:
    """Read the frontend of a training configuration, as training will build it.

    Args:
        path: YAML configuration of mos_train.
        train_args: Options of mos_train's command line that override it.

    Raises:
        DataError: The configuration or the options cannot be read.
    """
    config = read_yaml(path, "a training configuration; correct --config")
    _refuse_experiment(path, config)
    conf = config.get("frontend_conf") or {}
    if not isinstance(conf, dict):
        raise DataError(f"{path}: found frontend_conf={conf!r}, expected a mapping.")
    # Whole names only: with so few options known, prefixes would match too much.
    parser = _TrainArgsParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--frontend", default=config.get("frontend"))
    parser.add_argument("--init_model", default=config.get("init_model"))
    parser.add_argument("--frontend_conf", action=NestedDictAction, default=conf)
    try:
        args, _ = parser.parse_known_args(shlex.split(train_args))
    except (ValueError, argparse.ArgumentTypeError, yaml.YAMLError) as error:
        raise DataError(
            f"--train_args cannot be read ({' '.join(str(error).split())}), expected "
            "options of mos_train such as `--frontend_conf freeze=cnn`."
        ) from error
    name = args.frontend or (None if args.init_model else "hf")
    return FrontendSettings(name, args.frontend_conf, args.init_model)


class _TrainArgsParser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(message)


def refuse_experiment_as_config(cmd: Optional[Sequence[str]]) -> None:
    """Refuse the config.yaml of an experiment as ``--config`` of mos_train.

    ESPnet's parser would name the first option that it does not know.

    Args:
        cmd: command line of mos_train; None is that of the process.

    Raises:
        DataError: ``--config`` is what a training wrote.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", nargs="?")
    path = parser.parse_known_args(cmd)[0].config
    config: Mapping[str, Any] = {}
    if path is not None:
        with contextlib.suppress(DataError):  # the parser reports it
            config = read_yaml(path, "a configuration")
    _refuse_experiment(path, config)


def _refuse_experiment(path: Optional[str], config: Mapping[str, Any]) -> None:
    if "mos_format_version" in config:
        raise DataError(
            f"{path} is the record of a training, expected a configuration to train "
            f"with; give that, and --init_model {os.path.dirname(path or '') or '.'} "
            "to go on from its weights."
        )


# --- Weights --------------------------------------------------------------------------


def read_states(path: str, mapped: bool = False) -> Dict[str, Any]:
    """Contents of a file that ``torch.save`` wrote, on the CPU.

    Args:
        path: The file.
        mapped: The tensors' memory is the file, of which pages are read where they are
            needed; writing into the tensors leaves it as it is. It may be removed or
            replaced meanwhile, but not be written into.

    Raises:
        DataError: when the file is cut off, empty or of another kind.
        OSError: when it cannot be opened.
    """
    try:
        # torch before 1.6 wrote what cannot be mapped.
        mapped = mapped and zipfile.is_zipfile(path)
        states = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(states, Mapping):
            raise TypeError
    except Exception as error:
        # By the length and the first bytes torch.load raises almost anything, also an
        # OSError without a file name; its text is several paragraphs of advice.
        if isinstance(error, MemoryError) or getattr(error, "filename", None):
            raise
        raise DataError(
            f"{path}: found no readable model file ({type(error).__name__}), expected "
            "one that training wrote: train again (stage 7) or copy the file anew"
        ) from error
    return states


def model_states(path: str, mapped: bool = False) -> Mapping[str, Any]:
    """State dict in a model file (``*.pth``) or in a training checkpoint.

    Args, Raises: as :func:`read_states`.
    """
    states = read_states(path, mapped)
    return states["model"] if {"model", "optimizers"} <= set(states) else states


def load_states(
    module: torch.nn.Module,
    states: Mapping[str, Any],
    where: str,
    mend: str,
    origins: Optional[Mapping[str, Optional[str]]] = None,
    unused: Tuple[str, ...] = (),
    assign: bool = False,
) -> None:
    """Load tensors strictly: all must be there in their shape, and none left over.

    Args:
        module: takes the weights; unchanged when one is refused.
        states: tensors by name.
        where: what they are of, for the error.
        mend: how to mend it, for the error.
        origins: name in ``states`` of each tensor of ``module``, None for one that
            keeps its value. By default the names are the same.
        unused: how the names of tensors begin that need not be taken.
        assign: the tensors become the module's own, instead of being copied into them;
            the dtype stays the module's.

    Raises:
        DataError: names the first tensor that is missing, misshapen or left over.
    """
    loaded = dict(module.state_dict())
    if origins is None:
        origins = {key: key for key in loaded}
    for key, origin in origins.items():
        if origin is None:
            continue
        found, expected = states.get(origin), tuple(loaded[key].shape)
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else "nothing"
        if shape != expected:
            raise DataError(
                f"{where}: found {shape} for {origin}, expected a tensor of shape "
                f"{expected}: {mend}"
            )
        loaded[key] = found.to(loaded[key].dtype).contiguous() if assign else found
    taken = set(origins.values())
    left = [k for k in states if k not in taken and not k.startswith(unused)]
    if left:
        raise DataError(
            f"{where}: found {len(left)} tensors that the model does not have, the "
            f"first is {left[0]}: {mend}"
        )
    module.load_state_dict(loaded, strict=True, assign=assign)


class _NoRandomWeights(TorchDispatchMode):
    """Leave out the drawing of random weights that a checkpoint replaces.

    It takes longer than all else that loading does.
    """

    _LEFT_OUT = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in self._LEFT_OUT:
            return args[0]
        return func(*args, **(kwargs or {}))


def load_model(
    train_config: str, model_file: str, device: str = "cpu"
) -> Tuple[ESPnetMOSModel, Dict[str, Any]]:
    """Load a trained model.

    Args:
        train_config: the experiment's ``config.yaml``.
        model_file: its weights; on the CPU they stay mapped to it (``read_states``).
        device: such as ``cpu`` or ``cuda``.

    Returns:
        The model in eval mode, and the configuration.

    Raises:
        DataError, ValueError, OSError: a file cannot be read, or they do not fit.
    """
    config = read_config(train_config)
    _expect_model_file(model_file)
    states = model_states(model_file, mapped=True)
    return restore_model(config, states, str(model_file), device), config


def restore_model(
    config: Mapping[str, Any], states: Mapping[str, Any], where: str, device: str
) -> ESPnetMOSModel:
    """Build a trained model of its configuration and its weights, in eval mode.

    The caller's random generators are left as they are.

    Args:
        config: as :func:`read_config` gives it.
        states: the state dict; its tensors become the model's.
        where: what it is of, for the error.
        device: such as ``cpu`` or ``cuda``.

    Raises:
        DataError, ValueError: they do not fit.
    """
    # Entries of s3prl are run once to measure them, which needs finite weights.
    measured = config.get("frontend") == "s3prl"
    with torch.random.fork_rng(devices=[]):
        with contextlib.nullcontext() if measured else _NoRandomWeights():
            model = build_model(config, load_pretrained=False)
    # Some of s3prl's modules may hold a weight by another way than its name.
    load_states(model, states, where, _MEND, assign=not measured)
    return model.to(device).eval()


# --- What a training starts from ------------------------------------------------------


@contextlib.contextmanager
def initial_model(config: Dict[str, Any]) -> Iterator[ESPnetMOSModel]:
    """Build the model that a training starts from.

    Without ``init_model`` that is the upstream with a new head. Else the network is
    that of a trained model, and how it is trained the configuration's:

    * the frontend, its options and weights are the model's; options that say how it is
      trained (``freeze``, dropout, masks, ...) are overridden by those stated, and any
      other must be stated as the model has it, or not at all;
    * adapters (``lora``) are the model's too, or new where it has none;
    * so is the head, unless the configuration states another one, which is new then;
    * a token predictor is the model's where it predicts the same column of the same
      codebooks, else it is new: the numbers of other clusters mean other sounds;
    * the listeners and corpora are those of the training; the embeddings of those that
      the model knows, too, start from the model's.

    Args:
        config: of the training, as in ``build_model``. With ``init_model``,
            ``frontend`` and ``head`` are None where the configuration states none;
            names and options that are the model's are filled in.

    Yields:
        The model. The files of its upstream may go with the context.

    Raises:
        DataError, ValueError, OSError: One sentence on what cannot be built or loaded.
    """
    if config.get("init_model") is None:
        yield build_model(config, load_pretrained=True)
        return
    with open_trained_model(config["init_model"]) as files:
        yield _InitModel(files, config["init_model"]).build_model(config)


def initial_frontend(config: str, train_args: str = "") -> AbsLayerFrontend:
    """Build the frontend alone, for the tools that make tokens with it.

    Args:
        config: YAML configuration of mos_train.
        train_args: options of mos_train that override it.

    Raises:
        DataError, ValueError, OSError: as :func:`initial_model`.
    """
    name, conf, init_model = read_frontend_conf(config, train_args)
    if init_model is None:
        return build_frontend(name, conf)
    with open_trained_model(init_model) as files:
        return _InitModel(files, init_model).build_frontend(name, conf)


_FRONTEND, _HEAD, _LOSSES, _CONDITION = "frontend.", "head.", "losses.", "condition."
_PREDICTORS = f"{_HEAD}{TOKEN_PREDICTORS}."


class _InitModel:
    """A trained model that another training starts from; see :func:`initial_model`."""

    def __init__(self, files: TrainedModel, name: str):
        self.config = read_config(files.train_config)
        self.states = model_states(files.model_file)
        self.name = f"{name} ({os.path.basename(files.model_file)})"

    def build_frontend(self, name, conf) -> AbsLayerFrontend:
        name, conf = self._settings("frontend", FRONTENDS, name, conf)
        frontend = build_frontend(name, conf, load_pretrained=False)
        origins = {k: self._in_frontend(_FRONTEND + k) for k in frontend.state_dict()}
        self._load(frontend, origins, (_HEAD, _LOSSES, _CONDITION))
        return frontend

    def build_model(self, config: Dict[str, Any]) -> ESPnetMOSModel:
        for kind, registry in (("frontend", FRONTENDS), ("head", HEADS)):
            stated = config.get(kind), config.get(f"{kind}_conf") or {}
            settings = self._settings(kind, registry, *stated)
            config[kind], config[f"{kind}_conf"] = settings
        model = build_model(config, load_pretrained=False)
        same_head = config["head"] == self.config["head"]
        predictors = self._predictors(config) if same_head else {}

        def origin(key: str) -> Optional[str]:
            if key.startswith(_PREDICTORS):
                index, rest = key[len(_PREDICTORS) :].split(".", 1)
                old = predictors.get(int(index))
                return None if old is None else f"{_PREDICTORS}{old}.{rest}"
            if key.startswith(_FRONTEND):
                return self._in_frontend(key)
            # Of a loss with parameters: another training may have had another.
            of_model = same_head if key.startswith(_HEAD) else key in self.states
            return key if of_model and not key.startswith(_CONDITION) else None

        origins = {key: origin(key) for key in model.state_dict()}
        of_head = _PREDICTORS if same_head else _HEAD
        self._load(model, origins, (of_head, _LOSSES, _CONDITION))
        if same_head:
            self._take_conditions(model)
            ranges = [list(c.get("score_range") or []) for c in (self.config, config)]
            if ranges[0] != ranges[1]:
                logging.warning(
                    f"The head of {self.name} scores on the scale {ranges[0]}, the "
                    f"labels are on {ranges[1]}: training begins far from them"
                )
        return model

    def _settings(self, kind, registry, name, stated) -> Tuple[str, Dict[str, Any]]:
        """Name and options of the frontend or the head to train."""
        own, given = self.config[kind], self.config.get(f"{kind}_conf") or {}
        if name not in (None, own):
            if kind == "head":
                return name, stated
            raise DataError(
                f"found the {kind} {name}, but {self.name} has {own}: leave {kind} and "
                f"{kind}_conf out to start from that model"
            )
        parameters = inspect.signature(registry[own]).parameters.values()
        known = {**{p.name: p.default for p in parameters}, **given}
        # An option that the class does not know is refused when it is built.
        free = {*registry[own].training_options, *(set(stated) - set(known))}
        if known.get("lora") is None:
            free.add("lora")
        merged = self._merge(f"{kind}_conf", known, stated, free)
        return own, {**given, **{key: merged[key] for key in stated}}

    def _merge(self, where, given, stated, free=()) -> Dict[str, Any]:
        """The given options, with those stated that say how the network is trained."""
        merged = dict(given)
        for key, value in stated.items():
            old = given.get(key)
            if key in free or "drop" in key or key.startswith("mask_"):
                merged[key] = value
            elif isinstance(value, Mapping) and isinstance(old, Mapping):
                # Fields that the model's own configuration lacks say nothing of it.
                both = {k: v for k, v in value.items() if k in old}
                merged[key] = self._merge(f"{where}.{key}", old, both)
            elif value is not None and _normal(value) != _normal(old):
                raise DataError(
                    f"found {where}.{key}={value!r}, but {self.name} has {old!r}: "
                    "leave it out to start from that model"
                )
        return merged

    def _in_frontend(self, key: str) -> Optional[str]:
        """The model's name of a tensor, None for one of an adapter that is new.

        peft moves the weights of what it adapts to ``base_layer``, beside ``lora_A``.
        """
        plain = key.replace(".base_layer.", ".")
        if key not in self.states and plain in self.states:
            return plain
        adapted = self.config["frontend_conf"].get("lora") is not None
        return None if ".lora_" in key and not adapted else key

    def _predictors(self, config: Mapping[str, Any]) -> Dict[int, int]:
        """Index of each token predictor to that of the model's own, where it has it."""
        infos = [c.get("token_info") or {} for c in (self.config, config)]
        codebooks = [info.get("codebook_fingerprint") for info in infos]
        old, new = (token_columns_of(info) for info in infos)
        if codebooks[0] != codebooks[1]:
            return {}
        return {i: old.index(column) for i, column in enumerate(new) if column in old}

    def _load(self, module, origins, unused) -> None:
        mend = "state no other network than the model's in frontend_conf and head_conf"
        load_states(module, self.states, self.name, mend, origins, unused)
        new = [key for key, origin in origins.items() if origin is None]
        left = sorted(set(self.states) - set(origins.values()))
        logging.info(f"Training starts from {self.name}")
        for what, keys in (("New", new), ("Left in the model", left)):
            parts = dict.fromkeys(".".join(key.split(".")[:3]) for key in keys)
            if parts:
                logging.info(f"{what}: {', '.join(parts)}")

    def _take_conditions(self, model: ESPnetMOSModel) -> None:
        """Start from the model's listeners and corpora, where it has them."""
        for kind in ("listener", "corpus"):
            table, names = f"{_CONDITION}{kind}", self.config.get(f"{kind}_list")
            own = getattr(model.condition, kind, None)
            if own is not None and table in self.states and names:
                count = model.condition.take_rows(kind, names, self.states[table])
                logging.info(f"{count} of {len(own)} rows of {table} are the model's")


def _normal(value: Any) -> Any:
    """An option for comparison: YAML knows no tuples, a packed model no folders."""
    if isinstance(value, str):
        return os.path.basename(value.rstrip("/"))
    return list(value) if isinstance(value, tuple) else value
