# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
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
    """The sentence with which the checks refuse."""
    with pytest.raises(ValueError) as error:
        check(mos_corpus, tmp_path, *options, **changes)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- criteria -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion",
    [
        "train,loss,min",
        "valid,mos_l1,min",
        "valid,sys_srcc,max",
        "valid,utt_mse,min",
        "valid,token_acc_hubert_l02,max",
    ],
)
def test_accepted_criteria(criterion, mos_corpus, tmp_path):
    args = check(mos_corpus, tmp_path, "--best_model_criterion", criterion)
    assert args.best_model_criterion == [tuple(criterion.split(","))]


NO_TOKENS = {"losses": {"mos_l1": {"weight": 1}}}
ONE_COLUMN = {"losses": {"token_ce": {"weight": 1, "columns": ["hubert_l01"]}}}


@pytest.mark.parametrize(
    "criterion,changes",
    [
        (["valid", "sys_scrr", "max"], {}),
        (["vald", "sys_srcc", "max"], {}),
        (["train", "sys_srcc", "max"], {}),
        (["valid", "sys_srcc", "maxx"], {}),
        (["valid", "utt_srcc"], {}),
        ("valid,utt_srcc,max", {}),
        (["valid", "mos_mse", "min"], {}),
        (["valid", "token_acc_hubert_l03", "max"], {}),
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


def test_other_criteria_are_checked_when_used(mos_corpus, tmp_path):
    for option, using in (
        ("early_stopping_criterion", {"patience": 3}),
        ("val_scheduler_criterion", {"scheduler": "reducelronplateau"}),
    ):
        bad = {option: ["valid", "nonsense", "max"][: 2 if "val" in option else 3]}
        check(mos_corpus, tmp_path, **bad)
        assert option in refusal(mos_corpus, tmp_path, **bad, **using)


# --- options --------------------------------------------------------------------------


def test_refused_before_anything_is_written(mos_corpus, tmp_path):
    with pytest.raises(ValueError, match="valid,sys_scrr,max"):
        mos_corpus.train(
            tmp_path / "exp", "--best_model_criterion", "valid,sys_scrr,max"
        )
    assert not (tmp_path / "exp").exists()


MASKED = {"mos_l1": {}, "masked_token_ce": {}}


@pytest.mark.parametrize(
    "changes,named",
    [
        ({"losses": {"mos_l3": {}}}, "'mos_l3'"),
        ({"losses": {"mos_l1": {"wait": 1}}}, "losses mos_l1: .*'wait'"),
        ({"losses": {"mos_l1": {"weight": 0}}}, "mos_l1"),
        ({"losses": {"mos_l1": {"weight": "1e0"}}}, "losses.mos_l1.weight"),
        ({"optim_conf": {"lr": "2e-3"}}, "'2e-3' for optim_conf.lr"),
        ({"optim_conf": {"betas": [0.9, "1e-3"]}}, "optim_conf.betas"),
        ({"losses": {"token_ce": {}}, "tokens": False}, "token_ce"),
        ({"use_preprocessor": False}, "use_preprocessor=false"),
        ({"upstream_lr_decay": 0.0}, "upstream_lr_decay 0.0"),
        ({"upstream_lr_decay": float("nan")}, "upstream_lr_decay nan"),
        ({"upstream_lr_decay": 0.9, "optim_conf": {}}, "upstream_lr_decay"),
        ({"upstream_lr": 0.9, "exclude_weight_decay": True}, "exclude_weight_decay"),
        ({"votes_per_utterance": 0}, "votes_per_utterance 0"),
        ({"noisy_view": {"noise_prob": 0.5}}, "--noisy_view"),
        ({"noisy_view": {"noise": 0.5}, "losses": MASKED}, "noisy_view: .*'noise'"),
        ({"noisy_view": {"noise_prob": 2}, "losses": MASKED}, "found noisy_view"),
    ],
)
def test_refused_options(changes, named, mos_corpus, tmp_path):
    with pytest.raises(ValueError, match=named):
        check(mos_corpus, tmp_path, **changes)


@pytest.mark.parametrize(
    "options",
    [
        ["--init_model", "{exp}", "--init_param", "a.pth"],
        ["--init_model", "{exp}/nowhere"],
        ["--init_model", "{exp}"],
        ["--init_model", "{exp}/1epoch.pth"],
    ],
)
def test_refused_init_models(options, mos_corpus, tmp_path):
    """Two sources; none; and the experiment that the training would overwrite."""
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "1epoch.pth").touch()
    options = [option.format(exp=tmp_path / "exp") for option in options]
    assert options[1] in refusal(mos_corpus, tmp_path, *options)


# --- sampling -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"sampling_weights": None}, "--sampling_categories"),
        ({"sampling_categories": None}, "--sampling_categories None"),
        ({"sampling_weights": {"few": 1}}, "train01 is of many"),
        ({"sampling_weights": {"few": -1}}, "'few': -1"),
        ({"sampling_epoch": "any"}, "--sampling_epoch any"),
        ({"iterator_type": "chunk"}, "iterator_type chunk"),
        ({"shuffle_within_batch": True}, "shuffle_within_batch True"),
        ({"batch_type": "numel", "num_iters_per_epoch": 2}, "num_iters_per_epoch 2"),
    ],
)
def test_refused_sampling(changes, named, mos_corpus, tmp_path):
    path = tmp_path / "utt2set"
    lines = [f"train{k:02d} {'many' if k % 4 else 'few'}\n" for k in range(24)]
    path.write_text("".join(lines))
    good = dict(sampling_weights={"few": 1, "many": 1}, sampling_categories=str(path))
    check(mos_corpus, tmp_path, **good)
    assert named in refusal(mos_corpus, tmp_path, **{**good, **changes})
    # mos.sh gives the weights to the training alone, --train_args to both
    check(mos_corpus, tmp_path, "--collect_stats", "true", **{**good, **changes})


