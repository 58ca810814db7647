# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import datetime
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import soundfile
import torch
from espnet2.torch_utils.device_funcs import to_device
from espnet2.train.distributed_utils import DistributedOption, resolve_distributed_mode
from espnet2.train.reporter import Reporter, SubReporter, WeightedAverage
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_distilmos.data.datadir import write_scp
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.checkpoint import load_model
from espnet2_distilmos.mos.head.probe import PENALTIES, Probe
from espnet2_distilmos.train.mos_trainer import (
    EpochRecorder,
    MOSTrainer,
    MOSTrainerOptions,
    _WithNumSamples,
    only_training,
    read_checkpoint,
    read_history,
    restore_checkpoint,
    validation_metrics,
)

W_AND_B = ("weight", "bias")
REPOSITORY = Path(sys.modules[MOSTrainer.__module__].__file__).parents[2]
PATHS = f"{REPOSITORY}{os.pathsep}{Path(__file__).parent}"


def options(**changes):
    fields = dict.fromkeys(MOSTrainerOptions.__dataclass_fields__)
    fields.update(ngpu=0, use_amp=False, no_forward_run=False, output_dir="nowhere")
    return MOSTrainerOptions(**{**fields, **changes})


def scipy_metrics(scores, labels, systems):
    """The eight metrics by scipy, from dictionaries by utterance."""

    def four(level, x, y):
        return {
            f"{level}_mse": np.mean((np.array(x) - np.array(y)) ** 2),
            f"{level}_lcc": scipy.stats.pearsonr(x, y)[0],
            f"{level}_srcc": scipy.stats.spearmanr(x, y)[0],
            f"{level}_ktau": scipy.stats.kendalltau(x, y)[0],
        }

    members = {s: [i for i in scores if systems[i] == s] for s in systems.values()}
    means = [
        [np.mean([values[i] for i in ids]) for ids in members.values()]
        for values in (scores, labels)
    ]
    utterances = list(scores.values()), [labels[i] for i in scores]
    return {**four("utt", *utterances), **four("sys", *means)}


def expected_metrics(corpus, output_dir, model_file):
    """Metrics of single files, scored by the saved model."""
    model, _ = load_model(output_dir / "config.yaml", output_dir / model_file)
    scores = {}
    for line in (corpus.root / "valid" / "wav.scp").read_text().splitlines():
        utt, path = line.split()
        speech = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        lengths = torch.tensor([speech.size(1)])
        scores[utt] = model.inference(speech, lengths).utt_mos.item()
    return scipy_metrics(scores, corpus.labels, {i: corpus.systems[i] for i in scores})


# --- waiting for the device -----------------------------------------------------------


