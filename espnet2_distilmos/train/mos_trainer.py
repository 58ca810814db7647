# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""ESPnet's trainer, with validation on rank correlations and safe resumption."""

import argparse
import contextlib
import copy
import dataclasses
import datetime
import importlib.util
import itertools
import logging
import math
import os
from pathlib import Path
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Average, Reporter, SubReporter
from espnet2.train.trainer import Trainer, TrainerOptions
from espnet2.utils.build_dataclass import build_dataclass

from espnet2_distilmos.data.datadir import DataError, atomic_write, lock, read_scp
from espnet2_distilmos.evaluation.metrics import evaluate
from espnet2_distilmos.mos.checkpoint import read_states
from espnet2_distilmos.mos.espnet_model import ESPnetMOSModel
from espnet2_distilmos.train.mos_sampler import CategorySampler

LEVELS = ("utt", "sys")
STATISTICS = ("mse", "lcc", "srcc", "ktau")


def _shares(factory: AbsIterFactory) -> Optional[Dict[str, float]]:
    """Relative frequency of each training utterance; None is each once an epoch."""
    sampler = getattr(factory, "sampler", None)
    if not isinstance(sampler, CategorySampler):
        return None
    return {
        utt_id: sampler.weights[category] / len(members)
        for category, members in sampler.members.items()
        for utt_id in members
    }


def _whole_utterances(factory: AbsIterFactory) -> Iterable:
    """This process's training utterances, each once, alone and in full length."""
    if not isinstance(factory, SequenceIterFactory):
        return factory.build_iter(1, shuffle=False)
    sampler = factory.sampler
    if isinstance(sampler, CategorySampler):
        members = (i for group in sampler.members.values() for i in group)
        ids = sorted(members)[sampler.rank :: sampler.world_size]
    else:
        ids = sorted({utt_id for batch in sampler for utt_id in batch})
    dataset = copy.copy(factory.dataset)
    dataset.cache = None  # has crops
    dataset.preprocess = dataclasses.replace(dataset.preprocess, train=False)
    return torch.utils.data.DataLoader(
        dataset,
        batch_sampler=[[utt_id] for utt_id in ids],
        num_workers=factory.num_workers,
        collate_fn=factory.collate_fn,
    )


@dataclasses.dataclass
class MOSTrainerOptions(TrainerOptions):
    """Options of ESPnet's trainer, and the file with the systems of the clips."""

    valid_utt2sys: Optional[str] = None


class _WithNumSamples:
    """Batches with the lengths as numbers, too, before they go to a device."""

    def __init__(self, batches: Iterable[Tuple[List[str], Dict[str, torch.Tensor]]]):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Tuple[List[str], Dict[str, Any]]]:
        for utt_id, batch in self.batches:
            lengths = batch["speech_lengths"].tolist()
            yield utt_id, {**batch, "num_samples": lengths}


