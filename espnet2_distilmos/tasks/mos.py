# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction task: arguments and assembly."""

import argparse
import json
import logging
import os
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np
import torch
from espnet2.fileio.read_text import load_num_sequence_text
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.tasks.abs_task import (
    AbsTask,
    IteratorOptions,
    optim_classes,
    scheduler_classes,
)
from espnet2.train.class_choices import ClassChoices
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import float_or_none, int_or_none, str2bool, str_or_none
from typeguard import typechecked

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.data.datadir import (
    DataError,
    parse_votes,
    read_metric_scp,
    read_scp,
)
from espnet2_distilmos.mos.build import FRONTENDS, HEADS, build_losses, token_columns_of
from espnet2_distilmos.mos.checkpoint import (
    UPSTREAM_FILES,
    initial_model,
    keep_files,
    refuse_experiment_as_config,
)
from espnet2_distilmos.mos.espnet_model import CLEAN, MASKED, ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead
from espnet2_distilmos.train.mos_collate_fn import MOSCollateFn
from espnet2_distilmos.train.mos_preprocessor import MOSPreprocessor, wav_paths_of
from espnet2_distilmos.train.mos_sampler import (
    BY_SIZE,
    CategorySampler,
    check_weights,
    read_categories,
)
from espnet2_distilmos.train.mos_trainer import MOSTrainer
from espnet2_distilmos.train.views import NoisyView
from espnet2_distilmos.train.warmup_linear_lr import WarmupLinearLR

scheduler_classes.setdefault("warmuplinear", WarmupLinearLR)

frontend_choices = ClassChoices(
    "frontend", classes=FRONTENDS, type_check=AbsLayerFrontend, default="hf"
)
head_choices = ClassChoices(
    "head", classes=HEADS, type_check=AbsMOSHead, default="distilmos"
)


# What stands before token_acc_<column> in the log.
STATISTICS_OF_VIEW = {CLEAN: ("",), MASKED: ("masked_", "unmasked_")}


