# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.tasks.mos import MOSTask
from espnet2_distilmos.train.mos_checks import (
    check_tokens,
    corpora_of,
    read_token_info,
)

BOTH = {"listener_embedding": True, "corpus_embedding": True}
DATA = "--train_data_path_and_name_and_type"


def check(mos_corpus, tmp_path, *options, **changes):
    """Run the checks that precede training."""
    args = mos_corpus.args(tmp_path / "exp", *map(str, options), **changes)
    MOSTask.check_required_command_args(args)
    return args


def refusal(mos_corpus, tmp_path, *options, **changes):
    """The sentence with which the checks refuse, before anything is written."""
    with pytest.raises(ValueError) as error:
        mos_corpus.train(tmp_path / "exp", *options, **changes)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "exp").exists()
    return str(error.value)


# --- criteria -------------------------------------------------------------------------

NO_TOKENS = {"losses": {"mos_l1": {"weight": 1}}}
ONE_COLUMN = {"losses": {"token_ce": {"weight": 1, "columns": ["hubert_l01"]}}}


@pytest.mark.parametrize(
    "criterion,changes",
    [
        (["valid", "sys_scrr", "max"], {}),
        (["vald", "sys_srcc", "max"], {}),
        (["train", "sys_srcc", "max"], {}),
        (["valid", "sys_srcc", "maxx"], {}),
        ("valid,utt_srcc,max", {}),
        (["valid", "mos_mse", "min"], {}),
        (["valid", "sys_srcc", "max"], {"utt2sys": False}),
        (["valid", "token_acc_hubert_l02", "max"], NO_TOKENS),
        (["valid", "token_acc_hubert_l02", "max"], ONE_COLUMN),
    ],
)
def test_refused_criteria(criterion, changes, mos_corpus, tmp_path):
    changes = {**changes, "best_model_criterion": [criterion]}
    found = criterion if isinstance(criterion, str) else ",".join(criterion)
    sentence = refusal(mos_corpus, tmp_path, **changes)
    assert f"--best_model_criterion {found}, expected" in sentence


def test_accepted_criteria(mos_corpus, tmp_path):
    keys = ["train,loss,min", "valid,mos_l1,min", "valid,utt_mse,min"]
    keys.append("valid,token_acc_hubert_l02,max")
    criteria = [key.split(",") for key in keys]
    check(mos_corpus, tmp_path, best_model_criterion=criteria)
    bad = {"early_stopping_criterion": ["valid", "nonsense", "max"]}
    check(mos_corpus, tmp_path, **bad)  # not used without --patience
    assert "early" in refusal(mos_corpus, tmp_path, **bad, patience=3)


def test_scores_that_only_rank_have_no_error(mos_corpus, tmp_path):
    ranks = {"bradley_terry": {}, "mos_l1": {"weight": 0}}
    mse = ["valid", "utt_mse", "min"]
    changes = {"losses": ranks, "best_model_criterion": [mse]}
    sentence = refusal(mos_corpus, tmp_path, **changes)
    assert "valid,utt_mse,min" in sentence and "valid,utt_srcc,max" in sentence
    assert "bradley_terry" in sentence and "on no scale" in sentence
    changes = {"early_stopping_criterion": mse, "patience": 3}
    assert "early" in refusal(mos_corpus, tmp_path, losses=ranks, **changes)
    values = {"bradley_terry": {}, "mos_l1": {"weight": 0.1}}
    check(mos_corpus, tmp_path, losses=values, **changes)


# --- options --------------------------------------------------------------------------


SAMPLING = {"sampling_weights": {"few": 1}, "sampling_categories": "utt2set"}


