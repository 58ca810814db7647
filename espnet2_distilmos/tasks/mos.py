# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction task: arguments and assembly."""

import argparse
import contextlib
import inspect
import os
import tempfile
from typing import Any, Dict, List, Optional, Sequence, Tuple

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
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.build import FRONTENDS, HEADS, build_dry_model
from espnet2_distilmos.mos.checkpoint import (
    UPSTREAM_FILES,
    initial_model,
    keep_files,
    refuse_experiment_as_config,
)
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead
from espnet2_distilmos.mos.loss.aux_scores import AuxScoresLoss
from espnet2_distilmos.train.mos_checks import (
    check_before_training,
    check_same_training,
    check_tokens,
    corpora_of,
    holds_model,
    read_token_info,
)
from espnet2_distilmos.train.mos_collate_fn import MOSCollateFn
from espnet2_distilmos.train.mos_preprocessor import MOSPreprocessor, wav_paths_of
from espnet2_distilmos.train.mos_sampler import (
    MIXED,
    SINGLE,
    CategorySampler,
    read_categories,
)
from espnet2_distilmos.train.mos_trainer import MOSTrainer, only_training
from espnet2_distilmos.train.views import NoisyView
from espnet2_distilmos.train.warmup_linear_lr import WarmupLinearLR

frontend_choices = ClassChoices(
    "frontend", classes=FRONTENDS, type_check=AbsLayerFrontend, default="hf"
)
head_choices = ClassChoices(
    "head", classes=HEADS, type_check=AbsMOSHead, default="distilmos"
)


