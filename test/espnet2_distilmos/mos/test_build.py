# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy
import re

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    LOSSES,
    build_frontend,
    build_head,
    build_losses,
    build_model,
    load_model,
    load_weights,
    read_config,
    read_states,
    token_columns_of,
)
from espnet2_distilmos.mos.head.abs_head import TokenColumn


@pytest.fixture
def config(mos_corpus):
    """As training writes it."""
    return {
        "mos_format_version": 1,
        "frontend": "hf",
        "frontend_conf": copy.deepcopy(mos_corpus.frontend_conf),
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16},
        "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
        "token_info": mos_corpus.token_info,
        "model_conf": {"extract_feats_in_collect_stats": False},
    }


@pytest.fixture
def model(config):
    torch.manual_seed(0)
    return build_model(config, load_pretrained=False)


def speech():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4000, generator=generator), torch.tensor([4000, 3000])


# --- building -------------------------------------------------------------------------


def test_registries():
    assert set(FRONTENDS) == {"hf", "mfcc", "s3prl"}
    assert set(HEADS) == {"distilmos", "ssl_mos", "token"}
    assert set(LOSSES) == {
        "mos_l1",
        "mos_mse",
        "frame_l1",
        "frame_mse",
        "contrastive",
        "token_ce",
        "masked_token_ce",
        "masked_ema",
    }
    assert all(LOSSES[name].name == name for name in LOSSES)


def test_model_is_what_the_configuration_says(model, mos_corpus):
    assert model.frontend.num_layers == 2 and model.frontend.output_size() == 32
    assert model.head.linear.in_features == 16
    weights = {name: loss.weight for name, loss in model.losses.items()}
    assert weights == {"mos_l1": 1.0, "token_ce": 0.1}
    assert len(model.head.predictors) == 2
    assert model.head.predictors[0].layers[-1].out_features == 5


def test_same_configuration_same_upstream(config):
    fingerprints = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        fingerprints.append(build_model(config, True).frontend.fingerprint())
    assert fingerprints[0] == fingerprints[1]
    assert fingerprints[0] == config["token_info"]["upstream_fingerprint"]


@pytest.mark.parametrize(
    "change,message",
    [
        ({"frontend": "hff"}, "found frontend 'hff', expected one of hf"),
        ({"head": "x"}, "found head 'x', expected one of distilmos, ssl_mos"),
        ({"losses": {"l1": {}}}, "found losses 'l1', expected one of contrastive, "),
        ({"losses": ["mos_l1"]}, "found losses of type list, expected a mapping"),
        ({"losses": {"mos_l1": {"wieght": 1}}}, "losses mos_l1: .*'wieght'"),
        ({"losses": {"mos_l1": {"weight": "a"}}}, "losses mos_l1: "),
        ({"losses": {"mos_l1": {"weight": -1}}}, "losses.mos_l1.weight=-1"),
        ({"losses": {"frame_l1": {"tau": -1}}}, "losses.frame_l1.tau=-1"),
        ({"head_conf": {"hidden": 3}}, "head distilmos: .*'hidden'"),
        ({"frontend_conf": {"upstram": "x"}}, "frontend hf: .*'upstram'"),
        ({"frontend_conf": {}}, "neither `upstream` nor `upstream_config`"),
        ({"token_info": None}, "found losses.token_ce but no tokens"),
        ({"token_info": {"format_version": 2}}, "format version 2, expected 1"),
        (
            {"token_info": {"format_version": 1, "columns": [{"stream": "s"}]}},
            "tokens.json without 'layer'",
        ),
        ({"head": "ssl_mos", "head_conf": {}}, "SSLMOSHead, which predicts no tokens"),
    ],
)
def test_refused_configurations(change, message, config):
    with pytest.raises(ValueError, match=message):
        build_model({**config, **change}, load_pretrained=False)


def test_head_and_losses_on_their_own(mos_corpus):
    frontend = build_frontend("hf", mos_corpus.frontend_conf)
    head = build_head("ssl_mos", {"hidden_dim": 7}, frontend, ())
    assert head.dnn[0].weight.shape == (7, 32)
    assert build_losses({"frame_l1": {"tau": 0.5}, "mos_l1": None})["frame_l1"].tau == (
        0.5
    )
    assert build_losses({}) == {}