# --- data files -----------------------------------------------------------------------


def without_first(text):
    return text.split("\n", 1)[1]


def unlabelled(text):
    return "".join(f"{line.split()[0]} {{}}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    "file,change,named",
    [
        ("metric.scp", without_first, "valid00"),
        ("metric.scp", lambda text: text + text.split("\n")[0] + "\n", "valid00"),
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
    for which in ("train", "valid"):
        name = f"{which}_data_path_and_name_and_type"
        data = [entry for entry in getattr(args, name) if entry[1] != "mos"]
        setattr(args, name, data)
    with pytest.raises(DataError, match="wav.scp, which mos_l1 needs"):
        MOSTask.check_required_command_args(args)
    args.losses = {"token_ce": {}}
    with pytest.raises(ValueError, match="utt_ and sys_ labels"):
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


def test_names_are_those_of_the_data_or_of_a_list(votes, mos_corpus, tmp_path):
    options = [*votes["listener"], *votes["corpus"]]
    args = check(mos_corpus, tmp_path, *options, model_conf=BOTH)
    assert args.listener_list == ["harsh", "lenient"] and args.corpus_list == ["a", "b"]
    names = tmp_path / "names"
    names.write_text("lenient\nsomebody else\n")
    options += ["--listener_list", names]
    args = check(mos_corpus, tmp_path, *options, model_conf=BOTH)
    assert args.listener_list == ["lenient", "somebody else"]
    names.write_text("nobody\n")
    sentence = refusal(mos_corpus, tmp_path, *options, model_conf=BOTH)
    assert "no listener of --listener_list" in sentence and "votes.scp" in sentence
    # shapes need no votes
    check(mos_corpus, tmp_path, "--collect_stats", "true", model_conf=BOTH)


@pytest.mark.parametrize(
    "given, conf, named",
    [
        ("", {"listener_embedding": True}, "votes.scp,votes,text"),
        ("", {"corpus_embedding": True}, "utt2domain,corpus,text"),
        ("listener", {}, "listener_embedding=false"),
        ("corpus", {}, "corpus_embedding=false"),
    ],
)
def test_embeddings_need_data_and_data_embeddings(
    given, conf, named, votes, mos_corpus, tmp_path
):
    options = votes.get(given, [])
    assert named in refusal(mos_corpus, tmp_path, *options, model_conf=conf)


@pytest.mark.parametrize(
    "kind, change, utterance",
    [
        ("listener", ("train05 ", "train5 "), "train05"),
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
    for content in (None, "{", "[]"):
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match="tokens.json .*stage 5"):
            read_token_info(str(path))


def test_tokens_of_another_upstream_or_grid(mos_corpus, tmp_path):
    frontend = build_frontend("hf", mos_corpus.frontend_conf)
    other = build_frontend("hf", {**mos_corpus.frontend_conf, "init_seed": 1})

    def refused(network=frontend, source=None, check_upstream=True, **changes):
        args = mos_corpus.args(tmp_path / "exp")
        args.token_info = {**mos_corpus.token_info, **changes}
        args.token_source, args.check_token_upstream = source, check_upstream
        try:
            check_tokens(args, network)
        except ValueError as error:
            return str(error)

    assert refused() is None
    assert "another upstream" in refused(other)
    assert refused(other, check_upstream=False) is None
    assert "every 160 samples, expected 320" in refused(frame_shift=160)
    # The frontend itself is a source like any other.
    assert refused(source="hubert") is None
    # In the middle of 400 samples; the network's frames see 165.
    mfcc = dict(
        columns=[{"stream": "mfcc", "layer": 0, "K": 5}] * 2,
        upstream_fingerprint="f00d",
        minimum_samples=400,
    )
    assert "--token_source" in refused(**mfcc)
    for source in ("hubert", "mfc", "f00"):
        assert f"--token_source {source}" in refused(source=source, **mfcc)
    for source in ("mfcc", "f00d"):
        assert refused(source=source, **mfcc) is None
    for moved in ({"minimum_samples": 930}, {"frame_centre": 464.5}):
        assert "lie 382.5 samples" in refused(source="mfcc", **{**mfcc, **moved})
    assert "every 160 samples" in refused(source="mfcc", **mfcc, frame_shift=160)
