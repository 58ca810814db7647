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
WAVEFORM = dict(
    conv_dim=[8, 8, 8],
    conv_kernel=[10, 8, 8],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    hidden_size=16,
    num_attention_heads=2,
    intermediate_size=16,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)
BASE = dict(WAVEFORM, num_hidden_layers=12, feat_extract_norm="group")
LARGE = dict(WAVEFORM, num_hidden_layers=24, feat_extract_norm="layer")
LARGE["do_stable_layer_norm"] = True
DATA2VEC = dict(WAVEFORM, num_hidden_layers=12, num_conv_pos_embeddings=5)
BERT = dict(hidden_size=16, num_hidden_layers=24, num_attention_heads=2)
BERT.update(intermediate_size=16, conv_depthwise_kernel_size=7)
FAIRSEQ = dict(
    conv_feature_layers="[(8, 10, 5), (8, 8, 8), (8, 8, 8)]",
    encoder_layers=12,
    encoder_embed_dim=16,
    encoder_ffn_embed_dim=16,
    encoder_attention_heads=2,
    conv_pos=8,
    conv_pos_groups=2,
    extractor_mode="default",
    relative_position_embedding=True,
    gru_rel_pos=True,
    normalize=False,
)


def whisper(layers, **changes):
    config = dict(d_model=16, encoder_attention_heads=2, encoder_ffn_dim=16)
    config.update(decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16)
    config.update(vocab_size=20, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    config.update(decoder_start_token_id=1, encoder_layers=layers)
    return dict(config, model_type="whisper", **changes)


# What stands in for an upstream of a configuration: (frontend, upstream) to what its
# frontend_conf holds instead of `upstream`.
STAND_INS = {
    ("hf", upstream): {"upstream_config": config}
    for upstream, config in {
        "facebook/wav2vec2-base": dict(BASE, model_type="wav2vec2"),
        "facebook/wav2vec2-xls-r-300m": dict(LARGE, model_type="wav2vec2"),
        "facebook/mms-300m": dict(LARGE, model_type="wav2vec2"),
        "facebook/hubert-base-ls960": dict(BASE, model_type="hubert"),
        "utter-project/mHuBERT-147": dict(BASE, model_type="hubert"),
        "microsoft/wavlm-base": dict(BASE, model_type="wavlm"),
        "microsoft/wavlm-large": dict(LARGE, model_type="wavlm"),
        "facebook/data2vec-audio-base": dict(DATA2VEC, model_type="data2vec-audio"),
        "microsoft/unispeech-sat-base": dict(BASE, model_type="unispeech-sat"),
        "facebook/w2v-bert-2.0": dict(BERT, model_type="wav2vec2-bert"),
        "openai/whisper-tiny": whisper(4),
        "upstream/hubert_tiny": dict(BASE, model_type="hubert", num_hidden_layers=4),
    }.items()
}
STAND_INS["s3prl", "wavlm_base_plus"] = {
    "upstream": "wavlm_local",
    "upstream_config": {"family": "wavlm", "model_cfg": FAIRSEQ},
}


# The families of the mini recipe: (frontend, upstream).
FAMILIES = {
    "wav2vec2": ("hf", "facebook/wav2vec2-base"),
    "xls_r": ("hf", "facebook/wav2vec2-xls-r-300m"),
    "mms": ("hf", "facebook/mms-300m"),
    "hubert": ("hf", "facebook/hubert-base-ls960"),
    "mhubert": ("hf", "utter-project/mHuBERT-147"),
    "wavlm": ("hf", "microsoft/wavlm-base"),
    "wavlm_large": ("hf", "microsoft/wavlm-large"),
    "data2vec_audio": ("hf", "facebook/data2vec-audio-base"),
    "unispeech_sat": ("hf", "microsoft/unispeech-sat-base"),
    "wav2vec2_bert": ("hf", "facebook/w2v-bert-2.0"),
    "whisper": ("hf", "openai/whisper-tiny"),
    "s3prl": ("s3prl", "wavlm_base_plus"),
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
    replacement = copy.deepcopy(STAND_INS[frontend, upstream])
    replacement["upstream_config"].update(conf.pop("upstream_config", None) or {})
    return {**conf, **replacement}


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
    text = Path(path).read_text()
    parser = MOSTask.get_parser()
    args = parser.parse_args([str(part) for part in command])
    for action in parser._actions:
        # argparse holds no value of a file against the choices.
        if action.choices is not None and action.dest in yaml.safe_load(text):
            assert getattr(args, action.dest) in action.choices, action.dest
    return args


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


def is_slow(name):
    """Whether the configuration is one of the many that differ by the upstream."""
    family = name.rpartition("train_distilmos_")[2].removesuffix(".yaml")
    return family in FAMILIES and family not in ("wavlm", "whisper")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if is_slow(n) else n for n in TRAIN],
)
def test_training_configuration_runs_dry(name, tmp_path, no_network):
    args = parse(TRAIN[name], tmp_path)
    args.frontend_conf = stand_in(name, args.frontend, args.frontend_conf)
    with_tokens = (args.losses.get("token_ce") or {}).get("weight", 1.0) > 0
    with_tokens = with_tokens and "token_ce" in args.losses
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
    assert torch.isfinite(output["loss"]) and output["utt_mos"].shape == (2,)
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
        assert not trainable or moved & set(trainable), part