def test_token_columns(mos_corpus):
    assert token_columns_of(None) == []
    assert token_columns_of(mos_corpus.token_info) == [
        TokenColumn("hubert", 1, 5),
        TokenColumn("hubert", 2, 5),
    ]


# --- weights --------------------------------------------------------------------------


def save(model, path, **changes):
    states = dict(model.state_dict())
    states.update(changes)
    torch.save({k: v for k, v in states.items() if v is not None}, path)
    return path


def test_weights_are_those_of_the_file(model, config, tmp_path):
    torch.manual_seed(1)
    other = build_model(config, load_pretrained=False)
    assert not torch.equal(other.head.linear.weight, model.head.linear.weight)
    load_weights(other, save(model, tmp_path / "a.pth"))
    scores = [m.eval().inference(*speech()).utt_mos for m in (model, other)]
    assert torch.equal(*scores)


def test_weights_with_adapters(config, model, tmp_path):
    pytest.importorskip("peft")
    config["frontend_conf"]["lora"] = {"rank": 2}
    adapted = build_model(config, load_pretrained=False)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter)
    torch.save(adapted.state_dict(), tmp_path / "model.pth")
    config["frontend_conf"] = adapted.frontend.resolved_conf()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded, _ = load_model(tmp_path / "config.yaml", tmp_path / "model.pth")
    with torch.no_grad():
        expected = adapted.eval().inference(*speech()).utt_mos
        assert torch.equal(loaded.inference(*speech()).utt_mos, expected)
    # A model without adapters has no place for them, and the other way round.
    with pytest.raises(ValueError, match="found nothing for .*q_proj.weight|k_proj"):
        load_weights(model, tmp_path / "model.pth")
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ValueError, match="found nothing for .*base_layer"):
        load_weights(adapted, tmp_path / "plain.pth")


def test_weights_in_a_training_checkpoint(model, config, tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": model.state_dict(), "optimizers": []}, path)
    torch.manual_seed(1)
    other = build_model(config, load_pretrained=False)
    load_weights(other, path)
    assert torch.equal(other.head.linear.weight, model.head.linear.weight)


@pytest.mark.parametrize(
    "changes,message",
    [
        (
            {"head.linear.weight": None},
            "found nothing for head.linear.weight, expected",
        ),
        (
            {"head.linear.weight": torch.zeros(1, 17)},
            r"found shape \(1, 17\) for head.linear.weight, expected shape \(1, 16\)",
        ),
        ({"head.linear.weight": 3.0}, "found float for head.linear.weight"),
        (
            {"z.other": torch.zeros(1), "z.third": torch.zeros(1)},
            "found 2 tensors that the model does not have, the first is z.other",
        ),
        # the first in the order of the model
        (
            {"head.linear.bias": None, "head.decoder.linear.bias": None},
            "nothing for head.decoder.linear.bias",
        ),
    ],
)
def test_strict_loading_names_the_first_tensor(changes, message, model, tmp_path):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    path = save(model, tmp_path / "a.pth", **changes)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{message}"):
        load_weights(model, path)
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def assert_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ValueError, match="found no readable model file") as error:
        read_states(path)
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 300


def test_a_file_cut_off_anywhere(tmp_path):
    whole = tmp_path / "whole.pth"
    torch.save({"a": torch.randn(30, 30), "b": torch.zeros(5)}, whole)
    content = whole.read_bytes()
    kinds = set()
    for length in range(0, len(content), 37):
        path = tmp_path / "cut.pth"
        assert_refused(path, content[:length])
        try:
            torch.load(path, weights_only=True)
        except Exception as error:
            kinds.add(type(error))
    # the lengths meet all that torch raises here
    assert {RuntimeError, EOFError, OSError} <= kinds