@pytest.mark.parametrize(
    "changes,named",
    [
        ({"losses": {"mos_l3": {}}}, "'mos_l3'"),
        ({"losses": {"mos_l1": {"wait": 1}}}, "losses mos_l1: .*'wait'"),
        ({"losses": {"mos_l1": {"weight": 0}}}, "mos_l1"),
        ({"optim_conf": {"betas": [0.9, "1e-3"]}}, "'1e-3' for optim_conf.betas"),
        ({"losses": {"token_ce": {}}, "tokens": False}, "token_ce"),
        ({"use_preprocessor": False}, "use_preprocessor=false"),
        ({"upstream_lr_decay": 0.0}, "upstream_lr_decay 0.0"),
        ({"upstream_lr_decay": 0.9, "optim_conf": {}}, "upstream_lr_decay"),
        ({"upstream_lr": 0.9, "exclude_weight_decay": True}, "exclude_weight_decay"),
        ({"noisy_view": {"noise_prob": 0.5}}, "--noisy_view"),
        (
            {"noisy_view": {"teacher": "own"}, "losses": {"masked_ema": {}}},
            "noisy_view.teacher=own and no loss",
        ),
        ({**SAMPLING, "sampling_weights": None}, "--sampling_categories"),
        ({"sampling_batches": "single"}, "sampling_batches single .* None"),
        ({**SAMPLING, "sampling_batches": "one"}, "sampling_batches one"),
        ({**SAMPLING, "iterator_type": "chunk"}, "iterator_type chunk"),
        ({**SAMPLING, "shuffle_within_batch": True}, "shuffle_within_batch True"),
        (
            {**SAMPLING, "batch_type": "numel", "num_iters_per_epoch": 2},
            "num_iters_per_epoch 2",
        ),
    ],
)
def test_refused_options(changes, named, mos_corpus, tmp_path):
    assert re.search(named, refusal(mos_corpus, tmp_path, **changes))


def test_an_experiment_is_not_overwritten_by_what_starts_from_it(mos_corpus, tmp_path):
    for model in ("exp", "exp/1epoch.pth"):
        options = ["--init_model", tmp_path / model]
        assert "would overwrite" in refusal(mos_corpus, tmp_path, *options)


# --- data files -----------------------------------------------------------------------


def without_first(text):
    return text.split("\n", 1)[1]


def unlabelled(text):
    return "".join(f"{line.split()[0]} {{}}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "file,change,named",
    [
        ("metric.scp", without_first, "valid00"),
        ("metric.scp", lambda text: f"\ufeff{text}", "a byte order mark"),
        ("wav.scp", lambda text: f"\ufeff{text}", "a byte order mark"),
        ("metric.scp", lambda text: text.replace('"mos": 1.0', '"mos": 0'), "valid00"),
        ("metric.scp", unlabelled, "no labelled utterance"),
        ("utt2sys", without_first, "valid00"),
    ],
)
def test_bad_data_files_are_refused_at_the_start(
    file, change, named, mos_corpus, tmp_path
):
    folder = tmp_path / "changed"
    shutil.copytree(mos_corpus.root / "valid", folder)
    (folder / file).write_text(change((folder / file).read_text()))
    command = mos_corpus.command(tmp_path / "exp")
    command = [c.replace(str(mos_corpus.root / "valid"), str(folder)) for c in command]
    args = MOSTask.get_parser().parse_args(command)
    with pytest.raises(DataError, match=named) as error:
        MOSTask.check_required_command_args(args)
    assert str(folder / file) in str(error.value) and "\n" not in str(error.value)
    if file == "utt2sys":  # which an unlabelled utterance needs not be in
        path = folder / "metric.scp"
        path.write_text(path.read_text().replace('{"mos": 1.0}', "{}"))
        MOSTask.check_required_command_args(args)


def test_labels_that_a_loss_needs_are_missed(mos_corpus, tmp_path):
    args = mos_corpus.args(tmp_path / "exp")
    data = args.train_data_path_and_name_and_type
    data[:] = [entry for entry in data if entry[1] != "mos"]
    with pytest.raises(DataError, match="wav.scp, which mos_l1 needs"):
        MOSTask.check_required_command_args(args)


RANKS = {"bradley_terry": {}, "triplet": {}}


def test_a_training_set_without_labels(mos_corpus, tmp_path):
    args = mos_corpus.args(tmp_path / "exp")
    metric = tmp_path / "metric.scp"
    lines = [f"train{k:02d} {{}}\n" for k in range(24)]
    metric.write_text("".join(lines))
    data = args.train_data_path_and_name_and_type
    data[:] = [(str(metric), *e[1:]) if e[1] == "mos" else e for e in data]
    for losses in (args.losses, RANKS):
        args.losses = losses
        with pytest.raises(DataError, match="no labelled training utterance") as error:
            MOSTask.check_required_command_args(args)
        assert str(metric) in str(error.value) and "\n" not in str(error.value)
    # one will do, tokens need none, and a job that collects shapes may have few
    metric.write_text("".join([*lines[1:], 'train00 {"mos": 3}\n']))
    args.losses = {"mos_l1": {}}
    MOSTask.check_required_command_args(args)
    metric.write_text("".join(lines))
    args.losses = {"token_ce": {}}
    MOSTask.check_required_command_args(args)
    args.losses, args.collect_stats = {"mos_l1": {}}, True
    MOSTask.check_required_command_args(args)


