# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""ESPnet's trainer, with validation on rank correlations and safe resumption."""

import argparse
import dataclasses
import datetime
import itertools
import logging
import math
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Union

import numpy as np
import torch
from espnet2.schedulers.abs_scheduler import AbsValEpochStepScheduler
from espnet2.tasks.abs_task import scheduler_classes
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import (
    Reporter,
    SubReporter,
    WeightedAverage,
    aggregate,
)
from espnet2.train.trainer import Trainer, TrainerOptions

from espnet2_distilmos.data.datadir import read_scp
from espnet2_distilmos.evaluation.metrics import evaluate
from espnet2_distilmos.mos.checkpoint import read_states

LEVELS = ("utt", "sys")
STATISTICS = ("mse", "lcc", "srcc", "ktau")
MODES = ("min", "max")


@dataclasses.dataclass
class MOSTrainerOptions(TrainerOptions):
    """Options of ESPnet's trainer, and where the systems of the clips stand."""

    valid_utt2sys: Optional[str] = None


# Before the name of a statistic: its batch's count of what it is a mean over.
_COUNT = "count of "


class CountedModel(torch.nn.Module):
    """Wrap a model for one epoch, so that its statistics carry their own weights.

    ESPnet weighs a batch by its utterances, but only some may have a label, and tokens
    are of frames. What is a mean over ``counts`` is handed on as a sum an utterance,
    and so is the count: both are right when averaged over processes by utterances, and
    :class:`CountedReporter` divides them. Wrapping leaves ESPnet's loop as it is.

    Args:
        model: to wrap.
        use_amp: run in bfloat16 what autocast does so, on the CPU. ESPnet's own
            autocast is for GPUs alone.

    Attributes:
        labelled, unlabelled: utterances of this process, counted.
    """

    def __init__(self, model: torch.nn.Module, use_amp: bool = False):
        super().__init__()
        self.model = model
        self.use_amp = use_amp
        self.labelled = self.unlabelled = 0

    def forward(self, **batch) -> Dict[str, Any]:
        on_cpu = batch["speech"].device.type == "cpu"
        with torch.autocast("cpu", torch.bfloat16, enabled=self.use_amp and on_cpu):
            result = self.model(**batch)
        labelled = 0
        if "mos" in batch:
            labelled = int(torch.isfinite(batch["mos"]).sum())
        self.labelled += labelled
        self.unlabelled += len(batch["utt_id"]) - labelled
        stats = dict(result["stats"])
        for name, count in result["counts"].items():
            share = count / result["weight"]
            # The mean over nothing may be NaN.
            total = torch.where(share > 0, stats[name] * share, torch.zeros_like(share))
            stats[name], stats[f"{_COUNT}{name}"] = total, share
        return dict(result, stats=stats)


class RecordScores(CountedModel):
    """Wrap a model for one validation and remember its scores.

    ESPnet's validation averages what batches report; a rank correlation is of the
    whole set.
    """

    def __init__(self, model: torch.nn.Module, use_amp: bool = False):
        super().__init__(model, use_amp)
        self.scores: Dict[str, float] = {}
        self.labels: Dict[str, float] = {}

    def forward(self, **batch) -> Dict[str, Any]:
        result = super().forward(**batch)
        ids = batch["utt_id"]
        if "mos" in batch and result["utt_mos"] is not None:
            scores, labels = result["utt_mos"].float(), batch["mos"].float()
            self.scores.update(zip(ids, scores.cpu().tolist()))
            self.labels.update(zip(ids, labels.reshape(-1).cpu().tolist()))
        return result


class CountedReporter(SubReporter):
    """A reporter that weighs each statistic of a :class:`CountedModel` by its count.

    Args:
        reporter: whose state it shares.
    """

    def __init__(self, reporter: SubReporter):
        self.__dict__ = reporter.__dict__

    def register(self, stats, weight=None) -> None:
        """As ESPnet's; a statistic whose count is zero is left out of this batch."""
        stats = dict(stats)
        names = [name for name in stats if f"{_COUNT}{name}" in stats]
        counted = [(n, stats.pop(n), stats.pop(f"{_COUNT}{n}")) for n in names]
        super().register(stats, weight)
        for name, total, share in counted:
            if share > 0:
                super().register({name: total / share}, weight * share)

    def average(self, name: str) -> float:
        """Mean of a statistic so far; 0 where nothing was counted."""
        return float(aggregate(self.stats[name])) if name in self.stats else 0.0

    def replace(self, name: str, value: float) -> None:
        """Let a statistic's average be this number."""
        kept = self.stats.get(name, [])
        if not kept:
            return
        self.stats[name] = [WeightedAverage(value, entry.weight) for entry in kept]


