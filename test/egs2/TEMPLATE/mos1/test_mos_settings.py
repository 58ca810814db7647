# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import json
import subprocess
import sys

import pytest

from espnet2_distilmos.mos.build import FRONTENDS
from espnet2_distilmos.mos.checkpoint import initial_frontend

from .conftest import TEMPLATE

SCRIPT = TEMPLATE / "pyscripts" / "utils" / "mos_settings.py"
spec = importlib.util.spec_from_file_location("mos_settings", SCRIPT)
mos_settings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mos_settings)


@pytest.fixture
def options(tmp_path, monkeypatch):
    """The defaults of mos.sh, with sets."""
    monkeypatch.chdir(tmp_path)
    options = dict.fromkeys(mos_settings.NUMBERS, "1")
    options.update(token_aggregate="heads")
    empty = "train_sets further_sets unlabelled_sets ood known_ood train_config "
    empty += (
        "train_args tag mos_exp mos_stats_dir tokens_tag import_km inference_config "
    )
    empty += "inference_args inference_tag token_upstreams"
    options.update(dict.fromkeys(empty.split(), ""))
    options.update(train_set="train", valid_set="dev", test_sets="a b")
    options.update(skip_train="false", calibration_share="0", token_layers="all")
    options.update(dumpdir="dump", expdir="exp", num_clusters="200")
    options.update(inference_model="valid.sys_srcc.best.pth")
    return options


def test_names_are_no_longer_than_file_systems_take(options, tmp_path):
    names = set()
    for end in "ab":
        options["train_args"] = f"--losses x={300 * 'a'}{end} --init_model {end}"
        found = mos_settings.settings_of(options)
        for key in ("mos_exp", "tokens_dir"):
            (tmp_path / found[key]).mkdir(parents=True)
            names.add(found[key])
    assert len(names) == 4


def test_names_carry_the_settings(options):
    (config := mos_settings.Path("train_x.yaml")).write_text("")
    args = "--seed 3 --frontend_conf upstream=a/b --init_model exp/m"
    options.update(train_config=str(config), train_args=args, token_layers="1,3")
    options.update(inference_args="--corpus c", ood="all", known_ood="b x/y")
    found = mos_settings.settings_of(options)
    assert found["mos_exp"] == (
        "exp/mos_train_x_raw_seed3_frontend_confupstreamab_init_modelexpm"
    )
    # Of the options of the training those of the upstream matter to the tokens.
    assert found["tokens_dir"] == (
        "dump/tokens/train_x_k200_l1-3_frontend_confupstreamab_init_modelexpm"
    )
    assert found["inference_tag"] == "inference_corpusc_valid.sys_srcc.best"
    assert found["mos_stats_dir"] == "exp/mos_stats_raw"
    assert found["test_sets"] == ["a", "b", "x/y"]
    assert (found["train_parts"], found["test_only"]) == (["train"], "false")
    options.update(import_km="6=a.mdl 9=b.mdl", tag="t", inference_tag="i")
    options.update(mos_stats_dir="s", train_args="")
    found = mos_settings.settings_of(options)
    assert found["tokens_dir"] == "dump/tokens/train_x_km6-9"
    assert (found["mos_exp"], found["inference_tag"]) == ("exp/mos_t", "i")
    assert found["mos_stats_dir"] == "s"


def test_names_carry_the_upstreams_of_the_tokens(options):
    found = mos_settings.settings_of(options)
    assert found["token_upstreams"] == []
    options.update(token_upstreams="upstream/a,/models/b", token_layers="1,3 2,4")
    options.update(num_clusters="200 100")
    found = mos_settings.settings_of(options)
    assert found["token_upstreams"] == ["upstream/a", "/models/b"]
    assert found["mos_exp"] == "exp/mos_train_raw_upstream-a+-models-b"
    assert found["tokens_dir"] == (
        "dump/tokens/train_k200+100_l1-3+2-4_upstream-a+-models-b"
    )
    options.update(token_upstreams=" a  b ", token_aggregate="concat", num_clusters="9")
    options.update(token_layers="all")
    found = mos_settings.settings_of(options)
    assert found["tokens_dir"] == "dump/tokens/train_k9_lall_a+b_concat"
    assert found["mos_exp"] == "exp/mos_train_raw_a+b_concat"


@pytest.mark.parametrize(
    "option, same",
    [
        ("freeze=all", True),
        ("freeze.layers=1", True),
        ("lora.rank=2", True),
        ("gradient_checkpointing=true", True),
        ("spec_augment=true", True),
        ("upstream_config.hidden_dropout=0.5", True),
        ("upstream_config.layerdrop=0.5", True),
        ("init_seed=1", False),
        ("normalize_waveform=true", False),
        ("upstream_config.num_hidden_layers=1", False),
    ],
)
def test_tokens_are_named_by_what_changes_them(option, same, options, mos_corpus):
    """As the frontends' own fingerprints have it."""
    config = mos_settings.Path("train.yaml")
    config.write_text(json.dumps(mos_corpus.config()))
    plain = mos_settings.settings_of(options)["tokens_dir"]
    for args in (f"--frontend_conf {option} --seed 1", f"--frontend_conf={option}"):
        options.update(train_args=args)
        assert (mos_settings.settings_of(options)["tokens_dir"] == plain) is same
        frontend = initial_frontend(str(config), args)
        print_of = mos_corpus.token_info["upstream_fingerprint"]
        assert (frontend.fingerprint() == print_of) is same


def test_all_training_options_of_frontends_are_known():
    names = {name for of in FRONTENDS.values() for name in of.training_options}
    assert all(
        bool(mos_settings.OF_TRAINING.match(f"{name}=")) is (name != "init_seed")
        for name in names
    )


