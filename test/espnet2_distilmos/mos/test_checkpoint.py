# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import logging
import os
import shutil
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.mos.build import build_frontend, build_model
from espnet2_distilmos.mos.checkpoint import (
    initial_frontend,
    initial_model,
    keep_files,
    load_model,
    open_trained_model,
    read_config,
    read_frontend_conf,
    read_states,
    refuse_experiment_as_config,
    unpack_zip,
)

from .frontend.tiny_upstreams import each_variant, tiny

MOS_ONLY = {"losses": {"mos_l1": {"weight": 1.0}}}


def config_of(mos_corpus, **changes):
    """A configuration as training writes it."""
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": copy.deepcopy(mos_corpus.frontend_conf),
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16, "dropout": 0.1},
        "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
        "token_info": copy.deepcopy(mos_corpus.token_info),
        "score_range": [1.0, 5.0],
    }
    return {**config, **changes}


def save_random(folder, config):
    """An experiment whose weights are random numbers; returns them."""
    model = build_model(config, load_pretrained=True)
    config["frontend_conf"] = model.frontend.resolved_conf()
    generator = torch.Generator().manual_seed(0)
    states = {
        key: torch.rand(value.shape, generator=generator).to(value.dtype)
        for key, value in model.state_dict().items()
    }
    save(folder, config, states)
    return states


def save(folder, config, states):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(states, folder / "model.pth")


@pytest.fixture
def trained(mos_corpus, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    save_random(folder, config_of(mos_corpus))
    return folder


def states_of(folder):
    return torch.load(folder / "model.pth", weights_only=True)


def assert_same(model, states, keys=None):
    found = model.state_dict()
    for key in found if keys is None else keys:
        assert torch.equal(found[key], states[key]), key


def assert_one_line(error):
    assert "\n" not in str(error.value)


# --- weights --------------------------------------------------------------------------


def test_load_model(trained):
    model, config = load_model(trained / "config.yaml", trained / "model.pth")
    assert_same(model, states_of(trained))
    assert not model.training and config["head_conf"]["hidden_dim"] == 16
    # A training checkpoint is a model file too.
    states = {"model": states_of(trained), "optimizers": []}
    torch.save(states, trained / "checkpoint.pth")
    model, _ = load_model(trained / "config.yaml", trained / "checkpoint.pth")
    assert_same(model, states["model"])


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"head.linear.weight": None}, "nothing for head.linear.weight"),
        ({"head.linear.weight": torch.zeros(1, 17)}, "(1, 17) for head.linear.weight"),
        ({"head.linear.weight": 3.0}, "head.linear.weight"),
        ({"z.a": torch.zeros(1), "z.b": torch.zeros(1)}, "2 tensors"),
    ],
)
def test_loading_is_strict(changes, words, trained):
    states = {**states_of(trained), **changes}
    path = trained / "other.pth"
    torch.save({k: v for k, v in states.items() if v is not None}, path)
    with pytest.raises(DataError) as error:
        load_model(trained / "config.yaml", path)
    assert str(path) in str(error.value) and words in str(error.value)