@pytest.mark.parametrize("name", ADAPT)
def test_adaptation_runs_dry(name, tmp_path, no_network):
    args = parse(ADAPT[name], tmp_path)
    network = args.frontend_conf
    args.frontend_conf = stand_in(name, args.frontend, network)
    args.token_info = tokens_of(args)
    MOSTask.check_required_command_args(args)
    # mos.sh takes the model of the least loss
    assert args.best_model_criterion == [["valid", "loss", "min"]]
    steps = args.max_epoch * args.num_iters_per_epoch
    assert args.scheduler_conf["total_steps"] == steps

    model = MOSTask.build_model(args).train()
    (optimizer,) = MOSTask.build_optimizers(args, model)
    frames = model.frontend.num_frames(8000)
    tokens = torch.randint(5, (2, frames, len(args.token_info["columns"])))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    output = model(0.1 * torch.randn(2, 8000), torch.tensor([8000, 6000]), None, tokens)
    output["loss"].backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    last = f"layers.{model.frontend.num_layers - 1}."
    for part in ("frontend.", "head.", last):
        assert any(part in n for n in moved), part
    if (args.frontend_conf.get("freeze") or "none") in ("none", "cnn"):
        embedding = "frontend.model.masked_spec_embed"
        assert embedding in moved or embedding not in before

    # Some training on labels starts from the same network, and is not refused.
    def says(conf):
        return conf.get("upstream"), conf.get("normalize_waveform")

    recipe = name.split("/")[0]
    trainings = [yaml.safe_load(p.read_text()) for n, p in TRAIN.items() if recipe in n]
    assert says(network) in [says(config["frontend_conf"]) for config in trainings]


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
    for family, (frontend, name) in FAMILIES.items():
        path = MINI_MOS / "tuning" / f"train_distilmos_{family}.yaml"
        expected = {"frontend": frontend, "frontend_conf.upstream": name}
        expected = {**rest, **expected, "upstream_lr": 2e-5}
        assert flat(yaml.safe_load(path.read_text())) == expected, family


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
        assert not (use_tokens and args.head == "ssl_mos"), run.name
        rates = [args.upstream_lr, args.optim_conf, args.max_epoch]
        network = [args.frontend_conf, args.head, args.init_model]
        trained[run.name] = json.dumps(
            [run.tokens_tag, args.losses, network, rates], default=str
        )
    assert len(set(trained.values())) == len(runs)  # no two are the same
    assert next(iter(runs)) == "distilmos" and {"lambda0", "frozen", "ssl_mos"} < set(
        runs
    )
    # What trains on the same upstream with the same settings shares the tokens.
    assert runs["lambda0"].tokens_tag == runs["distilmos"].tokens_tag
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
