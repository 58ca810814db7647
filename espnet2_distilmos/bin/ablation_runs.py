#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Read a list of runs that are to be compared, for scripts/mos_ablation.sh."""

import argparse
import hashlib
import json
import re
import sys
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import yaml

from espnet2_distilmos.data.datadir import DataError

# Options of mos.sh that a run may have of its own: they are about its tokens, and
# about the audio that has tokens and no labels.
TOKEN_OPTIONS = {
    "use_tokens": r"true|false",
    "num_clusters": r"[1-9][0-9]*",
    "token_layers": r"all|[0-9]+(,[0-9]+)*",
    "max_frames": r"[1-9][0-9]*",
    "unlabelled_sets": r"[A-Za-z0-9_./-]+(:[0-9]*\.?[0-9]+)?",
}
# Options of a frontend that say how it is trained, not what it puts out untrained.
_TRAINING_ONLY = (
    *("freeze", "lora", "gradient_checkpointing"),
    *("layerdrop", "spec_augment"),
)
# What the script itself gives to mos_train.
_RESERVED = ("--seed", "--config", "--output_dir", "--resume")


class Run(NamedTuple):
    """One line of the list.

    Attributes:
        name: Of the run, and of its directory.
        config: Training configuration.
        train_args: Options of mos_train that override it, those of all runs first.
        use_tokens: Whether it trains with tokens.
        tokens_tag: Name of its tokens, which runs that need the same tokens share.
        token_options: Options of mos.sh, such as ``--num_clusters 50``.
        config_hash: Of the configuration's contents.
    """

    name: str
    config: str
    train_args: str
    use_tokens: bool
    tokens_tag: str
    token_options: str
    config_hash: str


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Check a list of runs and print one line each, NAME|CONFIG|"
        "TRAIN_ARGS|USE_TOKENS|TOKENS_TAG|TOKEN_OPTIONS|CONFIG_HASH."
    )
    parser.add_argument(
        "list",
        help="lines `name | train config | options of mos_train | options of mos.sh "
        f"about tokens ({', '.join(TOKEN_OPTIONS)})`, the last two may be absent; a "
        "line that begins with # is a comment",
    )
    parser.add_argument(
        "--train_args", default="", help="options of mos_train for all runs"
    )
    parser.add_argument(
        "--token_options",
        default="",
        help="options of mos.sh about tokens for all runs that do not say otherwise",
    )
    parser.add_argument(
        "--only", default="", help="names of the runs to print; all by default"
    )
    return parser


def _hash(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _token_options(text: str) -> Dict[str, str]:
    words = text.split()
    options: Dict[str, str] = {}
    for option, value in zip(words[::2], [*words[1::2], ""]):
        name = option[2:].replace("-", "_") if option.startswith("--") else ""
        if not re.fullmatch(TOKEN_OPTIONS.get(name, "$."), value):
            known = "; ".join(f"--{k} {v}" for k, v in TOKEN_OPTIONS.items())
            raise DataError(
                f"the options about tokens have {option!r} with {value!r}, expected "
                f"some of {known}; those of the training stand before the third |."
            )
        options[name] = value
    return options


def _train_args(text: str) -> str:
    words = text.split()
    reserved = [word for word in words if word.partition("=")[0] in _RESERVED]
    if reserved:
        raise DataError(
            f"{reserved[0]} is not for a list, expected it on the command line or in "
            "the configuration: seeds are --seeds of the script."
        )
    if set(text) & set("'\"\\$`") or not (words or ["--"])[0].startswith("--"):
        raise DataError(
            f"the options of the training are {text!r}, expected plain words, which no "
            "shell will evaluate, such as `--losses token_ce.weight=0.3`."
        )
    return " ".join(words)


def _read_run(line: str, train_args: str, token_options: Dict[str, str]) -> Run:
    """Read a line of the list, to which the options of all runs come."""
    fields = [field.strip() for field in line.split("|")]
    if not 2 <= len(fields) <= 4:
        raise DataError(
            f"found {len(fields)} fields, expected two to four: name | train config | "
            "options of the training | options about tokens."
        )
    name, config, own_args, own_options = [*fields, "", ""][:4]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DataError(
            f"the name of the run is {name!r}, expected letters, digits, '.', '_' and "
            "'-'."
        )
    args = f"{train_args} {_train_args(own_args)}".strip()
    options = {**token_options, **_token_options(own_options)}
    # Imports torch, which a help text does not need.
    from espnet2_distilmos.mos.checkpoint import read_frontend_conf

    frontend = read_frontend_conf(config, args)
    with open(config, encoding="utf-8") as file:
        config_hash = _hash(yaml.safe_load(file))
    use_tokens = options.pop("use_tokens", "true") == "true"
    # The name of the tokens says what they are of, so that equal ones are shared and
    # unequal ones are not, whatever runs the list has.
    conf = {k: v for k, v in frontend.conf.items() if k not in _TRAINING_ONLY}
    key = _hash([frontend.name, conf, frontend.init_model, options])
    tag = "ablation"
    if "num_clusters" in options:
        tag += f"_k{options['num_clusters']}"
    if "token_layers" in options:
        tag += f"_l{options['token_layers'].replace(',', '-')}"
    words = " ".join(f"--{option} {value}" for option, value in options.items())
    return Run(name, config, args, use_tokens, f"{tag}_{key}", words, config_hash)


def read_runs(path: str, train_args: str = "", token_options: str = "") -> List[Run]:
    """Read the list; nothing of it is evaluated.

    Args:
        path: The list.
        train_args: Options of mos_train for all runs; those of a line come after.
        token_options: Options of mos.sh about tokens, which a line overrides.

    Raises:
        DataError: A line is not as it should be, two have one name, there is none, or
            a configuration cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a list of runs; give another "
            "--list."
        ) from error
    for_all = (_train_args(train_args), _token_options(token_options))
    runs: Dict[str, Run] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            run = _read_run(line, *for_all)
            if run.name in runs:
                raise DataError(
                    f"the name {run.name} was given before, expected a name for each "
                    "run; rename one."
                )
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        runs[run.name] = run
    if not runs:
        raise DataError(
            f"{path} has no run, expected lines such as "
            "`lambda0 | conf/tuning/train_distilmos_lambda0.yaml`."
        )
    return list(runs.values())


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    try:
        runs = read_runs(args.list, args.train_args, args.token_options)
        names = [run.name for run in runs]
        chosen = args.only.split() or names
        unknown = [name for name in chosen if name not in names]
        if unknown:
            raise DataError(
                f"{args.list} has no run {unknown[0]}, expected some of "
                f"{', '.join(names)}."
            )
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    for run in runs:
        if run.name in chosen:
            print("|".join(run._replace(use_tokens=str(run.use_tokens).lower())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
