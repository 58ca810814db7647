# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import argparse
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.train.distributed_utils import DistributedOption

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.checkpoint import load_model, read_frontend_conf
from espnet2_distilmos.tasks import mos as task_module
from espnet2_distilmos.tasks.mos import MOSTask, keep_upstream_files, read_token_info
from espnet2_distilmos.train.mos_collate_fn import MOSCollateFn


def check(mos_corpus, tmp_path, *options, **changes):
    """Run the checks that precede training."""
    args = mos_corpus.args(tmp_path / "exp", *options, **changes)
    MOSTask.check_required_command_args(args)
    return args


def build(mos_corpus, tmp_path, *options, **changes):
    torch.manual_seed(0)
    args = check(mos_corpus, tmp_path, *options, **changes)
    return MOSTask.build_model(args), args


def copy_set(mos_corpus, tmp_path, file, change):
    """Command-line options for a validation set in which one file is changed."""
    folder = tmp_path / "changed"
    shutil.copytree(mos_corpus.root / "valid", folder)
    path = folder / file
    path.write_text(change(path.read_text()))
    return folder


# --- criteria and losses --------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion",
    ["valid,sys_srcc,max", "valid,utt_mse,min", "valid,token_acc_hubert_l02,max"],
)
def test_accepted_criteria(criterion, mos_corpus, tmp_path):
    args = check(mos_corpus, tmp_path, "--best_model_criterion", criterion)
    assert args.best_model_criterion == [tuple(criterion.split(","))]


@pytest.mark.parametrize(
    "criterion,changes",
    [
        ("valid,sys_scrr,max", {}),
        ("valid,token_acc_hubert_l03,max", {}),
        ("valid,mos_mse,min", {}),
        ("valid,sys_srcc,max", {"utt2sys": False}),
        ("valid,token_acc_hubert_l02,max", {"losses": {"mos_l1": {"weight": 1}}}),
        (
            "valid,token_acc_hubert_l02,max",
            {"losses": {"token_ce": {"weight": 1, "columns": ["hubert_l01"]}}},
        ),
    ],
)
def test_refused_criteria(criterion, changes, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=f"best_model_criterion {criterion}, expected"):
        check(mos_corpus, tmp_path, "--best_model_criterion", criterion, **changes)


@pytest.mark.parametrize(
    "options, name",
    [
        (["--optim_conf", "lr=2e-3"], "optim_conf.lr"),
        (["--losses", "mos_l1.weight=1e0"], "losses.mos_l1.weight"),
        (["--optim_conf", "betas=[0.9, 1e-3]"], "optim_conf.betas"),
    ],
)
def test_numbers_that_yaml_takes_for_text_are_refused(
    options, name, mos_corpus, tmp_path
):
    with pytest.raises(ValueError, match=f"text '.*e.*' for {name}, expected a number"):
        check(mos_corpus, tmp_path, *options)
    check(mos_corpus, tmp_path, "--optim_conf", "lr=2.0e-3")


def test_refused_before_anything_is_written(mos_corpus, tmp_path):
    with pytest.raises(ValueError, match="valid,sys_scrr,max"):
        mos_corpus.train(
            tmp_path / "exp", "--best_model_criterion", "valid,sys_scrr,max"
        )
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"losses": {"mos_l3": {}}}, "found losses 'mos_l3', expected one of .*mos_l1"),
        ({"losses": {"mos_l1": {"wait": 1}}}, "losses mos_l1: .*'wait'"),
        ({"losses": {"mos_l1": {"weight": 0}}}, "no loss of weight above 0"),
        ({"losses": {}}, "no loss of weight above 0"),
        ({"losses": {"token_ce": {}}, "tokens": False}, "token_ce but no tokens"),
        ({"use_preprocessor": False}, "use_preprocessor=false"),
    ],
)
def test_refused_at_the_start(changes, message, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=message):
        check(mos_corpus, tmp_path, **changes)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"head_conf": {"hiden_dim": 8}}, "head distilmos: .*'hiden_dim'"),
        ({"frontend_conf": {"upstreem": "x"}}, "frontend hf: .*'upstreem'"),
        ({"model_conf": {"extract_feats_in_collect_stats": True}}, "expected false"),
    ],
)
def test_refused_options(changes, message, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(mos_corpus, tmp_path, **changes)


@pytest.mark.parametrize("option", ["--head", "--frontend"])
def test_refused_choices(option, mos_corpus, tmp_path, capsys):
    with pytest.raises(SystemExit):
        mos_corpus.args(tmp_path / "exp", option, "nonsense")
    assert "nonsense" in capsys.readouterr().err


def test_command_line_changes_one_weight(mos_corpus, tmp_path):
    args = mos_corpus.args(tmp_path / "exp", "--losses", "token_ce.weight=0")
    assert args.losses == {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0}}
    assert MOSTask.get_parser().parse_args([]).losses == {"mos_l1": {"weight": 1.0}}


# --- data files -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "file,change,message",
    [
        (
            "metric.scp",
            lambda text: text.split("\n", 1)[1],
            "metric.scp: found no label for 1 utterances, the first is valid00",
        ),
        (
            "metric.scp",
            lambda text: text + text.split("\n")[0] + "\n",
            "metric.scp:12: the id valid00 occurs a second time",
        ),
        (
            "metric.scp",
            lambda text: text.replace('"mos": 1.0', '"mos": 0.0'),
            "valid00 has the mos 0, expected a number from 1 to 5",
        ),
        (
            "metric.scp",
            lambda text: "".join(
                f"{line.split()[0]} {{}}\n" for line in text.split(chr(10))[:-1]
            ),
            "no labelled utterance in the validation set",
        ),
        (
            "utt2sys",
            lambda text: text.split("\n", 1)[1],
            "utt2sys: found no system for 1 utterances, the first is valid00",
        ),
    ],
)
def test_bad_data_files_are_refused_at_the_start(
    file, change, message, mos_corpus, tmp_path
):
    folder = copy_set(mos_corpus, tmp_path, file, change)
    command = mos_corpus.command(tmp_path / "exp")
    command = [c.replace(str(mos_corpus.root / "valid"), str(folder)) for c in command]
    args = MOSTask.get_parser().parse_args(command)
    with pytest.raises(ValueError, match=message):
        MOSTask.check_required_command_args(args)


