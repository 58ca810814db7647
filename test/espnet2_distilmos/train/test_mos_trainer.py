# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse
import datetime
import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter

from espnet2_distilmos.mos.checkpoint import load_model
from espnet2_distilmos.train.mos_trainer import (
    MOSTrainer,
    MOSTrainerOptions,
    keep_checkpoint,
    read_history,
    restore_checkpoint,
    validation_metrics,
)

REPOSITORY = Path(__file__).parents[3]


def scipy_metrics(scores, labels, systems):
    """The eight metrics by scipy, from dictionaries by utterance."""

    def four(x, y):
        return {
            "mse": np.mean((np.array(x) - np.array(y)) ** 2),
            "lcc": scipy.stats.pearsonr(x, y)[0],
            "srcc": scipy.stats.spearmanr(x, y)[0],
            "ktau": scipy.stats.kendalltau(x, y)[0],
        }

    ids = list(scores)
    result = four([scores[i] for i in ids], [labels[i] for i in ids])
    result = {f"utt_{k}": v for k, v in result.items()}
    means = [
        [
            np.mean([values[i] for i in ids if systems[i] == s])
            for s in set(systems.values())
        ]
        for values in (scores, labels)
    ]
    result.update({f"sys_{k}": v for k, v in four(*means).items()})
    return result


def scores_one_by_one(output_dir, model_file, wav_scp):
    """Scores of single files by the saved model."""
    model, _ = load_model(output_dir / "config.yaml", output_dir / model_file)
    scores = {}
    for line in Path(wav_scp).read_text().splitlines():
        utt, path = line.split()
        speech = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        lengths = torch.tensor([speech.size(1)])
        scores[utt] = model.inference(speech, lengths).utt_mos.item()
    return scores


@pytest.mark.parametrize("batch_size", [1, 3, 11])
def test_validation_metrics_of_the_whole_set(
    batch_size, mos_corpus, training_log, tmp_path
):
    out = mos_corpus.train(tmp_path / "exp", valid_batch_size=batch_size, max_epoch=2)
    scores = scores_one_by_one(out, "2epoch.pth", mos_corpus.root / "valid/wav.scp")
    labels = {i: mos_corpus.labels[i] for i in scores}
    systems = {i: mos_corpus.systems[i] for i in scores}
    logged = training_log(out)[2]["valid"]
    for key, value in scipy_metrics(scores, labels, systems).items():
        assert logged[key] == pytest.approx(value, abs=1e-4), key


def test_metrics_leave_unlabelled_utterances_out():
    scores = {"a": 1.0, "b": 2.5, "c": 9.0, "d": 2.0}
    labels = {"a": 1.0, "b": 2.0, "c": math.nan, "d": 3.0}
    # c needs no system either: it is not compared
    metrics = validation_metrics(scores, labels, {"a": "x", "b": "y", "d": "x"})
    assert metrics["utt_mse"] == pytest.approx((0 + 0.25 + 1) / 3)
    assert metrics["utt_srcc"] == pytest.approx(
        scipy.stats.spearmanr([1, 2.5, 2], [1, 2, 3])[0]
    )
    assert metrics["sys_mse"] == pytest.approx((0.5**2 + 0.5**2) / 2)
    assert set(validation_metrics(scores, labels, None)) == {
        "utt_mse",
        "utt_lcc",
        "utt_srcc",
        "utt_ktau",
    }


def test_metrics_are_never_nan():
    labels = {"a": 1.0, "b": 2.0}
    constant = validation_metrics({"a": 3.0, "b": 3.0}, labels, None)
    assert constant == {
        "utt_mse": 2.5,
        "utt_lcc": 0.0,
        "utt_srcc": 0.0,
        "utt_ktau": 0.0,
    }
    # a model that diverged is worse than any other, whatever the criterion
    diverged = validation_metrics({"a": math.nan, "b": 3.0}, labels, None)
    assert diverged["utt_mse"] == math.inf
    assert [diverged[f"utt_{k}"] for k in ("lcc", "srcc", "ktau")] == [-1.0] * 3


