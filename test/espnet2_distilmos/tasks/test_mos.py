# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.train.distributed_utils import DistributedOption

from espnet2_distilmos.data.datadir import write_scp
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.checkpoint import load_model, read_frontend_conf
from espnet2_distilmos.tasks import mos as task_module
from espnet2_distilmos.tasks.mos import MOSTask
from espnet2_distilmos.train import mos_trainer
from espnet2_distilmos.train.mos_trainer import read_checkpoint

DATA = "--train_data_path_and_name_and_type"


def check(mos_corpus, tmp_path, *options, **changes):
    args = mos_corpus.args(tmp_path / "exp", *options, **changes)
    MOSTask.check_required_command_args(args)
    return args


def build(mos_corpus, tmp_path, *options, **changes):
    torch.manual_seed(0)
    args = check(mos_corpus, tmp_path, *options, **changes)
    return MOSTask.build_model(args), args


def states_of(path):
    states = read_checkpoint(path)
    return states["model"] if "optimizers" in states else states


def moved(start, end):
    """Names of the tensors that differ."""
    assert list(start) == list(end)
    return {key for key in end if not torch.equal(end[key], start[key])}


# --- options and hooks ----------------------------------------------------------------


def test_losses_on_the_command_line(mos_corpus, tmp_path):
    args = mos_corpus.args(tmp_path / "exp", "--losses", "token_ce.weight=0")
    assert args.losses == {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0}}
    assert MOSTask.get_parser().parse_args([]).losses == {"mos_l1": {"weight": 1.0}}


def test_preprocessor_takes_the_options(mos_corpus, tmp_path):
    args = check(mos_corpus, tmp_path, "--min_seconds", "0.2", "--max_seconds", "9.5")
    args.score_range, args.crop_seconds = [0.0, 100.0], 0.3
    prepare = MOSTask.build_preprocess_fn(args, train=True)
    assert prepare.train and prepare.score_range == [0.0, 100.0]
    assert (prepare.min_seconds, prepare.max_seconds) == (0.2, 9.5)
    assert prepare.crop_seconds == 0.3 and prepare.token_info == mos_corpus.token_info
    assert set(prepare.wav_paths) == set(mos_corpus.labels)


def test_collect_stats_does_not_build_the_model(mos_corpus, tmp_path, monkeypatch):
    """Without tokens, systems or criteria that need them, as stage 6 calls it."""

    def refuse(*args, **kwargs):
        raise RuntimeError("the model was built")

    monkeypatch.setattr(task_module, "initial_model", refuse)
    stated = dict(tokens=False, utt2sys=False, model_conf={})
    out = mos_corpus.train(tmp_path / "stats", "--collect_stats", "true", **stated)
    for name in ("train", "valid"):
        shapes = (out / name / "speech_shape").read_text()
        assert shapes == (mos_corpus.root / name / "speech_shape").read_text()
    with pytest.raises(RuntimeError, match="the model was built"):
        mos_corpus.train(tmp_path / "exp")


# --- data -----------------------------------------------------------------------------


def test_batches_follow_the_weights(mos_corpus, tmp_path, monkeypatch):
    """18 training utterances of one category, 6 of another."""
    lines = [f"train{k:02d} {'many' if k % 4 else 'few'}\n" for k in range(24)]
    (tmp_path / "utt2set").write_text("".join(lines))
    changes = {"sampling_weights": {"few": 2, "many": 1.0}}
    changes["sampling_categories"] = str(tmp_path / "utt2set")
    args = check(mos_corpus, tmp_path, **changes)

    def batches(mode, epoch, **distributed):
        option = DistributedOption(**distributed)
        factory = MOSTask.build_iter_factory(args, option, mode)
        return [ids for ids, _ in factory.build_iter(epoch)]

    whole = batches("train", 2)
    few = [sum(int(i[-2:]) % 4 == 0 for i in ids) for ids in whole]
    assert (sum(few), sum(map(len, whole))) == (16, 24)
    assert all(0 < count < len(ids) for count, ids in zip(few, whole))
    # The validation set is read once, whatever its categories.
    assert sum(map(len, batches("valid", 1))) == 11
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        part = batches("train", 2, distributed=True)
        assert part == [together[rank::2] for together in whole]