class MOSTask(AbsTask):
    """Train a MOS predictor; see ``espnet2_distilmos.bin.mos_train``."""

    num_optimizers: int = 1
    class_choices_list = [frontend_choices, head_choices]
    trainer = MOSTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        group = parser.add_argument_group("Task related")
        group.add_argument(
            "--init_model",
            type=str_or_none,
            default=None,
            help="Trained model to start from: an experiment directory, a model file "
            "in one, or a packed .zip. The network is that model's: frontend, head and "
            "their _conf may be left out; options such as frontend_conf.freeze hold, "
            "and another head is new",
        )
        group.add_argument(
            "--losses",
            action=NestedDictAction,
            default={"mos_l1": {"weight": 1.0}},
            help="Losses as a mapping from name to options, e.g. "
            "'--losses token_ce.weight=0' changes one number",
        )
        group.add_argument(
            "--token_info",
            type=str_or_none,
            default=None,
            help="tokens.json beside tokens.scp; its contents go into config.yaml",
        )
        group.add_argument(
            "--check_token_upstream",
            type=str2bool,
            default=True,
            help="Refuse tokens that another upstream made",
        )
        group.add_argument(
            "--token_source",
            type=str_or_none,
            default=None,
            help="Upstream that the tokens are meant to be of, where it is not the "
            "frontend: its stream (mfcc, hubert) or fingerprint, as tokens.json has "
            "them. Any other is refused",
        )
        group.add_argument(
            "--upstream_lr",
            type=float_or_none,
            default=None,
            help="Learning rate of the frontend; optim_conf.lr is that of the rest. "
            "None: the same rate",
        )
        group.add_argument(
            "--upstream_lr_decay",
            type=float_or_none,
            default=None,
            help="Factor d in (0, 1] on the frontend's learning rate from each layer "
            "to the one below: layer l of L has d^(L-l) of it, all that comes before "
            "the layers d^L. None: one rate",
        )
        group.add_argument(
            "--valid_utt2sys",
            type=str_or_none,
            default=None,
            help="utt2sys of the validation set, for system-level metrics",
        )
        group.add_argument(
            "--listener_list",
            type=str_or_none,
            default=None,
            help="Text file with the listeners that get an embedding (model_conf."
            "listener_embedding), one a line; None: all in the training votes. The "
            "names go into config.yaml",
        )
        group.add_argument(
            "--corpus_list",
            type=str_or_none,
            default=None,
            help="As --listener_list, for the corpora (model_conf.corpus_embedding)",
        )
        group.add_argument(
            "--model_conf",
            action=NestedDictAction,
            default={"extract_feats_in_collect_stats": False},
            help="The keyword arguments for ESPnetMOSModel",
        )

        group = parser.add_argument_group("Sampling related")
        group.add_argument(
            "--sampling_weights",
            action=NestedDictAction,
            default=None,
            help="Category to weight, e.g. 'bvcc=1.0' and 'somos=0.5', or in YAML "
            "{bvcc: 1.0, somos: 0.5}: share of an epoch's and of each batch's "
            "utterances, in the ratio of the weights. None: every utterance once an "
            "epoch. See train.mos_sampler.CategorySampler",
        )
        group.add_argument(
            "--sampling_categories",
            type=str_or_none,
            default=None,
            help="File of lines 'utterance category' for --sampling_weights",
        )
        group.add_argument(
            "--sampling_epoch",
            type=str_or_none,
            default=None,
            help="Category whose utterances an epoch draws once each. None: an epoch "
            "draws as many utterances as there are",
        )

        group = parser.add_argument_group("Preprocess related")
        group.add_argument(
            "--use_preprocessor",
            type=str2bool,
            default=True,
            help="Must be true: labels are read by the preprocessor",
        )
        group.add_argument(
            "--score_range",
            type=float,
            nargs=2,
            default=[1.0, 5.0],
            help="Lowest and highest label of the listening test",
        )
        group.add_argument(
            "--min_seconds",
            type=float,
            default=0.1,
            help="Shortest utterance; stage 4 filters shorter ones",
        )
        group.add_argument(
            "--max_seconds",
            type=float_or_none,
            default=None,
            help="Longest utterance; stage 4 filters longer ones",
        )
        group.add_argument(
            "--crop_seconds",
            type=float_or_none,
            default=None,
            help="Crop training audio and tokens to this length at random",
        )
        group.add_argument(
            "--noisy_view",
            action=NestedDictAction,
            default=None,
            help="The keyword arguments for train.views.NoisyView, such as "
            "noise_prob=0.4: what the losses of the masked view hear in training. "
            "None: the true signal",
        )

        group.add_argument(
            "--votes_per_utterance",
            type=int_or_none,
            default=None,
            help="Votes of an utterance, drawn at random, that a training step hears, "
            "with model_conf.listener_embedding. None: all",
        )

        for class_choices in cls.class_choices_list:
            class_choices.add_arguments(group)

        # A MOS model is chosen by rank correlation, not by its loss; there are no
        # attention plots. DDP must look for unused parameters: layers above the one
        # that is read get no gradient.
        # ESPnet's own check of mixed rates names no utterance; the preprocessor does.
        parser.set_defaults(
            best_model_criterion=[
                ("valid", "sys_srcc", "max"),
                ("valid", "utt_srcc", "max"),
            ],
            early_stopping_criterion=("valid", "sys_srcc", "max"),
            num_att_plot=0,
            unused_parameters=True,
            allow_multi_rates=True,
        )

    @classmethod
    def main(
        cls,
        args: Optional[argparse.Namespace] = None,
        cmd: Optional[Sequence[str]] = None,
    ):
        if args is None:
            args = cls.parse_args(cmd)
        super().main(args=args, cmd=cmd)

    @classmethod
    def parse_args(cls, cmd: Optional[Sequence[str]] = None) -> argparse.Namespace:
        """Parse a command line.

        With ``--init_model``, ``frontend`` and ``head`` are None unless stated: a
        default must not be taken for the wish to have another head.
        """
        parser = cls.get_parser()
        try:
            refuse_experiment_as_config(cmd)
        except DataError as error:
            parser.error(str(error))
        args = parser.parse_args(cmd)
        if args.init_model is not None:
            parser = cls.get_parser()
            parser.set_defaults(frontend=None, head=None)
            args = parser.parse_args(cmd)
        return args

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace):
        super().check_required_command_args(args)
        if not args.use_preprocessor:
            raise ValueError(
                "found use_preprocessor=false, expected true: metric.scp is read by "
                "the preprocessor"
            )
        check_init_model(args)
        # A configuration that sets other model_conf replaces the default, and then
        # ESPnet would build the model to collect shapes.
        args.model_conf = {
            "extract_feats_in_collect_stats": False,
            **(args.model_conf or {}),
        }
        for option, value in vars(args).items():
            if option in ("losses", "noisy_view") or option.endswith("_conf"):
                check_numbers(option, value)
        decay = args.upstream_lr_decay
        if decay is not None and not 0 < decay <= 1:
            raise ValueError(
                f"found --upstream_lr_decay {decay}, expected a factor above 0 and up "
                "to 1, such as 0.9"
            )
        losses = build_losses(args.losses)
        active = {name: loss for name, loss in losses.items() if loss.weight > 0}
        if not active:
            raise ValueError(
                f"found no loss of weight above 0 among {list(losses)}, expected one, "
                "such as --losses mos_l1.weight=1"
            )
        if not args.collect_stats:
            # The stage of statistics gets --train_args, too, but not the weights.
            check_sampling(args)
        check_conditions(args)
        check_labels(args, [k for k, v in active.items() if "mos" in v.needs])
        if args.collect_stats:
            # Shapes alone: neither criteria nor tokens matter yet.
            return
        if args.noisy_view is not None:
            if not any(loss.view == MASKED for loss in active.values()):
                raise ValueError(
                    "found --noisy_view and no loss that hears it, expected one of the "
                    "masked view, such as --losses masked_token_ce.weight=0.05"
                )
            paths = wav_paths_of(args.train_data_path_and_name_and_type)
            build_noisy_view(args.noisy_view, paths)
        columns = token_columns_of(read_token_info(args.token_info))
        reported = list(active)
        for loss in active.values():
            if "tokens" in loss.needs:
                names = [
                    f"{kind}token_acc_{columns[i].id}"
                    for i in loss.select(columns)
                    for kind in STATISTICS_OF_VIEW[loss.view]
                ]
                reported += [name for name in names if name not in reported]
        data = args.valid_data_path_and_name_and_type
        scored = "mos" in [name for _, name, _ in data] and any(
            loss.view == CLEAN for loss in active.values()
        )
        cls.trainer.check_criteria(args, reported, scored)

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        try:
            super().main_worker(args)
        finally:
            # ESPnet leaves the process group to the interpreter's end, where its
            # threads can abort a process whose training went well.
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> Callable[
        [Collection[Tuple[str, Dict[str, np.ndarray]]]],
        Tuple[List[str], Dict[str, torch.Tensor]],
    ]:
        return MOSCollateFn()

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> Optional[Callable[[str, Dict[str, np.array]], Dict[str, np.ndarray]]]:
        data = [
            *args.train_data_path_and_name_and_type,
            *args.valid_data_path_and_name_and_type,
        ]
        paths = wav_paths_of(data)
        noisy_view = None
        if train and args.noisy_view is not None:
            others = wav_paths_of(args.train_data_path_and_name_and_type)
            noisy_view = build_noisy_view(args.noisy_view, others)
        return MOSPreprocessor(
            train=train,
            noisy_view=noisy_view,
            wav_paths=paths,
            score_range=args.score_range,
            min_seconds=args.min_seconds,
            max_seconds=args.max_seconds,
            crop_seconds=args.crop_seconds,
            token_info=read_token_info(args.token_info),
            listeners=args.listener_list or (),
            corpora=args.corpus_list or (),
            votes_per_utterance=args.votes_per_utterance,
        )

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        return ("tokens",) if inference else ("mos", "tokens", "votes", "corpus")

    @classmethod
    @typechecked
    def build_sequence_iter_factory(
        cls, args: argparse.Namespace, iter_options: IteratorOptions, mode: str
    ) -> AbsIterFactory:
        """Build ESPnet's batches, or those that ``--sampling_weights`` ask for."""
        if mode != "train" or args.sampling_weights is None:
            return super().build_sequence_iter_factory(args, iter_options, mode)
        shapes = load_num_sequence_text(iter_options.shape_files[0], "csv_int")
        processes = {}
        if iter_options.distributed:
            processes["rank"] = torch.distributed.get_rank()
            processes["world_size"] = torch.distributed.get_world_size()
        sampler = CategorySampler(
            lengths={utt_id: shape[0] for utt_id, shape in shapes.items()},
            categories=read_categories(args.sampling_categories, args.sampling_weights),
            weights=args.sampling_weights,
            batch_type=iter_options.batch_type,
            batch_size=iter_options.batch_size,
            batch_bins=iter_options.batch_bins,
            epoch_of=args.sampling_epoch,
            seed=args.seed,
            **processes,
        )
        logging.info(f"[{mode}] Batch sampler: {sampler}")
        return SequenceIterFactory(
            dataset=cls.build_dataset(args, iter_options, set(sampler.utt_ids)),
            batches=sampler,
            seed=args.seed,
            num_iters_per_epoch=iter_options.num_iters_per_epoch,
            shuffle=True,
            num_workers=args.num_workers,
            collate_fn=iter_options.collate_fn,
            pin_memory=args.ngpu > 0,
        )

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> ESPnetMOSModel:
        """Build the model, and make ``args`` (hence config.yaml) self-contained."""
        args.token_info = read_token_info(args.token_info)
        with initial_model(vars(args)) as model:
            if args.token_info:
                check_token_frames(args.token_info, model.frontend)
                if args.token_source is not None:
                    check_token_source(
                        args.token_info, model.frontend, args.token_source
                    )
                elif args.check_token_upstream:
                    check_token_upstream(args.token_info, model.frontend)
            keep_upstream_files(args, model.frontend)
        args.mos_format_version = FORMAT_VERSION
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        optimizers = cls._build_optimizers(args, model)
        for ema in model.ema_targets():
            ema.follow(optimizers[0], model.frontend)
        return optimizers

    @classmethod
    def _build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        rate, decay = args.upstream_lr, args.upstream_lr_decay
        if rate is None and decay is None:
            return super().build_optimizers(args, model)
        used = "--upstream_lr" if decay is None else "--upstream_lr_decay"
        for option in ("exclude_weight_decay", "sharded_ddp"):
            if getattr(args, option):
                raise ValueError(
                    f"found --{option} true with {used}, expected one of them: "
                    "the learning rates are groups of an ordinary optimizer"
                )
        if rate is None:
            rate = args.optim_conf.get("lr")
        if rate is None:
            raise ValueError(
                f"found {used} and no learning rate, expected --upstream_lr or "
                "--optim_conf lr=..."
            )
        groups = upstream_groups(model.frontend, rate, 1.0 if decay is None else decay)
        known = {id(p) for p in model.frontend.parameters()}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups.append({"params": rest})
        return [optim_classes[args.optim](groups, **args.optim_conf)]