def test_a_batch_without_pairs(mos_corpus, tmp_path):
    for losses, size in ((("bradley_terry",), 1), (("prs", "token_ce"), 1)):
        losses = {"losses": {name: {} for name in losses}}
        sentence = refusal(mos_corpus, tmp_path, **losses, batch_size=size)
        assert f"--batch_size {size}" in sentence and "mos_l1.weight=1" in sentence
        assert f"a --batch_size of {size + 1} or more" in sentence
        check(mos_corpus, tmp_path, **losses, batch_size=size + 1)
    check(mos_corpus, tmp_path, losses={**RANKS, "mos_l1": {}}, batch_size=1)
    # Its validation has no queue, whatever the training has.
    assert "prs" in refusal(mos_corpus, tmp_path, losses={"prs": {}}, batch_size=1)


def test_a_loss_that_trains_no_score_is_not_alone(mos_corpus, tmp_path):
    sentence = refusal(mos_corpus, tmp_path, losses={"triplet": {}}, batch_size=4)
    assert "triplet" in sentence and "mos_l1.weight=1" in sentence
    check(mos_corpus, tmp_path, losses=RANKS, batch_size=4)


def test_labels_that_are_all_equal_rank_nothing(mos_corpus, tmp_path):
    args = mos_corpus.args(tmp_path / "exp", losses=RANKS)
    files = {"mos": tmp_path / "metric.scp", "corpus": tmp_path / "utt2domain"}
    pairs = [(f"train{k:02d}", k % 2) for k in range(24)]
    score = "".join(f'{i} {{"mos": {2 + k}}}\n' for i, k in pairs)
    files["mos"].write_text(score.replace("3}", "2}"))
    files["corpus"].write_text("".join(f"{i} {'ab'[k]}\n" for i, k in pairs))
    data = args.train_data_path_and_name_and_type
    data[:] = [(str(files["mos"]), *e[1:]) if e[1] == "mos" else e for e in data]
    with pytest.raises(DataError, match="no two labels that differ in .*metric.scp"):
        MOSTask.check_required_command_args(args)
    files["mos"].write_text(score)
    MOSTask.check_required_command_args(args)
    data.append((str(files["corpus"]), "corpus", "text"))
    with pytest.raises(DataError, match="differ within a corpus in .*metric.scp"):
        MOSTask.check_required_command_args(args)
    for losses in (
        {"bradley_terry": {"across_corpora": True}},
        {**RANKS, "mos_l1": {}},
    ):
        args.losses = losses
        MOSTask.check_required_command_args(args)


# --- listeners and corpora ------------------------------------------------------------


@pytest.fixture
def votes(tmp_path):
    """Options for votes of a harsh and a lenient listener, and for two corpora."""
    scores = [[["lenient", 4], ["harsh", 2]][: k % 3] for k in range(24)]
    lines = [f"train{k:02d} {json.dumps(votes)}\n" for k, votes in enumerate(scores)]
    (tmp_path / "votes.scp").write_text("".join(lines))
    lines = [f"train{k:02d} {'ab'[k % 2]}\n" for k in range(24)]
    (tmp_path / "utt2domain").write_text("".join(lines))
    return {
        "listener": [DATA, f"{tmp_path}/votes.scp,votes,text"],
        "corpus": [DATA, f"{tmp_path}/utt2domain,corpus,text"],
    }


def test_names_are_those_of_the_data(votes, mos_corpus, tmp_path):
    options = [*votes["listener"], *votes["corpus"]]
    args = check(mos_corpus, tmp_path, *options, model_conf=BOTH)
    assert args.listener_list == ["harsh", "lenient"] and args.corpus_list == ["a", "b"]
    # shapes need no votes
    check(mos_corpus, tmp_path, "--collect_stats", "true", model_conf=BOTH)


def test_losses_on_pairs_read_them_too(votes, mos_corpus, tmp_path):
    pairs = {"losses": {"bradley_terry": {}}}
    options = [*votes["listener"], *votes["corpus"]]
    args = check(mos_corpus, tmp_path, *options, **pairs)
    # names of listeners stay out of config.yaml
    assert args.corpus_list == ["a", "b"] and args.listener_list is None
    # SEs are not for every loss on pairs
    pairs = {"losses": {"contrastive": {}}}
    check(mos_corpus, tmp_path, *votes["corpus"], **pairs)
    sentence = refusal(mos_corpus, tmp_path, *votes["listener"], **pairs)
    assert "listener_embedding=false" in sentence and "bradley_terry" in sentence


