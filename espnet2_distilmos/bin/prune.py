#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Remove the units of a trained model's upstream that its scores need least."""

import argparse
import contextlib
import copy
import csv
import hashlib
import json
import logging
import math
import os
import shlex
import shutil
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import soundfile
import yaml

from espnet2_distilmos import FORMAT_VERSION
from espnet2_distilmos.cli import call, get_device, start_logging
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    lock,
    read_scp,
    write_scp,
)

# Files of --output beside the model and its config.yaml.
RECORD, TABLE = "pruning.json", "pruning.csv"
IMPORTANCES = ("taylor", "l0", "magnitude", "random")
# Steps of an epoch at most: what a killed pruning repeats.
_EPOCH = 500
# Factor on the learning rates of the model's own training.
_RATE = 0.5
# Files of a data directory by the name of the data, and their type.
_FILES = {
    "speech": ("wav.scp", "sound"),
    "mos": ("metric.scp", "text"),
    "votes": ("votes.scp", "text"),
    "corpus": ("utt2domain", "text"),
}
# Options of the model's training that go on to hold.
_KEPT = (
    # The model's in any case; stated, since checks ask whether it reads corpora.
    *("head", "head_conf"),
    *("losses", "model_conf", "score_range", "train_dtype", "use_amp", "num_workers"),
    *("optim", "optim_conf", "upstream_lr", "upstream_lr_decay"),
    *("grad_clip", "grad_clip_type", "accum_grad"),
    *("batch_type", "batch_size", "batch_bins", "fold_length"),
    *("min_seconds", "max_seconds", "crop_seconds", "votes_per_utterance"),
    "noisy_view",
)
# Of a model that was not trained here: those of the demo for pretrained upstreams.
_DEFAULTS = {
    "losses": {"mos_l1": {"weight": 1.0}},
    "optim": "adamw",
    "optim_conf": {"lr": 1e-3},
    "upstream_lr": 2e-5,
    "batch_type": "numel",
    "batch_bins": 1600000,
}
# What the record of a training says of the network.
_NETWORK = (
    *("frontend", "frontend_conf", "head", "head_conf", "model_conf", "losses"),
    *("token_info", "listener_list", "corpus_list", "score_range"),
    "best_model_criterion",
)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distilmos prune",
        description="Remove attention heads and inner units from the upstream of a "
        "trained model, those that its losses need least, and train it on after each "
        "round, by the losses and options of its own training at half its rates. The "
        "result is a model like any other, smaller and faster. The same command goes "
        "on where it was killed.",
        epilog="OUTPUT gets the model, pruning.json and pruning.csv (size, "
        "multiply-accumulates and validation of each round), and the model of each "
        "round in round1, round2, ...",
    )
    add = parser.add_argument
    add(
        "model", metavar="MODEL", help="experiment directory, model file or packed .zip"
    )
    text = (
        "share of the units that is left, by parameters and of the unpruned network; "
        "1 trains on without removing any"
    )
    add("--keep", type=float, required=True, metavar="SHARE", help=text)
    text = (
        "set of stage 4 of a recipe: wav.scp (16 kHz, one channel), metric.scp and, in "
        "it or in the model's record, tokens.scp"
    )
    add("--train_set", required=True, metavar="DATA_DIR", help=text)
    text = "the same for the validation (default: the training set)"
    add("--valid_set", metavar="DATA_DIR", help=text)
    add("--output", required=True, metavar="DIR", help="experiment directory to write")
    text = (
        "what a unit is worth: taylor (default), the change of the loss without it, to "
        "first order; l0, gates that are trained; magnitude; random"
    )
    add("--importance", choices=IMPORTANCES, default="taylor", help=text)
    text = "rounds of removing and training (default: one for every tenth of the units)"
    add("--rounds", type=int, metavar="N", help=text)
    text = (
        "training steps after each removal (%(default)s); l0 trains its gates for as "
        "many in each round, and removes once"
    )
    add("--steps", type=int, default=200, metavar="N", help=text)
    text = "training steps after the last removal (default: as after the others)"
    add("--last_steps", type=int, metavar="N", help=text)
    text = 'options of mos_train that override the model\'s, e.g. "--upstream_lr 1e-5"'
    add("--train_args", default="", metavar="OPTIONS", help=text)
    text = "what the Taylor importance is the mean over, at most (%(default)s)"
    add("--importance_utterances", type=int, default=2000, metavar="N", help=text)
    add("--seed", type=int, default=0, help="of training and importance (%(default)s)")
    add("--ngpu", type=int, choices=(0, 1), default=0, help="0: CPU, 1: one GPU")
    return parser


