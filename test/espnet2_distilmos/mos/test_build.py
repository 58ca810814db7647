# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import copy

import pytest
import torch

from espnet2_distilmos.mos.build import (
    FRONTENDS,
    HEADS,
    LOSSES,
    build_frontend,
    build_head,
    build_losses,
    build_model,
    token_columns_of,
)
from espnet2_distilmos.mos.head.abs_head import TokenColumn


@pytest.fixture
def config(mos_corpus):
    return {
        "frontend": "hf",
        "frontend_conf": copy.deepcopy(mos_corpus.frontend_conf),
        "head": "distilmos",
        "head_conf": {"hidden_dim": 16},
        "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
        "token_info": mos_corpus.token_info,
        "model_conf": {"extract_feats_in_collect_stats": False},
    }


def test_registries():
    assert {"hf", "mfcc", "s3prl", "spec_cnn"} <= set(FRONTENDS)
    assert {"distilmos", "ssl_mos", "token"} <= set(HEADS)
    assert {"mos_l1", "contrastive", "token_ce", "masked_token_ce"} <= set(LOSSES)
    assert all(LOSSES[name].name == name for name in LOSSES)


def test_model_is_what_the_configuration_says(config):
    model = build_model(config, load_pretrained=False)
    assert model.frontend.num_layers == 2 and model.frontend.output_size() == 32
    assert model.head.linear.in_features == 16
    weights = {name: loss.weight for name, loss in model.losses.items()}
    assert weights == {"mos_l1": 1.0, "token_ce": 0.1}
    assert len(model.head.predictors) == 2
    assert model.head.predictors[0].layers[-1].out_features == 5


def test_same_configuration_same_upstream(config):
    for seed in (0, 1):
        torch.manual_seed(seed)
        fingerprint = build_model(config, True).frontend.fingerprint()
        assert fingerprint == config["token_info"]["upstream_fingerprint"]


@pytest.mark.parametrize(
    "change,words",
    [
        ({"frontend": "hff"}, "'hff'"),
        ({"head": "x"}, "'x'"),
        ({"losses": {"l1": {}}}, "'l1'"),
        ({"losses": ["mos_l1"]}, "list"),
        ({"losses": {"mos_l1": {"wieght": 1}}}, "mos_l1: .*'wieght'"),
        ({"losses": {"mos_l1": {"weight": -1}}}, "losses.mos_l1.weight=-1"),
        ({"head_conf": {"hidden": 3}}, "distilmos: .*'hidden'"),
        ({"frontend_conf": {"upstram": "x"}}, "hf: .*'upstram'"),
        ({"token_info": None}, "no tokens"),
        ({"token_info": {"format_version": 2}}, "format version 2"),
        ({"token_info": {"format_version": 1, "columns": [{}]}}, "'stream'"),
        ({"head": "ssl_mos", "head_conf": {}}, "no tokens"),
        (
            {"losses": {"bradley_terry": {"foo": 1}}},
            "bradley_terry: found the option 'foo', .* weight, scale, margin, across",
        ),
        ({"losses": {"mos_l1": 5}}, "losses.mos_l1=5, expected a mapping"),
        ({"head_conf": 5}, "head_conf=5, expected a mapping"),
        ({"head_conf": {"layer_adapter": 64}}, "layer_adapter=64, .*{dim: 64}"),
        ({"head_conf": {"layer_adapter": {"dim": "a"}}}, "layer_adapter={'dim': 'a'}"),
        ({"head_conf": {"layers": 1}}, "head_conf.layers=1, expected a list"),
        ({"head_conf": {"layers": [1, 1]}}, "head_conf.layers=.*each once"),
        ({"head_conf": {"pooling": ["mean", "sd", "sd"]}}, "pooling=.*each once"),
        ({"head_conf": {"probe": True}}, "probe=True, expected a mapping"),
        ({"head_conf": {"probe": {"foo": 1}}}, "probe={'foo': 1}, .*penalty"),
        ({"head_conf": {"probe": {"layers": [1, 1]}}}, "probe's layers=.*each once"),
        ({"head_conf": {"probe": {"layers": 1}}}, "probe's layers=1, expected a list"),
        ({"head_conf": {"probe": {"penalty": "3.0e4"}}}, "penalty='3.0e4', .*3.0e.4"),
    ],
)
def test_refused_configurations(change, words, config):
    with pytest.raises(ValueError, match=words) as error:
        build_model({**config, **change}, load_pretrained=False)
    assert "\n" not in str(error.value)


def test_head_and_losses_on_their_own(mos_corpus):
    frontend = build_frontend("hf", mos_corpus.frontend_conf)
    head = build_head("ssl_mos", {"hidden_dim": 7}, frontend, ())
    assert head.dnn[0].weight.shape == (7, 32)
    assert build_losses({"mos_l1": None})["mos_l1"].weight == 1.0
    assert build_losses({}) == {}


def test_token_columns(mos_corpus):
    assert token_columns_of(None) == []
    expected = [TokenColumn("hubert", 1, 5), TokenColumn("hubert", 2, 5)]
    assert token_columns_of(mos_corpus.token_info) == expected
