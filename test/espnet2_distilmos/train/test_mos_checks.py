# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import re
import shutil

import pytest

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.tasks.mos import MOSTask
from espnet2_distilmos.train.mos_checks import check_tokens, read_token_info

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
        ({**SAMPLING, "sampling_weights": None}, "--sampling_categories"),
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


def test_embeddings_need_data_and_data_embeddings(votes, mos_corpus, tmp_path):
    conf = {"listener_embedding": True}
    assert "votes.scp,votes,text" in refusal(mos_corpus, tmp_path, model_conf=conf)
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