class EpochRecorder(torch.nn.Module):
    """Wrap a model for one epoch, to keep what ESPnet's loop does not.

    ESPnet averages what batches report, weighted by their utterances. A loss is a mean
    over those with a label only, or over frames, and a rank correlation is of the
    whole set. And it reads each number of a step by itself, from the device, before
    the backward pass, and gathers each by itself from the other processes: in training
    they are kept in one tensor, and :meth:`report` reads it when the step is done.

    Args:
        model: to wrap.
        use_amp: run in bfloat16 what autocast does so, on the CPU. ESPnet's own
            autocast is for GPUs alone.
        distributed: average the statistics of a training step over the processes.

    Attributes:
        scores, labels, corpora: by utterance; of a validation only.
    """

    def __init__(
        self, model: torch.nn.Module, use_amp: bool = False, distributed: bool = False
    ):
        super().__init__()
        self.model = model
        self.use_amp = use_amp
        self.distributed = distributed
        # Names, and weighted sums and weights of the step at hand, (names, 2).
        self._step: Optional[Tuple[List[str], torch.Tensor]] = None
        self.scores: Dict[str, float] = {}
        self.labels: Dict[str, float] = {}
        self.corpora: Dict[str, int] = {}
        # Sum and count of each statistic that is a mean over something.
        self._totals: Dict[str, torch.Tensor] = {}

    def forward(self, **batch) -> Dict[str, Any]:
        on_cpu = batch["speech"].device.type == "cpu"
        with torch.autocast("cpu", torch.bfloat16, enabled=self.use_amp and on_cpu):
            result = self.model(**batch)
        for name, count in result["counts"].items():
            # The mean over nothing may be NaN.
            total = torch.where(count > 0, result["stats"][name].double() * count, 0.0)
            self._add(name, total, count)
        ids, labels = batch["utt_id"], batch.get("mos")
        if labels is not None:
            self._add("labelled", torch.isfinite(labels).sum(), result["weight"])
            if not self.training and result["utt_mos"] is not None:
                self.scores.update(zip(ids, result["utt_mos"].float().tolist()))
                self.labels.update(zip(ids, labels.reshape(-1).tolist()))
                if "corpus" in batch:
                    self.corpora.update(zip(ids, batch["corpus"].reshape(-1).tolist()))
        if self.training:
            self._keep(result["stats"], result["weight"])
            result = {**result, "stats": {}}
        return result

    def _keep(self, stats: Dict[str, torch.Tensor], weight: torch.Tensor) -> None:
        # A row a statistic; DataParallel gives one number for each device.
        values = torch.stack(list(stats.values())).double()
        defined = ~values.isnan()
        weights = torch.where(defined, weight, 0.0)
        sums = torch.where(defined, values, 0.0) * weights
        sums = torch.stack([sums.sum(dim=1), weights.sum(dim=1)], dim=1)
        if self.distributed:
            torch.distributed.all_reduce(sums)
        self._step = list(stats), sums

    def report(self, reporter: SubReporter) -> None:
        """Register the statistics of the last step of a training."""
        if self._step is not None:
            names, sums = self._step
            self._step = None
            for name, (total, weight) in zip(names, sums.tolist()):
                mean = total / weight if weight > 0 else math.nan
                reporter.register({name: mean}, weight)

    def _add(self, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        # DataParallel gives one number for each device.
        pair = torch.stack([total.double().sum(), count.double().sum()])
        self._totals[name] = self._totals.get(name, 0.0) + pair

    def totals(self, distributed: bool) -> Dict[str, List[float]]:
        """Sum and count of each statistic, over all processes."""
        own = {name: pair.tolist() for name, pair in self._totals.items()}
        result: Dict[str, List[float]] = {}
        for part in _gather(own, distributed):
            for name, pair in part.items():
                sums = zip(result.get(name, (0.0, 0.0)), pair)
                result[name] = [sum(both) for both in sums]
        return result


def _set_averages(
    reporter: SubReporter, totals: Dict[str, Sequence[float]]
) -> Dict[str, float]:
    """Let the average of each statistic be its sum over its count, and return it.

    Never NaN, as for :func:`validation_metrics`: what nothing was counted of is left
    out, and what diverged is infinite.
    """
    means = {}
    for name, (total, count) in totals.items():
        entries = reporter.stats.get(name, [])
        if count > 0 and entries:
            means[name] = total / count if math.isfinite(total) else math.inf
            # In its place: the log keeps its order.
            reporter.stats[name] = [Average(means[name])] * len(entries)
        else:
            reporter.stats.pop(name, None)
    return means


class MOSTrainer(Trainer):
    """Validates on the whole set and survives being killed at any moment."""

    @classmethod
    def build_options(cls, args: argparse.Namespace) -> MOSTrainerOptions:
        return build_dataclass(MOSTrainerOptions, args)

    @classmethod
    def run(cls, *args, **kwargs) -> None:
        options = kwargs["trainer_options"]
        distributed = kwargs["distributed_option"]
        if options.resume and _is_first_rank(distributed):
            restore_checkpoint(Path(options.output_dir), options.best_model_criterion)
        if distributed.distributed:
            torch.distributed.barrier()
        resumed = (
            options.resume and (Path(options.output_dir) / "checkpoint.pth").exists()
        )
        readers = {
            name: loss.sets_scale
            for name, loss in kwargs["model"].losses.items()
            if "mos" in loss.needs
        }
        if readers and not any(readers.values()) and _is_first_rank(distributed):
            logging.warning(
                f"No loss reads the values of labels ({', '.join(readers)}): scores "
                "will rank, and are on no scale, also not on that of score_range"
            )
        if kwargs["model"].probe_to_fit() is not None and not resumed:
            cls.fit_probe(
                kwargs["model"],
                _whole_utterances(kwargs["train_iter_factory"]),
                options.ngpu,
                distributed.distributed,
                _shares(kwargs["train_iter_factory"]),
            )
        # ESPnet draws all of its figures anew after every epoch.
        kwargs["trainer_options"] = dataclasses.replace(options, use_matplotlib=False)
        super().run(*args, **kwargs)
        if options.use_matplotlib and _is_first_rank(distributed):
            plot_statistics(Path(options.output_dir))

    @staticmethod
    def fit_probe(
        model: ESPnetMOSModel,
        batches: Iterable[Tuple[Sequence[str], Dict[str, torch.Tensor]]],
        ngpu: int,
        distributed: bool,
        shares: Optional[Mapping[str, float]] = None,
    ) -> None:
        """Let the head's probe start from ridge regression on the training set.

        Every process of a distributed training fits the same to all of its features.

        Args:
            model: on its device; it is left in eval mode.
            batches: ids and tensors of the training set, once.
            ngpu: of the training.
            distributed: gather over all processes.
            shares: what each utterance counts; None is alike.

        Raises:
            ValueError: there are too few labels.
        """
        logging.info("Fitting the head's probe to the training set")
        model.eval()
        own = []
        for utt_ids, batch in batches:
            batch = to_device(batch, "cuda" if ngpu > 0 else "cpu")
            features = model.probe_features(batch["speech"], batch["speech_lengths"])
            labels = batch["mos"].reshape(-1)
            corpora = batch.get("corpus", torch.zeros_like(labels)).reshape(-1).long()
            own += zip(utt_ids, features.cpu(), labels.tolist(), corpora.tolist())
        found = {
            utt_id: (x, y, corpus)
            for part in _gather(own, distributed)
            for utt_id, x, y, corpus in part
            if math.isfinite(y)
        }
        # In one order, however the batches were made.
        ids = sorted(found)
        rows = [found[utt_id] for utt_id in ids]
        penalty = model.probe_to_fit().fit(
            torch.stack([x for x, _, _ in rows]) if rows else torch.zeros(0, 1),
            torch.tensor([y for _, y, _ in rows]),
            torch.tensor([corpus for _, _, corpus in rows]),
            None if shares is None else torch.tensor([shares[i] for i in ids]),
        )
        logging.info(
            f"The probe's ridge regression on {len(rows)} utterances of "
            f"{len({corpus for _, _, corpus in rows})} corpora has the penalty "
            f"{penalty:g}"
        )

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
                "directory (--tag), or remove this one to train anew"
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
        """Train as ESPnet does, with exact means of the losses."""
        distributed = distributed_option.distributed
        recorder = EpochRecorder(model, options.use_amp, distributed)
        # The last that ESPnet's loop does in a step.
        end_step = reporter.next

        def report_and_end_step() -> None:
            recorder.report(reporter)
            end_step()

        reporter.next = report_and_end_step
        # DataParallel would give all numbers to each device.
        if options.ngpu == 1:
            kwargs["iterator"] = _WithNumSamples(kwargs["iterator"])
        if options.ngpu == 0:
            # It is for GPUs; here it would only take the step that ESPnet leaves out
            # when a gradient is not finite.
            kwargs["scaler"] = None
        invalid = super().train_one_epoch(
            model=recorder,
            reporter=reporter,
            distributed_option=distributed_option,
            options=options,
            **kwargs,
        )
        del reporter.next
        totals = recorder.totals(distributed)
        labelled, utterances = totals.pop("labelled", (0, 0))
        _set_averages(reporter, totals)
        if _is_first_rank(distributed_option):
            logging.info(
                f"{reporter.get_epoch()}epoch:train: {labelled:.0f} labelled and "
                f"{utterances - labelled:.0f} unlabelled utterances"
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
        """Validate as ESPnet does, with exact means, then add rank correlations.

        Registers ``{utt,sys}_{mse,lcc,srcc,ktau}`` of the whole set, or their means
        over its corpora. Under DDP every process gathers all scores, since each decides
        on its own when to stop early.
        """
        distributed = distributed_option.distributed
        recorder = EpochRecorder(model, options.use_amp)
        super().validate_one_epoch(
            model=recorder,
            iterator=iterator,
            reporter=reporter,
            options=options,
            distributed_option=distributed_option,
        )
        if options.no_forward_run:
            return
        totals = recorder.totals(distributed)
        means = _set_averages(reporter, totals)
        # The sum of the means, where ESPnet has a mean of sums.
        losses = getattr(model, "module", model).losses
        loss = sum(loss.weight * means.get(k, 0.0) for k, loss in losses.items())
        _set_averages(reporter, {"loss": (loss, 1)})
        scores, labels, corpora = {}, {}, {}
        own = (recorder.scores, recorder.labels, recorder.corpora)
        for part in _gather(own, distributed):
            for whole, some in zip((scores, labels, corpora), part):
                whole.update(some)
        if any(math.isfinite(label) for label in labels.values()):
            systems = read_scp(options.valid_utt2sys) if options.valid_utt2sys else None
            reporter.register(validation_metrics(scores, labels, systems, corpora))
            reporter.next()
        if _is_first_rank(distributed_option):
            keep_checkpoint(Path(options.output_dir))


def validation_metrics(
    scores: Dict[str, float],
    labels: Dict[str, float],
    systems: Optional[Dict[str, str]],
    corpora: Optional[Dict[str, int]] = None,
) -> Dict[str, float]:
    """Metrics of a validation set, fit for choosing the best epoch.

    Args:
        scores: predicted score by utterance.
        labels: label by utterance, NaN of an unlabelled one, which is left out.
        systems: system of each labelled utterance; None leaves the system level out.
        corpora: corpus by utterance: each metric is the mean over the corpora whose
            labels define it, since listening tests do not share a scale. None or
            empty: all are one.

    Returns:
        ``utt_mse``, ... Never NaN, which would spoil ESPnet's sorting of epochs: an
        undefined correlation (constant scores) is 0, as a constant predictor ranks
        nothing; if some score is not finite, all have the worst value.
    """
    ids = sorted(i for i in scores if math.isfinite(labels[i]))
    groups: Dict[int, List[str]] = {}
    for utt_id in ids:
        groups.setdefault(corpora[utt_id] if corpora else 0, []).append(utt_id)

    def of_group(group: List[str], values: Dict[str, float]) -> Dict[str, Any]:
        own = None if systems is None else [systems[i] for i in group]
        return evaluate([values[i] for i in group], [labels[i] for i in group], own)

    results = [(of_group(g, scores), of_group(g, labels)) for g in groups.values()]
    finite = all(math.isfinite(scores[i]) for i in ids)
    levels = LEVELS[:1] if systems is None else LEVELS
    metrics = {}
    for level, statistic in itertools.product(levels, STATISTICS):
        key, name = f"{level}_mos_{statistic}", f"{level}_{statistic}"
        # A corpus in which the labels themselves would not have it (of too few systems)
        # has no say, unless all are such.
        able = [r for r, perfect in results if perfect[key] is not None]
        able = able or [results[0][0]]
        reasons = [r["undefined"][key] for r in able if r[key] is None]
        worst = math.inf if statistic == "mse" else -1.0
        undefined = 0.0 if finite else worst
        values = [undefined if r[key] is None else r[key] for r in able]
        metrics[name] = float(np.mean(values)) if finite else worst
        if reasons:
            logging.warning(
                f"valid {name} is undefined ({reasons[0]}) and reported as "
                f"{undefined:g}" + (" of a corpus" if len(results) > 1 else "")
            )
    return metrics


@contextlib.contextmanager
def only_training(args: argparse.Namespace) -> Iterator[None]:
    """Keep other trainings out of ``args.output_dir``, as long as the process lives.

    The first of several processes of one training does so.

    Raises:
        DataError: another training is there, or the directory cannot be written.
    """
    option = build_dataclass(DistributedOption, args)
    option.init_options()
    if not _is_first_rank(option):
        yield
        return
    folder = args.output_dir
    try:
        os.makedirs(folder, exist_ok=True)
        file = open(os.path.join(folder, ".lock"), "ab")
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}), expected a directory for "
            "the model; choose another --output_dir, or change its permissions"
        ) from error
    with file:
        if not lock(file):
            raise DataError(
                f"found another training at work in {folder}, expected one at a time: "
                "wait for it, or train in another directory (--tag)"
            )
        # A process that loads data outlives a killed training by some seconds.
        os.register_at_fork(after_in_child=file.close)
        yield


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
    states = read_checkpoint(checkpoint)
    if states is None:
        states = read_checkpoint(previous)
        if states is not None:
            logging.warning(f"{checkpoint} is cut off: going on from {previous}")
            os.replace(previous, checkpoint)
        elif checkpoint.exists():
            # Kept, as nothing here can know what is wrong with it.
            aside = output_dir / "checkpoint.unreadable.pth"
            logging.warning(f"{checkpoint} is unreadable and kept as {aside.name}")
            os.replace(checkpoint, aside)
    if states is None:
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
    if read_checkpoint(model_file) is None:
        with atomic_write(str(model_file), "wb") as file:
            torch.save(states["model"], file)
    links = ["latest.pth"]
    for phase, key, mode in criteria:
        if reporter.get_best_epoch(phase, key, mode) == epoch:
            links.append(f"{phase}.{key}.best.pth")
    for name in links:
        partial = output_dir / f"{name}.tmp"
        partial.unlink(missing_ok=True)
        partial.symlink_to(model_file.name)
        os.replace(partial, output_dir / name)


def plot_statistics(output_dir: Path) -> None:
    """Write ESPnet's figure of each statistic by epoch, ``images/NAME.png``."""
    states = read_checkpoint(output_dir / "checkpoint.pth")
    if importlib.util.find_spec("matplotlib") is None:
        logging.info("matplotlib is not installed: no figures")
    elif states is not None:
        reporter = Reporter()
        reporter.load_state_dict(states["reporter"])
        reporter.matplotlib_plot(output_dir / "images")


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
    states = read_checkpoint(checkpoint)
    if states is None:
        raise ValueError(
            f"{checkpoint}: found no readable checkpoint, expected that of a training: "
            "train (stage 7) or name another experiment"
        )
    return states["reporter"]["stats"]


def read_checkpoint(path: Path) -> Optional[Dict[str, Any]]:
    """Contents of a ``checkpoint.pth`` of any ESPnet; None if missing or cut off."""
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


def _gather(value: Any, distributed: bool) -> List[Any]:
    """The value of every process, in the order of their ranks."""
    if not distributed:
        return [value]
    parts: List[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, value)
    return parts