def test_a_validation_may_have_corpora_of_its_own(votes, mos_corpus, tmp_path):
    path = tmp_path / "valid_domain"
    lines = [f"valid{k:02d} {'bc'[k % 2]}\n" for k in range(11)]
    path.write_text("".join(lines))
    valid = [DATA.replace("train", "valid"), f"{path},corpus,text"]
    args = check(mos_corpus, tmp_path, *valid)
    assert corpora_of(args) == ["b", "c"]
    conf = {"corpus_embedding": True}
    args = check(mos_corpus, tmp_path, *valid, *votes["corpus"], model_conf=conf)
    # those with an embedding are the first
    assert args.corpus_list == ["a", "b"] and corpora_of(args) == ["a", "b", "c"]
    path.write_text("".join(lines[1:]))
    assert "valid00 its_corpus" in refusal(mos_corpus, tmp_path, *valid)


def test_further_scores_that_are_nowhere(mos_corpus, tmp_path):
    losses = {"losses": {"aux_scores": {"keys": ["distillmos"]}}}
    sentence = refusal(mos_corpus, tmp_path, **losses)
    for part in ("score distillmos in", "metric.scp", "which aux_scores needs", "keys"):
        assert part in sentence


def test_embeddings_need_data_and_data_embeddings(votes, mos_corpus, tmp_path):
    conf = {"listener_embedding": True}
    sentence = refusal(mos_corpus, tmp_path, model_conf=conf)
    assert "votes.scp,votes,text" in sentence and "--use_votes true" in sentence
    assert "None" not in sentence
    sentence = refusal(mos_corpus, tmp_path, *votes["corpus"])
    assert "corpus_embedding=false" in sentence


@pytest.mark.parametrize(
    "kind, change, utterance",
    [
        ("listener", ("train02 [[", "train02 [[3, "), "train02"),
        ("corpus", ("train05 b", ""), "train05"),
    ],
)
def test_bad_votes_are_named(kind, change, utterance, votes, mos_corpus, tmp_path):
    path = tmp_path / ("votes.scp" if kind == "listener" else "utt2domain")
    path.write_text(path.read_text().replace(*change))
    conf = {f"{kind}_embedding": True}
    sentence = refusal(mos_corpus, tmp_path, *votes[kind], model_conf=conf)
    assert str(path) in sentence and utterance in sentence


# --- tokens ---------------------------------------------------------------------------


def test_token_info_file(tmp_path):
    assert read_token_info(None) is None
    assert read_token_info({"columns": []}) == {"columns": []}
    path = tmp_path / "tokens.json"
    for content in ("{", "[]"):
        path.write_text(content)
        with pytest.raises(DataError, match="tokens.json .*stage 5"):
            read_token_info(str(path))


def test_tokens_of_another_upstream_or_grid(mos_corpus, tmp_path):
    frontend = build_frontend("hf", mos_corpus.frontend_conf)
    other = build_frontend("hf", {**mos_corpus.frontend_conf, "init_seed": 1})

    def refused(network=frontend, source=None, **changes):
        args = mos_corpus.args(tmp_path / "exp")
        args.token_info = {**mos_corpus.token_info, **changes}
        args.token_source = source
        try:
            check_tokens(args, network)
        except ValueError as error:
            return str(error)

    assert refused() is None
    assert "another upstream" in refused(other)
    assert refused(other, source="hubert") is None
    assert "every 160 samples" in refused(frame_shift=160)
    # In the middle of 400 samples; the network's frames see 165.
    mfcc = dict(
        columns=[{"stream": "mfcc", "layer": 0, "K": 5}] * 2,
        upstream_fingerprint="f00d",
        minimum_samples=400,
    )
    for source in (None, "hubert", "f00"):
        assert "--token_source" in refused(source=source, **mfcc)
    for source in ("mfcc", "f00d"):
        assert refused(source=source, **mfcc) is None
    for moved in ({"minimum_samples": 930}, {"frame_centre": 464.5}):
        assert "first at 464.5" in refused(source="mfcc", **{**mfcc, **moved})