def test_training_with_listeners_and_corpora(mos_corpus, tmp_path):
    """The names stand in config.yaml, the rows have moved, a resumption goes on."""
    votes = [[["lenient", 4], ["harsh", 2]][: k % 3] for k in range(24)]
    lines = [f"train{k:02d} {json.dumps(pairs)}\n" for k, pairs in enumerate(votes)]
    (tmp_path / "votes.scp").write_text("".join(lines))
    lines = [f"train{k:02d} {'ab'[k % 2]}\n" for k in range(24)]
    (tmp_path / "utt2domain").write_text("".join(lines))
    options = [DATA, f"{tmp_path}/votes.scp,votes,text"]
    options += [DATA, f"{tmp_path}/utt2domain,corpus,text"]
    changes = {"model_conf": {"listener_embedding": True, "corpus_embedding": True}}
    changes["votes_per_utterance"] = 1
    exp = mos_corpus.train(tmp_path / "exp", *options, **changes)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["listener_list"] == ["harsh", "lenient"]
    assert config["corpus_list"] == ["a", "b"]
    model, _ = load_model(exp / "config.yaml", exp / "1epoch.pth")
    assert model.condition.listener.abs().sum(dim=1).gt(0).all()
    assert model.condition.corpus.abs().sum() > 0
    mos_corpus.train(exp, *options, "--max_epoch", "2", **changes)
    assert (exp / "2epoch.pth").exists()


def test_listening_tests_of_two_scales_train_by_ranks_alone(
    mos_corpus, tmp_path, training_log, monkeypatch, caplog
):
    """From 1 to 5 and from 20 to 100, in batches of one test, without a mapping."""
    scored = []
    metrics = mos_trainer.validation_metrics

    def record(scores, *args):
        scored.append(scores)
        return metrics(scores, *args)

    monkeypatch.setattr(mos_trainer, "validation_metrics", record)
    second = {f"train{k:02d}": k >= 12 for k in range(24)}
    files = {"metric.scp": {}, "utt2domain": {}}
    for utt_id, later in second.items():
        label = mos_corpus.labels[utt_id] * (20 if later else 1)
        files["metric.scp"][utt_id] = json.dumps({"mos": label})
        files["utt2domain"][utt_id] = "ab"[later]
    for name, lines in files.items():
        write_scp(tmp_path / name, lines)
    changes = dict(
        losses={"bradley_terry": {"weight": 1.0}},
        sampling_weights={"a": 1, "b": 1},
        sampling_categories=str(tmp_path / "utt2domain"),
        sampling_batches="single",
        head="ssl_mos",
        max_epoch=8,
        optim_conf={"lr": 5e-3},
    )
    options = ["--score_range", "0", "100"]
    for name in ("train", "valid"):
        option = DATA.replace("train", name)
        options += [option, f"{tmp_path}/utt2domain,corpus,text"]
    command = mos_corpus.command(tmp_path / "exp", *options, tokens=False, **changes)
    # The training set is the validation: so few noises teach no more than themselves.
    command = [part.replace("/valid/", "/train/") for part in command]
    labels = f"{mos_corpus.root}/train/metric.scp"
    MOSTask.main(cmd=[c.replace(labels, f"{tmp_path}/metric.scp") for c in command])
    log = training_log(tmp_path / "exp")
    warnings = [r for r in caplog.messages if "on no scale" in r]
    assert len(warnings) == 1 and "(bradley_terry)" in warnings[0]
    last = log[8]["valid"]
    assert last["utt_srcc"] > 0.8 and last["sys_srcc"] > 0.8, last
    # No pair says that the clips of the one test are better than those of the other.
    tests = [
        [s for i, s in scored[-1].items() if second[i] is k] for k in (False, True)
    ]
    assert min(tests[1]) < max(tests[0]) and min(tests[0]) < max(tests[1])


# --- starting from a trained model ----------------------------------------------------


@pytest.fixture(scope="module")
def trained(mos_corpus, tmp_path_factory):
    return mos_corpus.train(tmp_path_factory.mktemp("trained") / "exp")


