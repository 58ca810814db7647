# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Dry runs of every recipe's configurations: no network, no weights, seconds."""

import copy
import json
import socket
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.abs_task import scheduler_classes

from espnet2_distilmos.bin.mos_inference import get_parser as get_inference_parser
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.tasks.mos import MOSTask

from .conftest import load_script

read_runs = load_script("TEMPLATE/mos1/pyscripts/utils/mos_ablation.py").read_runs
ROOT = Path(__file__).resolve().parents[2]
MINI_MOS = ROOT / "egs2" / "mini_mos" / "mos1" / "conf"


def recipes(pattern):
    """Configurations of all recipes and of the TEMPLATE, by their place in egs2."""
    paths = sorted((ROOT / "egs2").glob(f"*/mos1/conf/**/{pattern}"))
    return {
        str(path.relative_to(ROOT / "egs2")): path
        for path in paths
        if not path.is_symlink()
    }


TRAIN, DECODE = recipes("train*.yaml"), recipes("decode*.yaml")
ADAPT = recipes("adapt*.yaml")

# Networks of each family with its true number of layers, otherwise tiny.
WAVEFORM = {
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 8],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_hidden_layers": 12,
}
LARGE = {**WAVEFORM, "num_hidden_layers": 24, "feat_extract_norm": "layer"}
LARGE["do_stable_layer_norm"] = True
BERT = {"hidden_size": 16, "num_hidden_layers": 24, "num_attention_heads": 2}
BERT.update(intermediate_size=16, conv_depthwise_kernel_size=7)
WHISPER = {"d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
WHISPER["encoder_layers"] = 4
FAIRSEQ = {
    "conv_feature_layers": "[(8, 10, 5), (8, 8, 8), (8, 8, 8)]",
    "encoder_layers": 12,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    "extractor_mode": "default",
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "normalize": False,
}
S3PRL = {"family": "wavlm", "model_cfg": FAIRSEQ}

# By family of the mini recipe: frontend, upstream, model_type, what stands in for it.
FAMILIES = {
    "wav2vec2": ("hf", "facebook/wav2vec2-base", "wav2vec2", WAVEFORM),
    "xls_r": ("hf", "facebook/wav2vec2-xls-r-300m", "wav2vec2", LARGE),
    "mms": ("hf", "facebook/mms-300m", "wav2vec2", LARGE),
    "hubert": ("hf", "facebook/hubert-base-ls960", "hubert", WAVEFORM),
    "mhubert": ("hf", "utter-project/mHuBERT-147", "hubert", WAVEFORM),
    "wavlm": ("hf", "microsoft/wavlm-base", "wavlm", WAVEFORM),
    "wavlm_large": ("hf", "microsoft/wavlm-large", "wavlm", LARGE),
    "data2vec_audio": (
        *("hf", "facebook/data2vec-audio-base", "data2vec-audio"),
        {**WAVEFORM, "num_conv_pos_embeddings": 5},
    ),
    "unispeech_sat": ("hf", "microsoft/unispeech-sat-base", "unispeech-sat", WAVEFORM),
    "wav2vec2_bert": ("hf", "facebook/w2v-bert-2.0", "wav2vec2-bert", BERT),
    "whisper": ("hf", "openai/whisper-tiny", "whisper", WHISPER),
    "s3prl": ("s3prl", "wavlm_base_plus", None, S3PRL),
}
MINI = ("hf", "upstream/hubert_tiny", "hubert", {**WAVEFORM, "num_hidden_layers": 4})
STAND_INS = {
    (frontend, upstream): {"model_type": kind, **config} if kind else config
    for frontend, upstream, kind, config in (*FAMILIES.values(), MINI)
}


def stand_in(where, frontend, conf):
    """frontend_conf that needs neither network nor files; the test fails without."""
    conf = copy.deepcopy(conf)
    upstream = conf.pop("upstream", None)
    if upstream is None:
        return conf
    if (frontend, upstream) not in STAND_INS:
        pytest.fail(
            f"{where}: found the upstream {upstream!r} of frontend {frontend!r}, "
            "expected one that STAND_INS has: add a tiny configuration of its family "
            f"to STAND_INS in {Path(__file__).relative_to(ROOT)}"
        )
    config = copy.deepcopy(STAND_INS[frontend, upstream])
    config.update(conf.pop("upstream_config", None) or {})
    entry = {"upstream": "wavlm_local"} if frontend == "s3prl" else {}
    return {**conf, **entry, "upstream_config": config}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("The network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def parse(path, tmp_path):
    """The arguments that mos_train gets from mos.sh, checked as mos_train does."""
    (tmp_path / "wav.scp").write_text("a a.wav\nb b.wav\n")
    labels = "".join(f"{u} {json.dumps({'mos': s})}\n" for u, s in (("a", 2), ("b", 4)))
    (tmp_path / "metric.scp").write_text(labels)
    (tmp_path / "utt2sys").write_text("a x\nb y\n")
    (tmp_path / "votes.scp").write_text('a [["l1", 1], ["l2", 3]]\nb []\n')
    (tmp_path / "utt2domain").write_text("a bvcc\nb somos\n")
    command = ["--config", path, "--output_dir", tmp_path]
    model_conf = yaml.safe_load(Path(path).read_text()).get("model_conf") or {}
    option = "--train_data_path_and_name_and_type"
    if model_conf.get("listener_embedding"):
        command += [option, f"{tmp_path}/votes.scp,votes,text"]
    if model_conf.get("corpus_embedding"):
        command += [option, f"{tmp_path}/utt2domain,corpus,text"]
    for name in ("train", "valid"):
        option = f"--{name}_data_path_and_name_and_type"
        command += [option, f"{tmp_path}/wav.scp,speech,sound"]
        command += [option, f"{tmp_path}/metric.scp,mos,text"]
        command += [f"--{name}_shape_file", tmp_path / "wav.scp"]
    command += ["--valid_utt2sys", tmp_path / "utt2sys"]
    return MOSTask.get_parser().parse_args([str(part) for part in command])


def tokens_of(args):
    """A tokens.json of the configuration's frontend, five clusters a layer."""
    frontend = build_frontend(args.frontend, args.frontend_conf)
    columns = [
        {"stream": frontend.name, "layer": layer, "K": 5}
        for layer in range(1, frontend.num_layers + 1)
    ]
    return {
        "format_version": 1,
        "columns": columns,
        "frame_shift": frontend.frame_shift,
        "frame_offset": 0,
        "sample_rate": 16000,
        "codebook_fingerprint": "0",
        "upstream_fingerprint": frontend.fingerprint(),
    }


@pytest.mark.parametrize("name", [*TRAIN, *ADAPT])
def test_configuration_trains_a_step(name, tmp_path, no_network):
    args = parse({**TRAIN, **ADAPT}[name], tmp_path)
    network = args.frontend_conf
    args.frontend_conf = stand_in(name, args.frontend, network)
    token_losses = [v for k, v in args.losses.items() if k.endswith("token_ce")]
    with_tokens = any(loss.get("weight", 1.0) > 0 for loss in token_losses)
    args.token_info = tokens_of(args) if with_tokens else None
    MOSTask.check_required_command_args(args)

    model = MOSTask.build_model(args).train()
    (optimizer,) = MOSTask.build_optimizers(args, model)
    scheduler = None
    if args.scheduler is not None:
        scheduler = scheduler_classes[args.scheduler](optimizer, **args.scheduler_conf)
    if args.upstream_lr is not None and len(optimizer.param_groups) > 1:
        *upstream, rest = [group["initial_lr"] for group in optimizer.param_groups]
        assert max(upstream) == args.upstream_lr and rest == args.optim_conf["lr"]

    lengths = torch.tensor([8000, 6000])
    batch = {"speech": 0.1 * torch.randn(2, 8000), "speech_lengths": lengths}
    if name in TRAIN:
        batch["mos"] = torch.tensor([2.0, 4.0])
    if with_tokens:
        frames = model.frontend.num_frames(8000)
        columns = len(args.token_info["columns"])
        batch["tokens"] = torch.randint(5, (2, frames, columns))
    if args.listener_list:
        batch["votes"] = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
        batch["listeners"] = torch.tensor([[0, 1], [-1, -1]])
    if args.corpus_list:
        batch["corpus"] = torch.tensor([[0], [1]])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    output = model(**batch)
    assert torch.isfinite(output["loss"])
    output["loss"].backward()
    torch.nn.utils.clip_grad_norm_(
        model.parameters(), args.grad_clip, error_if_nonfinite=True
    )
    optimizer.step()
    if scheduler is not None:
        scheduler.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    for part in ("frontend", "head", "condition"):
        trainable = [
            n
            for n, p in model.named_parameters()
            if n.startswith(part) and p.requires_grad
        ]
        # Ridge regression is the head's probe as it is fitted: nothing moves.
        is_trained = args.optim_conf["lr"] > 0
        assert not trainable or bool(moved & set(trainable)) == is_trained, part

    if name in ADAPT:
        # mos.sh takes the model of the least loss.
        assert args.best_model_criterion == [["valid", "loss", "min"]]
        steps = args.max_epoch * args.num_iters_per_epoch
        assert args.scheduler_conf["total_steps"] == steps
        assert any(f"layers.{model.frontend.num_layers - 1}." in n for n in moved)
        # Some training on labels starts from the same network, and is not refused.
        recipe = name.split("/")[0]
        assert network.get("upstream") in [
            yaml.safe_load(p.read_text())["frontend_conf"].get("upstream")
            for n, p in TRAIN.items()
            if n.startswith(recipe)
        ]


def dry_run(config, *options):
    command = ["--config", config, "--iterator_type", "none", "--dry_run", "true"]
    MOSTask.main(cmd=[str(c) for c in (*command, "--output_dir", "out", *options)])
    return yaml.safe_load(Path("out/config.yaml").read_text())


DRY = [
    path
    for p in ("train*", "tuning/*")
    for path in ROOT.glob(f"egs2/*/*/conf/{p}.yaml")
]


@pytest.mark.parametrize("path", sorted(DRY), ids=lambda p: str(p.relative_to(ROOT)))
def test_configuration_dry_runs_as_in_the_ci_of_espnet(
    path, tmp_path, no_network, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # what a configuration names in its recipe is not here
    config = dry_run(path)
    # The record of no training: nothing takes it for a model's, nor has it another's.
    stated = yaml.safe_load(path.read_text())
    assert "mos_format_version" not in config and config["token_info"] is None
    assert config["frontend_conf"] == stated.get("frontend_conf", {})


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"frontend_conf": {"upstream": "a/b", "freze": "all"}}, "'freze'"),
        ({"frontend_conf": {"upstream": "a/b", "freeze": "some"}}, "freeze"),
        ({"frontend": "s3prl", "frontend_conf": {"upstream": "x", "q": 1}}, "'q'"),
        ({"head_conf": {"hidden": 3}}, "'hidden'"),
        ({"losses": {"token_ce": {"colums": ["wavlm_l09"]}}}, "'colums'"),
        ({"model_conf": {"mask": {"start": 0.1}}}, "'start'"),
        ({"optim_conf": {"learning_rate": 0.1}}, "'learning_rate'"),
        ({"noisy_view": {"noise_snr": [5, 5]}}, "--noisy_view and no loss"),
    ],
)
def test_dry_run_finds_what_is_wrong(changed, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises((ValueError, TypeError), match=message):
        dry_run("train.yaml")


def test_dry_run_with_named_token_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    losses = {"token_ce": {"columns": ["wavlm_l09", "mfcc_l00"]}}
    Path("train.yaml").write_text(yaml.safe_dump({"losses": losses}))
    dry_run("train.yaml")
    written = yaml.safe_load(Path("out/config.yaml").read_text())
    assert written["losses"]["token_ce"] == losses["token_ce"]


@pytest.mark.parametrize("name", DECODE)
def test_decoding_configuration_is_understood(name):
    args = get_inference_parser().parse_args(["--config", str(DECODE[name])])
    for key, value in yaml.safe_load(DECODE[name].read_text()).items():
        assert getattr(args, key) == value


def flat(config, prefix=""):
    """{"a.b": value} of nested mappings."""
    items = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            items.update(flat(value, f"{prefix}{key}."))
        else:
            items[f"{prefix}{key}"] = value
    return items


def is_of_the_upstream(key):
    return key in ("frontend", "upstream_lr") or key.startswith("frontend_conf.")


def test_families_differ_by_the_upstream_alone():
    default = flat(yaml.safe_load((MINI_MOS / "train_distilmos.yaml").read_text()))
    rest = {k: v for k, v in default.items() if not is_of_the_upstream(k)}
    for family, (frontend, name, *_) in FAMILIES.items():
        path = MINI_MOS / "tuning" / f"train_distilmos_{family}.yaml"
        expected = {"frontend": frontend, "frontend_conf.upstream": name}
        expected = {**rest, **expected, "upstream_lr": 2e-5}
        assert flat(yaml.safe_load(path.read_text())) == expected, family


def test_a_cut_student_is_its_familys_default_but_for_the_layers():
    whisper, student = (
        flat(yaml.safe_load((MINI_MOS / "tuning" / f"train_{name}.yaml").read_text()))
        for name in ("distilmos_whisper", "student_whisper")
    )
    assert student == {**whisper, "frontend_conf.num_layers": 3}


def test_students_differ_by_their_size_alone():
    students = [
        flat(yaml.safe_load((MINI_MOS / "tuning" / f"train_{name}.yaml").read_text()))
        for name in ("student_s", "student_m", "student_l")
    ]
    keys = ("frontend_conf.size", "head_conf.hidden_dim")
    sizes = [[student.pop(key) for key in keys] for student in students]
    assert sizes == [["s", 64], ["m", 96], ["l", 128]]
    assert students[0] == students[1] == students[2]


@pytest.mark.parametrize("recipe", ["bvcc", "mini_mos"])
@pytest.mark.parametrize(
    "name, changed",
    [
        ("lambda0", {"losses.token_ce.weight": 0.0}),
        ("frozen", {"frontend_conf.freeze": "all"}),
    ],
)
def test_baselines_differ_in_what_they_are_named_after(recipe, name, changed):
    conf = ROOT / "egs2" / recipe / "mos1" / "conf"
    default = flat(yaml.safe_load((conf / "train_distilmos.yaml").read_text()))
    path = conf / "tuning" / f"train_distilmos_{name}.yaml"
    assert flat(yaml.safe_load(path.read_text())) == {**default, **changed}


LISTS = sorted((ROOT / "egs2").glob("*/mos1/conf/ablation/*.txt"))


@pytest.mark.parametrize(
    "path", LISTS, ids=lambda path: f"{path.parts[-5]}-{path.stem}"
)
def test_runs_of_an_ablation_can_be_trained(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    runs = {n: r for n, r in read_runs(str(path)).items() if not r.is_script}
    options = MOSTask.get_parser()
    trained = {}
    for run in runs.values():
        command = ["--config", run.config, *run.args.split()]
        args = options.parse_args([*command, "--output_dir", "none"])
        # A loss of tokens wants them; a head without token predictors has none.
        weight = args.losses.get("token_ce", {}).get("weight", 0)
        use_tokens = run.use_tokens == "true"
        assert use_tokens or weight == 0, run.name
        assert not (use_tokens and args.head in ("ssl_mos", "probe")), run.name
        # A loss on pairs of one corpus wants the corpora.
        pairs = {"contrastive", "bradley_terry", "prs", "triplet"} & set(args.losses)
        assert not pairs or "--use_corpora true" in run.options, run.name
        rates = [args.upstream_lr, args.optim_conf, args.max_epoch]
        rates.append(args.sampling_batches)
        network = [args.frontend_conf, args.head, args.head_conf, args.init_model]
        trained[run.name] = json.dumps(
            [run.tokens_tag, run.options, args.losses, network, rates], default=str
        )
    assert len(set(trained.values())) == len(runs)  # no two are the same
    if len(runs) == 1:
        return  # others are pruned from it
    baseline = next(iter(runs))
    if baseline == "distilmos":
        assert {"lambda0", "ssl_mos"} < set(runs)
        baseline = "lambda0"
    # What trains on the same upstream with the same settings shares the tokens.
    if "distilmos" not in runs:
        assert not any(run.use_tokens == "true" for run in runs.values())
        return
    assert runs[baseline].tokens_tag == runs["distilmos"].tokens_tag
    if "frozen" in runs:
        assert runs["frozen"].tokens_tag == runs["distilmos"].tokens_tag


def test_the_papers_comparisons_are_all_there(monkeypatch):
    monkeypatch.chdir(ROOT / "egs2/bvcc/mos1")
    runs = read_runs("conf/ablation/paper.txt")
    tags = [runs[name].tokens_tag for name in ("k50", "k100", "distilmos", "k500")]
    layers = [runs[f"{name}"].tokens_tag for name in ("last_layer", "upper_half")]
    assert len({*tags, *layers, runs["lower_half"].tokens_tag}) == 7
    weights = [runs[f"lambda{w}"].args for w in ("0.01", "0.03", "0.3", "1")]
    assert weights == [f"--losses token_ce.weight={w}" for w in (0.01, 0.03, 0.3, 1)]
    assert runs["lambda1"].tokens_tag == runs["distilmos"].tokens_tag
    assert runs["wav2vec2"].tokens_tag != runs["distilmos"].tokens_tag