class MOSTrainer(Trainer):
    """Validates on the whole set and survives being killed at any moment."""

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> MOSTrainerOptions:
        names = [field.name for field in dataclasses.fields(MOSTrainerOptions)]
        return MOSTrainerOptions(**{name: getattr(args, name) for name in names})

    @classmethod
    def check_criteria(
        cls,
        args: argparse.Namespace,
        reported: Sequence[str],
        scored: bool = True,
    ) -> None:
        """Refuse a criterion that no epoch will ever report.

        ESPnet passes over an unknown one in silence, and there is no best model.

        Args:
            args: with ``best_model_criterion``, ``early_stopping_criterion``,
                ``patience``, ``scheduler``, ``val_scheduler_criterion`` and
                ``valid_utt2sys``.
            reported: what the model reports besides ``loss``: names of losses of
                non-zero weight, ``token_acc_<column>``.
            scored: whether the validation set has labels and the model predicts
                scores, so that there are correlations.

        Raises:
            ValueError: one sentence naming the criterion and those that exist.
        """
        criteria = [("best_model_criterion", c) for c in args.best_model_criterion]
        if args.patience is not None:
            criteria.append(("early_stopping_criterion", args.early_stopping_criterion))
        scheduler = scheduler_classes.get(args.scheduler)
        if scheduler and issubclass(scheduler, AbsValEpochStepScheduler):
            # Has no mode: the scheduler's own option says it.
            criteria.append(
                ("val_scheduler_criterion", [*args.val_scheduler_criterion, "min"])
            )
        known = {"train": ["loss", *reported], "valid": ["loss", *reported]}
        for level in LEVELS:
            if scored and (level == "utt" or args.valid_utt2sys is not None):
                known["valid"] += [f"{level}_{s}" for s in STATISTICS]
        for option, criterion in criteria:
            # A configuration file may hold anything, also a plain string.
            parts = [criterion] if isinstance(criterion, str) else list(criterion)
            phase, key, mode = parts if len(parts) == 3 else ("", "", "")
            if mode in MODES and key in known.get(phase, ()):
                continue
            hint = ""
            if not scored and key.startswith(("utt_", "sys_")):
                hint = " (correlations need labels of the validation set and a loss "
                hint += "of the true signal)"
            elif key.startswith("sys_") and args.valid_utt2sys is None:
                hint = " (system-level metrics need --valid_utt2sys)"
            elif key.startswith("token_acc_"):
                hint = " (token accuracy needs losses.token_ce and --token_info)"
            found = ",".join(map(str, parts))
            raise ValueError(
                f"found --{option} {found}, expected train or valid, then one of "
                f"{', '.join(known.get(phase, known['valid']))}, then min or "
                f"max{hint}"
            )

    @classmethod
    def run(cls, *args, **kwargs) -> None:
        options = kwargs["trainer_options"]
        distributed = kwargs["distributed_option"]
        output_dir = Path(options.output_dir)
        if options.resume and _is_first_rank(distributed):
            restore_checkpoint(output_dir, options.best_model_criterion)
        if distributed.distributed:
            torch.distributed.barrier()
        super().run(*args, **kwargs)

    @staticmethod
    def resume(checkpoint: Union[str, Path], **kwargs) -> None:
        """Go on from a checkpoint of the same model and optimizer.

        Raises:
            ValueError: the checkpoint was written with another configuration.
        """
        try:
            Trainer.resume(checkpoint=checkpoint, **kwargs)
        except (RuntimeError, ValueError, KeyError) as error:
            reason = str(error).split("\n", 1)[0]
            raise ValueError(
                f"{checkpoint}: found the state of another model or optimizer "
                f"({reason}), expected that of this configuration: train in another "
                "directory (--tag), or set --resume false to start anew"
            ) from error

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        reporter: SubReporter,
        distributed_option: DistributedOption,
        options: MOSTrainerOptions,
        **kwargs,
    ) -> bool:
        """Train as ESPnet does; say how many labelled and unlabelled utterances."""
        counted = CountedModel(model, options.use_amp)
        if options.ngpu == 0:
            # One for GPUs, which does nothing here but to take the step that ESPnet
            # leaves out when a gradient is not finite.
            kwargs["scaler"] = None
        invalid = super().train_one_epoch(
            model=counted,
            reporter=CountedReporter(reporter),
            distributed_option=distributed_option,
            options=options,
            **kwargs,
        )
        counts = [counted.labelled, counted.unlabelled]
        if distributed_option.distributed:
            parts = _gather({str(torch.distributed.get_rank()): counts})
            counts = [sum(column) for column in zip(*parts.values())]
        if _is_first_rank(distributed_option):
            logging.info(
                f"{reporter.get_epoch()}epoch:train: {counts[0]} labelled and "
                f"{counts[1]} unlabelled utterances"
            )
        return invalid

    @classmethod
    @torch.no_grad()
    def validate_one_epoch(
        cls,
        model: torch.nn.Module,
        iterator: Iterable[Dict[str, torch.Tensor]],
        reporter: SubReporter,
        options: MOSTrainerOptions,
        distributed_option: DistributedOption,
    ) -> None:
        """Validate as ESPnet does, then add the metrics of the whole set.

        Registers ``{utt,sys}_{mse,lcc,srcc,ktau}``. Under DDP every process gathers
        all scores, since each decides on its own whether to stop early.
        """
        recorder = RecordScores(model, options.use_amp)
        counted = CountedReporter(reporter)
        super().validate_one_epoch(
            model=recorder,
            iterator=iterator,
            reporter=counted,
            options=options,
            distributed_option=distributed_option,
        )
        if options.no_forward_run:
            return
        # The sum of the losses of the whole set, not a mean over batches of sums.
        losses = getattr(model, "module", model).losses
        means = [loss.weight * counted.average(name) for name, loss in losses.items()]
        counted.replace("loss", sum(means))
        scores, labels = recorder.scores, recorder.labels
        if distributed_option.distributed:
            scores, labels = _gather(scores), _gather(labels)
        if any(math.isfinite(label) for label in labels.values()):
            systems = read_scp(options.valid_utt2sys) if options.valid_utt2sys else None
            reporter.register(validation_metrics(scores, labels, systems))
            reporter.next()
        if _is_first_rank(distributed_option):
            keep_checkpoint(Path(options.output_dir))