def test_an_unlabelled_utterance_needs_no_system(mos_corpus, tmp_path):
    folder = copy_set(
        mos_corpus, tmp_path, "metric.scp", lambda t: t.replace('{"mos": 1.0}', "{}")
    )
    (folder / "utt2sys").write_text((folder / "utt2sys").read_text().split("\n", 1)[1])
    command = mos_corpus.command(tmp_path / "exp")
    command = [c.replace(str(mos_corpus.root / "valid"), str(folder)) for c in command]
    MOSTask.main(cmd=command)
    assert (tmp_path / "exp" / "1epoch.pth").exists()


def test_another_rate_stops_training(mos_corpus, tmp_path):
    lines = (mos_corpus.root / "valid" / "wav.scp").read_text().splitlines()
    utt, path = lines[4].split()
    slow = tmp_path / "slow.wav"
    soundfile.write(slow, soundfile.read(path)[0], 8000)
    folder = copy_set(
        mos_corpus, tmp_path, "wav.scp", lambda text: text.replace(path, str(slow))
    )
    command = mos_corpus.command(tmp_path / "exp")
    command = [c.replace(str(mos_corpus.root / "valid"), str(folder)) for c in command]
    with pytest.raises(ValueError, match=f"utterance {utt} .*at 8000 Hz, .*stage 2"):
        MOSTask.main(cmd=command)


def test_token_info_file(tmp_path):
    assert read_token_info(None) is None
    assert read_token_info({"columns": []}) == {"columns": []}
    path = tmp_path / "tokens.json"
    with pytest.raises(ValueError, match="tokens.json: No such file.*stage 5"):
        read_token_info(str(path))
    for content in ("{", "[]"):
        path.write_text(content)
        with pytest.raises(ValueError, match="tokens.json: found no JSON.*stage 5"):
            read_token_info(str(path))


def test_tokens_of_another_upstream(mos_corpus, tmp_path):
    other = dict(mos_corpus.frontend_conf, init_seed=1)
    with pytest.raises(ValueError, match="tokens made by another upstream.*stage 5"):
        build(mos_corpus, tmp_path, frontend_conf=other)
    build(mos_corpus, tmp_path, "--check_token_upstream", "false", frontend_conf=other)


def test_tokens_of_a_stated_source(mos_corpus, tmp_path):
    mfcc = [{"stream": "mfcc", "layer": 0, "K": 5}] * 2
    info = dict(mos_corpus.token_info, columns=mfcc, upstream_fingerprint="f00d")
    # In the middle of 400 samples; the network's frames hear 165.
    info["minimum_samples"] = 400
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(info))
    options = ["--token_info", path]
    with pytest.raises(ValueError, match="another upstream.*f00d.*--token_source"):
        build(mos_corpus, tmp_path, *options)
    for source in ("hubert", "mfc", "f00"):
        with pytest.raises(ValueError, match=f"tokens of mfcc .*source {source}:"):
            build(mos_corpus, tmp_path, *options, "--token_source", source)
    for source in ("mfcc", "f00d"):
        build(mos_corpus, tmp_path, *options, "--token_source", source)
    # The frontend itself is a source like any other.
    build(mos_corpus, tmp_path, "--token_source", "hubert")
    options += ["--token_source", "mfcc"]
    for moved in ({"minimum_samples": 930}, {"frame_centre": 464.5}):
        path.write_text(json.dumps({**info, **moved}))
        with pytest.raises(ValueError, match="lie 382.5 samples.*receptive_field 165"):
            build(mos_corpus, tmp_path, *options)
    # Frames twice as dense are refused whatever is stated.
    path.write_text(json.dumps({**info, "frame_shift": 160}))
    with pytest.raises(ValueError, match="every 160 samples"):
        build(mos_corpus, tmp_path, *options)


def test_tokens_on_another_time_grid(mos_corpus, tmp_path):
    info = dict(mos_corpus.token_info, frame_shift=160)
    (tmp_path / "tokens.json").write_text(json.dumps(info))
    options = ["--token_info", tmp_path / "tokens.json"]
    options += ["--check_token_upstream", "false"]
    with pytest.raises(ValueError, match="every 160 samples, expected 320 .*stage 5"):
        build(mos_corpus, tmp_path, *options)


# --- sampling -------------------------------------------------------------------------


@pytest.fixture
def halves(tmp_path):
    """18 training utterances of one category, 6 of another."""
    path = tmp_path / "utt2set"
    names = [f"train{k:02d} {'few' if k % 4 == 0 else 'many'}" for k in range(24)]
    path.write_text("\n".join(names) + "\n")
    return ["--sampling_categories", str(path)]


@pytest.mark.parametrize("batch_type", ["sorted", "numel"])
def test_batches_follow_the_weights(batch_type, halves, mos_corpus, tmp_path):
    weights = ["--sampling_weights", "few=2", "--sampling_weights", "many=1.0"]
    args = check(
        mos_corpus, tmp_path, *halves, *weights, batch_type=batch_type, batch_bins=40000
    )
    factory = MOSTask.build_iter_factory(args, DistributedOption(), "train")
    for epoch in (1, 2):
        batches = [ids for ids, _ in factory.build_iter(epoch)]
        few = [sum(int(i[-2:]) % 4 == 0 for i in ids) for ids in batches]
        assert (sum(few), sum(map(len, batches))) == (16, 24)
        assert all(0 < count < len(ids) for count, ids in zip(few, batches))
    again = [ids for ids, _ in factory.build_iter(2)]
    assert again == batches
    # The validation set is heard once, whatever its categories.
    valid = MOSTask.build_iter_factory(args, DistributedOption(), "valid")
    assert sum(len(ids) for ids, _ in valid.build_iter(1)) == 11


