# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import inspect
import logging
import re

import pytest
import torch
import yaml

from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.init_model import InitModel


def config_of(mos_corpus, **changes):
    config = {
        "frontend": "hf",
        "frontend_conf": copy.deepcopy(mos_corpus.frontend_conf),
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16, "dropout": 0.1},
        "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
        "token_info": copy.deepcopy(mos_corpus.token_info),
        "score_range": [1.0, 5.0],
        "mos_format_version": 1,
    }
    config.update(changes)
    return config


@pytest.fixture
def trained(mos_corpus, tmp_path):
    """A model file of random numbers and its config.yaml, as training writes it."""
    config = config_of(mos_corpus)
    model = build_model(config, load_pretrained=True)
    config["frontend_conf"] = model.frontend.resolved_conf()
    generator = torch.Generator().manual_seed(0)
    states = {
        key: torch.rand(value.shape, generator=generator).to(value.dtype)
        for key, value in model.state_dict().items()
    }
    return save(tmp_path, config, states)


def save(folder, config, states):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(states, folder / "model.pth")
    return folder


def load(folder):
    return InitModel(str(folder / "config.yaml"), str(folder / "model.pth"), "exp/old")


def start(folder, mos_corpus, **changes):
    """The starting model of a configuration that states no network."""
    unstated = dict(frontend=None, frontend_conf={}, head=None, head_conf={})
    config = config_of(mos_corpus, **{**unstated, **changes})
    torch.manual_seed(7)
    return load(folder).build_model(config), config


def states_of(folder):
    return torch.load(folder / "model.pth", weights_only=True)


def assert_same(model, states, keys=None):
    found = model.state_dict()
    for key in found if keys is None else keys:
        assert torch.equal(found[key], states[key]), key