def validation_metrics(
    scores: Dict[str, float],
    labels: Dict[str, float],
    systems: Optional[Dict[str, str]],
) -> Dict[str, float]:
    """Metrics of a validation set, fit for choosing the best epoch.

    Args:
        scores: utterance id to predicted score.
        labels: utterance id to label, NaN for an unlabelled one, which is left out.
        systems: utterance id to system; None leaves the system level out.

    Returns:
        ``utt_mse``, ... Never NaN, which would spoil ESPnet's sorting of epochs: an
        undefined correlation (constant scores) is 0, as a constant predictor ranks
        nothing; scores that are not finite get the worst value, so that an epoch
        that diverged is never the best.

    Raises:
        ValueError: when no utterance has a label, or one has no system.
    """
    ids = sorted(i for i in scores if labels[i] == labels[i])
    if not ids:
        raise ValueError(
            "found no labelled utterance in the validation set, expected some: check "
            "its metric.scp"
        )
    if systems is not None:
        without = [i for i in ids if i not in systems]
        if without:
            raise ValueError(
                f"found {len(without)} validation utterances without a system, the "
                f"first is {without[0]}: add them to --valid_utt2sys"
            )
    result = evaluate(
        [scores[i] for i in ids],
        [labels[i] for i in ids],
        None if systems is None else [systems[i] for i in ids],
    )
    levels = LEVELS if systems is not None else LEVELS[:1]
    finite = all(math.isfinite(scores[i]) for i in ids)
    metrics = {}
    for name in (f"{level}_{stat}" for level in levels for stat in STATISTICS):
        key = name.replace("_", "_mos_")
        value = result[key]
        if value is None:
            if finite:
                value = 0.0
            else:
                value = math.inf if name.endswith("_mse") else -1.0
            logging.warning(
                f"valid {name} is undefined ({result['undefined'][key]}) and "
                f"reported as {value:g}"
            )
        metrics[name] = float(value)
    return metrics