def test_processes_share_the_batches(halves, mos_corpus, tmp_path, monkeypatch):
    args = check(mos_corpus, tmp_path, *halves, sampling_weights={"few": 1, "many": 1})

    def batches(distributed):
        option = DistributedOption(distributed=distributed)
        factory = MOSTask.build_iter_factory(args, option, "train")
        return [ids for ids, _ in factory.build_iter(3)]

    whole = batches(False)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        parts.append(batches(True))
    for together, first, second in zip(whole, *parts):
        assert (first, second) == (together[::2], together[1::2])
    assert len(whole) == len(parts[0]) == len(parts[1])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "--sampling_categories or --sampling_epoch without --sampling_weights"),
        ({"sampling_weights": {"few": 1}}, "train01 is of many, expected one of few"),
        ({"sampling_weights": {"few": -1}}, "few=-1, expected a number"),
        ({"sampling_weights": {"few": 1, "many": 0}, "sampling_epoch": "many"}, "many"),
        ({"iterator_type": "chunk"}, "iterator_type chunk"),
        ({"shuffle_within_batch": True}, "shuffle_within_batch true"),
        ({"batch_type": "numel", "num_iters_per_epoch": 2}, "num_iters_per_epoch"),
    ],
)
def test_refused_sampling(changes, message, halves, mos_corpus, tmp_path):
    if changes and "sampling_weights" not in changes:
        changes = {"sampling_weights": {"few": 1, "many": 1}, **changes}
    with pytest.raises(ValueError, match=message):
        check(mos_corpus, tmp_path, *halves, **changes)


def test_the_stage_of_statistics_needs_no_weights(mos_corpus, tmp_path):
    """It gets --train_args, and mos.sh gives the weights to the training."""
    options = ["--sampling_epoch", "few", "--collect_stats", "true"]
    check(mos_corpus, tmp_path, *options)


def test_weights_need_categories(mos_corpus, tmp_path):
    with pytest.raises(ValueError, match="without --sampling_categories"):
        check(mos_corpus, tmp_path, sampling_weights={"few": 1})


# --- listeners and corpora ------------------------------------------------------------


@pytest.fixture
def votes(mos_corpus, tmp_path):
    """Options for votes of a harsh and a lenient listener, and for two corpora."""
    lines = {"votes.scp": [], "utt2domain": []}
    for k in range(24):
        utt = f"train{k:02d}"
        mos = mos_corpus.labels[utt]
        pairs = [["lenient", min(mos + 0.5, 5)], ["harsh", max(mos - 0.5, 1)]]
        lines["votes.scp"].append(f"{utt} {json.dumps(pairs[: k % 3])}")
        lines["utt2domain"].append(f"{utt} {'ab'[k % 2]}")
    for file, content in lines.items():
        (tmp_path / file).write_text("\n".join(content) + "\n")
    option = "--train_data_path_and_name_and_type"
    return {
        "listener": [option, f"{tmp_path}/votes.scp,votes,text"],
        "corpus": [option, f"{tmp_path}/utt2domain,corpus,text"],
    }


EMBEDDINGS = {"listener_embedding": True, "corpus_embedding": True}


def test_training_with_listeners_and_corpora(votes, mos_corpus, tmp_path):
    """The names stand in config.yaml, the rows have moved, a resumption goes on."""
    options = [*votes["listener"], *votes["corpus"]]
    changes = {"model_conf": EMBEDDINGS, "votes_per_utterance": 1}
    exp = mos_corpus.train(tmp_path / "exp", *options, **changes)
    config = yaml.safe_load((exp / "config.yaml").read_text())
    assert config["listener_list"] == ["harsh", "lenient"]
    assert config["corpus_list"] == ["a", "b"]
    model, _ = load_model(exp / "config.yaml", exp / "1epoch.pth")
    assert model.condition.listener.abs().sum(dim=1).gt(0).all()
    assert model.condition.corpus.abs().sum() > 0
    mos_corpus.train(exp, *options, "--max_epoch", "2", **changes)
    assert (exp / "2epoch.pth").exists()


def test_lists_may_be_given(votes, mos_corpus, tmp_path):
    names = tmp_path / "names"
    names.write_text("lenient\nsomebody else\n")
    options = [*votes["listener"], "--listener_list", names]
    conf = {"listener_embedding": True}
    args = check(mos_corpus, tmp_path, *map(str, options), model_conf=conf)
    assert args.listener_list == ["lenient", "somebody else"]
    preprocess = MOSTask.build_preprocess_fn(args, train=True)
    assert preprocess.listeners == {"lenient": 0, "somebody else": 1}


@pytest.mark.parametrize(
    "kind, conf, options, message",
    [
        ("", EMBEDDINGS, [], "listener_embedding=true without training data .* votes"),
        ("", {"corpus_embedding": True}, [], "true without .*utt2domain,corpus,text"),
        ("listener", {}, [], "name votes .*listener_embedding is not true"),
        ("corpus", {}, [], "name corpus .*corpus_embedding is not true"),
        ("", {}, ["--corpus_list", "x"], "corpus_embedding is not true"),
        ("", {}, ["--votes_per_utterance", "0"], "votes_per_utterance 0, expected 1"),
    ],
)
def test_refused_embeddings(kind, conf, options, message, votes, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=message):
        check(mos_corpus, tmp_path, *votes.get(kind, []), *options, model_conf=conf)


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("listener", ("train05 ", "train5 "), "votes.scp: .* utterance train05, exp"),
        ("listener", ("harsh", ""), "votes.scp: utterance train02 has .* a list of"),
        ("listener", ("train02 [[", "train02 [[3, "), "votes.scp: utterance train02"),
        ("corpus", ("train05 b", ""), "utt2domain: .*train05, .* 'train05 its_corpus'"),
    ],
)
def test_bad_votes_are_named(kind, change, message, votes, mos_corpus, tmp_path):
    path = tmp_path / votes[kind][1].split("/")[-1].split(",")[0]
    path.write_text(path.read_text().replace(*change))
    conf = {f"{kind}_embedding": True}
    with pytest.raises(DataError, match=message):
        check(mos_corpus, tmp_path, *votes[kind], model_conf=conf)


