#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Check the options of mos.sh and print what follows from them.

Usage: mos_settings.py NAME=VALUE ...

Prints shell assignments, each value quoted; a list is an array. Options that cannot
work end with one sentence and exit code 1.
"""

import hashlib
import json
import os
import re
import shlex
import sys
from pathlib import Path

NUMBERS = (
    *("stage", "stop_stage", "ngpu", "num_nodes", "nj", "inference_nj"),
    *("max_frames", "bootstrap"),
)
AGGREGATES = ("heads", "average", "concat")
LAST_OF_TRAINING = 7  # stage
# Options of a frontend that change no token.
OF_TRAINING = re.compile(
    r"(freeze|lora|gradient_checkpointing|spec_augment|dropout|layerdrop|one_by_one"
    r"|upstream_config\.\w*drop\w*)[.=]"
)


class OptionError(Exception):
    """An option of mos.sh cannot work; the message is one sentence."""


def suffix_of(args):
    """Return options as a piece of a file name.

    >>> suffix_of("--seed 3 --losses token_ce.weight=0")
    '_seed3_lossestoken_ce.weight0'
    """
    return re.sub(r"[ |=/]", "", args.replace("--", "_"))


def file_name(text):
    """Return a name that file systems take: the end of a longer one is hashed.

    >>> file_name("seed3"), len(file_name(300 * "a"))
    ('seed3', 239)
    """
    if len(text) < 240:
        return text
    return f"{text[:230]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def token_args(args):
    """Return those options of a training that its tokens depend on.

    Tokens are of the pretrained network in eval mode: of the frontend's options those
    that say how it is trained change none.

    >>> token_args("--seed 3 --frontend_conf upstream=a --frontend_conf freeze=all")
    '--frontend_conf upstream=a'
    """
    found = re.findall(r"--(frontend\w*|init_model)[ =]+(\S+)", args)
    return "".join(
        f"--{name} {value}"
        for name, value in found
        if name != "frontend_conf" or not OF_TRAINING.match(value)
    )


def name_of(sets):
    """Return the names of several sets as one name.

    >>> name_of(["train", "somos/train"])
    'train+somos-train'
    """
    return "+".join(sets).replace("/", "-")


def token_upstreams_of(options):
    """Return the upstreams that the tokens are of; none for that which is trained.

    Raises:
        OptionError: an option about them cannot work.
    """
    upstreams = re.split(r"[ ,]+", options["token_upstreams"].strip(" ,"))
    upstreams = [name for name in upstreams if name]
    how = options["token_aggregate"]
    if how not in AGGREGATES:
        raise OptionError(
            f"--token_aggregate {how} is not one of {', '.join(AGGREGATES)}."
        )
    if how != "heads" and len(upstreams) < 2:
        raise OptionError(
            f"--token_aggregate {how} is of several upstreams; name them with "
            "--token_upstreams."
        )
    if len(upstreams) > 1 and options["import_km"]:
        raise OptionError(
            "--import_km is of one upstream, and --token_upstreams names "
            f"{len(upstreams)}; leave one of them out."
        )
    for name in ("num_clusters", "token_layers"):
        count = len(options[name].split())
        if count not in (1, len(upstreams)):
            raise OptionError(
                f"--{name} '{options[name]}' has {count} values, expected one, or one "
                "for each of --token_upstreams."
            )
    return upstreams


def parse_sets(text):
    """Parse ``train:1 somos/train:0.5``.

    Returns:
        {name: text of the weight}, which is empty where there is none.

    Raises:
        OptionError: a weight is no number above 0, only some sets have one, a set
            occurs twice, or it is a path outside data/.
    """
    weights = {}
    for part in text.split():
        match = re.fullmatch(r"([^:]+)(?::(\d*\.?\d+))?", part)
        if match is None:
            raise OptionError(
                f"--train_sets has {part}, expected a name, or a name and a weight "
                "such as train:0.5."
            )
        name, weight = match.groups("")
        if os.path.isabs(name) or ".." in name.split("/"):
            raise OptionError(
                f"--train_sets has the path {name}, expected the name of a directory "
                "in data/; copy or link it there."
            )
        if weight and float(weight) == 0:
            raise OptionError(
                f"--train_sets has {part}, expected a weight above 0; leave the set "
                "out if it shall not train."
            )
        if name in weights:
            raise OptionError(f"--train_sets '{text}' names {name} twice.")
        weights[name] = weight
    if 0 < sum(map(bool, weights.values())) < len(weights):
        raise OptionError(
            f"--train_sets '{text}' has weights for some sets, expected one for each "
            "or for none."
        )
    return weights


def training_sets(options):
    """Return the name of the training set, {part: weight}, and the unlabelled parts."""
    train_set, text = options["train_set"], options["train_sets"]
    unlabelled = options["unlabelled_sets"]
    besides = f"{options['further_sets']} {unlabelled}".strip()
    if besides and not text:
        if not train_set:
            name = "further_sets" if options["further_sets"] else "unlabelled_sets"
            raise OptionError(
                f"--{name} needs a labelled set besides; give --train_set."
            )
        text = f"{train_set}:1" if ":" in besides else train_set
    if not text:
        return train_set, {train_set: ""} if train_set else {}, []
    parts = parse_sets(f"{text} {besides}")
    if len(parts) == 1:
        raise OptionError(f"--train_sets '{text}' is one set; give it as --train_set.")
    return name_of(parts), parts, list(parse_sets(unlabelled))


def plain_name(name):
    """Return a set's name as it is in data/, without the name of its own recipe.

    >>> plain_name("somos//train/")
    'somos/train'
    """
    return os.path.normpath(name).removeprefix(f"{Path.cwd().parent.name}/")


def check_apart(options, parts, test_sets):
    """Raise OptionError where a set trains and is held out as well.

    A single training set may be the validation set: there is nothing else to choose by.
    What no longer trains may be scored on its training sets.
    """
    if options["skip_train"] == "true" or int(options["stage"]) > LAST_OF_TRAINING:
        return
    held_out = {"test_sets": test_sets}
    if len(parts) > 1:
        held_out["valid_set"] = [options["valid_set"]]
    for option, names in held_out.items():
        names = {plain_name(name) for name in names}
        both = [part for part in parts if plain_name(part) in names]
        if both:
            raise OptionError(
                f"{both[0]} is a training set and in --{option}, whose scores would "
                "be of clips that trained; leave it out of one of them, or score a "
                "trained model with --skip_train true."
            )


def check_options(options):
    """Raise OptionError where an option cannot work, whatever the others are."""
    for name in NUMBERS:
        if not re.fullmatch(r"\d+", options[name]):
            raise OptionError(f"--{name} {options[name]} is not a whole number.")
    if not re.fullmatch(r"\d+( \d+)*", options["num_clusters"]):
        raise OptionError(
            f"--num_clusters {options['num_clusters']} is not a whole number."
        )
    share = options["calibration_share"]
    if not re.fullmatch(r"0|0?\.\d+", share):
        raise OptionError(
            f"--calibration_share {share} is not a number from 0 to less than 1."
        )
    config = options["train_config"]
    if config and not os.access(config, os.R_OK):
        raise OptionError(f"--train_config {config} cannot be read.")
    for name in ("dumpdir", "expdir"):
        path = options[name]
        try:
            os.makedirs(path, exist_ok=True)
        except OSError:
            pass
        if not (os.path.isdir(path) and os.access(path, os.W_OK)):
            raise OptionError(
                f"{path} cannot be written; choose another --{name}, or change its "
                "permissions."
            )


def settings_of(options):
    """Return {variable of mos.sh: text or list}, see the usage.

    Args:
        options: {name of an option: text}.

    Raises:
        OptionError: the options cannot work.
    """
    check_options(options)
    train_set, parts, unlabelled = training_sets(options)
    weights = {part: float(weight) for part, weight in parts.items() if weight}
    valid_set = options["valid_set"]
    ood = options["known_ood"] if options["ood"] == "all" else options["ood"]
    test_sets = list(dict.fromkeys(f"{options['test_sets']} {ood}".split()))
    test_only = options["skip_train"] == "true" and not train_set and not valid_set
    for name, value in (("train_set", train_set), ("valid_set", valid_set)):
        if not test_only and not value:
            raise OptionError(
                f"--{name} is missing; give the name of a directory in data/."
            )
    if test_only and not test_sets:
        raise OptionError("--test_sets is missing; give names of directories in data/.")

    check_apart(options, parts, test_sets)
    calibration_set = ""
    share = options["calibration_share"]
    if float(share) > 0 and not test_only:
        calibration_set = f"{valid_set}_calibration"
        if train_set == valid_set:
            raise OptionError(
                f"--calibration_share {share} would split the training set, as "
                f"--train_set and --valid_set are both {valid_set}; give two sets."
            )
        if calibration_set in [*parts, *test_sets]:
            raise OptionError(
                f"--calibration_share {share} makes the set {calibration_set}, and a "
                "set of this name is given; rename yours."
            )

    # What is made from a setting carries the setting in its name.
    several = f"_{train_set}" if len(parts) > 1 else ""
    config_name = Path(options["train_config"] or "train").stem
    tag = f"{config_name}_raw{suffix_of(options['train_args'])}"
    if several:
        tag += "_" + name_of(part + weight for part, weight in parts.items())
    clusters, layers = options["num_clusters"], options["token_layers"]
    tokens_tag = f"{config_name}_k{clusters}_l{layers.replace(',', '-')}"
    tokens_tag = tokens_tag.replace(" ", "+")
    if options["import_km"]:
        layers = [part.partition("=")[0] for part in options["import_km"].split()]
        tokens_tag = f"{config_name}_km{'-'.join(layers)}"
    tokens_tag += suffix_of(token_args(options["train_args"]))
    upstreams = token_upstreams_of(options)
    if upstreams:
        names = f"_{name_of(upstreams)}"
        if options["token_aggregate"] != "heads":
            names += f"_{options['token_aggregate']}"
        tokens_tag += names
        tag += names
    inference_tag = Path(options["inference_config"] or "inference").stem
    inference_tag += suffix_of(options["inference_args"])
    inference_tag += f"_{options['inference_model'].removesuffix('.pth')}"

    expdir, dumpdir = options["expdir"], options["dumpdir"]
    tokens_tag = options["tokens_tag"] or tokens_tag
    return {
        "train_set": train_set,
        "train_parts": list(parts),
        "train_weights": json.dumps(weights) if weights else "",
        "unlabelled_parts": unlabelled,
        "test_sets": test_sets,
        "test_only": str(test_only).lower(),
        "calibration_set": calibration_set,
        "mos_exp": options["mos_exp"]
        or f"{expdir}/{file_name('mos_' + (options['tag'] or tag))}",
        "mos_stats_dir": options["mos_stats_dir"] or f"{expdir}/mos_stats_raw{several}",
        "token_upstreams": upstreams,
        "tokens_dir": f"{dumpdir}/tokens/{file_name(tokens_tag)}",
        "inference_tag": options["inference_tag"] or file_name(inference_tag),
    }


def main(argv):
    try:
        settings = settings_of(dict(argument.split("=", 1) for argument in argv))
    except OptionError as error:
        print(f"mos.sh: {error}", file=sys.stderr)
        return 1
    for name, value in settings.items():
        if isinstance(value, list):
            print(f"{name}=({' '.join(map(shlex.quote, value))})")
        else:
            print(f"{name}={shlex.quote(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