class Reads(TorchDispatchMode):
    """Counts what the host reads of tensors on the device "meta", which have no values.

    Anything else whose result depends on values (nonzero, a mask as an index, a copy to
    the host) is refused there.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_read = function.overloadpacket is torch.ops.aten._local_scalar_dense
        if is_read and args[0].is_meta:
            self.count += 1
            return False if args[0].dtype == torch.bool else 1
        return function(*args, **(kwargs or {}))


# The one is transformers' own: does its attention need a mask?
@pytest.mark.parametrize("model_type, reads", [("wavlm", 0), ("hubert", 1)])
def test_a_step_waits_for_nothing(mos_corpus, model_type, reads):
    conf = copy.deepcopy(mos_corpus.frontend_conf)
    conf["upstream_config"]["model_type"] = model_type
    losses = {name: {"weight": 1.0} for name in ("mos_l1", "frame_mse", "token_ce")}
    config = mos_corpus.config(
        frontend_conf=conf, losses=losses, token_info=mos_corpus.token_info
    )
    model = build_model(config, load_pretrained=True).to("meta")
    samples = [4000, 3500, 3000]
    batch = {
        "speech": torch.zeros(3, 4000, device="meta"),
        "speech_lengths": torch.tensor(samples, device="meta"),
        "mos": torch.zeros(3, 1, device="meta"),
        "tokens": torch.zeros(3, 12, 2, device="meta", dtype=torch.long),
    }
    (batch,) = _WithNumSamples(
        [(["a", "b", "c"], batch | {"speech_lengths": torch.tensor(samples)})]
    )
    batch = to_device(batch[1], "meta") | {"utt_id": batch[0]}
    assert batch["speech_lengths"].is_meta and batch["num_samples"] == samples
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    recorder = EpochRecorder(model).train()
    reporter = SubReporter("train", 1, 0)
    with Reads() as found:
        result = recorder(**batch)
        reporter.register(result["stats"], result["weight"])
        result["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert found.count == reads
    with pytest.raises(RuntimeError, match="meta"):
        recorder.report(reporter)


def test_statistics_of_a_step_are_read_at_its_end():
    model = torch.nn.Module()
    stats = {"a": torch.tensor([2.0]), "b": torch.tensor([math.nan])}
    counts = {"a": torch.tensor([3.0])}
    result = {"stats": stats, "counts": counts, "weight": torch.tensor([4.0])}
    model.forward = lambda **batch: dict(result, utt_mos=None)
    recorder = EpochRecorder(model).train()
    reporter = SubReporter("train", 1, 0)
    assert recorder(speech=torch.zeros(4, 2), utt_id=list("abcd"))["stats"] == {}
    recorder.report(reporter)
    reporter.next()
    assert reporter.stats["a"] == [WeightedAverage(2.0, 4.0)]
    assert math.isnan(reporter.stats["b"][0].value)
    recorder.report(reporter)  # nothing is left
    assert recorder.totals(False) == {"a": [6.0, 3.0]}


# --- what is validated ----------------------------------------------------------------


def test_validation_metrics_of_the_whole_set(mos_corpus, training_log, tmp_path):
    out = mos_corpus.train(tmp_path / "exp", valid_batch_size=3, max_epoch=2)
    logged = training_log(out)[2]["valid"]
    for key, value in expected_metrics(mos_corpus, out, "2epoch.pth").items():
        assert logged[key] == pytest.approx(value, abs=1e-4), key


def test_metrics_leave_unlabelled_utterances_out():
    scores = {"a": 1.0, "b": 2.5, "c": 9.0, "d": 2.0}
    labels = {"a": 1.0, "b": 2.0, "c": math.nan, "d": 3.0}
    # c needs no system either: it is not compared
    metrics = validation_metrics(scores, labels, {"a": "x", "b": "y", "d": "x"})
    assert metrics["utt_mse"] == pytest.approx((0 + 0.25 + 1) / 3)
    expected = scipy.stats.spearmanr([1, 2.5, 2], [1, 2, 3])[0]
    assert metrics["utt_srcc"] == pytest.approx(expected)
    assert metrics["sys_mse"] == pytest.approx((0.5**2 + 0.5**2) / 2)
    assert not any("sys" in key for key in validation_metrics(scores, labels, None))


def test_metrics_are_means_over_corpora():
    """The one's best clip is worse than the other's worst, by another scale."""
    labels = dict(zip("abcdef", (1.0, 2.0, 3.0, 40.0, 90.0, 60.0)))
    scores = dict(zip("abcdef", (5.0, 6.0, 7.5, 1.0, 3.0, 2.5)))
    systems = dict(zip("abcdef", "xyzuvw"))
    corpora = dict(zip("abcdef", (0, 0, 0, 2, 2, 2)))
    assert validation_metrics(scores, labels, systems)["utt_srcc"] < 0
    found = validation_metrics(scores, labels, systems, corpora)
    assert found["utt_srcc"] == found["sys_srcc"] == 1.0
    parts = [
        scipy.stats.pearsonr(x, y)[0]
        for x, y in (
            ([5.0, 6.0, 7.5], [1.0, 2.0, 3.0]),
            ([1.0, 3.0, 2.5], [40.0, 90.0, 60.0]),
        )
    ]
    assert found["utt_lcc"] == pytest.approx(np.mean(parts))
    # a corpus of one system has no say at that level, one that is not ranked has
    single = {**systems, **dict.fromkeys("def", "u")}
    assert validation_metrics(scores, labels, single, corpora)["sys_srcc"] == 1.0
    constant = {**scores, **dict.fromkeys("def", 3.0)}
    assert validation_metrics(constant, labels, systems, corpora)["sys_srcc"] == 0.5
    diverged = validation_metrics({**scores, "a": math.inf}, labels, systems, corpora)
    assert diverged["sys_srcc"] == -1.0 and diverged["utt_mse"] == math.inf
    # one corpus is as none, and of an unlabelled one there is nothing
    one = dict.fromkeys("abcdef", 1)
    plain = validation_metrics(scores, labels, systems)
    assert validation_metrics(scores, labels, systems, one) == plain
    unlabelled = {**labels, **dict.fromkeys("def", math.nan)}
    assert validation_metrics(scores, unlabelled, systems, corpora)["utt_srcc"] == 1.0


def test_metrics_are_never_nan():
    labels = {"a": 1.0, "b": 2.0}
    correlations = ("utt_lcc", "utt_srcc", "utt_ktau")
    constant = validation_metrics({"a": 3.0, "b": 3.0}, labels, None)
    assert constant == {"utt_mse": 2.5, **dict.fromkeys(correlations, 0.0)}
    # a model that diverged is worse than any other, whatever the criterion
    diverged = validation_metrics({"a": math.nan, "b": 3.0}, labels, None)
    assert diverged == {"utt_mse": math.inf, **dict.fromkeys(correlations, -1.0)}


class Fake(torch.nn.Module):
    """Scores are the means of the signals; a loss is a mean over what is not zero."""

    losses = {"x": torch.nn.Module()}
    losses["x"].weight = 2.0

    def forward(self, speech, utt_id, mos=None):
        score = speech.mean(dim=1)
        count = (score != 0).sum().float()[None]
        mean = score.sum()[None] / count
        weight = torch.tensor([float(len(speech))])
        stats = {"loss": 2 * mean, "x": mean}
        return dict(
            loss=mean.sum(),
            stats=stats,
            counts={"x": count},
            weight=weight,
            utt_mos=score,
        )


def validate(model, batches, **distributed):
    reporter = Reporter(epoch=1)
    with reporter.observe("valid") as sub:
        MOSTrainer.validate_one_epoch(
            model, batches, sub, options(), DistributedOption(**distributed)
        )
    return reporter.stats[1]["valid"]


def fake_batches(sizes):
    return [(["u"] * len(s), {"speech": torch.tensor(s)[:, None]}) for s in sizes]


def test_means_are_over_what_was_counted():
    found = validate(Fake(), fake_batches([[1.0, 0.0, 0.0], [4.0, 3.0], [0.0]]))
    assert found["x"] == pytest.approx(8 / 3) and found["loss"] == 2 * found["x"]
    # what nothing was counted of has no mean; what diverged is never the best
    assert "x" not in validate(Fake(), fake_batches([[0.0], [0.0, 0.0]]))
    diverged = validate(Fake(), fake_batches([[1.0], [math.nan]]))
    assert diverged["x"] == diverged["loss"] == math.inf


@pytest.mark.parametrize("use_amp,finite", [(True, True), (False, False)])
def test_mixed_precision_on_the_cpu(use_amp, finite):
    """ESPnet's own autocast is for GPUs alone; no step is taken on a bad gradient."""
    seen = []

    class Model(torch.nn.Linear):
        def forward(self, speech, utt_id):
            y = super().forward(speech)
            seen.append(y.dtype)
            loss = y.float().mean() * (1 if finite else math.nan)
            stats, weight = {"loss": loss.detach()[None]}, torch.tensor([2.0])
            return dict(loss=loss, stats=stats, weight=weight, counts={}, utt_mos=None)

    model = Model(4, 1)
    before = model.weight.detach().clone()
    reporter = Reporter(epoch=1)
    with reporter.observe("train") as sub:
        MOSTrainer.train_one_epoch(
            model=model,
            iterator=[(["a", "b"], {"speech": torch.randn(2, 4)})],
            optimizers=[torch.optim.SGD(model.parameters(), lr=0.1)],
            schedulers=[None],
            scaler=torch.amp.GradScaler("cuda") if use_amp else None,
            reporter=sub,
            summary_writer=None,
            options=options(
                use_amp=use_amp,
                accum_grad=1,
                grad_clip=5.0,
                grad_clip_type=2.0,
                log_interval=1,
            ),
            distributed_option=DistributedOption(),
        )
    assert seen == [torch.bfloat16 if use_amp else torch.float32]
    assert torch.equal(model.weight, before) is not finite