def test_a_list_of_strangers_is_refused(votes, mos_corpus, tmp_path):
    (tmp_path / "names").write_text("nobody\n")
    options = [*votes["listener"], "--listener_list", str(tmp_path / "names")]
    with pytest.raises(DataError, match="found no votes of those in --listener_list"):
        check(mos_corpus, tmp_path, *options, model_conf={"listener_embedding": True})


def test_shapes_need_no_votes(mos_corpus, tmp_path):
    check(mos_corpus, tmp_path, "--collect_stats", "true", model_conf=EMBEDDINGS)


# --- hooks ----------------------------------------------------------------------------


def test_data_names():
    assert MOSTask.required_data_names(train=True) == ("speech",)
    assert MOSTask.required_data_names(inference=True) == ("speech",)
    assert MOSTask.optional_data_names() == ("mos", "tokens", "votes", "corpus")
    assert MOSTask.optional_data_names(inference=True) == ("tokens",)


def test_preprocessor_takes_the_options(mos_corpus, tmp_path):
    args = check(mos_corpus, tmp_path, "--min_seconds", "0.2", "--max_seconds", "9.5")
    args.score_range, args.crop_seconds = [0.0, 100.0], 0.3
    prepare = MOSTask.build_preprocess_fn(args, train=True)
    assert prepare.train and prepare.score_range == [0.0, 100.0]
    assert (prepare.min_seconds, prepare.max_seconds) == (0.2, 9.5)
    assert prepare.crop_seconds == 0.3 and prepare.token_info == mos_corpus.token_info
    assert set(prepare.wav_paths) == set(mos_corpus.labels)
    assert isinstance(MOSTask.build_collate_fn(args, train=True), MOSCollateFn)


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_the_first_process_keeps_what_the_upstream_needs(rank, tmp_path, monkeypatch):
    source = tmp_path / "a.pt"
    source.write_text("weights")

    class Frontend:
        def checkpoint_files(self):
            return [str(source)]

        def relocated_conf(self, folder):
            return {"path_or_url": f"{folder}/a.pt"}

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: rank is not None)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    args = argparse.Namespace(output_dir=str(tmp_path / "exp"), frontend_conf=None)
    keep_upstream_files(args, Frontend())
    assert args.frontend_conf == {"path_or_url": "upstream_files/a.pt"}
    assert (tmp_path / "exp" / "upstream_files" / "a.pt").exists() is (rank != 1)


def test_collect_stats_does_not_build_the_model(mos_corpus, tmp_path, monkeypatch):
    """Without tokens, systems or criteria that need them, as stage 6 calls it."""

    def refuse(*args, **kwargs):
        raise RuntimeError("the model was built")

    monkeypatch.setattr(task_module, "initial_model", refuse)
    out = mos_corpus.train(
        tmp_path / "stats",
        *("--collect_stats", "true"),
        tokens=False,
        utt2sys=False,
        model_conf={},
    )
    for name in ("train", "valid"):
        shapes = (out / name / "speech_shape").read_text()
        assert shapes == (mos_corpus.root / name / "speech_shape").read_text()
    with pytest.raises(RuntimeError, match="the model was built"):
        mos_corpus.train(tmp_path / "exp")


# --- starting from a trained model ---------------------------------------------------


@pytest.fixture(scope="module")
def trained(mos_corpus, tmp_path_factory):
    return mos_corpus.train(tmp_path_factory.mktemp("trained") / "exp")


def states_of(path):
    states = torch.load(path, weights_only=True)
    return states["model"] if "optimizers" in states else states


@pytest.mark.parametrize(
    "option,stated,expected",
    [
        ([], {}, (None, None)),
        (["--head", "distilmos"], {}, (None, "distilmos")),
        ([], {"head": "ssl_mos", "frontend": "hf"}, ("hf", "ssl_mos")),
    ],
)
def test_defaults_are_no_wish(option, stated, expected, tmp_path):
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"seed": 3, **stated}))
    command = ["--config", str(tmp_path / "a.yaml"), *option]
    args = MOSTask.parse_args([*command, "--init_model", "exp/a"])
    assert (args.frontend, args.head) == expected and args.seed == 3
    args = MOSTask.parse_args(command)
    assert (args.frontend, args.head) == ("hf", expected[1] or "distilmos")


def test_the_record_of_a_training_is_no_configuration(trained, capsys):
    with pytest.raises(SystemExit):
        MOSTask.main(cmd=["--config", str(trained / "config.yaml")])
    error = capsys.readouterr().err
    assert f"--init_model {trained} to go on from its weights" in error


@pytest.mark.parametrize(
    "options,message",
    [
        (["--init_param", "a.pth"], "--init_param a.pth with --init_model .*one of"),
        (["--init_model", "nowhere"], "--init_model nowhere: found nothing there"),
        (["--output_dir", "{exp}"], "in --output_dir, expected another"),
        (
            ["--output_dir", "{exp}/", "--init_model", "{exp}/1epoch.pth"],
            "in --output_dir, expected another",
        ),
    ],
)
def test_refused_init_models(options, message, trained, mos_corpus, tmp_path):
    options = [option.format(exp=trained) for option in options]
    with pytest.raises(ValueError, match=message):
        check(mos_corpus, tmp_path, "--init_model", str(trained), *options)