# --- Data -----------------------------------------------------------------------------


def write_shapes(folder: str, path: str) -> List[str]:
    """Write the samples of each utterance of a data directory; return the ids.

    Raises:
        DataError: audio cannot be read, or is not as a training reads it.
    """
    from espnet2_distilmos.train.mos_preprocessor import SAMPLE_RATE

    lengths = {}
    for utt_id, file in read_scp(os.path.join(folder, "wav.scp")).items():
        try:
            info = soundfile.info(file)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{folder}/wav.scp: found no readable audio for utterance {utt_id} "
                f"({' '.join(str(error).split())}), expected a file; take the set that "
                "stage 4 of a recipe writes."
            ) from error
        # A training takes samples as they are, whatever rate the file states.
        if (info.samplerate, info.channels) != (SAMPLE_RATE, 1):
            raise DataError(
                f"{folder}/wav.scp: found {info.samplerate} Hz and {info.channels} "
                f"channels for utterance {utt_id}, expected {SAMPLE_RATE} Hz and one; "
                "take the set that stage 4 of a recipe writes (dump/raw/...)."
            )
        lengths[utt_id] = str(info.frames)
    write_scp(path, lengths)
    return list(lengths)


def find_tokens(
    folder: str, which: str, ids: Sequence[str], config: Mapping[str, Any]
) -> Optional[Tuple[str, Dict[str, Any]]]:
    """tokens.scp with tokens.json in a data directory, or what trained the model.

    Returns:
        The path of tokens.scp and the contents of tokens.json; None where neither has
        all the utterances.
    """
    from espnet2_distilmos.train.mos_checks import read_token_info

    path, info = (os.path.join(folder, f"tokens.{x}") for x in ("scp", "json"))
    if os.path.exists(info) and set(ids) <= set(read_scp(path)):
        return path, read_token_info(info)
    for path, name, *_ in config.get(f"{which}_data_path_and_name_and_type") or []:
        if (
            name == "tokens"
            and os.path.exists(path)
            and set(ids) <= set(read_scp(path))
        ):
            return path, config["token_info"]
    return None


def data_options(
    args: argparse.Namespace, config: Dict[str, Any]
) -> Tuple[List[str], Dict[str, str]]:
    """Options of mos_train for the data, and digests of what it is.

    Where there are no tokens, losses that read them are left out of ``config``.
    """
    from espnet2_distilmos.mos.build import build_losses
    from espnet2_distilmos.train.mos_sampler import BY_COUNT

    sets = {"train": args.train_set, "valid": args.valid_set or args.train_set}
    trained_on = config.get("train_data_path_and_name_and_type") or []
    names = {"speech", "mos", *(name for _, name, *_ in trained_on)}
    options, digests, ids, tokens = [], {}, {}, {}
    for which, folder in sets.items():
        shapes = os.path.join(args.output, "data", which, "speech_shape")
        ids[which] = write_shapes(folder, shapes)
        options += [f"--{which}_shape_file", shapes]
        for name, (file, kind) in _FILES.items():
            path = os.path.join(folder, file)
            # As stage 7 of mos.sh gives them to a training.
            is_left_out = which == "valid" and (
                name == "votes" or (name == "corpus" and not os.path.exists(path))
            )
            if name in names and not is_left_out:
                option = f"--{which}_data_path_and_name_and_type"
                options += [option, f"{path},{name},{kind}"]
                with open(path, "rb") as content:
                    digest = hashlib.sha256(content.read()).hexdigest()[:16]
                digests[f"{which}/{file}"] = digest
        tokens[which] = find_tokens(folder, which, ids[which], config)
    # Sets that are drawn by weights, if they are those of the model's training.
    weights, path = config.get("sampling_weights"), f"{sets['train']}/utt2set"
    if weights and config.get("batch_type") in BY_COUNT and os.path.exists(path):
        if set(read_scp(path).values()) == set(weights):
            options += ["--sampling_categories", path]
            options += ["--sampling_weights", json.dumps(weights)]
    if os.path.exists(os.path.join(sets["valid"], "utt2sys")):
        options += ["--valid_utt2sys", os.path.join(sets["valid"], "utt2sys")]
    losses = build_losses(config["losses"])
    readers = [k for k, v in losses.items() if "tokens" in v.needs and v.weight > 0]
    for which in sets if readers else ():
        if tokens[which] is None:
            logging.warning(
                f"{sets[which]} has no tokens.scp and tokens.json, and the model's "
                "record names none of its utterances: the training goes without "
                f"{', '.join(readers)}"
            )
            config["losses"] = {
                k: v for k, v in config["losses"].items() if k not in readers
            }
            return options, digests
        path, info = tokens[which]
        made_by = [
            (own or {}).get("codebook_fingerprint")
            for own in (info, config.get("token_info"))
        ]
        if made_by[0] != made_by[1]:
            raise DataError(
                f"{path}: found tokens of the codebooks {made_by[0]}, expected those "
                f"that the model was trained with, {made_by[1]}; give a --train_set "
                "with these, or none."
            )
        option = f"--{which}_data_path_and_name_and_type"
        options += [option, f"{path},tokens,npy"]
    if readers:
        path = os.path.join(args.output, "data", "tokens.json")
        with atomic_write(path) as file:
            json.dump(info, file)
        options += ["--token_info", path]
        options += ["--token_source", str(info["upstream_fingerprint"])]
    return options, digests