def keep_checkpoint(output_dir: Path) -> None:
    """Put the last checkpoint aside before ESPnet writes the next one in place.

    ESPnet's ``torch.save`` truncates ``checkpoint.pth``; a process killed in that
    second would leave nothing to resume from.
    """
    checkpoint = output_dir / "checkpoint.pth"
    if checkpoint.exists():
        os.replace(checkpoint, output_dir / "checkpoint.previous.pth")


def restore_checkpoint(output_dir: Path, criteria: Sequence[Sequence[str]]) -> None:
    """Undo what a kill in the middle of saving may have left.

    A missing or cut-off ``checkpoint.pth`` is replaced by the one before; a cut-off
    model file of the checkpoint's epoch is written again from the checkpoint, and
    its links ``latest.pth`` and ``*.best.pth`` are set.

    Args:
        output_dir: of the experiment.
        criteria: (phase, key, mode) triples that have a best model.

    Raises:
        ValueError: the epochs before were trained without one of the criteria.
    """
    checkpoint = output_dir / "checkpoint.pth"
    previous = output_dir / "checkpoint.previous.pth"
    states = _load(checkpoint)
    if states is None and previous.exists():
        states = _load(previous)
        if states is not None:
            logging.warning(
                f"{checkpoint} is cut off or missing: going on from {previous}"
            )
            partial = output_dir / "checkpoint.pth.tmp"
            shutil.copyfile(previous, partial)
            os.replace(partial, checkpoint)
    if states is None:
        if checkpoint.exists():
            # Kept, as nothing here can know what is wrong with it.
            aside = output_dir / "checkpoint.unreadable.pth"
            logging.warning(
                f"{checkpoint} is unreadable and kept as {aside.name}: training "
                "starts anew"
            )
            os.replace(checkpoint, aside)
        return
    reporter = Reporter()
    reporter.load_state_dict(states["reporter"])
    for epoch, (phase, key, _) in itertools.product(reporter.stats, criteria):
        if not reporter.has(phase, key, epoch):
            raise ValueError(
                f"{checkpoint}: found no {phase} {key} of epoch {epoch}, expected it "
                "of every epoch, since the best model is chosen by it: train in "
                "another directory (--tag), or change --best_model_criterion"
            )
    epoch = reporter.get_epoch()
    model_file = output_dir / f"{epoch}epoch.pth"
    if _load(model_file) is None:
        partial = output_dir / f"{epoch}epoch.pth.tmp"
        torch.save(states["model"], partial)
        os.replace(partial, model_file)
    links = ["latest.pth"]
    for phase, key, mode in criteria:
        if reporter.has(phase, key):
            if reporter.get_best_epoch(phase, key, mode) == epoch:
                links.append(f"{phase}.{key}.best.pth")
    for name in links:
        partial = output_dir / f"{name}.tmp"
        partial.unlink(missing_ok=True)
        partial.symlink_to(model_file.name)
        os.replace(partial, output_dir / name)


def read_history(
    output_dir: Union[str, Path],
) -> Dict[int, Dict[str, Dict[str, float]]]:
    """Statistics of a training, by epoch and phase (``train``, ``valid``).

    Args:
        output_dir: of the experiment, with ``checkpoint.pth``.

    Raises:
        ValueError: when no checkpoint is there or it is cut off.
    """
    checkpoint = Path(output_dir) / "checkpoint.pth"
    states = _load(checkpoint)
    if states is None:
        raise ValueError(
            f"{checkpoint}: found no readable checkpoint, expected that of a training: "
            "train (stage 7) or name another experiment"
        )
    return states["reporter"]["stats"]


def _load(path: Path) -> Optional[Dict[str, Any]]:
    """Contents of a file that ``torch.save`` wrote; None if missing or cut off."""
    if not path.exists():
        return None
    # ESPnet before 202611 keeps these types in the reporter's state.
    scalar, (dtype, _) = np.float64(0).__reduce__()
    allowed = [datetime.timedelta, scalar, np.dtype, type(dtype)]
    try:
        with torch.serialization.safe_globals(allowed):
            return read_states(path)
    except ValueError:
        return None


def _is_first_rank(distributed_option: DistributedOption) -> bool:
    return not distributed_option.distributed or distributed_option.dist_rank == 0


def _gather(values: Dict[str, float]) -> Dict[str, float]:
    """Union of every process's dictionary, the same on all of them."""
    parts: List[Dict[str, float]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, values)
    return {key: value for part in parts for key, value in part.items()}
