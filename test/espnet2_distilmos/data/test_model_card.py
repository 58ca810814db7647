# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

from pathlib import Path

import pytest
import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.model_card import FIELDS, model_card, read_facts

RECIPES = Path(__file__).resolve().parents[3] / "egs2"
CONFIG = {
    "frontend": "hf",
    "frontend_conf": {
        "upstream": "microsoft/wavlm-base",
        "upstream_config": {
            "model_type": "wavlm",
            "num_hidden_layers": 12,
            "hidden_size": 768,
        },
    },
    "head": "distilmos",
    "losses": {"mos_l1": {"weight": 1.0}, "token_ce": {"weight": 0.1}},
    "token_info": {"columns": [{"stream": "wavlm", "layer": 3, "K": 200}]},
    "score_range": [0.0, 100.0],
    "seed": 7,
}


def front_matter(card):
    _, head, body = card.split("---\n", 2)
    return yaml.safe_load(head), body


def test_what_the_configuration_says():
    head, body = front_matter(model_card("mos_x", CONFIG))
    assert head["library_name"] == "espnet" and "license" not in head
    for words in (
        "# mos_x\n",
        "scale 0 to 100",
        "microsoft/wavlm-base; wavlm, 12 layers of 768",
        "mos_l1 × 1, token_ce × 0.1",
        "K = 200 of the layers wavlm 3",
        "seed: 7",
    ):
        assert words in body
    # Nothing is made up.
    assert body.count("Not stated by who packed the model.") == 2
    assert "Not measured" in body and "Contact" not in body


def test_what_the_recipe_states():
    facts = {
        "licence": "cc-by-4.0",
        "languages": ["en", "de"],
        "data": "Ten clips.",
        "intended_use": "Codecs.",
        "limits": "One talker.",
        "contact": "a@b",
    }
    assert set(facts) == set(FIELDS)
    head, body = front_matter(model_card("m", {}, facts, "# RESULTS\n## A\n| 1 |\n"))
    assert head["license"] == "cc-by-4.0" and head["language"] == ["en", "de"]
    sections = dict(part.split("\n", 1) for part in body.split("\n## ")[1:])
    assert sections["Training data"].strip() == "Ten clips."
    assert sections["Licence"].strip() == "cc-by-4.0"
    assert sections["Intended use"].strip() == "Codecs."
    assert sections["Limits"].strip().startswith("- One talker.\n- ")
    assert sections["Contact"].strip() == "a@b"
    assert sections["Results"].strip() == "### A\n| 1 |"


@pytest.mark.parametrize(
    "text, words",
    [("a: [", "cannot be read"), ("[3]", "found"), ("data: x\nby: y", "['by']")],
)
def test_facts_that_are_none(text, words, tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        read_facts(str(path))


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/mos1/conf/model_card.yaml")), ids=str
)
def test_those_of_the_recipes(path):
    facts = read_facts(str(path))
    assert facts["licence"] and facts["data"]