def check_init_model(args: argparse.Namespace) -> None:
    """Refuse at the start what ``--init_model`` cannot mean.

    Raises:
        ValueError: one sentence.
    """
    if args.init_model is None:
        return
    if args.init_param:
        raise ValueError(
            f"found --init_param {' '.join(args.init_param)} with --init_model "
            f"{args.init_model}, expected one of them: the weights cannot be both"
        )
    path = os.path.realpath(args.init_model)
    if not os.path.exists(path):
        raise DataError(
            f"--init_model {args.init_model}: found nothing there, expected an "
            "experiment directory, a model file in one, or a .zip of stage 10"
        )
    if os.path.realpath(args.output_dir) in (path, os.path.dirname(path)):
        raise ValueError(
            f"found --init_model {args.init_model} in --output_dir, expected another "
            "directory: training would overwrite the model (--tag)"
        )


def check_sampling(args: argparse.Namespace) -> None:
    """Refuse sampling weights that cannot be meant.

    Raises:
        ValueError: one sentence; a DataError names the file and the utterance.
    """
    weights, path = args.sampling_weights, args.sampling_categories
    if weights is None:
        if path is not None or args.sampling_epoch is not None:
            raise ValueError(
                "found --sampling_categories or --sampling_epoch without "
                "--sampling_weights, expected the weight of each category"
            )
        return
    if path is None:
        raise ValueError(
            f"found --sampling_weights {weights} without --sampling_categories, "
            "expected a file with the category of each utterance"
        )
    check_weights(weights, args.sampling_epoch)
    read_categories(path, weights)
    if args.iterator_type != "sequence":
        raise ValueError(
            f"found --iterator_type {args.iterator_type} with --sampling_weights, "
            "expected sequence"
        )
    if args.num_iters_per_epoch is not None and args.batch_type in BY_SIZE:
        raise ValueError(
            f"found --num_iters_per_epoch with --batch_type {args.batch_type} and "
            "--sampling_weights, expected --batch_type sorted: epochs must have as "
            "many batches each"
        )
    if getattr(args, "shuffle_within_batch", False):
        raise ValueError(
            "found --shuffle_within_batch true with --sampling_weights, expected "
            "false: it would undo the shares of a batch"
        )