# --- best model and early stopping ----------------------------------------------------


def test_best_model_and_early_stopping_on_sys_srcc(
    mos_corpus, training_log, tmp_path, monkeypatch
):
    series = iter([0.2, 0.9, 0.5, 0.8, 1.0])

    def metrics(*args):
        found = validation_metrics(*args)
        return dict(found, sys_srcc=next(series))

    module = "espnet2_distilmos.train.mos_trainer"
    monkeypatch.setattr(f"{module}.validation_metrics", metrics)
    out = mos_corpus.train(
        tmp_path / "exp",
        *("--patience", "1", "--early_stopping_criterion", "valid", "sys_srcc", "max"),
        max_epoch=5,
    )
    assert list(training_log(out)) == [1, 2, 3, 4]
    assert os.readlink(out / "valid.sys_srcc.best.pth") == "2epoch.pth"
    assert os.readlink(out / "valid.sys_srcc.ave.pth") == "valid.sys_srcc.ave_1best.pth"


# --- killed and resumed ---------------------------------------------------------------

RESUMABLE = dict(
    max_epoch=3,
    crop_seconds=0.2,
    upstream_lr_decay=0.5,
    scheduler="warmuplinear",
    scheduler_conf={"warmup_steps": 3, "total_steps": 15},
    best_model_criterion=[["train", "loss", "min"], ["valid", "sys_srcc", "max"]],
)


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


