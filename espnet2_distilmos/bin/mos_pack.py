#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Pack a trained model, unpack one, or upload a packed one (stages 10 and 11)."""

import argparse
import contextlib
import io
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path, PurePath
from typing import Any, Iterator, List, Optional, Sequence

import yaml
from espnet2.main_funcs.pack_funcs import pack

from espnet2_distilmos.data.datadir import DataError, atomic_write
from espnet2_distilmos.data.model_card import FIELDS, model_card, read_facts
from espnet2_distilmos.data.trained_model import model_of, unpack_zip
from espnet2_distilmos.evaluation.trust import CALIBRATION
from espnet2_distilmos.mos.build import UPSTREAM_FILES

_RESULT_FILES = ("RESULTS.md", "results.json", "images")
_TEXTS = ("README.md", "RESULTS.md", "results.json")
# Options that name machines and accounts.
_PRIVATE_OPTIONS = (
    "dist_init_method",
    "dist_master_addr",
    "wandb_entity",
    "wandb_id",
    "wandb_name",
    "wandb_project",
)
# The folders of an absolute path, or of one that leads out of the recipe, in a text.
_FOLDERS = re.compile(r"(?<![\w:/.~-])(?:~[\w.-]*|\.\.)?/(?:[^\s/,:;'\"`|()<>]+/)+")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Pack a trained model into a .zip that ESPnet's tools read; or, "
        "with --unpack or --upload, use a packed one.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--train_config", help="config.yaml of the experiment.")
    parser.add_argument("--model_file", help="Weights of the experiment.")
    parser.add_argument("--outpath", help="The .zip to write.")
    parser.add_argument(
        "--results", help="Directory whose RESULTS.md, results.json and images go in."
    )
    parser.add_argument(
        "--card",
        help=f"YAML that states {', '.join(FIELDS)}, for the README of the model.",
    )
    parser.add_argument("--unpack", help="A packed .zip, or a name in the model zoo.")
    parser.add_argument("--output_dir", help="Where --unpack writes.")
    parser.add_argument("--upload", help="A packed .zip.")
    parser.add_argument("--hf_repo", help="'user/name' on the hub, for --upload.")
    return parser


def public_config(config: Any) -> Any:
    """A configuration without what it tells of the trainer's machine.

    Of an absolute path, and of one that leads out of the recipe, the last name stays.
    Hosts and accounts go, and listeners, who may be people with names, get numbers.
    """
    if isinstance(config, dict):
        public = {
            key: None if key in _PRIVATE_OPTIONS else public_config(value)
            for key, value in config.items()
        }
        if isinstance(config.get("listener_list"), list):
            count = len(config["listener_list"])
            public["listener_list"] = [f"unnamed_{n}" for n in range(count)]
        return public
    if isinstance(config, (list, tuple)):
        return [public_config(value) for value in config]
    if isinstance(config, str):
        path = PurePath(config)
        if path.is_absolute() or config.startswith("~") or ".." in path.parts:
            return path.name
    return config


def _packed_conf(value: Any, folder: str) -> Any:
    """Names in ``upstream_files`` as ESPnet wants them: from the top of the archive."""
    if isinstance(value, dict):
        return {k: _packed_conf(v, folder) for k, v in value.items()}
    if isinstance(value, str) and PurePath(value).parts[:1] == (UPSTREAM_FILES,):
        return os.path.join(folder, value)
    return value