def build_noisy_view(options: Mapping[str, Any], paths: Dict[str, str]) -> NoisyView:
    """Build the noisy view of training.

    Args:
        options: ``--noisy_view``.
        paths: audio of the training set by utterance.

    Raises:
        ValueError: for an option that is unknown or impossible.
    """
    try:
        return NoisyView(**options, wav_paths=paths)
    except TypeError as error:
        raise ValueError(f"noisy_view: {error}") from error


# Data, its type and the file of a data directory, by what is embedded.
CONDITIONS = {
    "listener": ("votes", "text", "votes.scp"),
    "corpus": ("corpus", "text", "utt2domain"),
}


def check_conditions(args: argparse.Namespace) -> None:
    """Read who listens and in which corpora, and refuse what cannot be embedded.

    ``args.listener_list`` and ``args.corpus_list`` become lists of names, as
    config.yaml and the model have them.

    Raises:
        ValueError: one sentence; a DataError names the file and the utterance.
    """
    count = args.votes_per_utterance
    if count is not None and count < 1:
        raise ValueError(
            f"found --votes_per_utterance {count}, expected 1 or more, or none for all"
        )
    for kind, (data, data_type, file) in CONDITIONS.items():
        wanted = bool(args.model_conf.get(f"{kind}_embedding"))
        names = getattr(args, f"{kind}_list")
        given = [
            (path, found_type)
            for path, name, found_type in args.train_data_path_and_name_and_type
            if name == data
        ]
        if not wanted and (given or names is not None):
            raise ValueError(
                f"found training data of the name {data} or a --{kind}_list, but "
                f"model_conf.{kind}_embedding is not true, expected both or neither"
            )
        if not wanted or (args.collect_stats and not given):
            # Shapes alone are wanted.
            continue
        option = f"--train_data_path_and_name_and_type {file},{data},{data_type}"
        if not given or given[0][1] != data_type:
            raise ValueError(
                f"found model_conf.{kind}_embedding=true without training data of the "
                f"name {data}, expected {option}"
            )
        found = _read_condition(given[0][0], kind, args)
        if names is None:
            names = sorted(found)
        elif isinstance(names, str):
            lines = read_scp(names, need_value=False)
            names = [f"{word} {rest}".strip() for word, rest in lines.items()]
        if not found & set(names):
            raise DataError(
                f"{given[0][0]}: found no {data} of those in --{kind}_list, expected "
                "some to train on"
            )
        setattr(args, f"{kind}_list", names)