def test_training_starts_from_a_trained_model(trained, mos_corpus, tmp_path):
    """Without a step, so that what is saved is what it started from."""
    out = fine_tune(mos_corpus, tmp_path / "new", trained, "--optim_conf", "lr=0.0")
    expected = states_of(trained / "valid.sys_srcc.best.pth")
    found = states_of(out / "1epoch.pth")
    assert found.keys() == expected.keys()
    for key, value in found.items():
        # Batch norm counts what it hears whatever the learning rate.
        if ".bn." not in key or key.endswith(("weight", "bias")):
            assert torch.equal(value, expected[key]), key
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["init_model"] == str(trained)
    assert (config["frontend"], config["head"]) == ("hf", "distilmos")
    old = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["frontend_conf"] == old["frontend_conf"]
    assert config["head_conf"] == old["head_conf"]


def fine_tune(mos_corpus, out, init_model, *options, **changes):
    """Train with a configuration that states no network."""
    unstated = {"frontend_conf": {}, "head_conf": {}}
    command = mos_corpus.command(
        out,
        *("--init_model", str(init_model), "--check_token_upstream", "false"),
        *options,
        **{**unstated, **changes},
    )
    config = yaml.safe_load(Path(f"{out}.yaml").read_text())
    config = {k: v for k, v in config.items() if k not in ("frontend", "head")}
    Path(f"{out}.yaml").write_text(yaml.safe_dump(config))
    MOSTask.main(cmd=command)
    return out


def test_tokens_are_those_of_the_trained_frontend(trained, mos_corpus, tmp_path):
    """Else the token loss would hold it where it no longer is."""
    with pytest.raises(ValueError, match="tokens made by another upstream.*stage 5"):
        fine_tune(mos_corpus, tmp_path / "a", trained, "--check_token_upstream", "true")


def test_a_checkpoint_wins_over_the_trained_model(trained, mos_corpus, tmp_path):
    two = fine_tune(mos_corpus, tmp_path / "two", trained, max_epoch=2)
    out = tmp_path / "one"
    fine_tune(mos_corpus, out, trained, max_epoch=1)
    assert not torch.equal(
        states_of(out / "checkpoint.pth")["head.linear.weight"],
        states_of(trained / "1epoch.pth")["head.linear.weight"],
    )
    fine_tune(mos_corpus, out, trained, "--resume", "true", max_epoch=2)
    expected, found = (states_of(folder / "2epoch.pth") for folder in (two, out))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_fine_tuned_model_needs_not_what_it_started_from(
    trained, mos_corpus, tmp_path
):
    first = tmp_path / "first"
    shutil.copytree(trained, first, symlinks=True)
    out = fine_tune(mos_corpus, tmp_path / "second", first / "1epoch.pth")
    shutil.rmtree(first)
    model, _ = load_model(out / "config.yaml", out / "1epoch.pth")
    expected = states_of(out / "1epoch.pth")
    assert all(torch.equal(v, expected[k]) for k, v in model.state_dict().items())


# --- learning rates -------------------------------------------------------------------


def parameters_of(model, prefix):
    return [p for k, p in model.named_parameters() if k.startswith(prefix)]


@pytest.mark.parametrize("optim", ["adamw", "sgd"])
def test_two_learning_rates(optim, mos_corpus, tmp_path):
    model, args = build(mos_corpus, tmp_path, "--upstream_lr", "2e-5", optim=optim)
    (optimizer,) = MOSTask.build_optimizers(args, model)
    rates = {
        id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]
    }
    for prefix, rate in (("frontend.", 2e-5), ("head.", 1e-3)):
        trained = [p for p in parameters_of(model, prefix) if p.requires_grad]
        assert len(trained) > 10 and {rates.pop(id(p)) for p in trained} == {rate}
    assert not rates


def test_one_learning_rate(mos_corpus, tmp_path):
    model, args = build(mos_corpus, tmp_path)
    (optimizer,) = MOSTask.build_optimizers(args, model)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]


@pytest.mark.parametrize(
    "scheduler,conf",
    [
        ("warmuplr", {"warmup_steps": 3}),
        ("warmuplinear", {"warmup_steps": 3, "total_steps": 20}),
    ],
)
def test_schedulers_keep_the_ratio_in_training(
    scheduler, conf, mos_corpus, training_log, tmp_path
):
    out = mos_corpus.train(
        tmp_path / "exp",
        scheduler=scheduler,
        scheduler_conf=conf,
        upstream_lr=1e-5,
        max_epoch=2,
    )
    log = training_log(out)
    rates = [[log[e]["train"][f"optim0_lr{j}"] for j in (0, 1)] for e in (1, 2)]
    assert rates[0][0] != rates[1][0]
    for upstream, rest in rates:
        assert rest / upstream == pytest.approx(100)
    states = torch.load(out / "checkpoint.pth")["schedulers"][0]
    assert states["base_lrs"] == [1e-5, 1e-3] and states["last_epoch"] == 8


def test_upstream_rate_reaches_the_weights(mos_corpus, tmp_path):
    model, _ = build(mos_corpus, tmp_path, seed=3)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    out = mos_corpus.train(
        tmp_path / "exp", "--upstream_lr", "0", seed=3, optim_conf={"lr": 0.01}
    )
    end = torch.load(out / "1epoch.pth")
    for key, value in end.items():
        if key.startswith("frontend."):
            assert torch.equal(value, start[key]), key
    assert not torch.equal(end["head.linear.weight"], start["head.linear.weight"])