# --- The record -----------------------------------------------------------------------


class Record:
    """What was done so far, in ``pruning.json`` and ``pruning.csv``.

    Args:
        folder: of the pruning.
        settings: all that the result depends on.

    Raises:
        DataError: there is a pruning with other settings.
    """

    def __init__(self, folder: str, settings: Dict[str, Any]):
        self.folder, self.settings = folder, settings
        self.rows: List[Dict[str, Any]] = []
        path = os.path.join(folder, RECORD)
        if not os.path.exists(path):
            return
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
            self.rows, old = found["rounds"], found["settings"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}), expected what `distilmos prune` "
                f"wrote; remove {folder} to begin anew."
            ) from error
        for name, value in settings.items():
            if old.get(name) != value:
                raise DataError(
                    f"found another pruning in {folder}, with {name}="
                    f"{old.get(name)!r}, expected {value!r}: choose another --output, "
                    "or run as before to go on."
                )

    def add(self, row: Dict[str, Any]) -> None:
        """Keep a row, in both files, and log it."""
        self.rows.append(row)
        with atomic_write(os.path.join(self.folder, RECORD)) as file:
            contents = {"format_version": FORMAT_VERSION, "settings": self.settings}
            json.dump({**contents, "rounds": self.rows}, file, indent=2)
            file.write("\n")
        with atomic_write(os.path.join(self.folder, TABLE)) as file:
            columns = [k for k, v in row.items() if not isinstance(v, list)]
            writer = csv.DictWriter(file, columns, extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        shown = [f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float)]
        logging.info(
            f"round {row['round']}: {row['parameters']} parameters, {', '.join(shown)}"
        )


def describe(number: int, model, target: float) -> Dict[str, Any]:
    """What a row says of the network itself."""
    from espnet2_distilmos.mos.pruning import Units, macs_per_second, num_parameters

    macs = macs_per_second(model.frontend, model.head)
    left = model.frontend.units()
    return {
        "round": number,
        "target": target,
        "kept": Units(model.frontend).kept,
        "parameters": num_parameters(model),
        "upstream_parameters": sum(p.numel() for p in model.frontend.parameters()),
        "gmacs_per_second": (macs["upstream"] + macs["head"]) / 1e9,
        "upstream_gmacs_per_second": macs["upstream"] / 1e9,
        "heads": [len(heads) for heads in left["heads"]],
        "ffn": list(left["ffn"]),
    }


def chosen_metrics(metrics: Mapping[str, float], prefix: str) -> Dict[str, float]:
    """Those of the trainer's validation metrics that a row has, named PREFIX_METRIC."""
    names = [f"{level}_{s}" for level in ("utt", "sys") for s in ("srcc", "lcc", "mse")]
    return {f"{prefix}_{name}": metrics[name] for name in names if name in metrics}


# --- The loop -------------------------------------------------------------------------