def _read_condition(path: str, kind: str, args: argparse.Namespace) -> Set[str]:
    """Listeners or corpora of the training set; each utterance needs a line.

    Raises:
        DataError: names the file and the utterance.
    """
    lines = read_scp(path)
    speech = [p for p, n, _ in args.train_data_path_and_name_and_type if n == "speech"]
    ids = read_scp((args.train_shape_file or speech)[0], need_value=False)
    for utt_id in ids:
        if utt_id not in lines:
            example = "[]" if kind == "listener" else "its_corpus"
            raise DataError(
                f"{path}: found no line for utterance {utt_id}, expected one for each: "
                f"write '{utt_id} {example}'"
            )
    if kind == "corpus":
        return {lines[utt_id] for utt_id in ids}
    votes = (parse_votes(lines[i], i, path, args.score_range) for i in ids)
    return {listener for some in votes for listener, _ in some}


def keep_upstream_files(args: argparse.Namespace, frontend: AbsLayerFrontend) -> None:
    """Make ``frontend_conf`` rebuild the frontend from the experiment alone.

    What an upstream cannot be rebuilt without is copied into the experiment, and the
    configuration names the copy relative to ``config.yaml``.
    """
    if not (torch.distributed.is_initialized() and torch.distributed.get_rank() > 0):
        folder = os.path.join(args.output_dir, UPSTREAM_FILES)
        keep_files(frontend.checkpoint_files(), folder)
    args.frontend_conf = frontend.relocated_conf(UPSTREAM_FILES)