@pytest.mark.parametrize("option", ["exclude_weight_decay", "sharded_ddp"])
@pytest.mark.parametrize("used", ["upstream_lr", "upstream_lr_decay"])
def test_groups_refuse_other_optimizers(option, used, mos_corpus, tmp_path):
    model, args = build(mos_corpus, tmp_path, **{used: 0.5})
    setattr(args, option, True)
    with pytest.raises(ValueError, match=f"--{option} true with --{used},"):
        MOSTask.build_optimizers(args, model)


@pytest.mark.parametrize("upstream_lr,base", [(None, 1e-3), (2e-5, 2e-5)])
def test_layer_wise_decay(upstream_lr, base, mos_corpus, tmp_path):
    """Two layers: d^2 before them, d for the first, 1 for the second."""
    conf = dict(mos_corpus.frontend_conf, freeze="cnn")
    model, args = build(
        mos_corpus,
        tmp_path,
        *("--upstream_lr_decay", "0.7"),
        upstream_lr=upstream_lr,
        frontend_conf=conf,
    )
    (optimizer,) = MOSTask.build_optimizers(args, model)
    rates = {
        id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]
    }
    for prefix, rate in (
        ("frontend.model.feature_projection.", base * 0.49),
        ("frontend.model.encoder.pos_conv_embed.", base * 0.49),
        ("frontend.model.encoder.layer_norm.", base * 0.49),
        ("frontend.model.encoder.layers.0.", base * 0.7),
        ("frontend.model.encoder.layers.1.", base),
        ("head.", 1e-3),
    ):
        trained = [p for p in parameters_of(model, prefix) if p.requires_grad]
        assert trained
        for parameter in trained:
            assert rates.pop(id(parameter)) == pytest.approx(rate)
    # The convolutions are frozen: no optimizer holds them.
    assert not rates
    again = MOSTask.build_optimizers(args, model)[0]
    assert [[id(p) for p in g["params"]] for g in again.param_groups] == [
        [id(p) for p in g["params"]] for g in optimizer.param_groups
    ]


def test_layer_wise_decay_of_one_is_one_rate(mos_corpus, tmp_path):
    model, args = build(mos_corpus, tmp_path, upstream_lr=2e-5, upstream_lr_decay=1.0)
    (optimizer,) = MOSTask.build_optimizers(args, model)
    assert [group["lr"] for group in optimizer.param_groups] == [2e-5, 1e-3]


@pytest.mark.parametrize(
    "scheduler,conf",
    [
        ("warmuplr", {"warmup_steps": 3}),
        ("warmuplinear", {"warmup_steps": 3, "total_steps": 20}),
    ],
)
def test_layer_wise_decay_in_training_and_resumed(
    scheduler, conf, mos_corpus, training_log, tmp_path
):
    def train(name, epochs):
        return mos_corpus.train(
            tmp_path / name,
            *("--upstream_lr_decay", "0.5", "--resume", "true"),
            scheduler=scheduler,
            scheduler_conf=conf,
            max_epoch=epochs,
        )

    out = train("whole", 2)
    log = training_log(out)
    for epoch in (1, 2):
        rates = [log[epoch]["train"][f"optim0_lr{j}"] for j in range(4)]
        ratios = [rate / rates[-1] for rate in rates]
        assert ratios == pytest.approx([0.25, 0.5, 1.0, 1.0])
    states = torch.load(out / "checkpoint.pth")
    assert states["schedulers"][0]["base_lrs"] == [2.5e-4, 5e-4, 1e-3, 1e-3]
    train("parts", 1)
    parts = train("parts", 2)
    assert training_log(parts) == log
    whole, resumed = torch.load(out / "2epoch.pth"), torch.load(parts / "2epoch.pth")
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


@pytest.mark.parametrize("decay", ["0", "-0.5", "1.01", "nan"])
def test_impossible_decay_is_refused(decay, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=f"--upstream_lr_decay {float(decay)}, exp"):
        check(mos_corpus, tmp_path, "--upstream_lr_decay", decay)


def test_decay_of_no_rate_is_refused(mos_corpus, tmp_path):
    model, args = build(mos_corpus, tmp_path, upstream_lr_decay=0.9, optim_conf={})
    with pytest.raises(ValueError, match="no learning rate, expected --upstream_lr or"):
        MOSTask.build_optimizers(args, model)


# --- freezing -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "freeze,frozen,free",
    [
        ("cnn", ["feature_extractor"], ["feature_projection", "encoder.layers.0"]),
        (1, ["feature_extractor", "encoder.layers.0"], ["encoder.layers.1"]),
        ("all", ["feature_extractor", "encoder.layers.1"], []),
    ],
)
@pytest.mark.parametrize("upstream_lr", [None, 1e-2])
def test_frozen_parts_stay(freeze, frozen, free, upstream_lr, mos_corpus, tmp_path):
    conf = dict(mos_corpus.frontend_conf, freeze=freeze)
    conf["upstream_config"] = dict(conf["upstream_config"], hidden_dropout=0.5)
    changes = dict(
        frontend_conf=conf,
        upstream_lr=upstream_lr,
        optim_conf={"lr": 0.01, "weight_decay": 0.5},
    )
    options = ["--check_token_upstream", "false"]
    model, _ = build(mos_corpus, tmp_path, *options, **changes)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    for name in frozen:
        module = model.frontend.model.get_submodule(name)
        assert not any(m.training for m in module.modules())
        assert not any(p.requires_grad for p in module.parameters())
    for name in free:
        module = model.frontend.model.get_submodule(name)
        assert all(m.training for m in module.modules())
    out = mos_corpus.train(tmp_path / "exp", *options, **changes)
    end = torch.load(out / "1epoch.pth")
    moved = {k for k in end if not torch.equal(end[k], start[k])}
    for name in frozen:
        assert not any(k.startswith(f"frontend.model.{name}.") for k in moved)
    for name in free:
        assert any(k.startswith(f"frontend.model.{name}.") for k in moved), name
    assert any(k.startswith("head.") for k in moved)