def links(folder):
    return {p.name: os.readlink(p) for p in folder.iterdir() if p.is_symlink()}


def assert_equal_runs(out, unbroken, training_log):
    assert training_log(out) == training_log(unbroken)
    assert links(out) == links(unbroken)
    a, b = (read_checkpoint(folder / "checkpoint.pth") for folder in (out, unbroken))
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
    assert not list(out.glob("*.tmp*"))


@pytest.fixture(scope="module")
def unbroken(mos_corpus, tmp_path_factory):
    return mos_corpus.train(tmp_path_factory.mktemp("unbroken") / "exp", **RESUMABLE)


# Each epoch saves checkpoint.pth, then <N>epoch.pth.
RARE = [(1, 0.5), (3, None), (3, 0.0), (3, 0.999), (4, 0.5)]


@pytest.mark.parametrize(
    "nth,share",
    [
        (3, 0.5),
        (6, 0.5),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in RARE),
    ],
)
def test_killed_while_saving(
    nth, share, mos_corpus, unbroken, training_log, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        killer(patch, nth, share)
        with pytest.raises(Killed):
            mos_corpus.train(tmp_path / "exp", **RESUMABLE)
    out = mos_corpus.train(tmp_path / "exp", "--resume", "true", **RESUMABLE)
    assert_equal_runs(out, unbroken, training_log)
    assert (out / "checkpoint.unreadable.pth").exists() == (nth == 1)


@pytest.mark.slow
def test_killed_while_linking(
    mos_corpus, unbroken, training_log, tmp_path, monkeypatch
):
    """Killed after the best epoch's link was removed, before it was made anew."""
    symlink_to = Path.symlink_to

    def die_before_the_link(path, target):
        # of the last epoch: no later one mends it
        if target == "3epoch.pth" and path.name.startswith("train"):
            raise Killed
        symlink_to(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", die_before_the_link)
        with pytest.raises(Killed):
            mos_corpus.train(tmp_path / "exp", **RESUMABLE)
    out = mos_corpus.train(tmp_path / "exp", "--resume", "true", **RESUMABLE)
    assert_equal_runs(out, unbroken, training_log)


def test_finished_training_resumes_to_itself(
    mos_corpus, unbroken, training_log, tmp_path
):
    out = tmp_path / "exp"
    shutil.copytree(unbroken, out, symlinks=True)
    before = (out / "checkpoint.pth").read_bytes()
    mos_corpus.train(out, "--resume", "true", **RESUMABLE)
    assert (out / "checkpoint.pth").read_bytes() == before
    assert_equal_runs(out, unbroken, training_log)
    # Read as a person would, it is what the log says.
    history = read_history(out)
    for epoch, phases in training_log(out).items():
        for phase, stats in phases.items():
            assert stats.items() <= history[epoch][phase].items()
    with pytest.raises(ValueError, match="checkpoint.pth: found no readable"):
        read_history(tmp_path)


def test_figures_are_drawn_once_at_the_end(mos_corpus, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = []

    def draw(reporter, folder, plot=Reporter.matplotlib_plot):
        drawn.append(reporter.get_epoch())
        plot(reporter, folder)

    monkeypatch.setattr(Reporter, "matplotlib_plot", draw)
    out = mos_corpus.train(tmp_path / "exp", max_epoch=2, use_matplotlib=True)
    assert drawn == [2]
    names = {path.stem for path in (out / "images").glob("*.png")}
    found = {k for phase in read_history(out)[2].values() for k in phase}
    assert names == found - {"time", "total_count"}


def test_a_checkpoint_of_another_configuration_is_refused(
    mos_corpus, unbroken, tmp_path
):
    out = tmp_path / "exp"
    shutil.copytree(unbroken, out, symlinks=True)
    (out / "config.yaml").unlink()  # which is compared first
    criterion = ["--losses", "mos_mse.weight=1", "--max_epoch", "4"]
    criterion += ["--best_model_criterion", "valid,mos_mse,min"]
    for change, message in (
        (["--head_conf", "hidden_dim=9"], "another model or optimizer"),
        (criterion, "found no valid mos_mse of epoch 1, expected"),
    ):
        with pytest.raises(ValueError, match=message):
            mos_corpus.train(out, "--resume", "true", *change, **RESUMABLE)
        (out / "config.yaml").unlink()


def test_one_training_in_a_directory(mos_corpus, tmp_path):
    """A killed one, whose data loader still runs, is none."""
    out = tmp_path / "exp"
    args = mos_corpus.args(out)
    resolve_distributed_mode(args)
    child = os.fork()
    if child == 0:
        try:
            with only_training(args):
                if os.fork() > 0:  # else it is as a data loader's process
                    (out / "ready").touch()
                time.sleep(5)
        finally:
            os._exit(0)
    stop = time.time() + 5
    while not (out / "ready").exists():
        assert time.time() < stop
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"another training at work in {out}, exp"):
        mos_corpus.train(out)
    assert sorted(os.listdir(out)) == [".lock", "ready"]
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert (mos_corpus.train(out) / "1epoch.pth").exists()


def test_restore_reads_checkpoints_of_espnet_202511(tmp_path):
    """There the reporter's state holds timedelta and NumPy scalars."""
    restore_checkpoint(tmp_path, [("valid", "loss", "min")])
    assert not list(tmp_path.iterdir())
    stats = {"loss": np.float64(1.5), "time": datetime.timedelta(seconds=2)}
    states = {
        "model": {"weight": torch.ones(2)},
        "reporter": {"epoch": 1, "stats": {1: {"valid": stats}}},
    }
    torch.save(states, tmp_path / "checkpoint.pth")
    restore_checkpoint(tmp_path, [("valid", "loss", "min")])
    assert torch.load(tmp_path / "1epoch.pth")["weight"].tolist() == [1, 1]
    expected = dict.fromkeys(("latest.pth", "valid.loss.best.pth"), "1epoch.pth")
    assert links(tmp_path) == expected


def test_the_queue_resumes_as_if_never_stopped(mos_corpus, tmp_path, training_log):
    changes = dict(losses={"prs": {"queue": 20}, "mos_l1": {"weight": 0.1}})
    whole = mos_corpus.train(tmp_path / "whole", max_epoch=2, **changes)
    parts = mos_corpus.train(tmp_path / "parts", max_epoch=1, **changes)
    mos_corpus.train(tmp_path / "parts", "--resume", "true", max_epoch=2, **changes)
    assert training_log(whole) == training_log(parts)
    models = [read_checkpoint(e / "checkpoint.pth")["model"] for e in (whole, parts)]
    assert not any(key.startswith("losses") for key in models[0])
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    # the batch alone is another training
    changes["losses"]["prs"] = {"queue": 0}
    other = mos_corpus.train(tmp_path / "other", max_epoch=1, **changes)
    assert training_log(other)[1] != training_log(whole)[1]


def test_masks_noise_and_moving_average_resume_as_if_never_stopped(
    mos_corpus, tmp_path, training_log
):
    changes = dict(
        losses={"mos_l1": {}, "masked_token_ce": {}, "masked_ema": {"momentum": 0.9}},
        noisy_view={"noise_prob": 0.5},
    )
    whole = mos_corpus.train(tmp_path / "whole", max_epoch=2, **changes)
    parts = mos_corpus.train(tmp_path / "parts", max_epoch=1, **changes)
    mos_corpus.train(tmp_path / "parts", "--resume", "true", max_epoch=2, **changes)
    assert training_log(whole) == training_log(parts)
    states = [read_checkpoint(e / "checkpoint.pth") for e in (whole, parts)]
    models = [state["model"] for state in states]
    assert not any("ema_target" in key or "network" in key for key in models[0])
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    averages = [state["optimizers"][0]["ema_target"] for state in states]
    assert averages[0]["updates"] == averages[1]["updates"] == 8  # batches
    for key, value in averages[0]["network"].items():
        assert torch.equal(value, averages[1]["network"][key])
    name = "model.encoder.layers.0.attention.k_proj.weight"
    assert not torch.equal(averages[0]["network"][name], models[0][f"frontend.{name}"])


def distillation(mos_corpus, folder):
    """A distillation with all its losses, from two teachers that it writes."""
    teachers = [str(folder / "teacher"), str(folder / "teacher" / "other")]
    for seed, teacher in enumerate(teachers):
        conf = {**mos_corpus.frontend_conf, "init_seed": seed}
        build_frontend("hf", conf).model.save_pretrained(teacher)
    return dict(
        frontend_conf={"upstream": str(folder / "teacher"), "num_layers": 1},
        head="token",
        head_conf={},
        losses={
            "layer_distill": {
                "teachers": teachers,
                "layers": [1, 2],
                "aggregate": "average",
                "view": "masked",
            },
            "domain_adversarial": {"method": "alternating", "ramp_steps": 4},
            "distortion": {},
        },
        model_conf={"mask": {"start_prob": 0.0}},
        noisy_view={"scheme": "double", "teacher": "own"},
        best_model_criterion=[["valid", "layer_distill", "min"]],
        tokens=False,
        utt2sys=False,
    )


def test_a_distillation_resumes_as_if_never_stopped(mos_corpus, tmp_path, training_log):
    changes = distillation(mos_corpus, tmp_path)
    whole = mos_corpus.train(tmp_path / "whole", max_epoch=2, **changes)
    parts = mos_corpus.train(tmp_path / "parts", max_epoch=1, **changes)
    mos_corpus.train(tmp_path / "parts", "--resume", "true", max_epoch=2, **changes)
    assert training_log(whole) == training_log(parts)
    states = [read_checkpoint(e / "checkpoint.pth") for e in (whole, parts)]
    models = [state["model"] for state in states]
    parts_of = {".".join(key.split(".")[:2]) for key in models[0]}
    known = {f"losses.{name}" for name in changes["losses"]}
    assert {p for p in parts_of if not p.startswith(("frontend", "head"))} == known
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    rivals = [state["optimizers"][0]["domain_adversarial"] for state in states]
    assert rivals[0]["network"].keys() == {f"{i}.{k}" for i in (0, 2) for k in W_AND_B}
    for key, value in rivals[0]["network"].items():
        assert torch.equal(value, rivals[1]["network"][key])
    log = training_log(whole)[1]
    of_distortions = {"domain_adversarial_acc", "distortion_snr_error"}
    assert of_distortions <= set(log["train"])
    assert not of_distortions & set(log["valid"])  # which hears none

    # no file of the teachers is read
    shutil.rmtree(tmp_path / "teacher")
    model, _ = load_model(whole / "config.yaml", whole / "2epoch.pth")
    for key, value in model.frontend.state_dict().items():
        assert torch.equal(value, models[0][f"frontend.{key}"])


# --- several processes ----------------------------------------------------------------

TWO_PROCESSES = """
import json, math, sys
import torch
import espnet2_distilmos.train.mos_trainer as trainer
from espnet2_distilmos.tasks.mos import MOSTask
from test_mos_trainer import Fake, validate

rank, log, command = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
seen, whole = [], trainer.validation_metrics


def record(*args):
    seen.append(whole(*args))
    return seen[-1]


trainer.validation_metrics = record
MOSTask.main(cmd=command)
epochs = list(seen)
# the training has closed its process group
assert not torch.distributed.is_initialized()
torch.distributed.init_process_group(
    "gloo", init_method=f"tcp://localhost:{sys.argv[4]}", rank=rank, world_size=2
)
extra = []
# uneven counts; constant on one process only; not a number on one
for scores in ([3, 1, 0, 2], [3, 1, 3, 2], [1, math.nan, 2, 3]):
    batches = [
        ([f"u{i}"], dict(speech=torch.full((1, 4), float(scores[i])),
                         mos=torch.tensor([[1.0 + i]])))
        for i in range(rank, 4, 2)
    ]
    stats = validate(Fake(), batches, distributed=True, dist_rank=rank)
    extra.append({k: v for k, v in stats.items() if isinstance(v, float)})
torch.distributed.destroy_process_group()
with open(log, "w") as f:
    json.dump(dict(epochs=epochs, extra=extra), f)
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
            max_epoch=8,
            valid_batch_size=4,
            # layer 2 is not read and gets no gradient, which DDP has to bear
            head_conf={"hidden_dim": 16, "layers": [1], "layer_mix": "single"},
            upstream_lr=1e-3,
            optim_conf={"lr": 1e-2},
            keep_nbest_models=20,
            early_stopping_criterion=["valid", "utt_srcc", "max"],
        )
        log = tmp_path / f"{rank}.json"
        command = json.dumps(command)
        processes.append(
            subprocess.Popen(
                [sys.executable, script, str(rank), log, command, str(second_port)],
                env=dict(os.environ, PYTHONPATH=PATHS, OMP_NUM_THREADS="1"),
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
    series = [metrics["utt_srcc"] for metrics in epochs]
    assert len(series) == min(8, series.index(max(series)) + 3)
    assert len(series) < 8, "no early stopping: choose another seed"
    # equal to one process's metrics with the same weights
    for number in (1, len(epochs)):
        expected = expected_metrics(mos_corpus, tmp_path / "exp", f"{number}epoch.pth")
        assert epochs[number - 1] == pytest.approx(expected, abs=1e-4)
    uneven, half, diverged = logs[0]["extra"]
    assert uneven["x"] == pytest.approx(2) and uneven["loss"] == pytest.approx(4)
    expected = scipy.stats.spearmanr([3, 1, 3, 2], [1, 2, 3, 4])[0]
    assert half["utt_srcc"] == pytest.approx(expected)
    assert diverged["utt_srcc"] == -1.0 and diverged["utt_mse"] == math.inf
    assert diverged["x"] == math.inf


# --- the linear probe -----------------------------------------------------------------


def waves(corpus, name):
    paths = sorted((corpus.root / name / "data").glob("*.wav"))
    return {p.stem: torch.tensor(soundfile.read(p, dtype="float32")[0]) for p in paths}


@pytest.mark.parametrize("weighted", [False, True])
def test_training_starts_from_the_fitted_probe(
    weighted, mos_corpus, tmp_path, training_log
):
    """With a rate of 0 it is scikit-learn's ridge regression, and resumes as it is.

    It is of whole utterances and the whole training set, where an epoch draws crops
    and a part.
    """
    changes = dict(
        num_iters_per_epoch=1,
        crop_seconds=0.2,
        head="probe",
        head_conf={"layers": [2]},
        losses={"mos_l1": {}},
        optim_conf={"lr": 0.0},
        tokens=False,
    )
    if weighted:
        sets = {i: "few" if n < 2 else "many" for n, i in enumerate(mos_corpus.labels)}
        write_scp(tmp_path / "utt2set", sets)
        changes["sampling_categories"] = str(tmp_path / "utt2set")
        changes["sampling_weights"] = {"few": 1.0, "many": 1.0}
        changes["batch_type"] = "sorted"
    exp = mos_corpus.train(tmp_path / "probe", max_epoch=1, **changes)
    frontend = build_frontend("hf", mos_corpus.frontend_conf).eval()

    def features(speech):
        with torch.no_grad():
            states, _ = frontend(speech[None], torch.tensor([len(speech)]))
        x = states[2][0].double().numpy()
        return np.concatenate([x.mean(0), x.std(0)])

    train, valid = waves(mos_corpus, "train"), waves(mos_corpus, "valid")
    expected = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(
        [features(x) for x in train.values()], [mos_corpus.labels[i] for i in train]
    )
    model, _ = load_model(exp / "config.yaml", exp / "1epoch.pth")
    for speech in valid.values():
        score = float(
            model.inference(speech[None], torch.tensor([len(speech)])).utt_mos
        )
        assert score == pytest.approx(expected.predict([features(speech)])[0], abs=2e-3)
    mos_corpus.train(tmp_path / "probe", "--resume", "true", max_epoch=2, **changes)
    whole = mos_corpus.train(tmp_path / "whole", max_epoch=2, **changes)
    assert training_log(exp) == training_log(whole)
    # What is trained on goes on from the fitted weights and does not fit anew.
    more = mos_corpus.train(
        tmp_path / "more", "--init_model", str(exp), max_epoch=1, **changes
    )
    states = [read_checkpoint(e / "checkpoint.pth")["model"] for e in (exp, more)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_probe_is_fitted_within_corpora(mos_corpus, tmp_path, monkeypatch):
    corpora = {i: "even" if n % 2 else "odd" for n, i in enumerate(mos_corpus.labels)}
    write_scp(tmp_path / "utt2domain", corpora)
    data = f"{tmp_path}/utt2domain,corpus,text"
    options = ["--train_data_path_and_name_and_type", data]
    fit, seen = Probe.fit, []

    def recorded(self, features, labels, groups, shares):
        seen.append((labels, groups, shares))
        return fit(self, features, labels, groups, shares)

    monkeypatch.setattr(Probe, "fit", recorded)
    changes = {"head": "probe", "losses": {"mos_l1": {}}, "head_conf": {}}
    mos_corpus.train(tmp_path / "exp", *options, tokens=False, **changes)
    # What is drawn twice as often counts twice as much.
    write_scp(tmp_path / "utt2set", corpora)
    options += ["--sampling_categories", f"{tmp_path}/utt2set"]
    options += ["--sampling_weights", '{"even": 2, "odd": 1}']
    mos_corpus.train(tmp_path / "weighted", *options, tokens=False, **changes)
    (labels, groups, none), (_, _, shares) = seen
    assert none is None
    ids = sorted(i for i in corpora if i.startswith("train"))
    assert labels.tolist() == pytest.approx([mos_corpus.labels[i] for i in ids])
    names = sorted(set(corpora.values()))
    assert groups.tolist() == [names.index(corpora[i]) for i in ids]
    even = groups == names.index("even")
    ratio = shares[even].sum() / shares[~even].sum()
    assert float(ratio) == pytest.approx(2)