def test_a_student_learns_the_tokens_of_another_upstream(mos_corpus, tmp_path):
    """Where it is said so, and the frames are a frame of its own apart."""
    student = build_frontend("spec_cnn", {"num_layers": 1})

    def refused(source, **changes):
        args = mos_corpus.args(tmp_path / "exp")
        args.token_info = {**mos_corpus.token_info, **changes}
        args.token_source = source
        try:
            check_tokens(args, student)
        except ValueError as error:
            return str(error)

    assert "another upstream" in refused(None)
    assert refused("hubert") is None
    # Centres of wav2vec 2.0 (400 samples) and Whisper, the middle of a window here.
    assert refused("hubert", minimum_samples=400) is None
    assert refused("hubert", frame_centre=0.0) is None
    assert "first at 464.5" in refused("hubert", minimum_samples=930)
    assert "every 640 samples" in refused("hubert", frame_shift=640)
    assert refused(None, upstream_fingerprint=student.fingerprint()) is None


def test_every_stream_must_be_meant(mos_corpus, tmp_path):
    """By its name, its fingerprint or the upstream itself; none may be missing."""
    frontend = build_frontend("hf", mos_corpus.frontend_conf)
    other = build_frontend("hf", {**mos_corpus.frontend_conf, "init_seed": 1})
    path = tmp_path / "other"
    other.model.save_pretrained(path)
    other = build_frontend("hf", {"upstream": str(path)})
    own, second = frontend.fingerprint(), other.fingerprint()

    def refused(source, prints=(own, second), **changes):
        args = mos_corpus.args(tmp_path / "exp")
        names = ["hubert", "hubert-2"]
        columns = [
            {"stream": name, "layer": 1, "K": 5, "upstream_fingerprint": fingerprint}
            for name, fingerprint in zip(names, prints)
        ]
        whole = {"columns": columns, "upstream_fingerprint": "+".join(prints)}
        args.token_info = {**mos_corpus.token_info, **whole, **changes}
        args.token_source = source
        try:
            check_tokens(args, frontend)
        except ValueError as error:
            return str(error)

    joint = [{"stream": "hubert+hubert-2", "layer": 1, "K": 5}]
    joint = {"columns": joint, "upstream_fingerprint": f"average:{own}+{second}"}
    for source in (f"{own},{path}", f"{own}+{second}", f"{second},hubert"):
        assert refused(source) is None
    named = f"average:{path},{own}", "average:hubert+hubert-2"
    for source in (*named, "hubert+hubert-2", f"average:{own}+{second}"):
        assert refused(source, **joint) is None
    # as average they have other codebooks than as concat, or side by side
    for source in (f"{path},{own}", f"concat:{path},{own}"):
        assert "in another way (hubert+hubert-2 average:" in refused(source, **joint)
    assert "in another way (hubert " in refused(f"average:{own},{path}")
    # a stream that is not meant, one that is missing, another upstream
    for source in (None, "hubert", own, str(path)):
        assert "made by another upstream or in another way" in refused(source)
        assert "(hubert+hubert-2 average:" in refused(source, **joint)
    assert ", nothing of f00d, expected" in refused(f"hubert,hubert-2,{path},f00d")
    assert "made by another" in refused(f"{own},{path}", prints=(own, "f00d"))
    assert "made by another" in refused(f"{own},{path}", prints=(own,))
    assert refused(None, prints=(own,)) is None


# --- a training that is gone on with --------------------------------------------------


@pytest.fixture(scope="module")
def trained(mos_corpus, tmp_path_factory):
    """A trained model, and a corpus of its own, whose files may be changed."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(mos_corpus.root, root / "corpus")
    exp = root / "exp"
    command = mos_corpus.command(exp)
    command = [c.replace(str(mos_corpus.root), str(root / "corpus")) for c in command]
    MOSTask.main(cmd=command)
    return exp


@pytest.fixture
def again(trained, mos_corpus, tmp_path):
    """Go on with a copy of the trained model's training; ``exp`` is the copy."""
    shutil.copytree(trained.parent, tmp_path / "copy", symlinks=True)

    def again(*options, **changes):
        options = ["--resume", "true", *options]
        command = mos_corpus.command(again.exp, *options, **changes)
        command = [c.replace(str(mos_corpus.root), again.corpus) for c in command]
        MOSTask.main(cmd=command)

    again.exp, again.corpus = tmp_path / "copy" / "exp", f"{tmp_path}/copy/corpus"
    return again


def digests(folder):
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