@pytest.mark.parametrize(
    "options",
    [
        ["--frontend_conf", "freeze={layers: 1}"],
        ["--frontend_conf", "freeze.layers=1"],
        ["--frontend_conf", "{freeze: {layers: 1}}"],
        ["--frontend_conf", "freeze=1"],
    ],
)
@pytest.mark.parametrize("config", [{"layers": 2}, "cnn"])
def test_first_layers_on_the_command_line(options, config, mos_corpus, tmp_path):
    """What the command line says replaces what the file says."""
    conf = dict(mos_corpus.frontend_conf, freeze=config)
    model, args = build(mos_corpus, tmp_path, *options, frontend_conf=conf)
    assert args.frontend_conf["freeze"] == 1
    layers = model.frontend.model.encoder.layers
    frozen = [not any(p.requires_grad for p in layer.parameters()) for layer in layers]
    assert frozen == [True, False]
    # The token tools read the same.
    train_args = shlex.join(options)
    conf = read_frontend_conf(str(tmp_path / "exp.yaml"), train_args).conf
    assert build_frontend("hf", conf).freeze == 1


def test_first_layers_in_the_file(mos_corpus, tmp_path):
    conf = dict(mos_corpus.frontend_conf, freeze={"layers": 1})
    _, args = build(mos_corpus, tmp_path, frontend_conf=conf)
    assert args.frontend_conf["freeze"] == 1


# --- adapting -------------------------------------------------------------------------


@pytest.mark.parametrize("model_type", ["hubert", "wavlm"])
def test_training_with_adapters(model_type, mos_corpus, tmp_path):
    """With the tokens of the plain upstream, and all that saves memory."""
    pytest.importorskip("peft")
    upstream = dict(mos_corpus.frontend_conf["upstream_config"], model_type=model_type)
    plain = build_frontend("hf", {"upstream_config": upstream})
    info = dict(mos_corpus.token_info, upstream_fingerprint=plain.fingerprint())
    (tmp_path / "tokens.json").write_text(json.dumps(info))
    options = ["--token_info", tmp_path / "tokens.json"]
    options += ["--frontend_conf", "lora={rank: 2}"]
    options += ["--frontend_conf", "gradient_checkpointing=true"]
    changes = dict(frontend_conf={"upstream_config": upstream}, optim_conf={"lr": 0.01})
    changes.update(upstream_lr_decay=0.9, optim="adamw")
    model, args = build(mos_corpus, tmp_path, *options, **changes)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    (optimizer,) = MOSTask.build_optimizers(args, model)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.009, 0.01, 0.01])
    assert [len(group["params"]) for group in optimizer.param_groups][:2] == [8, 8]

    out = mos_corpus.train(tmp_path / "exp", *options, **changes)
    model, config = load_model(out / "config.yaml", out / "1epoch.pth")
    end = model.state_dict()
    assert list(end) == list(start)
    moved = {k for k in end if not torch.equal(end[k], start[k])}
    adapters = {k for k in end if ".lora_" in k}
    assert len(adapters) == 16
    assert {k for k in moved if k.startswith("frontend.")} == adapters
    assert any(k.startswith("head.") for k in moved)
    conf = config["frontend_conf"]
    assert conf["lora"]["rank"] == 2 and conf["gradient_checkpointing"] is True
    # Rebuilt as trained: the adapters do something.
    speech, lengths = torch.randn(1, 8000), torch.tensor([8000])
    with torch.no_grad():
        found, _ = model.frontend(speech, lengths)
        expected, _ = plain.eval()(speech, lengths)
    assert torch.equal(found[0], expected[0])
    assert (found[-1] - expected[-1]).abs().max() > 1e-3


# --- token loss on and off ------------------------------------------------------------


def test_token_loss_off_changes_only_that(mos_corpus, tmp_path, monkeypatch):
    seen = []
    collate = MOSCollateFn.__call__

    def record(self, data):
        result = collate(self, data)
        seen[-1].append((result[0], result[1]["speech"]))
        return result

    monkeypatch.setattr(MOSCollateFn, "__call__", record)
    finals = []
    for options in ([], ["--losses", "token_ce.weight=0"]):
        seen.append([])
        # a rate of zero leaves the weights at their start
        out = mos_corpus.train(
            tmp_path / str(len(finals)),
            *options,
            optim_conf={"lr": 0.0},
            crop_seconds=0.15,
            max_epoch=2,
        )
        finals.append(torch.load(out / "2epoch.pth"))
    assert len(seen[0]) == len(seen[1]) == 2 * (4 + 1)
    for (ids_on, speech_on), (ids_off, speech_off) in zip(*seen):
        assert ids_on == ids_off and torch.equal(speech_on, speech_off)
    assert list(finals[0]) == list(finals[1])
    for key, value in finals[0].items():
        # statistics of batch norm move without a rate, and equally
        assert torch.equal(value, finals[1][key]), key


def test_weight_zero_equals_no_token_loss(mos_corpus, training_log, tmp_path):
    off = mos_corpus.train(tmp_path / "off", "--losses", "token_ce.weight=0")
    none = mos_corpus.train(tmp_path / "none", losses={"mos_l1": {"weight": 1.0}})
    on = mos_corpus.train(tmp_path / "on")
    logs = [training_log(out)[1] for out in (off, none, on)]
    assert logs[0] == logs[1]
    assert logs[0]["train"]["mos_l1"] != logs[2]["train"]["mos_l1"]
    assert not any("token" in key for key in logs[0]["valid"])
    assert {"token_ce", "token_acc_hubert_l01", "token_acc_hubert_l02"} <= set(
        logs[2]["valid"]
    )