def test_several_training_sets(options):
    options.update(unlabelled_sets="u:3")
    found = mos_settings.settings_of(options)
    assert found["train_parts"] == ["train", "u"]
    assert found["unlabelled_parts"] == ["u"]
    assert json.loads(found["train_weights"]) == {"train": 1, "u": 3}
    options.update(further_sets="pseudo:2")
    found = mos_settings.settings_of(options)
    assert found["train_parts"] == ["train", "pseudo", "u"]
    assert found["unlabelled_parts"] == ["u"]
    assert json.loads(found["train_weights"]) == {"train": 1, "pseudo": 2, "u": 3}
    options.update(further_sets="")
    options.update(train_sets="train:1 x/train:.5", unlabelled_sets="")
    found = mos_settings.settings_of(options)
    assert found["train_set"] == "train+x-train"
    assert json.loads(found["train_weights"]) == {"train": 1, "x/train": 0.5}
    assert found["mos_exp"] == "exp/mos_train_raw_train1+x-train.5"
    assert found["mos_stats_dir"] == "exp/mos_stats_raw_train+x-train"
    options.update(train_sets="train x/train")
    assert mos_settings.settings_of(options)["train_weights"] == ""


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(nj="two"), "--nj two"),
        (dict(train_config="no.yaml"), "--train_config no.yaml"),
        (dict(train_set=""), "--train_set is missing"),
        (dict(valid_set="", skip_train="true"), "--valid_set is missing"),
        (
            dict(train_set="", valid_set="", test_sets="", skip_train="true"),
            "--test_sets is missing",
        ),
        (dict(dumpdir="file/dump"), "file/dump cannot be written"),
        (dict(calibration_share="1.5"), "--calibration_share 1.5"),
        (dict(calibration_share=".3", train_set="dev"), "would split the training"),
        (dict(calibration_share=".3", ood="dev_calibration"), "rename yours"),
        (dict(train_sets="a:x b:1"), "a:x"),
        (dict(train_sets="a b:1"), "weights for some"),
        (dict(train_sets="a:2 a:1"), "a twice"),
        (dict(train_sets="a", unlabelled_sets="a"), "a twice"),
        (dict(train_sets="train:2"), "is one set"),
        (dict(further_sets="a:1"), "a is a training set and in --test_sets"),
        (dict(further_sets="a/"), "a/ is a training set and in --test_sets"),
        (dict(train_sets="x b", stage="7"), "b is a training set and in --test_sets"),
        (dict(train_set="x", ood="x"), "x is a training set and in --test_sets"),
        (dict(train_sets="x dev"), "dev is a training set and in --valid_set"),
        (dict(unlabelled_sets="dev"), "dev is a training set and in --valid_set"),
        (dict(train_sets="x:1 y:0"), "--train_sets has y:0, expected a weight above 0"),
        (dict(further_sets="x:.0"), "--train_sets has x:.0, expected a weight above"),
        (dict(train_sets="x /data/y"), "has the path /data/y, expected the name of"),
        (dict(train_sets="x ../y"), "has the path ../y, expected the name of"),
        (dict(train_set="", unlabelled_sets="u"), "--unlabelled_sets needs a labelled"),
        (dict(train_set="", further_sets="f"), "--further_sets needs a labelled set"),
        (dict(num_clusters="2 x"), "--num_clusters 2 x is not a whole number"),
        (dict(num_clusters="2 3"), "has 2 values, expected one, or one for each of"),
        (dict(token_layers="1 2 3", token_upstreams="a b"), "'1 2 3' has 3 values"),
        (dict(token_aggregate="mean"), "mean is not one of heads, average, concat"),
        (
            dict(token_aggregate="concat", token_upstreams="a"),
            "is of several upstreams",
        ),
        (
            dict(import_km="6=a", token_upstreams="a b"),
            "--import_km is of one upstream",
        ),
    ],
)
def test_what_cannot_work_is_refused(options, change, words):
    mos_settings.Path("file").write_text("")
    with pytest.raises(mos_settings.OptionError) as error:
        mos_settings.settings_of({**options, **change})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_set_of_the_own_recipe_has_two_names(options, tmp_path):
    options.update(further_sets=f"{tmp_path.parent.name}/a:1")
    with pytest.raises(mos_settings.OptionError, match="/a is a training set and in"):
        mos_settings.settings_of(options)


@pytest.mark.parametrize(
    "change",
    [
        dict(valid_set="train"),
        dict(further_sets="a:1", skip_train="true"),
        dict(test_sets="train", stage="8"),
        dict(further_sets="y/a:1"),
    ],
)
def test_sets_that_may_be_two_things(options, change):
    found = mos_settings.settings_of({**options, **change})
    assert found["train_parts"][0] == "train"


def test_a_shell_reads_every_value_back_unchanged(options, tmp_path):
    odd = "a'b $(touch gone) `id` \\ *"
    options.update(mos_exp=odd, test_sets="$(touch gone) ';id'", tag="")
    words = [f"{name}={value}" for name, value in options.items()]
    result = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True, check=True
    )
    show = 'printf "%s\\n" "$mos_exp" "${test_sets[@]}"'
    shown = subprocess.run(
        ["bash", "-c", f"{result.stdout}\n{show}"], capture_output=True, text=True
    )
    assert shown.stdout.splitlines() == [odd, "$(touch", "gone)", "';id'"]
    assert not (tmp_path / "gone").exists()
    words[-1] = "stage=x"
    refused = subprocess.run(
        [sys.executable, SCRIPT, *words], capture_output=True, text=True
    )
    assert refused.returncode == 1 and refused.stderr.startswith("mos.sh: --stage x")