def fine_tune(mos_corpus, out, init_model, *options, **changes):
    """Train with a configuration that states no network."""
    options = ["--init_model", init_model, "--token_source", "hubert", *options]
    unstated = {"frontend_conf": {}, "head_conf": {}}
    command = mos_corpus.command(out, *options, **{**unstated, **changes})
    config = yaml.safe_load(Path(f"{out}.yaml").read_text())
    config = {k: v for k, v in config.items() if k not in ("frontend", "head")}
    Path(f"{out}.yaml").write_text(yaml.safe_dump(config))
    MOSTask.main(cmd=command)
    return out


def test_a_default_states_no_network(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 3\nhead: ssl_mos\n")
    command = ["--config", str(tmp_path / "a.yaml")]
    args = MOSTask.parse_args([*command, "--init_model", "exp/a"])
    assert (args.frontend, args.head, args.seed) == (None, "ssl_mos", 3)
    args = MOSTask.parse_args(command)
    assert (args.frontend, args.head) == ("hf", "ssl_mos")
    args = MOSTask.parse_args(["--init_model", "exp/a"])
    assert (args.frontend, args.head) == (None, None)


def test_the_record_of_a_training_is_no_configuration(trained, capsys):
    with pytest.raises(SystemExit):
        MOSTask.main(cmd=["--config", str(trained / "config.yaml")])
    error = capsys.readouterr().err
    assert f"--init_model {trained} to go on from its weights" in error


def test_training_starts_from_a_trained_model(trained, mos_corpus, tmp_path):
    """Without a step, so that what is saved is what it started from."""
    out = fine_tune(mos_corpus, tmp_path / "new", trained, "--optim_conf", "lr=0.0")
    expected = states_of(trained / "valid.sys_srcc.best.pth")
    # Batch norm counts frames whatever the learning rate.
    statistics = {key for key in expected if "running" in key or "num_batches" in key}
    assert moved(expected, states_of(out / "1epoch.pth")) <= statistics
    config, old = (
        yaml.safe_load((f / "config.yaml").read_text()) for f in (out, trained)
    )
    assert config["init_model"] == str(trained)
    for key in ("frontend", "frontend_conf", "head", "head_conf"):
        assert config[key] == old[key]
    # Tokens are those of the trained frontend, which is not the pretrained one.
    with pytest.raises(ValueError, match="tokens made by another upstream.*stage 5"):
        fine_tune(mos_corpus, tmp_path / "a", trained, "--token_source", "none")


def test_a_checkpoint_wins_and_the_trained_model_may_go(trained, mos_corpus, tmp_path):
    first = tmp_path / "first"
    shutil.copytree(trained, first, symlinks=True)
    two = fine_tune(mos_corpus, tmp_path / "two", first / "1epoch.pth", max_epoch=2)
    one = fine_tune(mos_corpus, tmp_path / "one", first / "1epoch.pth", max_epoch=1)
    options = ["--resume", "true"]
    fine_tune(mos_corpus, one, first / "1epoch.pth", *options, max_epoch=2)
    expected = states_of(two / "2epoch.pth")
    assert not moved(states_of(one / "2epoch.pth"), expected)
    shutil.rmtree(first)
    model, _ = load_model(one / "config.yaml", one / "2epoch.pth")
    assert not moved(dict(model.state_dict()), expected)


# --- learning rates -------------------------------------------------------------------


def rates_of(args, model):
    """Learning rate by name of the parameter."""
    (optimizer,) = MOSTask.build_optimizers(args, model)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    names = dict(model.named_parameters())
    found = {name: rates.pop(id(p)) for name, p in names.items() if id(p) in rates}
    assert not rates
    return found


def test_layer_wise_decay(mos_corpus, tmp_path):
    """Two layers: d^2 before them, d for the first, 1 for the second."""
    conf, base = dict(mos_corpus.frontend_conf, freeze="cnn"), 2e-5
    changes = dict(upstream_lr=base, frontend_conf=conf, upstream_lr_decay=0.7)
    model, args = build(mos_corpus, tmp_path, **changes)
    rates = rates_of(args, model)
    for prefix, rate in (
        ("frontend.model.feature_projection.", base * 0.49),
        ("frontend.model.encoder.pos_conv_embed.", base * 0.49),
        ("frontend.model.encoder.layer_norm.", base * 0.49),
        ("frontend.model.encoder.layers.0.", base * 0.7),
        ("frontend.model.encoder.layers.1.", base),
        ("head.", 1e-3),
    ):
        names = [name for name in rates if name.startswith(prefix)]
        assert names and [rates.pop(name) for name in names] == pytest.approx(
            [rate] * len(names)
        )
    # The convolutions are frozen: no optimizer holds them.
    assert not rates
    args.upstream_lr = args.upstream_lr_decay = None
    assert set(rates_of(args, model).values()) == {1e-3}


# --- freezing and adapting ------------------------------------------------------------


@pytest.mark.parametrize(
    "freeze,frozen,free",
    [
        ("cnn", ["feature_extractor"], ["feature_projection", "encoder.layers.0"]),
        (1, ["feature_extractor", "encoder.layers.0"], ["encoder.layers.1"]),
        ("all", ["feature_extractor", "encoder.layers.1"], []),
    ],
)
def test_frozen_parts_stay(freeze, frozen, free, mos_corpus, tmp_path):
    conf = dict(mos_corpus.frontend_conf, freeze=freeze)
    conf["upstream_config"] = dict(conf["upstream_config"], hidden_dropout=0.5)
    changes = dict(
        frontend_conf=conf,
        upstream_lr=1e-2,
        optim_conf={"lr": 0.01, "weight_decay": 0.5},
        token_source="hubert",
    )
    model, _ = build(mos_corpus, tmp_path, **changes)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    for names, trains in ((frozen, False), (free, True)):
        for name in names:
            module = model.frontend.model.get_submodule(name)
            assert all(m.training is trains for m in module.modules())
            assert all(p.requires_grad is trains for p in module.parameters())
    out = mos_corpus.train(tmp_path / "exp", **changes)
    changed = moved(start, states_of(out / "1epoch.pth"))
    for names, trains in ((frozen, False), (free, True)):
        for name in names:
            prefix = f"frontend.model.{name}."
            assert any(k.startswith(prefix) for k in changed) is trains, name
    assert any(k.startswith("head.") for k in changed)


def test_the_command_line_replaces_the_file(mos_corpus, tmp_path):
    conf = dict(mos_corpus.frontend_conf, freeze={"layers": 2})
    options = ["--frontend_conf", "freeze={layers: 1}"]
    _, args = build(mos_corpus, tmp_path, *options, frontend_conf=conf)
    assert args.frontend_conf["freeze"] == 1
    # The token tools read the same.
    conf = read_frontend_conf(str(tmp_path / "exp.yaml"), shlex.join(options)).conf
    assert build_frontend("hf", conf).freeze == 1


# --- losses on and off ----------------------------------------------------------------


def test_training_without_labels_chooses_by_token_accuracy(
    mos_corpus, tmp_path, training_log
):
    key = "masked_token_acc_hubert_l02"
    changes = dict(head="token", head_conf={}, losses={"masked_token_ce": {}})
    changes["best_model_criterion"] = [["valid", key, "max"]]
    command = mos_corpus.command(tmp_path / "exp", utt2sys=False, **changes)
    for place in reversed([i for i, part in enumerate(command) if ",mos," in part]):
        del command[place - 1 : place + 1]
    MOSTask.main(cmd=command)
    stats = training_log(tmp_path / "exp")[1]
    for phase in ("train", "valid"):
        assert 0 < stats[phase]["masked_token_ce"] < 10 and 0 <= stats[phase][key] <= 1
    assert not any("srcc" in name for name in stats["valid"])
    assert (tmp_path / "exp" / f"valid.{key}.best.pth").exists()
    # the pretrained network starts a training on labels
    options = ["--init_model", tmp_path / "exp", "--token_source", "hubert"]
    mos_corpus.train(tmp_path / "mos", *options)
    assert (tmp_path / "mos" / "valid.sys_srcc.best.pth").exists()