class MOSTask(AbsTask):
    """Train a MOS predictor; the command is ``mos_train``."""

    num_optimizers: int = 1
    class_choices_list = [frontend_choices, head_choices]
    trainer = MOSTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        cls._add_model_arguments(parser.add_argument_group("Task related"))
        group = parser.add_argument_group("Preprocess related")
        cls._add_data_arguments(group)
        for class_choices in cls.class_choices_list:
            class_choices.add_arguments(group)
        # A MOS model is chosen by rank correlation, not by its loss; there are no
        # attention plots. DDP must look for unused parameters: layers above the one
        # that is read get no gradient. ESPnet's own check of mixed rates names no
        # utterance; the preprocessor does.
        parser.set_defaults(
            best_model_criterion=[
                ("valid", "sys_srcc", "max"),
                ("valid", "utt_srcc", "max"),
            ],
            early_stopping_criterion=("valid", "sys_srcc", "max"),
            num_att_plot=0,
            unused_parameters=True,
            allow_multi_rates=True,
            # Names of those that get an embedding; read from the training data.
            listener_list=None,
            corpus_list=None,
        )

    @staticmethod
    def _add_model_arguments(group):
        add = group.add_argument
        add(
            "--init_model",
            type=str_or_none,
            help="Trained model to start from: an experiment directory, a model file "
            "in one, or a packed .zip. Its network is taken, so frontend, head and "
            "their _conf may be left out; another head is new",
        )
        add(
            "--losses",
            action=NestedDictAction,
            default={"mos_l1": {"weight": 1.0}},
            help="Name to options, e.g. '--losses token_ce.weight=0'",
        )
        add("--token_info", type=str_or_none, help="tokens.json beside tokens.scp")
        add(
            "--token_source",
            type=str_or_none,
            help="Upstream that the tokens must be of, or several with commas between "
            "them: a stream (mfcc, hubert), a fingerprint, or what `frontend: hf` has "
            "as frontend_conf.upstream; average: or concat: before them where they "
            "share codebooks. None: the frontend as it is at the start",
        )
        add(
            "--upstream_lr",
            type=float_or_none,
            help="Learning rate of the frontend; optim_conf.lr is that of the rest",
        )
        add(
            "--upstream_lr_decay",
            type=float_or_none,
            help="Factor d in (0, 1] on the frontend's learning rate from each layer "
            "to the one below: layer l of L has d^(L-l) of it, what precedes the "
            "layers d^L",
        )
        add(
            "--valid_utt2sys",
            type=str_or_none,
            help="utt2sys of the validation set, for system-level metrics",
        )
        add(
            "--model_conf",
            action=NestedDictAction,
            default={"extract_feats_in_collect_stats": False},
            help="The keyword arguments for ESPnetMOSModel",
        )

    @staticmethod
    def _add_data_arguments(group):
        add = group.add_argument
        add(
            "--sampling_weights",
            action=NestedDictAction,
            default=None,
            help="Category to weight, e.g. 'bvcc=1.0': share of an epoch's and of each "
            "batch's utterances. None: every utterance once an epoch",
        )
        add(
            "--sampling_categories",
            type=str_or_none,
            help="File of lines 'utterance category' for --sampling_weights",
        )
        add(
            "--sampling_epoch",
            type=str_or_none,
            help="Category whose utterances an epoch draws once each. None: an epoch "
            "draws as many utterances as there are",
        )
        add(
            "--sampling_batches",
            choices=(MIXED, SINGLE),
            default=MIXED,
            help="Whether a batch of --sampling_weights is of all categories or of one",
        )
        add(
            "--use_preprocessor",
            type=str2bool,
            default=True,
            help="Must be true: labels are read by the preprocessor",
        )
        add(
            "--score_range",
            type=float,
            nargs=2,
            default=[1.0, 5.0],
            help="Lowest and highest label of the listening test",
        )
        add("--min_seconds", type=float, default=0.1, help="Of an utterance")
        add("--max_seconds", type=float_or_none, help="Of an utterance")
        add(
            "--crop_seconds",
            type=float_or_none,
            help="Crop training audio and tokens to this length at random",
        )
        add(
            "--noisy_view",
            action=NestedDictAction,
            default=None,
            help="Distort the masked view: keyword arguments for train.views.NoisyView",
        )
        add(
            "--votes_per_utterance",
            type=int_or_none,
            help="Votes of an utterance that a training step draws. None: all",
        )

    @classmethod
    def get_parser(cls):
        _register_scheduler()
        return super().get_parser()

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
        # A configuration that sets other model_conf replaces the default, and then
        # ESPnet would build the model to collect shapes.
        args.model_conf = {
            "extract_feats_in_collect_stats": False,
            **(args.model_conf or {}),
        }
        check_before_training(args)

    @classmethod
    def main_worker(cls, args: argparse.Namespace):
        # ESPnet's spawned processes call this and not get_parser.
        _register_scheduler()
        output: contextlib.AbstractContextManager = contextlib.nullcontext()
        if args.dry_run and holds_model(args.output_dir):
            # ESPnet writes a config.yaml then, too.
            output = tempfile.TemporaryDirectory()
            args.output_dir = output.name
        elif not args.dry_run and not args.collect_stats:
            output = only_training(args)
        try:
            with output:
                super().main_worker(args)
        finally:
            # ESPnet leaves the process group to the interpreter's end, where its
            # threads can abort a process whose training went well.
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool) -> MOSCollateFn:
        return MOSCollateFn()

    @classmethod
    def build_preprocess_fn(
        cls, args: argparse.Namespace, train: bool
    ) -> MOSPreprocessor:
        train_paths = wav_paths_of(args.train_data_path_and_name_and_type)
        valid_paths = wav_paths_of(args.valid_data_path_and_name_and_type)
        noisy_view = None
        if args.noisy_view is not None:
            noisy_view = NoisyView(**args.noisy_view, wav_paths=train_paths)
        return MOSPreprocessor(
            train=train,
            noisy_view=noisy_view,
            # The statistics stage reads both sets with one preprocessor.
            wav_paths={**train_paths, **valid_paths},
            score_range=args.score_range,
            min_seconds=args.min_seconds,
            max_seconds=args.max_seconds,
            crop_seconds=args.crop_seconds,
            token_info=read_token_info(args.token_info),
            listeners=args.listener_list or (),
            corpora=corpora_of(args),
            aux_keys=(args.losses.get(AuxScoresLoss.name) or {}).get("keys") or (),
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
        distributed = iter_options.distributed
        sampler = CategorySampler(
            lengths={utt_id: shape[0] for utt_id, shape in shapes.items()},
            categories=read_categories(args.sampling_categories, args.sampling_weights),
            weights=args.sampling_weights,
            batch_type=iter_options.batch_type,
            batch_size=iter_options.batch_size,
            batch_bins=iter_options.batch_bins,
            epoch_of=args.sampling_epoch,
            batches=args.sampling_batches,
            seed=args.seed,
            rank=torch.distributed.get_rank() if distributed else 0,
            world_size=torch.distributed.get_world_size() if distributed else 1,
        )
        return SequenceIterFactory(
            dataset=cls.build_dataset(args, iter_options, set(shapes)),
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
        """Build the model, and make ``args`` (hence config.yaml) self-contained.

        In a dry run, which builds no model that could be used, ``args`` stay.
        """
        token_info = read_token_info(args.token_info)
        if args.dry_run:
            return build_dry_model({**vars(args), "token_info": token_info})
        args.token_info = token_info
        with initial_model(vars(args)) as model:
            frontend = model.frontend
            check_tokens(args, frontend)
            for teacher in model.token_teachers():
                teacher.check(token_info or {})
            # What an upstream cannot be rebuilt without is copied into the experiment,
            # and the configuration names the copy relative to config.yaml.
            args.frontend_conf = frontend.relocated_conf(UPSTREAM_FILES)
            for name, loss in model.losses.items():
                args.losses[name] = {**args.losses[name], **loss.resolved_conf()}
            distributed = torch.distributed.is_initialized()
            if not distributed or torch.distributed.get_rank() == 0:
                # Now that args are what config.yaml will have, and nothing is written.
                check_same_training(args, cls.get_parser().get_default)
                folder = os.path.join(args.output_dir, UPSTREAM_FILES)
                keep_files(frontend.checkpoint_files(), folder)
        args.mos_format_version = FORMAT_VERSION
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        has_own_rate = any(x.learning_rate for x in model.losses.values())
        rates = (args.upstream_lr, args.upstream_lr_decay)
        if rates == (None, None) and not has_own_rate:
            optimizers = super().build_optimizers(args, model)
        else:
            groups = parameter_groups(args, model)
            optimizers = [optim_classes[args.optim](groups, **args.optim_conf)]
        for loss in model.losses.values():
            loss.follow(optimizers[0], model.frontend)
        return optimizers


def _register_scheduler() -> None:
    """Let ESPnet know the schedule; not at import, which would change it for others."""
    scheduler_classes.setdefault("warmuplinear", WarmupLinearLR)


def parameter_groups(
    args: argparse.Namespace, model: ESPnetMOSModel
) -> List[Dict[str, Any]]:
    """Trained parameters of the frontend with their rates, lowest layers first.

    Layer l of L has ``upstream_lr * upstream_lr_decay ** (L - l)``; then come losses
    with a rate of their own; the rest of the model is the last group, at the
    optimizer's own rate.

    Raises:
        ValueError: the layers are not known and there is a decay.
    """
    frontend, decay = model.frontend, args.upstream_lr_decay
    rate = args.upstream_lr
    if rate is None:
        options = args.optim_conf
        default = inspect.signature(optim_classes[args.optim]).parameters["lr"].default
        rate = options.get("lr", default)
    last = frontend.num_layers
    layers = {} if decay in (None, 1) else frontend.layer_of_parameters()
    groups: Dict[int, List[torch.nn.Parameter]] = {}
    for name, parameter in frontend.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(layers.get(name, last), []).append(parameter)
    result: List[Dict[str, Any]] = [
        {"params": groups[layer], "lr": rate * (decay or 1.0) ** (last - layer)}
        for layer in sorted(groups)
    ]
    taken = {"frontend."}
    for name, loss in model.losses.items():
        if loss.learning_rate is not None:
            taken.add(f"losses.{name}.")
            own = {"params": list(loss.parameters()), "lr": loss.learning_rate}
            result.append({**own, "weight_decay": 0.0})
    rest = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(tuple(taken))
    ]
    return [*result, {"params": rest}]