def pack_model(
    train_config: str,
    model_file: str,
    outpath: str,
    results: Optional[str] = None,
    card: Optional[str] = None,
) -> None:
    """Write a packed model, whole or not at all.

    The archive holds the folder ``exp/<experiment>``: the configuration without the
    trainer's own directories, the weights, the upstream's files if it cannot be rebuilt
    without them, and the results.

    Args:
        train_config: config.yaml that the training wrote.
        model_file: Weights.
        outpath: The .zip to write.
        results: Directory whose RESULTS.md, results.json and images go in as well.
        card: What the README states beside, see ``model_card.read_facts``.

    Raises:
        DataError: A file is missing or the output cannot be written.
    """
    for path in (train_config, model_file):
        if not os.path.isfile(path):
            raise DataError(
                f"{path} is not there, expected a trained model; run stage 7 first."
            )
    if not outpath.endswith(".zip"):
        raise DataError(f"--outpath {outpath} does not end in .zip; rename it.")
    config = _read_config(train_config)
    facts = read_facts(card) if card else {}
    table = Path(results or "", "RESULTS.md")
    has_table = bool(results) and table.is_file()
    experiment = os.path.dirname(os.path.abspath(train_config))
    readme = os.path.join(os.path.dirname(outpath), "README.md")
    with atomic_write(readme) as f:
        text = table.read_text(encoding="utf-8") if has_table else None
        f.write(model_card(os.path.basename(experiment), config, facts, text))
    folder = os.path.join("exp", os.path.basename(experiment))
    # What the link points to: the packed model says which epoch it is of.
    model_name = os.path.basename(os.path.realpath(model_file))
    files = {"README.md": readme, model_name: model_file}
    for name in _RESULT_FILES:
        path = os.path.join(results or "", name)
        if results and os.path.exists(path):
            files[name] = path
    if _is_calibrated(train_config, model_file):
        files[CALIBRATION] = os.path.join(experiment, CALIBRATION)
    for name in _upstream_files(config.get("frontend_conf")):
        files[name] = os.path.join(experiment, name)
        if not os.path.exists(files[name]):
            raise DataError(
                f"{files[name]} is not there, expected it since {train_config} names "
                "it; copy the experiment as a whole, or run stage 7 again."
            )
    config["frontend_conf"] = _packed_conf(config.get("frontend_conf"), folder)
    try:
        os.makedirs(os.path.dirname(outpath) or ".", exist_ok=True)
        with tempfile.TemporaryDirectory(dir=os.path.dirname(outpath) or ".") as top:
            for name, path in files.items():
                _put(path, os.path.join(top, folder, name))
            target = os.path.join(top, folder, "config.yaml")
            with open(target, "w", encoding="utf-8") as f:
                yaml.safe_dump(public_config(config), f, sort_keys=False)
            # ESPnet names the files as they are seen from the working directory.
            with _working_directory(top):
                pack(
                    files={"model_file": os.path.join(folder, model_name)},
                    yaml_files={"train_config": os.path.join(folder, "config.yaml")},
                    option=[os.path.join(folder, n) for n in files if n != model_name],
                    outpath="packed.zip",
                )
            os.replace(os.path.join(top, "packed.zip"), outpath)
    except OSError as error:
        raise DataError(
            f"{outpath} cannot be written ({error}); free some space or choose "
            "another directory."
        ) from error


def _is_calibrated(train_config: str, model_file: str) -> bool:
    """Whether the calibration in the experiment is of the model that is packed."""
    if not os.path.exists(os.path.join(os.path.dirname(train_config), CALIBRATION)):
        return False
    from espnet2_distilmos.predictor import MOSPredictor

    try:
        confidence = MOSPredictor(train_config, model_file).confidence
    except (ValueError, OSError) as error:
        raise DataError(f"the model cannot be packed: {error}") from error
    if confidence.calibration is None:
        print(f"{CALIBRATION} is left out: {confidence.missing}", file=sys.stderr)
    return confidence.calibration is not None


def _read_config(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as f:
            config = yaml.safe_load(f)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())}), expected the "
            "config.yaml that training wrote; train again (stage 7)."
        ) from error
    if not isinstance(config, dict):
        raise DataError(
            f"{path} holds no mapping, expected the config.yaml that training wrote; "
            "train again (stage 7)."
        )
    return config


def _upstream_files(conf: Any) -> List[str]:
    """What a configuration names in ``upstream_files``; the folder if it names that."""
    if isinstance(conf, dict):
        found = {name for value in conf.values() for name in _upstream_files(value)}
        return [UPSTREAM_FILES] if UPSTREAM_FILES in found else sorted(found)
    is_there = isinstance(conf, str) and PurePath(conf).parts[:1] == (UPSTREAM_FILES,)
    return [conf] if is_there else []