class Pruner:
    """One pruning: rounds of importance, removal and training.

    Args:
        args: of the command.

    Raises:
        DataError, ValueError, OSError: one sentence.
    """

    def __init__(self, args: argparse.Namespace):
        from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
        from espnet2_distilmos.mos.pruning import Units

        self.args, self.output = args, os.path.abspath(args.output)
        with open_trained_model(args.model) as files:
            model, self.config = load_model(*files)
            with open(files.model_file, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()[:16]
            source = os.path.realpath(os.path.dirname(files.model_file))
        if source == os.path.realpath(self.output):
            raise DataError(
                f"found --output {args.output} where the model is, expected another "
                "directory, as the model there would be lost."
            )
        for name in ("config.yaml", "model.pth", "latest.pth"):
            # A pruning writes its record first.
            other = os.path.join(self.output, name)
            if os.path.exists(other) and not os.path.exists(self.path(RECORD)):
                raise DataError(
                    f"{other} is there and is of no pruning, expected a new directory "
                    "or that of a pruning to go on with: give another --output."
                )
        self.before = Units(model.frontend).kept
        if args.keep == 1:
            args.keep = self.before
        if not args.keep <= min(1.0, self.before + 1e-9):
            raise DataError(
                f"{args.model}: found {self.before:.3f} of its units left, expected "
                f"more than --keep {args.keep:g}, which is a share of the unpruned "
                "network: give a smaller one."
            )
        rounds = args.rounds or math.ceil(round((self.before - args.keep) * 10, 6))
        self.rounds = max(1, rounds)
        # Models that were not trained here have no such options.
        trained = {k: v for k, v in self.config.items() if k in _KEPT and v is not None}
        own = trained if self.config.get("optim") else _DEFAULTS
        self.training = copy.deepcopy(own)
        options = self.training.setdefault("optim_conf", {})
        for group, name in ((options, "lr"), (self.training, "upstream_lr")):
            if group.get(name) is not None:
                group[name] *= _RATE
        data = {**self.config, "losses": self.training["losses"]}
        self.options, digests = data_options(args, data)
        self.training["losses"] = data["losses"]
        names = ("keep", "importance", "steps", "last_steps", "train_args", "seed")
        names += ("importance_utterances",)
        self.record = Record(
            self.output,
            {
                "model": digest,
                **{name: getattr(args, name) for name in names},
                "rounds": self.rounds,
                "losses": list(self.training["losses"]),
                "data": digests,
            },
        )
        if not self.record.rows:
            task = self.task_args(self.command("start", 0, 1, args.model))
            row = describe(0, model, self.before)
            metrics = self.validate(model, task)
            for when in ("cut", "valid"):
                row.update(chosen_metrics(metrics, when))
            self.record.add(row)

    def path(self, *names: str) -> str:
        return os.path.join(self.output, *names)

    def command(
        self,
        name: str,
        number: int,
        steps: int,
        model: str,
        losses: Optional[Mapping[str, Any]] = None,
    ) -> List[str]:
        """Command line of mos_train that trains ``model`` for ``steps`` in ``name``."""
        epochs = math.ceil(steps / _EPOCH)
        each = math.ceil(steps / epochs)
        config = {
            **self.training,
            # Another order of the data in each round.
            "seed": self.args.seed + number,
            "max_epoch": epochs,
            "num_iters_per_epoch": each,
            "scheduler": "warmuplinear",
            "scheduler_conf": {
                "warmup_steps": epochs * each // 10,
                "total_steps": epochs * each,
            },
            "keep_nbest_models": 1,
            "log_interval": max(1, each // 4),
            "num_att_plot": 0,
            "use_matplotlib": False,
            "use_tensorboard": False,
        }
        config["losses"] = {**config["losses"], **(losses or {})}
        if "--valid_utt2sys" not in self.options:
            config["best_model_criterion"] = [["valid", "utt_srcc", "max"]]
        path = self.path("data", f"{name.replace('/', '_')}.yaml")
        with atomic_write(path) as file:
            yaml.safe_dump(config, file, sort_keys=False)
        command = ["--config", path, "--output_dir", self.path(name)]
        command += ["--init_model", model, "--resume", "true"]
        command += ["--ngpu", str(self.args.ngpu), *self.options]
        return command + shlex.split(self.args.train_args)

    def task_args(self, command: List[str]) -> argparse.Namespace:
        """Options of the task, checked, as they are before it builds its model."""
        from espnet2_distilmos.tasks.mos import MOSTask
        from espnet2_distilmos.train.mos_checks import read_token_info

        args = MOSTask.parse_args(command)
        MOSTask.check_required_command_args(args)
        args.token_info = read_token_info(args.token_info)
        args.distributed = False
        return args

    def batches(self, task: argparse.Namespace, mode: str):
        """All batches of the training or validation set, once, on the device."""
        from espnet2.torch_utils.device_funcs import to_device
        from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
        from espnet2.train.distributed_utils import DistributedOption

        from espnet2_distilmos.tasks.mos import MOSTask

        set_all_random_seed(task.seed)
        task = copy.copy(task)
        task.num_iters_per_epoch = None
        factory = MOSTask.build_iter_factory(task, DistributedOption(), mode=mode)
        for ids, batch in factory.build_iter(1, shuffle=mode == "train"):
            yield {"utt_id": ids, **to_device(batch, get_device(task.ngpu))}

    def validate(self, model, task: argparse.Namespace) -> Dict[str, float]:
        """Metrics of a model that is not trained, as the trainer has them."""
        from espnet2_distilmos.train.mos_trainer import validation_metrics

        model = model.to(get_device(task.ngpu)).eval()
        scores, labels = {}, {}
        for batch in self.batches(task, "valid"):
            speech = batch["speech"], batch["speech_lengths"]
            found = model.inference(*speech).utt_mos.float().tolist()
            scores.update(zip(batch["utt_id"], found))
            labels.update(zip(batch["utt_id"], batch["mos"].reshape(-1).tolist()))
        systems = read_scp(task.valid_utt2sys) if task.valid_utt2sys else None
        return validation_metrics(scores, labels, systems)

    def taylor(self, model, units, task: argparse.Namespace):
        """Importance by the losses of the training, without dropout."""
        import torch

        from espnet2_distilmos.mos.pruning import taylor_importance

        model.to(get_device(task.ngpu)).eval()

        def some():
            count = 0
            for batch in self.batches(task, "train"):
                # A graph to the gates even where the upstream is frozen.
                batch["speech"].requires_grad_(model.frontend.freeze == "all")
                yield batch
                count += len(batch["utt_id"])
                if count >= self.args.importance_utterances:
                    return

        # cuDNN's LSTM has no backward pass in eval mode.
        with torch.backends.cudnn.flags(enabled=False):
            return taylor_importance(lambda b: model(**b)["loss"], units, some())

    def cut(self, number: int, previous: str, target: float) -> str:
        """Remove units from the model ``previous``; return the smaller model."""
        import torch

        from espnet2_distilmos.mos.checkpoint import initial_model, model_states
        from espnet2_distilmos.mos.head.probe import ProbeHead
        from espnet2_distilmos.mos.pruning import (
            Units,
            choose,
            mean_gates,
            random_importance,
        )

        folder, kind = self.path(f"cut{number}"), self.args.importance
        if os.path.exists(os.path.join(folder, "config.yaml")):
            return folder
        log_alpha = None
        if kind == "l0" and target < self.before:
            gated = self.train_gates(previous)
            previous = os.path.join(gated, "latest.pth")
            log_alpha = model_states(previous)["losses.l0.log_alpha"].double()
        task = self.task_args(self.command(f"round{number}", number, 1, previous))
        with initial_model(vars(task)) as model:
            units = Units(model.frontend)
            budget, gates = target * units.total, None
            if log_alpha is not None:
                gates = mean_gates(log_alpha)
                # All prefer to be kept, in the order of their gates, but the closed.
                rank = log_alpha.argsort().argsort().double() + 1
                kept = choose(rank * units.sizes, units.sizes, budget) & (gates > 0)
            elif target < units.kept:
                importance = {
                    "taylor": lambda: self.taylor(model, units, task),
                    "magnitude": units.magnitudes,
                    "random": lambda: random_importance(units, task.seed),
                }[kind]()
                kept = choose(importance, units.sizes, budget)
            else:
                kept = torch.ones(len(units), dtype=torch.bool)
            model.cpu()
            units.remove(kept, gates)
            if isinstance(model.head, ProbeHead) and model.frontend.freeze == "all":
                # No training mends the states: the regression on them is made anew.
                model.head.probe.is_fitted.fill_(False)
            config = {**self.config, **{key: vars(task)[key] for key in _NETWORK}}
            config["frontend_conf"] = model.frontend.resolved_conf()
            config["mos_format_version"] = FORMAT_VERSION
            self.write_model(folder, model.state_dict(), config)
        return folder

    def train_gates(self, previous: str) -> str:
        """Train hard-concrete gates; return the experiment."""
        from espnet2_distilmos.tasks.mos import MOSTask

        steps = self.rounds * self.args.steps
        options = {
            "weight": 1.0,
            "keep": self.args.keep,
            "ramp_steps": max(1, steps // 2),
            # A gate has to come from open to closed, some 10 units of log alpha.
            "learning_rate": max(0.02, 20 / steps),
        }
        command = self.command("gates", 0, steps, previous, {"l0": options})
        MOSTask.main(cmd=command)
        return self.path("gates")

    def write_model(self, folder: str, states, config: Mapping[str, Any]) -> None:
        import torch

        with atomic_write(os.path.join(folder, "model.pth"), "wb") as file:
            torch.save(states, file)
        # Last: it says that the model is whole.
        with atomic_write(os.path.join(folder, "config.yaml")) as file:
            yaml.safe_dump(_plain(config), file, sort_keys=False)

    def run(self) -> None:
        """All rounds that are not done, and the model of the last."""
        from espnet2_distilmos.mos.checkpoint import load_model, model_states, read_yaml
        from espnet2_distilmos.tasks.mos import MOSTask
        from espnet2_distilmos.train.mos_trainer import read_history

        # Gates are trained towards the end at once.
        count = 1 if self.args.importance == "l0" else self.rounds
        previous = self.args.model
        for number in range(1, count + 1):
            name = f"round{number}"
            latest = self.path(name, "latest.pth")
            if len(self.record.rows) <= number:
                share = (self.before - self.args.keep) * number / count
                target = self.before - share
                start = self.cut(number, previous, target)
                steps = self.args.steps
                if number == count and self.args.last_steps is not None:
                    steps = self.args.last_steps
                command = self.command(name, number, steps, start)
                task = self.task_args(command)
                model, _ = load_model(
                    os.path.join(start, "config.yaml"),
                    os.path.join(start, "model.pth"),
                )
                row = describe(number, model, target)
                row.update(chosen_metrics(self.validate(model, task), "cut"))
                MOSTask.main(cmd=command)
                last = read_history(self.path(name))
                row.update(chosen_metrics(last[max(last)]["valid"], "valid"))
                self.record.add(row)
            # What nobody needs any more.
            for folder in (f"cut{number}", "gates"):
                shutil.rmtree(self.path(folder), ignore_errors=True)
            for file in ("checkpoint.pth", "checkpoint.previous.pth"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self.path(name, file))
            previous = latest
        config = read_yaml(self.path(name, "config.yaml"), "what the training wrote")
        # Another pruning takes half of the same rates, and not of a half.
        rates = ("optim_conf", "upstream_lr")
        config.update({key: self.config[key] for key in rates if key in self.config})
        self.write_model(self.output, model_states(latest), config)


def _plain(value: Any) -> Any:
    """Lists for tuples, and one object for each place: YAML without anchors."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def prune(args: argparse.Namespace) -> int:
    """Check, prune, and tell what came of it.

    Raises:
        DataError, ValueError, OSError: one sentence.
    """
    if not 0 < args.keep <= 1:
        raise DataError(
            f"found --keep {args.keep:g}, expected a share above 0 and up to 1 of the "
            "units."
        )
    for name in ("rounds", "steps", "last_steps", "importance_utterances"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise DataError(f"found --{name} {value}, expected 1 or more.")
    get_device(args.ngpu)
    from espnet2_distilmos.mos.checkpoint import load_model, open_trained_model
    from espnet2_distilmos.mos.pruning import cpu_seconds

    models = (args.model, args.output)
    os.makedirs(args.output, exist_ok=True)
    with open(os.path.join(args.output, ".prune.lock"), "ab") as file:
        if not lock(file):
            raise DataError(
                f"found another pruning at work in {args.output}, expected one at a "
                "time: wait for it, or choose another --output."
            )
        pruner = Pruner(args)
        pruner.run()
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(open_trained_model(m)) for m in models]
        times = cpu_seconds([load_model(*each)[0] for each in files])
    first, last = pruner.record.rows[0], pruner.record.rows[-1]
    print(
        f"{args.output}: {last['kept']:.3f} of the units, {last['parameters']} "
        f"parameters of {first['parameters']}, {last['gmacs_per_second']:.3f} GMACs a "
        f"second of audio of {first['gmacs_per_second']:.3f}, {times[1]:.4f} s of CPU "
        f"time, measured, of {times[0]:.4f}; validation SRCC "
        f"{last['valid_utt_srcc']:.3f} of {first['valid_utt_srcc']:.3f}"
    )
    return 0


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    start_logging()
    return call(lambda: prune(args))


if __name__ == "__main__":
    sys.exit(main())