@pytest.mark.parametrize(
    "content",
    [b"the quick brown fox\n", b"<html></html>", b"hello\n", b"version https://git-lfs"]
    + [b"PK\x03\x04 but no archive", b"RIFF1234WAVE", b"\0" * 100, b"12\n"],
)
def test_a_file_of_another_kind(content, tmp_path):
    assert_refused(tmp_path / "model.pth", content)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_any_first_byte(tmp_path):
    for byte in range(256):
        assert_refused(tmp_path / "model.pth", bytes([byte]) * 20)


def test_a_file_with_something_else(tmp_path):
    for value in (torch.zeros(3), [1, 2]):
        torch.save(value, tmp_path / "model.pth")
        with pytest.raises(ValueError, match="found no readable model file"):
            read_states(tmp_path / "model.pth")


def test_a_missing_file_is_named(model, tmp_path):
    with pytest.raises(OSError, match="none.pth"):
        load_weights(model, tmp_path / "none.pth")
    with pytest.raises(OSError):
        load_weights(model, tmp_path)


# --- a trained model ------------------------------------------------------------------


def test_load_model(model, config, tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save(model, tmp_path / "a.pth")
    loaded, found = load_model(tmp_path / "config.yaml", tmp_path / "a.pth")
    assert found == config and not loaded.training
    scores = loaded.inference(*speech()).utt_mos
    assert torch.equal(scores, model.eval().inference(*speech()).utt_mos)


@pytest.mark.parametrize(
    "upstream",
    [
        dict(
            model_type="whisper",
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            max_source_positions=50,
        ),
        dict(
            model_type="wav2vec2-bert",
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            position_embeddings_type="rotary",
        ),
    ],
)
def test_loading_draws_no_random_weights_and_loses_none(upstream, config, tmp_path):
    """Constants that are in no file are computed, and all else is the file's."""
    config["frontend_conf"] = {"upstream_config": upstream}
    config["token_info"] = None
    config["losses"] = {"mos_l1": {"weight": 1.0}}
    model = build_model(config, load_pretrained=True).eval()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    save(model, tmp_path / "a.pth")
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
        loaded, _ = load_model(tmp_path / "config.yaml", tmp_path / "a.pth")
    assert drawn == []
    buffers = dict(loaded.named_buffers())
    for name, value in model.named_buffers():
        assert torch.equal(buffers[name], value), name
    scores = loaded.inference(*speech()).utt_mos
    assert torch.equal(scores, model.inference(*speech()).utt_mos)


def test_untrained_model(config, tmp_path, caplog):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded, _ = load_model(tmp_path / "config.yaml", None)
    fingerprint = config["token_info"]["upstream_fingerprint"]
    assert loaded.frontend.fingerprint() == fingerprint
    assert "untrained" in caplog.text


@pytest.mark.parametrize("prefix", ["", "exp/x/", "/somewhere/else/exp/x/"])
def test_upstream_files_are_looked_for_beside_the_configuration(prefix, tmp_path):
    conf = {
        "upstream": "apc",
        "path_or_url": f"{prefix}upstream_files/a.pt",
        "extra_conf": {"config": f"{prefix}upstream_files/b.yaml", "layer": 3},
        "download_dir": f"{prefix}upstream_files",
        "freeze": "all",
    }
    config = {"mos_format_version": 1, "frontend_conf": conf}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    folder = tmp_path / "upstream_files"
    folder.mkdir()
    expected = {
        **conf,
        "path_or_url": str(folder / "a.pt"),  # which the frontend will not find
        "extra_conf": {"config": str(folder / "b.yaml"), "layer": 3},
        "download_dir": str(folder),
    }
    assert read_config(tmp_path / "config.yaml")["frontend_conf"] == expected


def test_upstream_files_elsewhere(tmp_path):
    """As the model zoo has it, which keeps its configurations apart."""
    there = tmp_path / "there" / "upstream_files" / "a.pt"
    there.parent.mkdir(parents=True)
    there.touch()
    conf = {"path_or_url": str(there)}
    config = {"mos_format_version": 1, "frontend_conf": conf}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert read_config(tmp_path / "config.yaml")["frontend_conf"] == conf


@pytest.mark.parametrize("content", ["", "[]", "mos_format_version: 9", "frontend: hf"])
def test_configuration_of_another_version(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match="config.yaml: found format version"):
        load_model(tmp_path / "config.yaml", None)