TOKENS_OFF = {"losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0}}}


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"head_conf": {"hidden_dim": 8}}, "head_conf.hidden_dim 16 (now 8)"),
        # equal shapes: every tensor of the checkpoint fits
        (
            {"head_conf": {"hidden_dim": 16, "layer_mix": "softmax"}},
            "head_conf.layer_mix 'entmax15' (now 'softmax')",
        ),
        ({"losses": {"mos_l1": {}}}, "losses.token_ce {'weight': 0.1} (now nothing)"),
        (TOKENS_OFF, "losses.token_ce.weight 0.1 (now 0)"),
        ({"seed": 4, "batch_size": 5}, "seed 3 (now 4), batch_size 6 (now 5)"),
        ({"optim_conf": {"lr": 1e-2}}, "optim_conf.lr 0.001 (now 0.01)"),
        ({"optim_conf": {"lr": 1e-3, "eps": 0.1}}, "optim_conf.eps 1e-08 (now 0.1)"),
        ({"scheduler": "warmuplinear"}, "scheduler None (now 'warmuplinear')"),
        ({"upstream_lr": 1e-5}, "upstream_lr None (now 1e-05)"),
        ({"noisy_view": {}, "losses": {"mos_l1": {}, "masked_ema": {}}}, "noisy_view"),
        ({"tokens": False, **TOKENS_OFF}, "token_info"),
        ({"crop_seconds": 0.2}, "crop_seconds None (now 0.2)"),
        ({"best_model_criterion": [["valid", "loss", "min"]]}, "best_model_criterion"),
        ("metric.scp", "data_digests.train/mos"),
        ("speech_shape", "data_digests.train/speech_shape"),
    ],
)
def test_another_training_is_refused_before_anything_is_written(changes, named, again):
    if isinstance(changes, str):
        path = Path(again.corpus) / "train" / changes
        path.write_text(path.read_text().replace("2.", "3."))
        if changes == "speech_shape":
            path.write_text(path.read_text().split("\n", 1)[1])
        changes = {}
    before = digests(again.exp)
    with pytest.raises(DataError) as error:
        again(**changes)
    assert named in str(error.value) and "\n" not in str(error.value)
    assert f"or remove {again.exp} to train anew" in str(error.value)
    assert digests(again.exp) == before
    # Nor is it written over where nothing is resumed.
    with pytest.raises(DataError):
        again("--resume", "false", **changes)
    assert digests(again.exp) == before


def test_the_same_training_goes_on_longer_and_elsewhere(again, tmp_path):
    options = "--max_epoch 2 --patience 3 --keep_nbest_models 5 --num_workers 1 "
    options += "--log_interval 1 --valid_batch_size 2 --num_att_plot 0"
    shutil.move(again.corpus, tmp_path / "moved")
    again.corpus = f"{tmp_path}/moved"
    again(*options.split())
    assert (again.exp / "2epoch.pth").exists()
    config = yaml.safe_load((again.exp / "config.yaml").read_text())
    assert config["max_epoch"] == 2 and config["head_conf"] == {"hidden_dim": 16}


def test_options_stated_as_their_defaults_are_the_same(again):
    conf = {"hidden_dim": 16, "layer_mix": "entmax15"}
    optim_conf = {"lr": 1e-3, "eps": 1e-8}
    model_conf = {"extract_feats_in_collect_stats": False, "mask": {}}
    again(head_conf=conf, optim_conf=optim_conf, model_conf=model_conf)


def test_a_config_yaml_that_a_kill_cut_off_is_written_anew(again):
    again()
    path = again.exp / "config.yaml"
    text = path.read_text()
    for length in (0, len(text) // 3, text.index("seed: 3") + 6, len(text) - 3):
        path.write_text(text[:length])
        again()
        assert path.read_text() == text
    for length in (len(text) // 2, len(text) - 3):
        path.write_text(text[:length])
        with pytest.raises(DataError, match="seed 3 .now 5"):
            again(seed=5)
    path.write_text("a: [" + text)
    with pytest.raises(DataError, match="config.yaml cannot be read"):
        again()


def test_a_dry_run_and_statistics_leave_the_model_alone(again, mos_corpus, tmp_path):
    before = digests(again.exp)
    again("--dry_run", "true", head_conf={})
    with pytest.raises(ValueError, match="where --collect_stats writes"):
        again("--collect_stats", "true")
    assert digests(again.exp) == before
    mos_corpus.train(tmp_path / "new", "--dry_run", "true")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["config.yaml"]
