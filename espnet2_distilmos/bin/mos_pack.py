#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Pack a trained model, unpack one, or upload a packed one (stages 10 and 11)."""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import List, Optional, Sequence

import yaml
from espnet2.main_funcs.pack_funcs import pack, unpack

from espnet2_distilmos.fileio.datadir import DataError, atomic_write

_RESULT_FILES = ("RESULTS.md", "results.json", "images")


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
    parser.add_argument("--unpack", help="A packed .zip, or a name in the model zoo.")
    parser.add_argument("--output_dir", help="Where --unpack writes.")
    parser.add_argument("--upload", help="A packed .zip.")
    parser.add_argument("--hf_repo", help="'user/name' on the hub, for --upload.")
    return parser


def model_card(train_config: str, results: Optional[str]) -> str:
    """Return the README of a packed model, in Markdown."""
    with open(train_config, encoding="utf-8") as f:
        config = yaml.safe_load(f)
    lines = [
        "---",
        "library_name: espnet",
        "license: apache-2.0",
        "tags:",
        "- espnet",
        "- audio",
        "- mean-opinion-score",
        "---",
        "",
        "# A MOS predictor of espnet2_distilmos",
        "",
        "The model predicts the mean opinion score (MOS) of speech.",
        "",
        f"- frontend: `{config.get('frontend')}`",
        f"- head: `{config.get('head')}`",
        f"- losses: `{config.get('losses')}`",
        f"- scale: {config.get('score_range')}",
        "",
    ]
    table = Path(results or "", "RESULTS.md")
    if results and table.is_file():
        lines += [table.read_text(encoding="utf-8").rstrip(), ""]
    return "\n".join(lines)


def pack_model(
    train_config: str, model_file: str, outpath: str, results: Optional[str] = None
) -> None:
    """Write a packed model, whole or not at all.

    Args:
        train_config: config.yaml that the training wrote.
        model_file: Weights.
        outpath: The .zip to write.
        results: Directory whose RESULTS.md, results.json and images go in as well.

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
    readme = os.path.join(os.path.dirname(outpath), "README.md")
    with atomic_write(readme) as f:
        f.write(model_card(train_config, results))
    options: List[str] = [readme]
    if results:
        options += [
            path
            for path in (os.path.join(results, name) for name in _RESULT_FILES)
            if os.path.exists(path)
        ]
    # pack() tells the format from the ending, so the temporary name keeps it.
    directory, name = os.path.split(outpath)
    temporary = os.path.join(directory, f".{os.getpid()}.{name}")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a line a file
            pack(
                files={"model_file": model_file},
                yaml_files={"train_config": train_config},
                option=options,
                outpath=temporary,
            )
        os.replace(temporary, outpath)
    except OSError as error:
        raise DataError(
            f"{outpath} cannot be written ({error}); free some space or choose "
            "another directory."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def unpack_model(source: str, output_dir: str) -> str:
    """Unpack a model so that ``output_dir`` looks like an experiment.

    Args:
        source: A packed .zip, or a name that espnet_model_zoo knows.
        output_dir: Gets ``config.yaml`` and the model file as links.

    Returns:
        The model file's name in ``output_dir``.

    Raises:
        DataError: There is no such model.
    """
    if os.path.isfile(source):
        try:
            files = unpack(source, os.path.join(output_dir, "unpacked"))
        except (RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{source} is not a packed model ({error}), expected a .zip of stage "
                "10; pack the model again."
            ) from error
    else:
        from espnet_model_zoo.downloader import ModelDownloader

        try:
            files = ModelDownloader().download_and_unpack(source)
        except Exception as error:  # the zoo raises whatever its transports raise
            raise DataError(
                f"{source} is no file, and the model zoo has no such model "
                f"({error}); correct --download_model."
            ) from error
    missing = {"train_config", "model_file"} - set(files)
    if missing:
        raise DataError(
            f"{source} has no {' and '.join(sorted(missing))}, expected a model of "
            "espnet2_distilmos; correct --download_model."
        )
    name = os.path.basename(files["model_file"])
    for link, target in (
        ("config.yaml", files["train_config"]),
        (name, files["model_file"]),
    ):
        path = os.path.join(output_dir, link)
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)
        os.symlink(os.path.abspath(target), path)
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
            pack_model(args.train_config, args.model_file, args.outpath, args.results)
            print(f"The packed model is {args.outpath}", file=sys.stderr)
    except DataError as error:
        print(f"mos_pack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
