# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The files of a trained model: an experiment directory or a packed .zip."""

import contextlib
import filecmp
import os
import re
import shutil
import tempfile
import zipfile
from typing import Iterator, Mapping, NamedTuple, Sequence

import yaml
from espnet2.main_funcs.pack_funcs import unpack

from espnet2_distilmos.data.datadir import DataError, atomic_write


class TrainedModel(NamedTuple):
    """Where the two files of a trained model are."""

    train_config: str
    model_file: str


def keep_files(files: Sequence[str], folder: str) -> None:
    """Copy files into a folder, under their own base names, whole or not at all.

    Copies, not links: whoever writes the original anew shall not change what a
    trained model was built from.

    Raises:
        DataError: Two files have one name, or a file cannot be read or written.
    """
    sources = {}
    for file in files:
        name = os.path.basename(file)
        other = sources.setdefault(name, file)
        if os.path.realpath(other) != os.path.realpath(file):
            raise DataError(
                f"{other} and {file} have one name, expected different names since "
                "both are kept with the model; rename one of them."
            )
    for name, source in sources.items():
        target = os.path.join(folder, name)
        # A link is replaced too: it would not come along to another machine.
        if os.path.isfile(target) and not os.path.islink(target):
            if filecmp.cmp(source, target, shallow=False):
                continue
        try:
            with open(source, "rb") as original, atomic_write(target, "wb") as copy:
                shutil.copyfileobj(original, copy)
        except OSError as error:
            raise DataError(
                f"{source} cannot be copied to {target} ({error.strerror or error}), "
                "expected to keep it with the model; free some space or change the "
                "permissions."
            ) from error


def unpack_zip(path: str, output_dir: str) -> TrainedModel:
    """Unpack a model that mos_pack wrote.

    Raises:
        DataError: It is no such file.
    """
    try:
        # Not what an older .zip left there: ESPnet would return that.
        files = unpack(path, output_dir, use_cache=False)
    except (
        RuntimeError,
        ValueError,
        KeyError,
        AssertionError,
        yaml.YAMLError,
        zipfile.BadZipFile,
    ) as error:
        raise DataError(
            f"{path} is not a packed model ({error}), expected a .zip of stage 10; "
            "pack the model again."
        ) from error
    return model_of(files, path)


def model_of(files: Mapping[str, str], source: str) -> TrainedModel:
    """The two files among those that ESPnet found in a packed model.

    Raises:
        DataError: It is a model of another kind.
    """
    missing = [name for name in TrainedModel._fields if name not in files]
    if missing:
        raise DataError(
            f"{source} has no {' and '.join(sorted(missing))}, expected a model of "
            "espnet2_distilmos; choose another model."
        )
    return TrainedModel(*(str(files[name]) for name in TrainedModel._fields))


@contextlib.contextmanager
def open_trained_model(path: str) -> Iterator[TrainedModel]:
    """Find a trained model's files; those of a .zip last as long as the context.

    Args:
        path: One of

            * ``user/name`` of the Hugging Face hub, where no file is called so;
            * a packed ``.zip``;
            * a model file (``*.pth``) beside its ``config.yaml``;
            * a directory that ``unpack`` made, with ``meta.yaml``;
            * an experiment directory, or its ``config.yaml``. The model file is that
              of the first ``best_model_criterion`` of the ``config.yaml`` that is
              there (``valid.sys_srcc.best.pth``), else ``model.pth``, else the only
              ``.pth`` beside the checkpoints.

    Raises:
        DataError: There is no model, or several and nothing says which.
    """
    path = os.path.expanduser(os.fspath(path))
    # A path whose folder is there is mistyped, not a tag.
    if not os.path.exists(path) and not os.path.isdir(os.path.dirname(path)):
        is_tag = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path)
    else:
        is_tag = None
    if is_tag:
        yield _unpacked(_download(path))
        return
    if zipfile.is_zipfile(path) and not path.endswith(".pth"):
        with tempfile.TemporaryDirectory() as folder:
            yield unpack_zip(path, folder)
        return
    if os.path.basename(path) == "config.yaml":
        path = os.path.dirname(path) or "."
    folder = path
    if os.path.isfile(path):
        folder = os.path.dirname(path)
    elif os.path.isfile(os.path.join(path, "meta.yaml")):
        yield _unpacked(path)
        return
    config = os.path.join(folder, "config.yaml")
    if not os.path.isfile(config):
        found = "no config.yaml" if os.path.exists(path) else "nothing"
        raise DataError(
            f"{path}: found {found}, expected an experiment directory, a model file in "
            "one, or a .zip of stage 10; correct the path."
        )
    model_file = _model_file(folder, config) if folder == path else path
    yield TrainedModel(config, model_file)


def _download(tag: str) -> str:
    """Get a model of the hub, or find it in the hub's cache; return its directory."""
    wanted = (
        f"{tag}: found nothing, expected an experiment directory, a .zip of stage 10 "
        "or a model of the Hugging Face hub"
    )
    try:
        import huggingface_hub
    except ImportError as error:
        raise DataError(
            f"{wanted}; correct the path, or install huggingface_hub for the hub."
        ) from error
    try:
        return huggingface_hub.snapshot_download(tag)
    except Exception as error:  # whatever its transports raise
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else reason[:200] + "..."
        raise DataError(
            f"{wanted}, and the hub gave none ({type(error).__name__}: {reason}); "
            "correct the path, or download the model where there is a network."
        ) from error


def _unpacked(folder: str) -> TrainedModel:
    path = os.path.join(folder, "meta.yaml")
    meta = _read_yaml(path)
    files = {
        key: os.path.join(folder, value)
        for part in ("yaml_files", "files")
        for key, value in (meta.get(part) or {}).items()
    }
    return model_of(files, path)


def _model_file(folder: str, config: str) -> str:
    criteria = _read_yaml(config).get("best_model_criterion") or []
    names = [f"{c[0]}.{c[1]}.best.pth" for c in criteria if len(c) == 3]
    for name in [*names, "model.pth"]:
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    others = sorted(
        name
        for name in os.listdir(folder)
        if name.endswith(".pth") and not name.startswith("checkpoint")
    )
    if len(others) == 1:
        return os.path.join(folder, others[0])
    found = f"{len(others)} model files ({', '.join(others)})" if others else "no model"
    example = os.path.join(folder, others[0] if others else "1epoch.pth")
    raise DataError(
        f"{folder}: found {found}, expected {' or '.join([*names, 'model.pth'])}; name "
        f"the model file itself, as in {example}."
    )


def _read_yaml(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            contents = yaml.safe_load(file)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())}), expected what "
            "training or packing wrote; copy the model anew."
        ) from error
    if not isinstance(contents, dict):
        raise DataError(
            f"{path} holds no mapping, expected what training or packing wrote; copy "
            "the model anew."
        )
    return contents