def upstream_groups(
    frontend: AbsLayerFrontend, rate: float, decay: float
) -> List[Dict[str, Any]]:
    """Parameter groups of the frontend, lowest layers first.

    Args:
        frontend: only parameters that are trained are taken, in their own order.
        rate: learning rate of the last layer.
        decay: factor from each layer to the one below; 1 makes one group.

    Raises:
        ValueError: when the layers are not known and ``decay`` is not 1.
    """
    last = frontend.num_layers
    layer_of = {} if decay == 1 else frontend.layer_of_parameters()
    groups: Dict[int, List[torch.nn.Parameter]] = {}
    for name, parameter in frontend.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(layer_of.get(name, last), []).append(parameter)
    return [
        {"params": groups[layer], "lr": rate * decay ** (last - layer)}
        for layer in sorted(groups)
    ]


def check_numbers(name: str, value) -> None:
    """Refuse a number that YAML took for text, as it does with ``2e-3``.

    Args:
        name: of the option, such as ``optim_conf``.
        value: its value; mappings and lists are searched through.

    Raises:
        ValueError: one sentence naming the option.
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
            "(YAML takes a number without a decimal point before the e for text)"
        )


def read_token_info(token_info) -> Optional[dict]:
    """Contents of a tokens.json, given as its path, as a dict already, or None.

    Raises:
        DataError: when the file cannot be read or is not a JSON object.
    """
    if not token_info or isinstance(token_info, dict):
        return token_info or None
    mend = "expected the tokens.json that stage 5 writes: rerun stage 5"
    try:
        with open(token_info, encoding="utf-8") as f:
            contents = json.load(f)
    except OSError as error:
        raise DataError(f"{token_info}: {error.strerror}, {mend}") from error
    except ValueError as error:
        raise DataError(f"{token_info}: found no JSON ({error}), {mend}") from error
    if not isinstance(contents, dict):
        raise DataError(f"{token_info}: found no JSON object, {mend}")
    return contents


def check_labels(args: argparse.Namespace, losses: Sequence[str]) -> None:
    """Refuse before training what would else stop it in the middle of an epoch.

    Every utterance needs a line in metric.scp, if there is one; where losses read
    labels the validation set needs some, and a system for each labelled utterance
    where system-level metrics are wanted.

    Args:
        args: of the task.
        losses: names of those that read labels.

    Raises:
        DataError: one sentence naming the file and the first utterance.
    """
    for which in ("train", "valid"):
        data = getattr(args, f"{which}_data_path_and_name_and_type")
        files = {name: path for path, name, kind in data if kind in ("sound", "text")}
        if "mos" not in files and losses and "speech" in files:
            raise DataError(
                f"found no labels for {files['speech']}, which {', '.join(losses)} "
                f"needs: give --{which}_data_path_and_name_and_type "
                "metric.scp,mos,text, or set the weight to 0"
            )
        if not {"speech", "mos"} <= set(files):
            # ESPnet itself names the data that a task requires.
            continue
        shape_files = getattr(args, f"{which}_shape_file")
        ids = read_scp(shape_files[0] if shape_files else files["speech"], False)
        labels = read_metric_scp(files["mos"], score_range=args.score_range)
        missing = [i for i in ids if i not in labels]
        if missing:
            raise DataError(
                f"{files['mos']}: found no label for {len(missing)} utterances, the "
                f"first is {missing[0]}, expected a line for each: write "
                f"'{missing[0]} {{}}' if it is unlabelled, or rerun stage 4"
            )
        if which == "train" or args.collect_stats:
            continue
        labelled = [i for i in ids if labels[i] is not None]
        if not labelled and losses:
            raise DataError(
                f"{files['mos']}: found no labelled utterance in the validation set, "
                "expected some, since the best model is chosen by them"
            )
        if args.valid_utt2sys is not None:
            systems = read_scp(args.valid_utt2sys)
            without = [i for i in labelled if i not in systems]
            if without:
                raise DataError(
                    f"{args.valid_utt2sys}: found no system for {len(without)} "
                    f"utterances, the first is {without[0]}, expected a line for each "
                    "labelled one: complete it, or leave --valid_utt2sys out"
                )


def check_token_frames(token_info: dict, frontend: AbsLayerFrontend) -> None:
    """Refuse tokens on another time grid, even where another upstream is allowed.

    Raises:
        ValueError: one sentence on what to rerun.
    """
    found = token_info.get("frame_shift")
    if found != frontend.frame_shift:
        raise ValueError(
            f"found tokens with a frame every {found} samples, expected "
            f"{frontend.frame_shift} as {frontend.name} gives them: rerun stage 5 "
            "with this configuration"
        )


def check_token_upstream(token_info: dict, frontend: AbsLayerFrontend) -> None:
    """Refuse tokens that were not made by the pretrained ``frontend``.

    Raises:
        ValueError: one sentence on what to rerun.
    """
    found = token_info.get("upstream_fingerprint")
    expected = frontend.fingerprint()
    if found != expected:
        raise ValueError(
            f"found tokens made by another upstream (fingerprint {found}), expected "
            f"those of {frontend.name} as configured ({expected}): rerun stage 5 with "
            "this configuration, or name their upstream with --token_source if it is "
            "meant"
        )


def check_token_source(
    token_info: dict, frontend: AbsLayerFrontend, token_source: str
) -> None:
    """Refuse tokens that are not of the source named, or lie between the frames.

    Args:
        token_info: contents of tokens.json.
        frontend: what is trained.
        token_source: a stream of the tokens, or the fingerprint of their upstream.

    Raises:
        ValueError: one sentence on what to rerun.
    """
    streams = sorted({column["stream"] for column in token_info["columns"]})
    fingerprint = token_info.get("upstream_fingerprint")
    if [token_source] != streams and token_source != fingerprint:
        raise ValueError(
            f"found tokens of {', '.join(streams)} (fingerprint {fingerprint}), "
            f"expected those of --token_source {token_source}: give their tokens.json, "
            "or correct the option"
        )
    # Older files say no more than the receptive field.
    field = token_info.get("minimum_samples", token_info["frame_shift"])
    centre = token_info.get("frame_centre", (field - 1) / 2)
    apart = abs(centre - frontend.frame_centre)
    if apart > frontend.frame_shift / 2:
        raise ValueError(
            f"found tokens whose frames lie {apart:g} samples from those of "
            f"{frontend.name}, expected at most half a frame: make them with a "
            f"frontend of its grid (mfcc: frontend_conf.receptive_field "
            f"{frontend.minimum_samples})"
        )