def _put(source: str, target: str) -> None:
    """Put a file or a directory into the folder that is packed.

    Texts lose the trainer's directories; others are links, where one disk has both.
    """
    source = os.path.realpath(source)
    if os.path.isdir(source):
        for name in sorted(os.listdir(source)):
            _put(os.path.join(source, name), os.path.join(target, name))
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.exists(target):
        return
    if os.path.basename(target) in _TEXTS:
        with open(source, encoding="utf-8") as f:
            text = _FOLDERS.sub("", f.read())
        with open(target, "w", encoding="utf-8") as f:
            f.write(text)
        return
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


@contextlib.contextmanager
def _working_directory(path: str) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a line a file
            yield
    finally:
        os.chdir(before)


def unpack_model(source: str, output_dir: str) -> str:
    """Unpack a model so that ``output_dir`` looks like an experiment.

    Args:
        source: A packed .zip, or a name that espnet_model_zoo knows.
        output_dir: Gets ``config.yaml``, the model file and, where the model has them,
            ``upstream_files`` and its calibration as links; they and what they point
            to may be moved or copied together.

    Returns:
        The model file's name in ``output_dir``.

    Raises:
        DataError: There is no such model.
    """
    if os.path.isfile(source):
        model = unpack_zip(source, os.path.join(output_dir, "unpacked"))
    else:
        from espnet_model_zoo.downloader import ModelDownloader

        try:
            files = ModelDownloader().download_and_unpack(source)
        except Exception as error:  # the zoo raises whatever its transports raise
            raise DataError(
                f"{source} is no file, and the model zoo has no such model "
                f"({error}); correct --download_model."
            ) from error
        model = model_of(files, source)
    name = os.path.basename(model.model_file)
    links = {"config.yaml": model.train_config, name: model.model_file}
    for extra in (UPSTREAM_FILES, CALIBRATION):
        beside = os.path.join(os.path.dirname(model.model_file), extra)
        if os.path.exists(beside):
            links[extra] = beside
    os.makedirs(output_dir, exist_ok=True)
    for link, target in links.items():
        path = os.path.join(output_dir, link)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        os.symlink(os.path.relpath(target, output_dir), path)
    return name


def upload_model(packed: str, hf_repo: str) -> None:
    """Upload a packed model's files to a repository on the hub.

    Raises:
        DataError: No one is logged in, or the hub refuses.
    """
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise DataError(
            "no one is logged in to the hub; run 'hf auth login' and stage 11 again."
        )
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(folder)
        # The hub shows the README of the top folder.
        for readme in sorted(Path(folder).rglob("README.md"))[:1]:
            if readme.parent != Path(folder):
                shutil.copy(readme, folder)
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(hf_repo, exist_ok=True)
            api.upload_folder(repo_id=hf_repo, folder_path=folder)
        except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
            raise DataError(
                f"{packed} could not be uploaded to {hf_repo} ({error}); correct "
                "--hf_repo or try again."
            ) from error


def main(cmd: Optional[Sequence[str]] = None) -> int:
    parser = get_parser()
    args = parser.parse_args(cmd)
    if args.upload:
        needed = ("hf_repo",)
    elif args.unpack:
        needed = ("output_dir",)
    else:
        needed = ("train_config", "model_file", "outpath")
    for name in needed:
        if getattr(args, name) is None:
            parser.error(f"--{name} is missing")
    try:
        if args.upload:
            upload_model(args.upload, args.hf_repo)
        elif args.unpack:
            print(unpack_model(args.unpack, args.output_dir))
        else:
            pack_model(
                args.train_config,
                args.model_file,
                args.outpath,
                args.results,
                args.card,
            )
            print(f"The packed model is {args.outpath}", file=sys.stderr)
    except DataError as error:
        print(f"mos_pack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