def test_all_is_the_models(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    model, config = start(trained, mos_corpus)
    assert_same(model, states_of(trained))
    old = yaml.safe_load((trained / "config.yaml").read_text())
    for key in ("frontend", "frontend_conf", "head", "head_conf"):
        assert config[key] == old[key]
    text = caplog.text
    assert "Start from exp/old (model.pth): frontend hf (freeze=none, " in text
    assert "head distilmos" in text and "Deliberately" not in text


def test_what_the_configuration_restates_agrees(trained, mos_corpus):
    stated = config_of(mos_corpus)
    stated["head_conf"]["layers"] = None
    stated["head_conf"]["downsample_kernels"] = (5, 3, 3)  # the default
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
    "changes,message",
    [
        ({"frontend": "s3prl"}, "found the frontend s3prl, but exp/old has hf: leave"),
        (
            {"frontend_conf": {"upstream": "microsoft/wavlm-base"}},
            "found frontend_conf.upstream='microsoft/wavlm-base', but exp/old has None",
        ),
        (
            {"frontend_conf": {"upstream_config": {"hidden_size": 64}}},
            "found frontend_conf.upstream_config.hidden_size=64, but exp/old has 32",
        ),
        (
            {"frontend_conf": {"upstream_config": {"conv_stride": [5, 8, 4]}}},
            r"upstream_config.conv_stride=\[5, 8, 4\], but exp/old has \[5, 8, 8\]",
        ),
        (
            {"frontend_conf": {"normalize_waveform": True}},
            "frontend_conf.normalize_waveform=True, but exp/old has False",
        ),
        ({"frontend_conf": {"upstreem": "x"}}, "frontend hf: .*'upstreem'"),
        ({"head_conf": {"hidden_dim": 8}}, "head_conf.hidden_dim=8, but .* has 16"),
        ({"head_conf": {"layer_mix": "single"}}, "'single', but .* has 'entmax15'"),
        ({"head_conf": {"hiden_dim": 8}}, "head distilmos: .*'hiden_dim'"),
        ({"head": "none"}, "found head 'none', expected one of"),
    ],
)
def test_another_network_is_refused(changes, message, trained, mos_corpus):
    with pytest.raises(ValueError, match=message) as error:
        start(trained, mos_corpus, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stated", ["/data/wavlm-base", "wavlm-base", "a/wavlm-base/"])
def test_an_upstream_may_lie_elsewhere(stated, trained, mos_corpus):
    old = yaml.safe_load((trained / "config.yaml").read_text())
    old["frontend_conf"]["upstream"] = "microsoft/wavlm-base"
    (trained / "config.yaml").write_text(yaml.safe_dump(old))
    model, config = start(trained, mos_corpus, frontend_conf={"upstream": stated})
    assert_same(model, states_of(trained))
    assert config["frontend_conf"]["upstream"] == "microsoft/wavlm-base"


def test_another_head_is_new(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    losses = {"mos_l1": {"weight": 1.0}}
    model, config = start(trained, mos_corpus, head="ssl_mos", losses=losses)
    states = states_of(trained)
    keys = [key for key in model.state_dict() if key.startswith("frontend.")]
    assert_same(model, states, keys)
    assert config["head"] == "ssl_mos" and config["head_conf"] == {}
    torch.manual_seed(7)
    expected = build_model(
        {**config, "frontend_conf": mos_corpus.frontend_conf}, load_pretrained=True
    )
    assert_same(model.head, expected.head.state_dict())
    assert "not its head: ssl_mos is new" in caplog.text
    assert "Deliberately new: head.dnn (2 tensors), head.linear (2 tensors)" in (
        caplog.text
    )
    left = re.search("Deliberately left in the model: (.*)", caplog.text)[1]
    counts = re.findall(r"(\S+) \((\d+) tensors\)", left)
    assert sum(int(n) for _, n in counts) == sum(k.startswith("head.") for k in states)
    assert {name for name, _ in counts} == {
        ".".join(k.split(".")[: 3 if ".predictors." in k else 2])
        for k in states
        if k.startswith("head.")
    }


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
    fresh = build_model(config, load_pretrained=False).head
    for key, value in model.head.state_dict().items():
        index = int(key.split(".")[1]) if key.startswith("predictors.") else None
        if index is None:
            assert torch.equal(value, states[f"head.{key}"])
        elif index == 0:
            name = key.replace("predictors.0.", "head.predictors.1.")
            assert torch.equal(value, states[name])
        else:
            assert torch.equal(value, fresh.state_dict()[key])
    new = "head.predictors.1 (6 tensors), head.predictors.2 (6 tensors)"
    assert f"Deliberately new: {new}\n" in caplog.text
    assert "Deliberately left in the model: head.predictors.0 (6 tensors)\n" in (
        caplog.text
    )


@pytest.mark.parametrize("other", [{"codebook_fingerprint": "1"}, None])
def test_predictors_of_other_codebooks_are_left(other, trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    info = other and {**mos_corpus.token_info, **other}
    losses = {"mos_l1": {"weight": 1.0}}
    model, _ = start(trained, mos_corpus, token_info=info, losses=losses)
    keys = [key for key in model.state_dict() if "predictors" not in key]
    states = states_of(trained)
    assert_same(model, states, keys)
    for key, value in model.state_dict().items():
        assert key in keys or not torch.equal(value, states[key])
    assert "left in the model: head.predictors.0 (6 tensors), head.pred" in caplog.text
    assert ("Deliberately new" in caplog.text) is bool(info)


@pytest.mark.parametrize(
    "name,value,message",
    [
        ("head.linear.bias", None, "found nothing for head.linear.bias, expected"),
        (
            "head.linear.bias",
            torch.zeros(2),
            r"found shape \(2,\) for head.linear.bias",
        ),
        (
            "frontend.x",
            torch.zeros(2),
            "found 1 tensors that .*, the first is frontend.x",
        ),
        ("head.x", torch.zeros(2), "found 1 tensors that .*, the first is head.x"),
    ],
)
def test_every_tensor_is_accounted_for(name, value, message, trained, mos_corpus):
    states = {**states_of(trained), name: value}
    torch.save(
        {k: v for k, v in states.items() if v is not None}, trained / "model.pth"
    )
    with pytest.raises(ValueError, match=f"exp/old .model.pth.: {message}"):
        start(trained, mos_corpus)
    # With another head the rest of the head does not matter.
    losses = {"mos_l1": {"weight": 1.0}}
    if name.startswith("head."):
        start(trained, mos_corpus, head="ssl_mos", losses=losses)
        return
    with pytest.raises(ValueError, match=f"exp/old .model.pth.: {message}"):
        start(trained, mos_corpus, head="ssl_mos", losses=losses)
    with pytest.raises(ValueError, match=f"exp/old .model.pth.: {message}"):
        load(trained).build_frontend(None, {})


def test_the_frontend_alone_is_that_of_the_model(trained, mos_corpus):
    model, _ = start(trained, mos_corpus)
    frontend = load(trained).build_frontend(None, {"freeze": "all"})
    assert frontend.fingerprint() == model.frontend.fingerprint()
    assert frontend.fingerprint() != mos_corpus.token_info["upstream_fingerprint"]
    assert frontend.freeze == "all"
    with pytest.raises(ValueError, match="hidden_size=64, but exp/old has 32"):
        load(trained).build_frontend("hf", {"upstream_config": {"hidden_size": 64}})


def test_a_training_checkpoint_is_a_model_file_too(trained, mos_corpus):
    states = states_of(trained)
    torch.save({"model": states, "optimizers": []}, trained / "model.pth")
    assert_same(start(trained, mos_corpus)[0], states)


def test_another_scale_is_noted(trained, mos_corpus, caplog):
    start(trained, mos_corpus)
    assert "scale" not in caplog.text
    start(trained, mos_corpus, score_range=[0.0, 100.0])
    assert "scores on the scale [1.0, 5.0], the labels are on [0.0, 100.0]" in (
        caplog.text
    )


adapters = pytest.mark.skipif(
    "lora" not in inspect.signature(HFFrontend).parameters, reason="no LoRA yet"
)


def with_adapters(folder, rank=2):
    """Make the trained model one with adapters that do something."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["frontend_conf"]["lora"] = {"rank": rank, "alpha": 3}
    model = build_model(config, load_pretrained=False)
    config["frontend_conf"] = model.frontend.resolved_conf()
    generator = torch.Generator().manual_seed(1)
    states = {
        key: torch.rand(value.shape, generator=generator).to(value.dtype)
        for key, value in model.state_dict().items()
    }
    assert sum(".lora_B." in key for key in states) == 8
    return save(folder, config, states)


@adapters
def test_adapters_are_new_where_the_model_has_none(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    plain, _ = start(trained, mos_corpus)
    conf = {"lora": {"rank": 2}}
    model, config = start(trained, mos_corpus, frontend_conf=conf)
    states = states_of(trained)
    found = model.state_dict()
    new = {key for key in found if ".lora_" in key}
    assert len(new) == 16
    for key, value in found.items():
        if key not in new:
            assert torch.equal(value, states[key.replace(".base_layer.", ".")])
    # They add nothing yet, so that tokens of the model serve.
    assert model.frontend.fingerprint() == plain.frontend.fingerprint()
    frontend = load(trained).build_frontend(None, conf)
    assert frontend.fingerprint() == plain.frontend.fingerprint()
    assert "Deliberately new: frontend.model (16 tensors)\n" in caplog.text
    assert config["frontend_conf"]["lora"] == {"rank": 2}


@adapters
@pytest.mark.parametrize("lora", [None, {"rank": 2, "dropout": 0.25}])
def test_adapters_of_the_model_are_taken(lora, trained, mos_corpus):
    with_adapters(trained)
    conf = {} if lora is None else {"lora": lora}
    model, config = start(trained, mos_corpus, frontend_conf=conf)
    assert_same(model, states_of(trained))
    found = config["frontend_conf"]["lora"]
    assert (found["alpha"], found["dropout"]) == (3, 0.25 if lora else 0.0)


@adapters
def test_other_adapters_are_refused(trained, mos_corpus):
    with_adapters(trained)
    for key, value, message in (
        ("lora", {"rank": 4}, "frontend_conf.lora.rank=4, but exp/old has 2"),
        ("lora", {"alpha": 5}, "frontend_conf.lora.alpha=5, but exp/old has 3"),
        ("freeze", 1, "found nothing for frontend.model.encoder.layers.0.attention"),
    ):
        with pytest.raises(ValueError, match=message):
            start(trained, mos_corpus, frontend_conf={key: value})


# --- listeners and corpora ------------------------------------------------------------

CONDITIONS = {"listener_embedding": True, "corpus_embedding": True}


def test_known_listeners_and_corpora_keep_their_rows(mos_corpus, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    lists = {"listener_list": ["x", "y"], "corpus_list": ["a", "b"]}
    config = config_of(mos_corpus, model_conf=CONDITIONS, **lists)
    model = build_model(config, load_pretrained=True)
    config["frontend_conf"] = model.frontend.resolved_conf()
    states = {k: torch.rand_like(v.float()) for k, v in model.state_dict().items()}
    old = save(tmp_path, config, states)
    lists = {"listener_list": ["new", "y", "more"], "corpus_list": ["b", "c"]}
    model, _ = start(old, mos_corpus, model_conf=CONDITIONS, **lists)
    listener, corpus = states["condition.listener"], states["condition.corpus"]
    assert torch.equal(model.condition.listener[1], listener[1])
    assert not model.condition.listener[[0, 2]].any()
    assert torch.equal(model.condition.corpus[0], corpus[1])
    torch.testing.assert_close(model.condition.corpus[1], corpus.mean(dim=0))
    assert "1 of 3 rows of condition.listener start from exp/old, which has 2" in (
        caplog.text
    )
    # Without them the rest starts as ever, and they are left in the model.
    caplog.clear()
    model, _ = start(old, mos_corpus)
    assert model.condition is None
    assert "left in the model: condition.corpus (1 tensors), condition.l" in caplog.text


def test_embeddings_are_new_where_the_model_has_none(trained, mos_corpus, caplog):
    caplog.set_level(logging.INFO)
    lists = {"listener_list": ["x"], "corpus_list": ["a", "b"]}
    model, _ = start(trained, mos_corpus, model_conf=CONDITIONS, **lists)
    assert not any(table.any() for table in model.condition.parameters())
    assert "Deliberately new: condition.corpus (1 tensors), cond" in caplog.text