def test_metrics_name_what_is_missing():
    with pytest.raises(ValueError, match="no labelled utterance"):
        validation_metrics({"a": 1.0}, {"a": math.nan}, None)
    with pytest.raises(
        ValueError, match="1 validation utterances without a system.* b"
    ):
        validation_metrics({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, {"a": "x"})


# --- criteria -------------------------------------------------------------------------


def criteria(**changes):
    args = dict(
        best_model_criterion=[("valid", "utt_srcc", "max")],
        early_stopping_criterion=("valid", "nonsense", "max"),
        patience=None,
        scheduler=None,
        val_scheduler_criterion=("valid", "loss"),
        valid_utt2sys="utt2sys",
    )
    args.update(changes)
    return argparse.Namespace(**args)


REPORTED = ["mos_l1", "token_ce", "token_acc_hubert_l01"]


@pytest.mark.parametrize(
    "criterion",
    [
        ("train", "loss", "min"),
        ("valid", "mos_l1", "min"),
        ("valid", "token_acc_hubert_l01", "max"),
        *[
            ("valid", f"{level}_{name}", "max")
            for level in ("utt", "sys")
            for name in ("mse", "lcc", "srcc", "ktau")
        ],
    ],
)
def test_accepted_criteria(criterion):
    MOSTrainer.check_criteria(criteria(best_model_criterion=[criterion]), REPORTED)


@pytest.mark.parametrize(
    "criterion,message",
    [
        (("valid", "sys_scc", "max"), "valid,sys_scc,max.*one of loss, .*sys_srcc"),
        (("vald", "sys_srcc", "max"), "vald,sys_srcc,max, expected train or valid"),
        (("train", "sys_srcc", "max"), "train,sys_srcc,max"),
        (("valid", "sys_srcc", "maxx"), "then min or max"),
        (("valid", "mos_mse", "min"), "valid,mos_mse,min"),
        (("valid", "token_acc_hubert_l07", "max"), "token accuracy needs"),
        (("vald", "token_acc_hubert_l01", "maxx"), "vald,token_acc"),
        (("valid", "utt_srcc"), "found --best_model_criterion valid,utt_srcc,"),
        ("valid,utt_srcc,max", "found --best_model_criterion valid,utt_srcc,max"),
    ],
)
def test_refused_criteria(criterion, message):
    with pytest.raises(ValueError, match=message):
        MOSTrainer.check_criteria(criteria(best_model_criterion=[criterion]), REPORTED)


def test_early_stopping_criterion_is_checked_when_used():
    MOSTrainer.check_criteria(criteria(), REPORTED)
    with pytest.raises(ValueError, match="early_stopping_criterion valid,nonsense"):
        MOSTrainer.check_criteria(criteria(patience=3), REPORTED)


def test_scheduler_criterion_is_checked_when_used():
    bad = ("valid", "utt_src")
    MOSTrainer.check_criteria(criteria(val_scheduler_criterion=bad), REPORTED)
    with pytest.raises(ValueError, match="val_scheduler_criterion valid,utt_src"):
        MOSTrainer.check_criteria(
            criteria(val_scheduler_criterion=bad, scheduler="reducelronplateau"),
            REPORTED,
        )


def test_system_criteria_need_systems():
    args = criteria(
        best_model_criterion=[("valid", "sys_srcc", "max")], valid_utt2sys=None
    )
    with pytest.raises(ValueError, match="need --valid_utt2sys"):
        MOSTrainer.check_criteria(args, REPORTED)


# --- best model and early stopping ----------------------------------------------------


def test_best_model_and_early_stopping_on_sys_srcc(
    mos_corpus, training_log, tmp_path, monkeypatch
):
    series = {1: 0.2, 2: 0.9, 3: 0.5, 4: 0.8, 5: 1.0}
    epochs = iter(series)

    def metrics(scores, labels, systems):
        return dict(validation_metrics(scores, labels, systems), sys_srcc=values())

    def values():
        return series[next(epochs)]

    monkeypatch.setattr(
        "espnet2_distilmos.train.mos_trainer.validation_metrics", metrics
    )
    out = mos_corpus.train(
        tmp_path / "exp",
        *("--patience", "1", "--early_stopping_criterion", "valid", "sys_srcc", "max"),
        *("--best_model_criterion", "valid,sys_srcc,max"),
        max_epoch=5,
        best_model_criterion=[["valid", "loss", "min"]],
    )
    log = training_log(out)
    assert list(log) == [1, 2, 3, 4]
    assert log[2]["valid"]["sys_srcc"] == 0.9
    assert os.readlink(out / "valid.sys_srcc.best.pth") == "2epoch.pth"
    assert os.readlink(out / "valid.sys_srcc.ave.pth") == "valid.sys_srcc.ave_1best.pth"
    assert not (out / "valid.loss.best.pth").is_symlink()


def test_two_runs_with_one_seed_are_equal(mos_corpus, training_log, tmp_path):
    runs = [
        mos_corpus.train(tmp_path / name, max_epoch=2, seed=seed, crop_seconds=0.2)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    logs = [training_log(run) for run in runs]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]
    a, b = (torch.load(run / "2epoch.pth") for run in runs[:2])
    assert all(torch.equal(a[key], b[key]) for key in a)


# --- killed and resumed ---------------------------------------------------------------


class Killed(BaseException):
    """As SIGKILL: nothing catches it."""


def killer(monkeypatch, nth, share):
    """Let the nth ``torch.save`` write a share of its bytes and die."""
    save = torch.save
    calls = []

    def half_save(states, path):
        calls.append(path)
        if len(calls) < nth:
            return save(states, path)
        buffer = io.BytesIO()
        save(states, buffer)
        if share is not None:
            content = buffer.getvalue()
            Path(path).write_bytes(content[: int(share * len(content))])
        raise Killed

    monkeypatch.setattr(torch, "save", half_save)
    return calls


def links(folder):
    return {p.name: os.readlink(p) for p in folder.iterdir() if p.is_symlink()}


def assert_equal_runs(out, unbroken, training_log):
    assert training_log(out) == training_log(unbroken)
    assert links(out) == links(unbroken)
    a, b = (torch.load(folder / "checkpoint.pth") for folder in (out, unbroken))
    assert all(torch.equal(a["model"][key], b["model"][key]) for key in b["model"])
    for x, y in zip(
        a["optimizers"][0]["state"].values(), b["optimizers"][0]["state"].values()
    ):
        assert torch.equal(x["exp_avg_sq"], y["exp_avg_sq"])
    models = [{p.name for p in f.glob("*epoch.pth")} for f in (out, unbroken)]
    # killed in the last epoch, ESPnet does not come to remove the one before
    assert models[1] <= models[0] <= models[1] | {"2epoch.pth"}
    for name in models[0]:
        assert load_model(unbroken / "config.yaml", out / name)
    assert not list(out.glob("*.tmp"))


@pytest.fixture(scope="module")
def unbroken(mos_corpus, tmp_path_factory):
    return mos_corpus.train(tmp_path_factory.mktemp("unbroken") / "exp", **RESUMABLE)


RESUMABLE = dict(
    max_epoch=3,
    crop_seconds=0.2,
    scheduler="warmuplinear",
    scheduler_conf={"warmup_steps": 3, "total_steps": 15},
    best_model_criterion=[["train", "loss", "min"], ["valid", "sys_srcc", "max"]],
)


# Each epoch saves checkpoint.pth, then <N>epoch.pth.
@pytest.mark.parametrize(
    "nth,share",
    [
        (1, 0.5),
        (3, None),
        (3, 0.0),
        (3, 0.02),
        (3, 0.5),
        (3, 0.999),
        (4, 0.5),
        (6, 0.5),
        (6, 0),
    ],
)
def test_killed_while_saving(
    nth, share, mos_corpus, unbroken, training_log, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        calls = killer(patch, nth, share)
        with pytest.raises(Killed):
            mos_corpus.train(tmp_path / "exp", **RESUMABLE)
    name = ("checkpoint.pth", f"{(nth + 1) // 2}epoch.pth")[(nth - 1) % 2]
    assert Path(calls[-1]).name == name
    out = mos_corpus.train(tmp_path / "exp", "--resume", "true", **RESUMABLE)
    assert_equal_runs(out, unbroken, training_log)
    assert (out / "checkpoint.unreadable.pth").exists() == (nth == 1)


def test_killed_while_linking(
    mos_corpus, unbroken, training_log, tmp_path, monkeypatch
):
    """Killed after the best epoch's link was removed, before it was made anew."""
    # no later epoch mends it
    assert links(unbroken)["train.loss.best.pth"] == "3epoch.pth"
    symlink_to, made = Path.symlink_to, []

    def die_before_the_link(path, target):
        made.append(path.name)
        if target == "3epoch.pth" and path.name.startswith("train"):
            raise Killed
        symlink_to(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", die_before_the_link)
        with pytest.raises(Killed):
            mos_corpus.train(tmp_path / "exp", **RESUMABLE)
    assert not (tmp_path / "exp" / "train.loss.best.pth").is_symlink()
    out = mos_corpus.train(tmp_path / "exp", "--resume", "true", **RESUMABLE)
    assert_equal_runs(out, unbroken, training_log)


@pytest.mark.parametrize(
    "change", [["--head_conf", "hidden_dim=9"], ["--upstream_lr", "0.001"]]
)
def test_a_checkpoint_of_another_configuration_is_refused(
    change, mos_corpus, unbroken, tmp_path
):
    out = tmp_path / "exp"
    shutil.copytree(unbroken, out, symlinks=True)
    with pytest.raises(ValueError, match="another model or optimizer.*--resume false"):
        mos_corpus.train(out, "--resume", "true", *change, **RESUMABLE)


def test_a_criterion_that_earlier_epochs_lack_is_refused(
    mos_corpus, unbroken, tmp_path
):
    out = tmp_path / "exp"
    shutil.copytree(unbroken, out, symlinks=True)
    criteria = [["train", "loss", "min"], ["valid", "mos_mse", "min"]]
    changes = dict(RESUMABLE, best_model_criterion=criteria, max_epoch=4)
    options = ["--resume", "true", "--losses", "mos_mse.weight=1"]
    with pytest.raises(ValueError, match="found no valid mos_mse of epoch 1, expected"):
        mos_corpus.train(out, *options, **changes)


def test_finished_training_resumes_to_itself(
    mos_corpus, unbroken, training_log, tmp_path
):
    out = mos_corpus.train(tmp_path / "exp", **RESUMABLE)
    before = (out / "checkpoint.pth").read_bytes()
    mos_corpus.train(out, "--resume", "true", **RESUMABLE)
    assert (out / "checkpoint.pth").read_bytes() == before
    assert_equal_runs(out, unbroken, training_log)
    # Read as a person would, it is what the log says.
    history = read_history(out)
    for epoch, phases in training_log(out).items():
        for phase, stats in phases.items():
            assert stats.items() <= history[epoch][phase].items()


def test_history_without_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="checkpoint.pth: found no readable"):
        read_history(tmp_path)


def test_keep_checkpoint_moves_only_what_exists(tmp_path):
    keep_checkpoint(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "checkpoint.pth").write_text("new")
    (tmp_path / "checkpoint.previous.pth").write_text("old")
    keep_checkpoint(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.previous.pth"]
    assert (tmp_path / "checkpoint.previous.pth").read_text() == "new"


def test_restore_without_a_checkpoint_does_nothing(tmp_path):
    restore_checkpoint(tmp_path, [("valid", "loss", "min")])
    assert not list(tmp_path.iterdir())


def test_restore_reads_checkpoints_of_espnet_202511(tmp_path):
    """There the reporter's state holds timedelta and NumPy scalars."""
    stats = {"loss": np.float64(1.5), "time": datetime.timedelta(seconds=2)}
    states = {
        "model": {"weight": torch.ones(2)},
        "reporter": {"epoch": 1, "stats": {1: {"valid": stats}}},
    }
    torch.save(states, tmp_path / "checkpoint.pth")
    restore_checkpoint(tmp_path, [("valid", "loss", "min")])
    assert torch.load(tmp_path / "1epoch.pth")["weight"].tolist() == [1, 1]
    assert links(tmp_path) == {
        "latest.pth": "1epoch.pth",
        "valid.loss.best.pth": "1epoch.pth",
    }


def test_a_checkpoint_that_cannot_be_opened_is_left_alone(tmp_path):
    # A directory stands for what root may not open either.
    (tmp_path / "checkpoint.pth").mkdir()
    with pytest.raises(OSError):
        restore_checkpoint(tmp_path, [])
    assert (tmp_path / "checkpoint.pth").is_dir()


# --- several processes ----------------------------------------------------------------

TWO_PROCESSES = """
import json, math, sys
import torch
from espnet2.train.distributed_utils import DistributedOption
from espnet2.train.reporter import Reporter
import espnet2_distilmos.train.mos_trainer as trainer
from espnet2_distilmos.bin.mos_train import main

rank, log, command = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
seen, whole = [], trainer.validation_metrics


def record(scores, labels, systems):
    seen.append(dict(metrics=whole(scores, labels, systems), ids=sorted(scores)))
    return seen[-1]["metrics"]


trainer.validation_metrics = record
main(command)
# the training has closed its process group
assert not torch.distributed.is_initialized()
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://localhost:{sys.argv[4]}", rank=rank, world_size=2
)


class Fake(torch.nn.Module):
    losses = {}

    def forward(self, speech, mos, utt_id):
        score = speech.mean(dim=1)
        weight = torch.tensor([float(len(speech))])
        return dict(
            loss=score.sum(), stats={}, counts={}, weight=weight, utt_mos=score
        )


def validate(scores):
    own = range(rank, len(scores), 2)
    batches = [
        (
            [f"u{i}"],
            dict(speech=torch.full((1, 4), scores[i]), mos=torch.tensor([[1.0 + i]])),
        )
        for i in own
    ]
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as sub:
        trainer.MOSTrainer.validate_one_epoch(
            model=Fake(),
            iterator=batches,
            reporter=sub,
            options=trainer.MOSTrainerOptions(
                **{
                    field: None
                    for field in trainer.MOSTrainerOptions.__dataclass_fields__
                }
                | dict(ngpu=0, no_forward_run=False, use_amp=False, output_dir="/none")
            ),
            distributed_option=DistributedOption(
                distributed=True, dist_rank=rank, dist_world_size=2
            ),
        )
    return {k: reporter.get_value("valid", k) for k in reporter.get_keys2("valid")}


# constant on one process only, on both, and not a number on one
extra = [
    validate([3.0, 1.0, 3.0, 2.0]),
    validate([3.0] * 4),
    validate([1.0, math.nan, 2.0, 3.0]),
]
torch.distributed.destroy_process_group()
with open(log, "w") as f:
    json.dump(dict(epochs=seen[:-3], extra=extra), f)
"""


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def test_two_processes_validate_as_one(mos_corpus, tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    port, second_port = free_port(), free_port()
    processes = []
    for rank in (0, 1):
        command = mos_corpus.command(
            tmp_path / "exp",
            *("--ngpu", "0", "--dist_backend", "gloo", "--dist_world_size", "2"),
            *("--dist_rank", rank, "--dist_master_addr", "localhost"),
            *("--dist_master_port", port, "--multiprocessing_distributed", "false"),
            *("--patience", "1"),
            max_epoch=12,
            valid_batch_size=4,
            # layer 2 is not read and gets no gradient, which DDP has to bear
            head_conf={"hidden_dim": 16, "layers": [1], "layer_mix": "single"},
            upstream_lr=1e-3,
            optim_conf={"lr": 1e-2},
            keep_nbest_models=20,
            early_stopping_criterion=["valid", "utt_srcc", "max"],
        )
        log = tmp_path / f"{rank}.json"
        processes.append(
            subprocess.Popen(
                [
                    *(sys.executable, script, str(rank), log),
                    *(json.dumps(command), str(second_port)),
                ],
                env=dict(os.environ, PYTHONPATH=str(REPOSITORY), OMP_NUM_THREADS="1"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, error in zip(processes, errors):
        assert process.returncode == 0, error[-3000:]
    logs = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    # both know all utterances and all metrics, hence stop in the same epoch
    assert logs[0] == logs[1]
    epochs = logs[0]["epochs"]
    series = [epoch["metrics"]["utt_srcc"] for epoch in epochs]
    best = series.index(max(series))
    assert len(series) == min(12, best + 3)
    assert len(series) < 12, "no early stopping: choose another seed"
    # equal to one process's metrics with the same weights
    wav_scp = mos_corpus.root / "valid" / "wav.scp"
    for number in (1, len(epochs)):
        scores = scores_one_by_one(tmp_path / "exp", f"{number}epoch.pth", wav_scp)
        assert epochs[number - 1]["ids"] == sorted(scores)
        expected = scipy_metrics(
            scores,
            {i: mos_corpus.labels[i] for i in scores},
            {i: mos_corpus.systems[i] for i in scores},
        )
        for key, value in expected.items():
            assert epochs[number - 1]["metrics"][key] == pytest.approx(value, abs=1e-4)
    half, constant, diverged = logs[0]["extra"]
    assert half["utt_srcc"] == pytest.approx(
        scipy.stats.spearmanr([3, 1, 3, 2], [1, 2, 3, 4])[0]
    )
    assert constant["utt_srcc"] == 0.0 and constant["utt_mse"] == pytest.approx(1.5)
    assert diverged["utt_srcc"] == -1.0 and diverged["utt_mse"] == math.inf


def test_without_forward_run_nothing_is_reported():
    reporter = Reporter(epoch=1)
    fields = dict.fromkeys(MOSTrainerOptions.__dataclass_fields__)
    options = MOSTrainerOptions(**{**fields, "no_forward_run": True, "ngpu": 0})
    with reporter.observe("valid") as sub:
        MOSTrainer.validate_one_epoch(
            torch.nn.Identity(), [], sub, options, DistributedOption()
        )
        assert not sub.stats


def validate_batches(model, batches):
    fields = dict.fromkeys(MOSTrainerOptions.__dataclass_fields__)
    options = MOSTrainerOptions(
        **{**fields, "no_forward_run": False, "ngpu": 0, "use_amp": False}
    )
    options.output_dir = "nowhere"
    reporter = Reporter(epoch=1)
    with reporter.observe("valid") as sub:
        MOSTrainer.validate_one_epoch(model, batches, sub, options, DistributedOption())
    return {
        key: reporter.get_value("valid", key) for key in reporter.get_keys2("valid")
    }


def test_statistics_are_weighed_by_what_they_average(mos_corpus):
    """Batches with and without labels, of many and few frames, against one batch."""
    from espnet2_distilmos.mos.build import build_model

    losses = {"mos_l1": {"weight": 2.0}, "token_ce": {}, "masked_token_ce": {}}
    torch.manual_seed(0)
    model = build_model(
        mos_corpus.config(losses=losses) | {"token_info": mos_corpus.token_info},
        load_pretrained=False,
    )
    lengths = torch.tensor([4000, 3800, 1700, 1200, 2500])
    data = {
        "speech": torch.randn(5, 4000),
        "speech_lengths": lengths,
        "mos": torch.tensor([1.0, 4.0, 2.0, math.nan, math.nan])[:, None],
        "tokens": torch.randint(5, (5, 12, 2)),
    }
    ids = list("abcde")
    whole = model.eval()(**data, utt_id=ids)
    parts = [
        (ids[rows], {key: value[rows] for key, value in data.items()})
        for rows in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    found = validate_batches(model, parts)
    for name in ("loss", *losses, *(k for k in whole["stats"] if "token_acc" in k)):
        assert found[name] == pytest.approx(whole["stats"][name].item(), abs=1e-5), name


def test_masks_noise_and_moving_average_resume_as_if_never_stopped(
    mos_corpus, tmp_path, training_log
):
    options = dict(
        losses={"mos_l1": {}, "masked_token_ce": {}, "masked_ema": {"momentum": 0.9}},
        noisy_view={"noise_prob": 0.5},
    )
    whole = mos_corpus.train(tmp_path / "whole", max_epoch=2, **options)
    parts = mos_corpus.train(tmp_path / "parts", max_epoch=1, **options)
    states = torch.load(parts / "checkpoint.pth", weights_only=True)
    assert states["optimizers"][0]["ema_target"]["updates"] == 4  # batches
    mos_corpus.train(tmp_path / "parts", "--resume", "true", max_epoch=2, **options)
    assert training_log(whole) == training_log(parts)
    models = [torch.load(e / "2epoch.pth", weights_only=True) for e in (whole, parts)]
    assert not any("ema_target" in key or "network" in key for key in models[0])
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    averages = [
        torch.load(e / "checkpoint.pth", weights_only=True)["optimizers"][0][
            "ema_target"
        ]["network"]
        for e in (whole, parts)
    ]
    for key, value in averages[0].items():
        assert torch.equal(value, averages[1][key])
    name = "model.encoder.layers.0.attention.k_proj.weight"
    assert not torch.equal(averages[0][name], models[0][f"frontend.{name}"])
    # the trained model loads for scoring, and starts a training without these losses
    load_model(whole / "config.yaml", whole / "2epoch.pth")
    model = ["--init_model", str(whole), "--check_token_upstream", "false"]
    mos_corpus.train(tmp_path / "next", *model, max_epoch=1)


@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("use_amp", [True, False])
def test_mixed_precision_on_the_cpu(use_amp, finite):
    """ESPnet's own autocast is for GPUs alone; no step is taken on a bad gradient."""
    seen = []

    class Model(torch.nn.Linear):
        losses = {}

        def forward(self, speech, utt_id, mos):
            y = super().forward(speech)
            seen.append((self.training, y.dtype))
            loss = y.float().mean()
            return dict(
                loss=loss if finite else loss * math.nan,
                stats=dict(loss=loss.detach()[None]),
                weight=torch.tensor([2.0]),
                counts={},
                utt_mos=torch.tensor([1.0, 2.0]),
            )

    model = Model(4, 1)
    batch = dict(speech=torch.randn(2, 4), mos=torch.tensor([[1.0], [3.0]]))
    fields = dict.fromkeys(MOSTrainerOptions.__dataclass_fields__)
    fields |= dict(ngpu=0, use_amp=use_amp, no_forward_run=False, output_dir="nowhere")
    fields |= dict(accum_grad=1, grad_clip=5.0, grad_clip_type=2.0, log_interval=1)
    options = MOSTrainerOptions(**fields)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    reporter = Reporter(epoch=1)
    shared = dict(options=options, distributed_option=DistributedOption())
    with reporter.observe("train") as sub:
        MOSTrainer.train_one_epoch(
            model=model,
            iterator=[(["a", "b"], batch)],
            optimizers=[optimizer],
            schedulers=[None],
            scaler=torch.amp.GradScaler("cuda") if use_amp else None,
            reporter=sub,
            summary_writer=None,
            **shared,
        )
    with reporter.observe("valid") as sub:
        MOSTrainer.validate_one_epoch(
            model=model, iterator=[(["a", "b"], batch)], reporter=sub, **shared
        )
    dtype = torch.bfloat16 if use_amp else torch.float32
    assert seen == [(True, dtype), (False, dtype)]
    assert torch.equal(model.weight, before) is not finite