def test_training_without_any_tokens(mos_corpus, training_log, tmp_path):
    losses = {"mos_l1": {"weight": 1.0}, "contrastive": {"weight": 0.5}}
    out = mos_corpus.train(tmp_path / "exp", tokens=False, losses=losses)
    stats = training_log(out)[1]["train"]
    assert stats["loss"] == pytest.approx(
        stats["mos_l1"] + 0.5 * stats["contrastive"], rel=1e-5
    )
    assert {"mix_l01", "mix_l02"} <= set(stats)


# --- config.yaml ----------------------------------------------------------------------


def test_config_is_self_contained(mos_corpus, tmp_path, monkeypatch):
    """The upstream and the tokens may be gone, and the model moved."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    upstream = tmp_path / "upstream"
    source = build_frontend("hf", dict(mos_corpus.frontend_conf, init_seed=5))
    source.model.save_pretrained(upstream)
    (upstream / "preprocessor_config.json").write_text(
        json.dumps({"do_normalize": True, "sampling_rate": 16000})
    )
    conf = {"upstream": str(upstream)}
    info = dict(
        mos_corpus.token_info,
        upstream_fingerprint=build_frontend("hf", conf).fingerprint(),
    )
    (tmp_path / "tokens.json").write_text(json.dumps(info))
    options = ["--token_info", tmp_path / "tokens.json"]
    out = mos_corpus.train(tmp_path / "exp", *options, frontend_conf=conf)

    torch.manual_seed(3)
    args = mos_corpus.args(tmp_path / "again", *options, frontend_conf=conf)
    model = MOSTask.build_model(args)
    model.load_state_dict(torch.load(out / "1epoch.pth"))
    speech = torch.from_numpy(
        np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    )
    lengths = torch.tensor([5000, 4000])
    expected = model.eval().inference(speech, lengths).utt_mos

    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("config.yaml", "1epoch.pth"):
        shutil.copy(out / name, moved)
    for path in (upstream, out):
        shutil.rmtree(path)
    (tmp_path / "tokens.json").unlink()
    rebuilt, config = load_model(moved / "config.yaml", moved / "1epoch.pth")
    found = rebuilt.inference(speech, lengths).utt_mos
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    # do_normalize came along: a louder file scores the same
    assert config["frontend_conf"]["normalize_waveform"] is True
    louder = rebuilt.inference(7 * speech, lengths).utt_mos
    torch.testing.assert_close(louder, expected, rtol=0, atol=1e-4)
    assert config["token_info"]["columns"] == info["columns"]
    assert yaml.safe_load(Path(moved / "config.yaml").read_text()) == config


# --- training without labels ----------------------------------------------------------


def unlabelled(mos_corpus, output_dir, *options, **changes):
    """Command line of a masked prediction training on audio and tokens alone."""
    changes = {
        "head": "token",
        "head_conf": {},
        "losses": {"masked_token_ce": {"weight": 1.0}},
        "best_model_criterion": [["valid", "masked_token_acc_hubert_l02", "max"]],
        **changes,
    }
    command = mos_corpus.command(output_dir, *options, utt2sys=False, **changes)
    places = [i for i, part in enumerate(command) if part.endswith(",mos,text")]
    for place in reversed(places):
        del command[place - 1 : place + 1]
    return command


def test_training_without_labels_chooses_by_token_accuracy(
    mos_corpus, tmp_path, training_log
):
    MOSTask.main(cmd=unlabelled(mos_corpus, tmp_path / "exp"))
    stats = training_log(tmp_path / "exp")[1]
    for phase in ("train", "valid"):
        assert 0 < stats[phase]["masked_token_ce"] < 10
        assert 0 <= stats[phase]["masked_token_acc_hubert_l02"] <= 1
    assert not any("srcc" in name for name in stats["valid"])
    best = "valid.masked_token_acc_hubert_l02.best.pth"
    assert (tmp_path / "exp" / best).exists()
    # the pretrained network starts a training on labels
    mos_corpus.train(
        tmp_path / "mos",
        *["--init_model", tmp_path / "exp", "--check_token_upstream", "false"],
        max_epoch=1,
    )
    assert (tmp_path / "mos" / "valid.sys_srcc.best.pth").exists()


def test_labels_that_a_loss_needs_are_missed_at_the_start(mos_corpus, tmp_path):
    args = MOSTask.get_parser().parse_args(
        unlabelled(
            mos_corpus, tmp_path / "exp", losses={"mos_l1": {}}, head="distilmos"
        )
    )
    with pytest.raises(ValueError, match="wav.scp, which mos_l1 needs"):
        MOSTask.check_required_command_args(args)


def test_correlations_are_no_criterion_without_labels(mos_corpus, tmp_path):
    command = unlabelled(mos_corpus, tmp_path / "exp")
    command += ["--best_model_criterion", "valid,utt_srcc,max"]
    args = MOSTask.get_parser().parse_args(command)
    with pytest.raises(ValueError, match="correlations need labels"):
        MOSTask.check_required_command_args(args)


def test_denoising_trains_on_labels_with_a_noisy_second_pass(
    mos_corpus, tmp_path, training_log
):
    losses = {"mos_l1": {}, "masked_token_ce": {"weight": 0.05, "alpha": None}}
    options = dict(losses=losses, noisy_view={"noise_prob": 0.5})
    exp = mos_corpus.train(tmp_path / "exp", **options)
    stats = training_log(exp)[1]["train"]
    assert {"mos_l1", "masked_token_ce"} <= set(stats)
    with pytest.raises(ValueError, match="no loss that hears it"):
        check(mos_corpus, tmp_path, noisy_view={"noise_prob": 0.5})
    with pytest.raises(ValueError, match="noisy_view: .*'noise'"):
        check(mos_corpus, tmp_path, losses=losses, noisy_view={"noise": 0.5})
