# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""What is refused before a training: options, data files and tokens that do not fit.

Only faults with which a training would fail in the middle of an epoch, or train
something else than was meant. Every check raises a ValueError (a DataError where a file
is at fault) of one sentence: what was found, what was expected, what mends it.
"""

import argparse
import codecs
import contextlib
import fnmatch
import hashlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import yaml
from espnet2.tasks.abs_task import optim_classes, scheduler_classes

from espnet2_distilmos.data.datadir import (
    DataError,
    parse_votes,
    read_metric_scp,
    read_scp,
)
from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    LOSSES,
    build_frontend,
    build_losses,
    token_columns_of,
)
from espnet2_distilmos.mos.espnet_model import ACCURACIES, ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.grid import JOINT
from espnet2_distilmos.mos.loss.abs_loss import CLEAN, MASKED, AbsMOSLoss
from espnet2_distilmos.mos.span_mask import SpanMask
from espnet2_distilmos.train.mos_sampler import BY_COUNT, BY_SIZE, MIXED, SINGLE
from espnet2_distilmos.train.mos_trainer import LEVELS, STATISTICS
from espnet2_distilmos.train.views import TRUE_SIGNAL, check_view, kinds_of

# Name of the training data, file of a data directory, what losses read of it, and the
# option of a recipe that gives it, of each condition.
CONDITIONS = {
    "listener": ("votes", "votes.scp", "mos_se", "--use_votes"),
    "corpus": ("corpus", "utt2domain", "corpus", "--use_corpora"),
}
# ESPnet's types of batches of up to --batch_size utterances.
_BY_BATCH_SIZE = (*BY_COUNT, "folded", "catbel")


def check_before_training(args: argparse.Namespace) -> None:
    """Check all that can be checked before the model is built.

    ``args.listener_list`` and ``args.corpus_list`` become lists of names, and
    ``args.data_digests`` says what the data files hold, as config.yaml has them.

    Args:
        args: of the task. With ``collect_stats`` shapes alone are wanted: neither
            criteria nor tokens matter yet. With ``dry_run`` no data is read.

    Raises:
        ValueError: one sentence; a DataError names the file and the utterance.
    """
    for option, value in vars(args).items():
        if option in ("losses", "noisy_view") or option.endswith("_conf"):
            check_numbers(option, value)
    check_options(args)
    if args.noisy_view is not None:
        check_view(args.noisy_view)
    losses = build_losses(args.losses)
    active = {name: loss for name, loss in losses.items() if loss.weight > 0}
    _expect(active, f"no loss of weight above 0 among {list(losses)}", "one")
    if not args.dry_run:
        check_conditions(args, active)
        check_labels(args, active)
    fill_in_classes(args, active)
    if args.collect_stats:
        _expect(
            not holds_model(args.output_dir),
            f"a trained model in {args.output_dir}, where --collect_stats writes",
            "another --output_dir: the model's config.yaml would be lost",
        )
        return
    _expect(
        args.noisy_view is None or any(x.view == MASKED for x in active.values()),
        "--noisy_view and no loss that reads it",
        "one of the masked view, such as --losses masked_token_ce.weight=0.05",
    )
    view = (args.noisy_view or {}).get("teacher", TRUE_SIGNAL)
    taught = [x for x in active.values() if x.view == MASKED and is_taught(x)]
    _expect(
        view == TRUE_SIGNAL or taught,
        f"noisy_view.teacher={view} and no loss of the masked view with a teacher",
        "one, such as layer_distill with view=masked, or teacher=clean",
    )
    if args.dry_run:
        return
    check_sampling(args)
    args.data_digests = data_digests(args)
    check_criteria(args, active)


def is_taught(loss: AbsMOSLoss) -> bool:
    """Whether a loss reads what a frozen teacher hears."""
    return "teacher" in loss.needs or getattr(loss, "token_teacher", None) is not None


def fill_in_classes(args: argparse.Namespace, losses: Mapping[str, AbsMOSLoss]) -> None:
    """State what the losses on distortions and corpora tell from each other."""
    for name, loss in losses.items():
        if "distortion" in loss.needs:
            given = args.noisy_view
            classes = [] if given is None else kinds_of(**check_view(given))
        elif "corpus" in loss.needs:
            classes = args.corpus_list or ["a", "b"][: 2 * args.dry_run]
        else:
            continue
        args.losses[name] = {**args.losses[name], "classes": list(classes)}


def _expect(good: Any, found: str, expected: str, kind: type = ValueError) -> None:
    if not good:
        raise kind(f"found {found}, expected {expected}")


def check_numbers(name: str, value: Any) -> None:
    """Refuse a number that YAML took for text, as it does with ``2e-3``.

    Args:
        name: of the option, such as ``optim_conf``.
        value: its value; mappings and lists are searched through.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            check_numbers(f"{name}.{key}", item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            check_numbers(name, item)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return
        raise ValueError(
            f"found the text {value!r} for {name}, expected a number: write {number!r} "
            "(YAML takes a number without a decimal point before the e, or a sign "
            "behind it, for text)"
        )


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that are impossible together."""
    _expect(
        args.use_preprocessor,
        "use_preprocessor=false",
        "true: metric.scp is read by the preprocessor",
    )
    if args.init_model is not None:
        path = os.path.realpath(args.init_model)
        _expect(
            os.path.realpath(args.output_dir) not in (path, os.path.dirname(path)),
            f"--init_model {args.init_model} in --output_dir",
            "another directory, as training would overwrite the model (--tag)",
        )
    rate, decay = args.upstream_lr, args.upstream_lr_decay
    base = args.optim_conf.get("lr") if rate is None else rate
    _expect(
        decay is None or (0 < decay <= 1 and base is not None),
        f"--upstream_lr_decay {decay} of the learning rate {base}",
        "a factor above 0 and up to 1 of --upstream_lr or --optim_conf lr=...",
    )
    _expect(
        not args.exclude_weight_decay or (rate is None and decay is None),
        "--exclude_weight_decay true with --upstream_lr or --upstream_lr_decay",
        "one of them: both make groups of the optimizer",
    )


def check_sampling(args: argparse.Namespace) -> None:
    """Refuse options that would undo the sampling weights."""
    weights, path = args.sampling_weights, args.sampling_categories
    _expect(
        (weights is None) == (path is None),
        f"--sampling_weights {weights} and --sampling_categories {path}",
        "both weights and the file with the category of each utterance, or neither",
    )
    _expect(
        args.sampling_batches == MIXED or (args.sampling_batches == SINGLE and weights),
        f"--sampling_batches {args.sampling_batches} and --sampling_weights {weights}",
        f"{MIXED}, or {SINGLE} with weights",
    )
    if weights is None:
        return
    by_size = args.batch_type in BY_SIZE
    for good, option, expected in (
        (args.iterator_type == "sequence", "iterator_type", "sequence"),
        # Such epochs do not have as many batches each.
        (not (args.num_iters_per_epoch and by_size), "num_iters_per_epoch", "none"),
        (not vars(args).get("shuffle_within_batch"), "shuffle_within_batch", "false"),
    ):
        found = f"--{option} {vars(args).get(option)} with --sampling_weights"
        _expect(good, f"{found} and --batch_type {args.batch_type}", expected)


def check_conditions(
    args: argparse.Namespace, losses: Mapping[str, AbsMOSLoss]
) -> None:
    """Read the listeners and corpora; each utterance needs a line.

    Those of the training data are refused where neither an embedding nor a loss reads
    them. By the corpora of a validation, metrics are means over corpora.
    """
    for kind, (name, file, entry, recipe) in CONDITIONS.items():
        wanted = bool(args.model_conf.get(f"{kind}_embedding"))
        path = _files(args, "train").get(name)
        readers = [key for key, loss in losses.items() if entry in loss.uses]
        if kind == "corpus" and (
            args.head == "probe" or (args.head_conf or {}).get("probe") is not None
        ):
            readers.append("probe")
        data = f"--train_data_path_and_name_and_type {file},{name},text"
        _expect(
            path or args.collect_stats or not wanted,
            f"model_conf.{kind}_embedding=true and no {name} in the training data",
            f"both or none: {data} (in a recipe {recipe} true), or false",
        )
        _expect(
            wanted or readers or not path,
            f"model_conf.{kind}_embedding=false and the training data {path}",
            f"both or none: true, or no {data} (in a recipe {recipe} false), or what "
            "reads it: a loss such as bradley_terry, or for corpora a probe",
        )
        for which in ("valid", "train"):
            path = _files(args, which).get(name)
            if not path:
                continue
            lines = read_scp(path)
            ids = _utterances(args, which)
            example = "[]" if kind == "listener" else "its_corpus"
            _expect_lines(path, ids, lines, example)
            if kind == "corpus":
                names = {lines[i] for i in ids}
            else:
                votes = (parse_votes(lines[i], i, path, args.score_range) for i in ids)
                names = {listener for some in votes for listener, _ in some}
            # Names of listeners go into config.yaml only where they are needed.
            if which == "train" and (wanted or kind == "corpus"):
                setattr(args, f"{kind}_list", sorted(names))


def corpora_of(args: argparse.Namespace) -> List[str]:
    """Names of the corpora of the training, then of those of the validation alone."""
    path = _files(args, "valid").get("corpus")
    valid = sorted(set(read_scp(path).values())) if path else []
    return list(dict.fromkeys([*(args.corpus_list or ()), *valid]))


def check_labels(args: argparse.Namespace, losses: Mapping[str, AbsMOSLoss]) -> None:
    """Refuse labels that are missing.

    Every utterance needs a line in metric.scp, if there is one; where losses read
    labels the validation set needs some, and a system for each labelled utterance
    where system-level metrics are wanted. Further scores that a loss reads must be
    there for some training utterance, and labels from which the losses learn something.
    """
    users = [name for name, loss in losses.items() if "mos" in loss.needs]
    further = {k: n for n, loss in losses.items() for k in getattr(loss, "keys", ())}
    for which in ("train", "valid"):
        files = _files(args, which)
        if "speech" not in files:
            continue  # ESPnet itself names the data that a task requires.
        _expect(
            "mos" in files or not (users or (further and which == "train")),
            f"no labels for {files['speech']}, which "
            f"{', '.join(users or set(further.values()))} needs",
            f"--{which}_data_path_and_name_and_type metric.scp,mos,text or a weight "
            "of 0",
            DataError,
        )
        if "mos" not in files:
            continue
        labels = read_metric_scp(files["mos"], score_range=args.score_range)
        ids = _utterances(args, which)
        _expect_lines(files["mos"], ids, labels, "{}")
        if which == "train":
            for key, name in further.items():
                scores = read_metric_scp(files["mos"], key)
                _expect(
                    any(scores[i] is not None for i in ids),
                    f"no utterance with the score {key} in {files['mos']}, which "
                    f"{name} needs",
                    f'lines such as \'{ids[0]} {{"mos": 3.5, "{key}": 3.1}}\': add '
                    f"it, or leave it out of losses.{name}.keys",
                    DataError,
                )
        if args.collect_stats:
            continue
        if which == "train":
            known = {i: labels[i] for i in ids if labels[i] is not None}
            _check_training_labels(args, losses, known)
            continue
        labelled = [i for i in ids if labels[i] is not None]
        _expect(
            labelled or not users,
            f"no labelled utterance in {files['mos']}",
            "some in the validation set, since the best model is chosen by them",
            DataError,
        )
        if args.valid_utt2sys is not None:
            systems = read_scp(args.valid_utt2sys)
            _expect_lines(args.valid_utt2sys, labelled, systems, "its_system")


def _check_training_labels(
    args: argparse.Namespace,
    losses: Mapping[str, AbsMOSLoss],
    labels: Mapping[str, float],
) -> None:
    """Refuse a training whose losses on labels would all be zero to the end.

    Args:
        args: of the task.
        losses: those that train, also such as read no labels.
        labels: of the labelled training utterances.
    """
    readers = {k: loss for k, loss in losses.items() if "mos" in loss.needs}
    if not readers or args.model_conf.get("listener_embedding"):
        return  # of the votes, too, each is a label
    files, names = _files(args, "train"), ", ".join(readers)
    _expect(
        labels,
        f"no labelled training utterance in {files['mos']}, by which {names} could "
        "train",
        "some with a score, or losses that need none such as masked_token_ce: add "
        f"labels, or give {names} a weight of 0",
        DataError,
    )
    least = min(loss.least_rows for loss in readers.values())
    _expect(
        args.batch_type not in _BY_BATCH_SIZE or args.batch_size >= least,
        f"--batch_size {args.batch_size} with no loss on labels but {names}, which "
        "compare the utterances of a batch",
        f"a --batch_size of {least} or more, or a loss on single utterances such as "
        "--losses mos_l1.weight=1",
    )
    _expect(
        any(loss.trains_score for loss in readers.values()),
        f"no loss on labels but {names}, which trains the embedding and no score",
        "a loss that trains the score besides, such as --losses mos_l1.weight=1",
    )
    if any(loss.sets_scale for loss in readers.values()):
        return
    corpora: Mapping[str, str] = {}
    across = any(getattr(loss, "across_corpora", False) for loss in readers.values())
    if "corpus" in files and not across:
        corpora = read_scp(files["corpus"])
    values: Dict[Optional[str], Set[float]] = {}
    for utt_id, label in labels.items():
        values.setdefault(corpora.get(utt_id), set()).add(label)
    _expect(
        any(len(found) > 1 for found in values.values()),
        f"no two labels that differ{' within a corpus' if corpora else ''} in "
        f"{files['mos']}, and no loss on labels but {names}, which compare",
        "labels that differ, or a loss on single utterances such as --losses "
        "mos_l1.weight=1",
        DataError,
    )


def _files(args: argparse.Namespace, which: str) -> Dict[str, str]:
    """Audio and text files of the training or the validation set, by name."""
    data = getattr(args, f"{which}_data_path_and_name_and_type")
    files = {n: path for path, n, kind in data if n == "speech" or kind == "text"}
    for path in files.values():
        with contextlib.suppress(OSError), open(path, "rb") as file:
            _expect(
                file.read(3) != codecs.BOM_UTF8,
                f"a byte order mark, which ESPnet takes for part of the id, in {path}",
                "none: remove it with `sed -i '1s/^\\xef\\xbb\\xbf//' FILE`, or have "
                "mos.sh prepare the data",
                DataError,
            )
    return files


def _utterances(args: argparse.Namespace, which: str) -> List[str]:
    """Ids of the training or the validation set."""
    shapes = getattr(args, f"{which}_shape_file")
    path = shapes[0] if shapes else _files(args, which)["speech"]
    return list(read_scp(path, need_value=False))


def _expect_lines(
    path: str, ids: List[str], lines: Mapping[str, Any], example: str
) -> None:
    missing = [utt_id for utt_id in ids if utt_id not in lines]
    if missing:
        raise DataError(
            f"{path}: found no line for {len(missing)} utterances, the first is "
            f"{missing[0]}, expected one for each: write '{missing[0]} {example}', or "
            "prepare the data again"
        )


def check_criteria(args: argparse.Namespace, losses: Mapping[str, AbsMOSLoss]) -> None:
    """Refuse a criterion that no epoch will ever report.

    ESPnet passes over an unknown one in silence, and there is no best model.
    """
    columns = token_columns_of(read_token_info(args.token_info))
    reported = ["loss", *losses]
    for loss in losses.values():
        ids = [columns[i].id for i in loss.select(columns)]
        reported += [f"{prefix}{i}" for prefix in ACCURACIES[loss.view] for i in ids]
    known = {"train": reported, "valid": list(reported)}
    scored = any(loss.view == CLEAN for loss in losses.values())
    if scored and "mos" in _files(args, "valid"):
        levels = LEVELS[:1] if args.valid_utt2sys is None else LEVELS
        known["valid"] += [f"{level}_{s}" for level in levels for s in STATISTICS]
    scaled = any("mos" in x.needs and x.sets_scale for x in losses.values())
    criteria = [("best_model_criterion", c) for c in args.best_model_criterion]
    if args.patience is not None:
        criteria.append(("early_stopping_criterion", args.early_stopping_criterion))
    for option, criterion in criteria:
        # A configuration file may hold anything, also a plain string.
        parts = [criterion] if isinstance(criterion, str) else list(criterion)
        phase, key, mode = parts if len(parts) == 3 else ("", "", "")
        _expect(
            scaled or phase != "valid" or key not in [f"{x}_mse" for x in LEVELS],
            f"--{option} {','.join(map(str, parts))} and no loss on the values of "
            f"labels ({', '.join(losses)}), so that scores are on no scale",
            "a correlation such as valid,utt_srcc,max, or a loss such as --losses "
            "mos_l1.weight=1",
        )
        _expect(
            mode in ("min", "max") and key in known.get(phase, ()),
            f"--{option} {','.join(map(str, parts))}",
            "train or valid, then one of "
            f"{', '.join(dict.fromkeys(known.get(phase, known['valid'])))}, then min "
            "or max (sys_ needs --valid_utt2sys, utt_ and sys_ labels and a loss of "
            "the true signal, token_acc_ a token loss and --token_info)",
        )


def read_token_info(token_info) -> Optional[dict]:
    """Contents of a tokens.json, given as its path, as a dict already, or None.

    Raises:
        DataError: when the file cannot be read or is not a JSON object.
    """
    if not token_info or isinstance(token_info, dict):
        return token_info or None
    try:
        with open(token_info, encoding="utf-8") as f:
            contents = json.load(f)
        _expect(isinstance(contents, dict), "no JSON object", "one")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{token_info} cannot be read ({error}), expected the tokens.json that "
            "stage 5 writes: rerun stage 5"
        ) from error
    return contents


def check_tokens(args: argparse.Namespace, frontend: AbsLayerFrontend) -> None:
    """Refuse tokens on another time grid, or of another upstream than is meant.

    Args:
        args: ``token_info`` is the contents of tokens.json, or None; the upstreams are
            ``token_source``, or ``frontend`` itself. Several have commas between them;
            each is a stream, a fingerprint, or what ``frontend_conf.upstream`` takes.
        frontend: as training starts with it.
    """
    info = args.token_info
    if not info:
        return
    shift, fingerprint = info["frame_shift"], info.get("upstream_fingerprint")
    columns = info["columns"]
    # Older files say no more than the receptive field.
    field = info.get("minimum_samples", shift)
    centre = info.get("frame_centre", (field - 1) / 2)
    near = abs(centre - frontend.frame_centre) <= frontend.frame_shift / 2
    _expect(
        shift == frontend.frame_shift and (near or args.token_source is None),
        f"tokens with a frame every {shift} samples, the first at {centre:g}",
        f"{frontend.frame_shift} and, to half a frame, {frontend.frame_centre:g} as "
        f"{frontend.name} has them: rerun stage 5, or make them on its grid (mfcc: "
        f"frontend_conf.receptive_field {frontend.minimum_samples})",
    )
    # Of one stream the file says it once.
    streams = {c["stream"]: c.get("upstream_fingerprint", fingerprint) for c in columns}
    source = args.token_source
    lacking: Set[str] = set()
    if source is None:
        meant = set(streams.values()) == {frontend.fingerprint()}
    else:
        meant = {source} in ({*streams}, {fingerprint})
        if not meant:
            how, names = _split_source(source)
            named, found = _upstreams_named(names, streams), _upstreams_of(streams)
            lacking = {name for name, of in named.items() if not of <= found}
            same_kind = {how} == {
                _joined(fingerprint) for fingerprint in streams.values()
            }
            meant = same_kind and set().union(*named.values()) == found
    _expect(
        meant,
        "tokens made by another upstream or in another way "
        f"({', '.join(f'{name} {of}' for name, of in sorted(streams.items()))})"
        + (f", nothing of {', '.join(sorted(lacking))}" if lacking else ""),
        f"those of {source or frontend.name + ' as configured'}, and of no other: "
        "rerun stage 5 with this configuration, or name their upstreams with "
        "--token_upstreams and --token_aggregate of the recipe (--token_source of the "
        "training) if they are meant",
    )


def _split_source(source: str) -> Tuple[str, List[str]]:
    """How upstreams are joined, ``""`` for side by side, and their names."""
    how = next((x for x in JOINT if source.startswith(f"{x}:")), "")
    return how, source[len(how) + bool(how) :].split(",")


def _joined(fingerprint: Optional[str]) -> str:
    """How the upstreams of a stream are joined, ``""`` where it is of one."""
    return str(fingerprint).rpartition(":")[0]


def _upstreams_of(streams: Mapping[str, Optional[str]]) -> Set[str]:
    """Fingerprints of all upstreams of streams; one may be of several as one."""
    parts = [str(fingerprint).rpartition(":")[2] for fingerprint in streams.values()]
    return {upstream for part in parts for upstream in part.split("+")}


def _upstreams_named(
    names: Sequence[str], streams: Mapping[str, Optional[str]]
) -> Dict[str, Set[str]]:
    """Fingerprints of the upstreams that are named."""
    found: Dict[str, Set[str]] = {}
    for name in names:
        if name in streams:
            found[name] = _upstreams_of({name: streams[name]})
        elif "/" in name or os.path.isdir(name):
            found[name] = {build_frontend("hf", {"upstream": name}).fingerprint()}
        else:
            found[name] = {name}
    return found


# --- A training that is gone on with -------------------------------------------------

# Options that change neither the model nor what it learns. All others do, or might.
MAY_CHANGE = (
    *("config", "print_config", "output_dir", "required", "version", "resume"),
    *("dry_run", "collect_stats", "write_collected_feats", "mos_format_version"),
    # how long it trains, and what is kept
    *("max_epoch", "patience", "early_stopping_criterion"),
    *("keep_nbest_models", "nbest_averaging_interval"),
    # where it runs
    *("ngpu", "num_workers", "dist*", "local_rank", "multiprocessing_distributed"),
    *("unused_parameters", "sharded_ddp", "gradient_as_bucket_view"),
    *("max_cache_size", "max_cache_fd", "valid_max_cache_size"),
    # no score depends on its batch
    *("valid_batch_size", "valid_batch_type", "valid_batch_bins"),
    # what is told about it
    *("log_*", "num_att_plot", "use_matplotlib", "*tensorboard", "*wandb*"),
)
# Options that say where data is. It may move: data_digests says what it is.
PLACES = (
    *("train_data_path_and_name_and_type", "valid_data_path_and_name_and_type"),
    *("train_shape_file", "valid_shape_file", "valid_utt2sys", "sampling_categories"),
)
# Written in full by this code or by transformers: a field that another version does
# not know says nothing of the training.
_IN_FULL = ("token_info", "frontend_conf.upstream_config", "frontend_conf.lora")
_ABSENT = object()


def holds_model(output_dir: str) -> bool:
    """Whether a model was trained in a directory."""
    folder = Path(output_dir)
    return (folder / "config.yaml").exists() and any(folder.glob("*.pth"))


def data_digests(args: argparse.Namespace) -> Dict[str, str]:
    """Identify what the text files of the data hold, wherever they are.

    Of audio and tokens the ids and lengths stand in the shape files, and the codebooks
    in ``token_info``.
    """
    files = {}
    for which in ("train", "valid"):
        data = getattr(args, f"{which}_data_path_and_name_and_type")
        files.update({f"{which}/{n}": p for p, n, kind in data if kind == "text"})
        for path in getattr(args, f"{which}_shape_file"):
            files[f"{which}/{os.path.basename(path)}"] = path
    for option in ("valid_utt2sys", "sampling_categories"):
        if getattr(args, option) is not None:
            files[option] = getattr(args, option)
    digests = {}
    for name, path in files.items():
        try:
            lines = sorted(Path(path).read_bytes().splitlines())
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}), expected a text file with "
                "a line for each utterance: run the stage that writes it"
            ) from error
        digests[name] = hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]
    return digests


def check_same_training(
    args: argparse.Namespace, default_of: Callable[[str], Any]
) -> None:
    """Refuse another training than the one that made the model in the directory.

    It would write its own config.yaml over that of the model: no weight need change
    for every score to be another one.

    Args:
        args: as they will stand in config.yaml.
        default_of: returns the default of an option, which counts for what an older
            version did not know.

    Raises:
        DataError: names the options that differ.
    """
    config = os.path.join(args.output_dir, "config.yaml")
    if not holds_model(args.output_dir):
        return
    old, is_whole = _read_record(config)
    has_digests = "data_digests" in old or not is_whole
    ignored = [*MAY_CHANGE, *(PLACES if has_digests else ["data_digests"])]
    known = _keyword_defaults(args)
    found = []
    for name, new in vars(args).items():
        if any(fnmatch.fnmatch(name, pattern) for pattern in ignored):
            continue
        if name in old or is_whole:
            value = old[name] if name in old else default_of(name)
            found += _differences(name, value, new, known)
    if found:
        shown = [f"{name} {_shown(a)} (now {_shown(b)})" for name, a, b in found[:8]]
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise DataError(
            f"found other options than {config} was trained with, {', '.join(shown)}"
            f"{more}, expected the same, or the model there would be lost: train in "
            "another directory (--tag or --expdir), give the old options, or remove "
            f"{args.output_dir} to train anew"
        )


def _read_record(path: str) -> Tuple[Dict[str, Any], bool]:
    """Options in a config.yaml, and whether they are all.

    ESPnet writes the file in place at every start, and that may have been killed.
    """
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    is_whole = bool(re.search(r"^mos_format_version: .*\n", text, re.M))  # the last
    if not is_whole:
        starts = [match.start() for match in re.finditer(r"^\w", text, re.M)]
        text = text[: starts[-1]] if starts else ""
    try:
        return dict(yaml.safe_load(text) or {}), is_whole
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({' '.join(str(error).split())}), expected what "
            f"training wrote: restore it, or remove {os.path.dirname(path)} to train "
            "anew"
        ) from error


def _keyword_defaults(args: argparse.Namespace) -> Dict[str, Dict[str, Any]]:
    """Defaults of the options that are keyword arguments of a class, by option."""
    classes = {
        "frontend_conf": FRONTENDS.get(args.frontend),
        "head_conf": HEADS.get(args.head),
        "model_conf": ESPnetMOSModel,
        "model_conf.mask": SpanMask,
        "optim_conf": optim_classes.get(args.optim),
        "scheduler_conf": scheduler_classes.get(args.scheduler),
        **{f"losses.{name}": loss for name, loss in LOSSES.items()},
    }
    known = {}
    for name, of in classes.items():
        parameters = inspect.signature(of).parameters.values() if of else ()
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            known[name] = {
                p.name: _ABSENT if p.default is p.empty else p.default
                for p in parameters
            }
    return known


def _differences(
    name: str, old: Any, new: Any, known: Mapping[str, Mapping[str, Any]]
) -> Iterator[Tuple[str, Any, Any]]:
    """Yield (name, old value, new value) of each option that differs."""
    if name in known:
        old, new = old or {}, new or {}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        defaults = known.get(name, {})
        keys = [*old, *(key for key in new if key not in old)]
        if name in _IN_FULL:
            keys = [key for key in old if key in new]
        elif defaults:
            # What the class does not know any more had no effect.
            keys = [key for key in keys if key in defaults]
        for key in keys:
            values = (each.get(key, defaults.get(key, _ABSENT)) for each in (old, new))
            yield from _differences(f"{name}.{key}", *values, known)
    elif _normal(old) != _normal(new):
        yield name, old, new


def _normal(value: Any) -> Any:
    """An option for comparison: YAML knows no tuples, and a path may be relative."""
    if isinstance(value, (list, tuple)):
        return [_normal(item) for item in value]
    return os.path.abspath(value) if isinstance(value, str) else value


def _shown(value: Any) -> str:
    text = "nothing" if value is _ABSENT else " ".join(repr(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."
