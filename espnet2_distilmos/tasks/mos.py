# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The MOS prediction task: arguments and assembly."""

import argparse
import json
from typing import Callable, Collection, Dict, List, Optional, Tuple

import numpy as np
import torch
from espnet2.tasks.abs_task import AbsTask, optim_classes, scheduler_classes
from espnet2.train.class_choices import ClassChoices
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import float_or_none, str2bool, str_or_none
from typeguard import typechecked

from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    MODEL_FORMAT_VERSION,
    build_losses,
    build_model,
)
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.mos.frontend.abs_frontend import AbsLayerFrontend
from espnet2_distilmos.mos.head.abs_head import AbsMOSHead
from espnet2_distilmos.train.collate_fn import MOSCollateFn
from espnet2_distilmos.train.preprocessor import MOSPreprocessor, wav_paths_of
from espnet2_distilmos.train.schedulers import WarmupLinearLR
from espnet2_distilmos.train.trainer import MOSTrainer

scheduler_classes.setdefault("warmuplinear", WarmupLinearLR)

frontend_choices = ClassChoices(
    "frontend", classes=FRONTENDS, type_check=AbsLayerFrontend, default="hf"
)
head_choices = ClassChoices(
    "head", classes=HEADS, type_check=AbsMOSHead, default="distilmos"
)


class MOSTask(AbsTask):
    """Train a MOS predictor; see ``espnet2_distilmos.bin.mos_train``."""

    num_optimizers: int = 1
    class_choices_list = [frontend_choices, head_choices]
    trainer = MOSTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        group = parser.add_argument_group("Task related")
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
            "--upstream_lr",
            type=float_or_none,
            default=None,
            help="Learning rate of the frontend; optim_conf.lr is that of the rest. "
            "None: the same rate",
        )
        group.add_argument(
            "--valid_utt2sys",
            type=str_or_none,
            default=None,
            help="utt2sys of the validation set, for system-level metrics",
        )
        group.add_argument(
            "--model_conf",
            action=NestedDictAction,
            default={"extract_feats_in_collect_stats": False},
            help="The keyword arguments for ESPnetMOSModel",
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

        for class_choices in cls.class_choices_list:
            class_choices.add_arguments(group)

        # A MOS model is chosen by rank correlation, not by its loss; there are no
        # attention plots.
        parser.set_defaults(
            best_model_criterion=[
                ("valid", "sys_srcc", "max"),
                ("valid", "utt_srcc", "max"),
            ],
            early_stopping_criterion=("valid", "sys_srcc", "max"),
            num_att_plot=0,
        )

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace):
        super().check_required_command_args(args)
        if not args.use_preprocessor:
            raise ValueError(
                "found use_preprocessor=false, expected true: metric.scp is read by "
                "the preprocessor"
            )
        losses = build_losses(args.losses)
        active = [name for name, loss in losses.items() if loss.weight > 0]
        cls.trainer.check_criteria(args, active)

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
        return MOSPreprocessor(
            train=train,
            wav_paths=wav_paths_of(data),
            score_range=args.score_range,
            min_seconds=args.min_seconds,
            max_seconds=args.max_seconds,
            crop_seconds=args.crop_seconds,
            token_info=read_token_info(args.token_info),
        )

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        return ("speech",) if inference else ("speech", "mos")

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> Tuple[str, ...]:
        return ("tokens",)

    @classmethod
    @typechecked
    def build_model(cls, args: argparse.Namespace) -> ESPnetMOSModel:
        """Build the model, and make ``args`` (hence config.yaml) self-contained."""
        args.token_info = read_token_info(args.token_info)
        model = build_model(vars(args), load_pretrained=True)
        if args.token_info and args.check_token_upstream:
            check_token_upstream(args.token_info, model.frontend)
        args.frontend_conf = model.frontend.resolved_conf()
        args.mos_format_version = MODEL_FORMAT_VERSION
        args.mos_frame_shift = model.frontend.frame_shift
        return model

    @classmethod
    def build_optimizers(
        cls, args: argparse.Namespace, model: torch.nn.Module
    ) -> List[torch.optim.Optimizer]:
        if args.upstream_lr is None:
            return super().build_optimizers(args, model)
        upstream = [p for p in model.frontend.parameters() if p.requires_grad]
        known = {id(p) for p in model.frontend.parameters()}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        groups = [{"params": rest}]
        if upstream:
            groups.insert(0, {"params": upstream, "lr": args.upstream_lr})
        return [optim_classes[args.optim](groups, **args.optim_conf)]


def read_token_info(token_info) -> Optional[dict]:
    """Contents of a tokens.json, given as its path, as a dict already, or None."""
    if not token_info or isinstance(token_info, dict):
        return token_info or None
    with open(token_info, encoding="utf-8") as f:
        return json.load(f)


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
            "this configuration, or set --check_token_upstream false if it is meant"
        )