def assert_unreadable(path, content):
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_states(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 300
    assert_one_line(error)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_what_is_no_model_file(tmp_path):
    path = tmp_path / "model.pth"
    torch.save({"a": torch.randn(30, 30), "b": torch.zeros(5)}, path)
    content = path.read_bytes()
    for length in range(0, len(content), 37):  # cut off anywhere
        assert_unreadable(path, content[:length])
    for byte in range(256):
        assert_unreadable(path, bytes([byte]) * 20)
    for content in (b"<html></html>", b"version https://git-lfs", b"PK\x03\x04 no zip"):
        assert_unreadable(path, content)
    torch.save([1, 2], path)
    assert_unreadable(path, path.read_bytes())
    # What cannot be opened is another matter: a training must not begin anew for it.
    with pytest.raises(OSError, match="none.pth"):
        read_states(tmp_path / "none.pth")


def test_loading_draws_no_random_weights_and_loses_none(mos_corpus, tmp_path):
    """Constants that are in no file are computed, and all else is the file's."""
    upstream = dict(
        model_type="whisper",
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        max_source_positions=50,
    )
    conf = {"frontend_conf": {"upstream_config": upstream}, "token_info": None}
    config = config_of(mos_corpus, **conf, **MOS_ONLY)
    model = build_model(config, load_pretrained=True).eval()
    save(tmp_path, config, model.state_dict())
    drawn = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.__name__.split(".")[0] in ("normal_", "uniform_"):
                drawn.append(args[0].numel())
            return func(*args, **(kwargs or {}))

    with Watch():
        build_model(config, load_pretrained=False)
    assert sum(drawn) > 10000
    drawn.clear()
    with Watch():
        loaded, _ = load_model(tmp_path / "config.yaml", tmp_path / "model.pth")
    assert drawn == []
    buffers = dict(loaded.named_buffers())
    assert all(torch.equal(buffers[k], v) for k, v in model.named_buffers())
    speech = torch.randn(2, 4000), torch.tensor([4000, 3000])
    scores = [m.inference(*speech).utt_mos for m in (model, loaded)]
    assert torch.equal(*scores)


@each_variant
def test_mapped_weights_are_those_that_are_copied(variant, tmp_path):
    """With all that is in no file: constants, what is trained, eval mode."""
    frontend = tiny(variant, {"freeze": "cnn"})
    config = {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": frontend.resolved_conf(),
        "head": "distilmos",  # with an LSTM
        "head_conf": {"hidden_dim": 16},
        "token_info": None,
        **MOS_ONLY,
    }
    copied = build_model(config, load_pretrained=True).eval()
    save(tmp_path, config, copied.state_dict())
    files = tmp_path / "config.yaml", tmp_path / "model.pth"
    content = files[1].read_bytes()
    mapped, _ = load_model(*files)
    for kind in ("named_parameters", "named_buffers"):
        found, expected = (dict(getattr(m, kind)()) for m in (mapped, copied))
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
            assert found[name].requires_grad == value.requires_grad, name
    modes = [[module.training for module in m.modules()] for m in (mapped, copied)]
    assert modes[0] == modes[1]
    speech = torch.randn(2, 8000), torch.tensor([8000, 5000])
    scores = [m.inference(*speech).utt_mos for m in (mapped, copied)]
    assert torch.equal(*scores)
    # Whoever trains on has weights of one's own.
    for parameter in mapped.parameters():
        parameter.data += 1
    assert files[1].read_bytes() == content


def test_weights_in_another_precision_are_cast(trained):
    states = {k: v.half() for k, v in states_of(trained).items()}
    torch.save(states, trained / "model.pth")
    model, _ = load_model(trained / "config.yaml", trained / "model.pth")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert_same(model, {k: v.float() for k, v in states.items()})


# --- configurations -------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "exp/x/", "/somewhere/else/exp/x/"])
def test_upstream_files_are_looked_for_beside_the_configuration(prefix, tmp_path):
    conf = {
        "path_or_url": f"{prefix}upstream_files/a.pt",
        "extra_conf": {"config": f"{prefix}upstream_files/b.yaml", "layer": 3},
        "download_dir": f"{prefix}upstream_files",
        "freeze": "all",
    }
    config = {"mos_format_version": 1, "frontend_conf": conf}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    # As a model zoo has it that keeps its configurations apart.
    assert read_config(tmp_path / "config.yaml") == config
    folder = tmp_path / "upstream_files"
    folder.mkdir()
    for name in ("a.pt", "b.yaml"):
        (folder / name).touch()
    assert read_config(tmp_path / "config.yaml")["frontend_conf"] == {
        "path_or_url": str(folder / "a.pt"),
        "extra_conf": {"config": str(folder / "b.yaml"), "layer": 3},
        "download_dir": str(folder),
        "freeze": "all",
    }


@pytest.mark.parametrize(
    "content", ["", "[]", "a: [", "mos_format_version: 9", "frontend: hf"]
)
def test_what_is_no_record_of_a_training(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(DataError, match="config.yaml") as error:
        load_model(tmp_path / "config.yaml", tmp_path / "model.pth")
    assert_one_line(error)


@pytest.fixture
def train_yaml(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("frontend: hf\nfrontend_conf: {upstream: a, b: {c: 1, d: 2}}\n")
    return path


def test_frontend_of_a_training(train_yaml):
    conf = {"upstream": "a", "b": {"c": 1, "d": 2}}
    path = str(train_yaml)
    assert read_frontend_conf(path) == ("hf", conf, None)
    args = (
        "--max_epoch 3 --frontend_conf b.c=7 --losses token_ce.weight=0 "
        "--frontend s3prl --frontend_conf 'upstream=x y' --init_model=exp/a"
    )
    conf = {"upstream": "x y", "b": {"c": 7, "d": 2}}
    assert read_frontend_conf(path, args) == ("s3prl", conf, "exp/a")
    train_yaml.write_text("max_epoch: 1\n")
    assert read_frontend_conf(path) == ("hf", {}, None)
    # The default frontend is not what the model has.
    train_yaml.write_text("init_model: exp/b.zip\n")
    assert read_frontend_conf(path) == (None, {}, "exp/b.zip")


@pytest.mark.parametrize(
    "text,args",
    [("[1, 2]", ""), ("a: [", ""), ("frontend_conf: 3", ""), (None, "")]
    + [("{}", "--frontend"), ("{}", "--frontend_conf 3"), ("{}", "--frontend 'x")],
)
def test_bad_training_configurations(text, args, tmp_path):
    path = tmp_path / "train.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match="--train_args" if args else "train.yaml") as e:
        read_frontend_conf(str(path), args)
    assert_one_line(e)


def test_the_record_of_a_training_is_no_configuration(train_yaml, trained):
    path = str(trained / "config.yaml")
    with pytest.raises(DataError, match="--init_model .*old"):
        read_frontend_conf(path)
    for form in (["--config", path], [f"--config={path}"]):
        with pytest.raises(DataError, match="--init_model .*old"):
            refuse_experiment_as_config(["--seed", "3", *form])
    for options in (
        ["--config", str(train_yaml)],
        ["--config"],
        ["--config", "no"],
        [],
    ):
        refuse_experiment_as_config(options)


# --- files of a trained model ---------------------------------------------------------

CRITERIA = [["valid", "sys_srcc", "max"], ["valid", "utt_srcc", "max"]]
SYS, UTT = "valid.sys_srcc.best.pth", "valid.utt_srcc.best.pth"


def experiment(folder, *names, criteria=CRITERIA):
    folder.mkdir()
    config = {"best_model_criterion": criteria}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in names:
        torch.save({}, folder / name)  # a zip archive, too
    return folder


def found(path):
    with open_trained_model(str(path)) as model:
        assert os.path.isfile(model.train_config)
        return os.path.relpath(model.model_file, os.path.dirname(model.train_config))


@pytest.mark.parametrize(
    "names,criteria,expected",
    [
        ([UTT, SYS, "1epoch.pth", "model.pth", "checkpoint.pth"], CRITERIA, SYS),
        ([UTT, SYS], CRITERIA[1:], UTT),
        ([UTT, "1epoch.pth", "model.pth"], CRITERIA, UTT),
        (["1epoch.pth", "model.pth"], CRITERIA, "model.pth"),
        (["checkpoint.pth", "checkpoint.previous.pth", "3epoch.pth"], [], "3epoch.pth"),
        (["1epoch.pth", "2epoch.pth"], CRITERIA, None),
        (["checkpoint.pth"], CRITERIA, None),
    ],
)
def test_which_model_file_of_an_experiment(names, criteria, expected, tmp_path):
    folder = experiment(tmp_path / "exp", *names, criteria=criteria)
    assert found(folder / names[0]) == names[0]
    for path in (folder, folder / "config.yaml"):
        if expected is None:
            with pytest.raises(DataError, match="exp: found .* (name|copy) the model"):
                found(path)
        else:
            assert found(path) == expected


def test_a_model_file_that_training_did_not_keep(tmp_path, mos_corpus):
    folder = experiment(tmp_path / "exp", UTT, "1epoch.pth", "checkpoint.pth")
    (folder / SYS).symlink_to("2epoch.pth")  # which is not there
    config = {**config_of(mos_corpus), "mos_format_version": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in (SYS, "2epoch.pth"):
        path = str(folder / name)
        for opened in (found, lambda path: load_model(folder / "config.yaml", path)):
            with pytest.raises(DataError, match=f"found 1epoch.pth, {UTT} in") as error:
                opened(path)
            assert str(error.value).startswith(f"{path} is not there")


def packed(path, **files):
    meta = {"yaml_files": {"train_config": "exp/x/config.yaml"}, "files": files}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        archive.writestr("exp/x/config.yaml", "{}")
        archive.writestr("exp/x/7epoch.pth", "weights")
    return path


def test_what_is_no_model(tmp_path):
    torch.save({}, tmp_path / "a.pth")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.yaml").write_text("a: [")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("a", "b")
    packed(tmp_path / "asr.zip", asr_model_file="exp/x/7epoch.pth")
    for name in ("none", ".", "a.pth", "exp", "some.zip", "asr.zip", "none/x.pth"):
        with pytest.raises(DataError) as error:
            found(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert_one_line(error)


def test_a_zip_is_there_as_long_as_it_is_open(tmp_path):
    path = packed(tmp_path / "a.zip", model_file="exp/x/7epoch.pth")
    with open_trained_model(path) as model:
        assert Path(model.model_file).read_text() == "weights"
    assert not os.path.exists(model.model_file)
    unpack_zip(str(path), str(tmp_path / "out"))
    assert found(tmp_path / "out") == "7epoch.pth"


def test_models_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = packed(tmp_path / "a.zip", model_file="exp/x/7epoch.pth")
    unpack_zip(str(path), str(tmp_path / "out"))
    seen = []

    def snapshot_download(tag):
        seen.append(tag)
        if tag == "user/model":
            return str(tmp_path / "out")
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert found("user/model") == "7epoch.pth"
    with pytest.raises(DataError, match="user/other.*no network at all") as error:
        found("user/other")
    assert_one_line(error)
    # What cannot be a tag, or is a mistyped path, is not asked for.
    for name in ("none", "./none/x", "/none/x", "a/b/c", "out/x"):
        with pytest.raises(DataError, match="found nothing"):
            found(name)
    assert seen == ["user/model", "user/other"]


def test_keep_files(tmp_path):
    sources = [tmp_path / "a" / "x.pt", tmp_path / "b" / "y.pt"]
    for source in sources:
        source.parent.mkdir()
        source.write_text(source.name)
    names = [str(source) for source in sources]
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "x.pt").symlink_to(sources[0])
    keep_files([*names, names[0]], str(folder))
    assert sorted(os.listdir(folder)) == ["x.pt", "y.pt"]
    with open(sources[0], "r+") as file:  # in place, as torch.save does it
        file.write("other")
    assert (folder / "x.pt").read_text() == "x.pt"
    keep_files([str(folder / "x.pt")], str(folder))  # it is there
    assert (folder / "x.pt").read_text() == "x.pt"
    (tmp_path / "b" / "x.pt").touch()
    with pytest.raises(DataError, match="a/x.pt, .*b/x.pt"):
        keep_files([names[0], str(tmp_path / "b" / "x.pt")], str(folder))
    with pytest.raises(OSError, match="none.pt"):
        keep_files([str(tmp_path / "none.pt")], str(folder))


# --- what a training starts from ------------------------------------------------------


def start(folder, mos_corpus, **changes):
    """The initial model of a configuration that states no network."""
    unstated = dict(frontend=None, frontend_conf={}, head=None, head_conf={})
    config = config_of(mos_corpus, **{**unstated, **changes}, init_model=str(folder))
    torch.manual_seed(7)
    with initial_model(config) as model:
        return model, config


def test_without_a_trained_model(mos_corpus, tmp_path):
    expected = build_frontend("hf", mos_corpus.frontend_conf).fingerprint()
    with initial_model(config_of(mos_corpus)) as model:
        assert model.frontend.fingerprint() == expected
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(mos_corpus.config()))
    assert initial_frontend(str(path)).fingerprint() == expected
    seeded = initial_frontend(str(path), "--frontend_conf init_seed=1")
    assert seeded.fingerprint() != expected


def test_all_is_the_models(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    model, config = start(trained, mos_corpus)
    assert_same(model, states_of(trained))
    old = yaml.safe_load((trained / "config.yaml").read_text())
    for key in ("frontend", "frontend_conf", "head", "head_conf"):
        assert config[key] == old[key]
    assert f"starts from {trained} (model.pth)" in caplog.text
    assert "New" not in caplog.text and "Left" not in caplog.text
    # So it is when the configuration states the same, and defaults.
    stated = config_of(mos_corpus)
    stated["head_conf"].update(layers=None, downsample_kernels=(5, 3, 3))
    del stated["mos_format_version"]
    model, _ = start(trained, mos_corpus, **stated)
    assert_same(model, states_of(trained))


def test_training_options_are_the_configurations(trained, mos_corpus):
    frontend_conf = {
        "freeze": "cnn",
        "layerdrop": 0.0,
        "init_seed": 5,
        "upstream_config": {"hidden_dropout": 0.3, "mask_time_prob": 0.07},
    }
    head_conf = {"dropout": 0.4, "init_score": 2.0}
    model, config = start(
        trained, mos_corpus, frontend_conf=frontend_conf, head_conf=head_conf
    )
    assert_same(model, states_of(trained))
    assert model.frontend.freeze == "cnn" and model.head.decoder.dropout.p == 0.4
    assert model.frontend.model.config.hidden_dropout == 0.3
    assert model.frontend.model.config.hidden_size == 32
    assert config["head_conf"] == {"hidden_dim": 16, "dropout": 0.4, "init_score": 2.0}
    # An option that is not stated stays as the model was trained.
    old = yaml.safe_load((trained / "config.yaml").read_text())
    old["frontend_conf"]["freeze"] = "all"
    (trained / "config.yaml").write_text(yaml.safe_dump(old))
    assert start(trained, mos_corpus)[0].frontend.freeze == "all"


@pytest.mark.parametrize(
    "changes,words",
    [
        ({"frontend": "s3prl"}, "s3prl, but .*old .* has hf"),
        ({"frontend_conf": {"upstream": "x/y"}}, "frontend_conf.upstream='x/y'"),
        ({"frontend_conf": {"upstream_config": {"hidden_size": 64}}}, "hidden_size=64"),
        (
            {"frontend_conf": {"upstream_config": {"conv_stride": [5, 8, 4]}}},
            r"upstream_config.conv_stride=\[5, 8, 4\], but .* has \[5, 8, 8\]",
        ),
        ({"frontend_conf": {"normalize_waveform": True}}, "normalize_waveform=True"),
        ({"frontend_conf": {"upstreem": "x"}}, "'upstreem'"),
        ({"head_conf": {"hidden_dim": 8}}, "head_conf.hidden_dim=8, but .* has 16"),
        ({"head_conf": {"layer_mix": "single"}}, "'single', but .* has 'entmax15'"),
        ({"head": "none"}, "'none'"),
    ],
)
def test_another_network_is_refused(changes, words, trained, mos_corpus):
    with pytest.raises(ValueError, match=words) as error:
        start(trained, mos_corpus, **changes)
    assert_one_line(error)


@pytest.mark.parametrize("stated", ["/data/wavlm-base", "a/wavlm-base/"])
def test_an_upstream_may_lie_elsewhere(stated, trained, mos_corpus):
    old = yaml.safe_load((trained / "config.yaml").read_text())
    old["frontend_conf"]["upstream"] = "microsoft/wavlm-base"
    (trained / "config.yaml").write_text(yaml.safe_dump(old))
    model, config = start(trained, mos_corpus, frontend_conf={"upstream": stated})
    assert_same(model, states_of(trained))
    assert config["frontend_conf"]["upstream"] == "microsoft/wavlm-base"


def test_another_head_is_new(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    model, config = start(trained, mos_corpus, head="ssl_mos", **MOS_ONLY)
    keys = [key for key in model.state_dict() if key.startswith("frontend.")]
    assert_same(model, states_of(trained), keys)
    assert config["head"] == "ssl_mos" and config["head_conf"] == {}
    torch.manual_seed(7)
    fresh = {**config, "frontend_conf": mos_corpus.frontend_conf}
    expected = build_model(fresh, load_pretrained=True)
    assert_same(model.head, expected.head.state_dict())
    assert "New: head." in caplog.text and "Left in the model: head." in caplog.text


def test_predictors_follow_their_columns(trained, mos_corpus, caplog):
    """Of layers 1 and 2, now of 2, of 1 with other clusters, and of 0."""
    caplog.set_level(logging.INFO)
    info = copy.deepcopy(mos_corpus.token_info)
    info["columns"] = [
        {"stream": "hubert", "layer": 2, "K": 5},
        {"stream": "hubert", "layer": 1, "K": 6},
        {"stream": "hubert", "layer": 0, "K": 5},
    ]
    model, config = start(trained, mos_corpus, token_info=info)
    states = states_of(trained)
    torch.manual_seed(7)
    fresh = build_model(config, load_pretrained=False).head.state_dict()
    for key, value in model.head.state_dict().items():
        index = int(key.split(".")[1]) if key.startswith("predictors.") else None
        if index in (None, 0):
            name = key.replace("predictors.0.", "predictors.1.")
            assert torch.equal(value, states[f"head.{name}"])
        else:
            assert torch.equal(value, fresh[key])
    assert "New: head.predictors.1, head.predictors.2\n" in caplog.text
    assert "Left in the model: head.predictors.0\n" in caplog.text


@pytest.mark.parametrize("other", [{"codebook_fingerprint": "1"}, None])
def test_predictors_of_other_codebooks_are_left(other, trained, mos_corpus):
    info = other and {**mos_corpus.token_info, **other}
    model, _ = start(trained, mos_corpus, token_info=info, **MOS_ONLY)
    states = states_of(trained)
    for key, value in model.state_dict().items():
        assert torch.equal(value, states[key]) is ("predictors" not in key)


@pytest.mark.parametrize(
    "name,value",
    [
        ("head.linear.bias", None),
        ("head.linear.bias", torch.zeros(2)),
        ("head.x", torch.zeros(2)),
        ("frontend.x", torch.zeros(2)),
    ],
)
def test_every_tensor_is_accounted_for(name, value, trained, mos_corpus):
    states = {**states_of(trained), name: value}
    states = {k: v for k, v in states.items() if v is not None}
    torch.save(states, trained / "model.pth")
    with pytest.raises(ValueError, match=f"old .model.pth.: .*{name}"):
        start(trained, mos_corpus)
    # With another head the rest of the head does not matter.
    if name.startswith("head."):
        start(trained, mos_corpus, head="ssl_mos", **MOS_ONLY)
    else:
        with pytest.raises(ValueError, match=name):
            start(trained, mos_corpus, head="ssl_mos", **MOS_ONLY)


def test_the_frontend_alone_is_that_of_the_model(trained, mos_corpus, tmp_path):
    model, _ = start(trained, mos_corpus)
    path = tmp_path / "train.yaml"
    path.write_text(f"init_model: {trained}\nfrontend_conf: {{freeze: all}}\n")
    frontend = initial_frontend(str(path))
    assert frontend.fingerprint() == model.frontend.fingerprint()
    assert frontend.fingerprint() != mos_corpus.token_info["upstream_fingerprint"]
    assert frontend.freeze == "all"
    with pytest.raises(ValueError, match="hidden_size=64"):
        initial_frontend(str(path), "--frontend_conf upstream_config.hidden_size=64")


def test_another_scale_is_noted(trained, mos_corpus, caplog):
    start(trained, mos_corpus)
    assert "scale" not in caplog.text
    start(trained, mos_corpus, score_range=[0.0, 100.0])
    assert "[1.0, 5.0]" in caplog.text and "[0.0, 100.0]" in caplog.text


def test_adapters_are_new_where_the_model_has_none(trained, mos_corpus):
    pytest.importorskip("peft")
    plain, _ = start(trained, mos_corpus)
    model, config = start(trained, mos_corpus, frontend_conf={"lora": {"rank": 2}})
    states = states_of(trained)
    new = {key for key in model.state_dict() if ".lora_" in key}
    assert len(new) == 16
    for key, value in model.state_dict().items():
        if key not in new:
            assert torch.equal(value, states[key.replace(".base_layer.", ".")])
    # They add nothing yet, so that tokens of the model serve.
    assert model.frontend.fingerprint() == plain.frontend.fingerprint()
    assert config["frontend_conf"]["lora"] == {"rank": 2}


def test_adapters_of_the_model_are_taken(mos_corpus, tmp_path):
    pytest.importorskip("peft")
    config = config_of(mos_corpus)
    config["frontend_conf"]["lora"] = {"rank": 2, "alpha": 3}
    states = save_random(tmp_path, config)
    assert sum(".lora_B." in key for key in states) == 8
    loaded, _ = load_model(tmp_path / "config.yaml", tmp_path / "model.pth")
    assert_same(loaded, states)
    for lora, dropout in ((None, 0.0), ({"rank": 2, "dropout": 0.25}, 0.25)):
        conf = {} if lora is None else {"lora": lora}
        model, config = start(tmp_path, mos_corpus, frontend_conf=conf)
        assert_same(model, states)
        lora = config["frontend_conf"]["lora"]
        assert (lora["alpha"], lora["dropout"]) == (3, dropout)
    for conf in ({"lora": {"rank": 4}}, {"lora": {"alpha": 5}}):
        with pytest.raises(ValueError, match="frontend_conf.lora"):
            start(tmp_path, mos_corpus, frontend_conf=conf)


def test_known_listeners_and_corpora_keep_their_rows(mos_corpus, tmp_path):
    model_conf = {"listener_embedding": True, "corpus_embedding": True}
    lists = {"listener_list": ["x", "y"], "corpus_list": ["a", "b"]}
    config = config_of(mos_corpus, model_conf=model_conf, **lists)
    states = save_random(tmp_path, config)
    lists = {"listener_list": ["new", "y", "more"], "corpus_list": ["b", "c"]}
    model, _ = start(tmp_path, mos_corpus, model_conf=model_conf, **lists)
    listener, corpus = states["condition.listener"], states["condition.corpus"]
    assert torch.equal(model.condition.listener[1], listener[1])
    assert not model.condition.listener[[0, 2]].any()
    assert torch.equal(model.condition.corpus[0], corpus[1])
    torch.testing.assert_close(model.condition.corpus[1], corpus.mean(dim=0))
    # Without them the rest starts as ever, and they are left in the model.
    model, _ = start(tmp_path, mos_corpus)
    assert model.condition is None
    assert_same(model, states)


def test_embeddings_are_new_where_the_model_has_none(trained, mos_corpus):
    model_conf = {"listener_embedding": True, "corpus_embedding": True}
    lists = {"listener_list": ["x"], "corpus_list": ["a", "b"]}
    model, _ = start(trained, mos_corpus, model_conf=model_conf, **lists)
    assert not any(table.any() for table in model.condition.parameters())


def test_an_upstream_of_files_comes_along(mos_corpus, tmp_path):
    """From a zip, whose files are gone when training begins."""
    pytest.importorskip("s3prl")
    from s3prl.upstream.apc.apc import APC

    from espnet2_distilmos.bin.mos_pack import pack_model
    from espnet2_distilmos.bin.mos_train import main as mos_train

    paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
    audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
    contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
    contents["model"] = APC(20, **paras).state_dict()
    torch.save(contents, tmp_path / "apc.pt")
    conf = {"upstream": "apc", "path_or_url": str(tmp_path / "apc.pt")}
    first = mos_corpus.train(
        tmp_path / "1", frontend="s3prl", frontend_conf=conf, tokens=False, **MOS_ONLY
    )
    files = (first / "config.yaml", first / "1epoch.pth", f"{first}.zip")
    pack_model(*(str(file) for file in files))
    shutil.rmtree(first)
    (tmp_path / "apc.pt").unlink()
    options = ["--init_model", f"{first}.zip"]
    command = mos_corpus.command(tmp_path / "2", *options, tokens=False, **MOS_ONLY)
    config = Path(command[command.index("--config") + 1])
    settings = yaml.safe_load(config.read_text())
    del settings["frontend"], settings["frontend_conf"]
    config.write_text(yaml.safe_dump(settings))
    mos_train(command)
    Path(f"{first}.zip").unlink()
    out = tmp_path / "2"
    found = yaml.safe_load((out / "config.yaml").read_text())["frontend_conf"]
    assert found["path_or_url"] == "upstream_files/apc.pt"
    model, _ = load_model(out / "config.yaml", out / "1epoch.pth")
    assert model.frontend.name == "apc"
