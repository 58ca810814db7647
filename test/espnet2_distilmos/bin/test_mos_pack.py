# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from espnet2_distilmos.bin.mos_pack import FIELDS, main, model_card, public_config
from espnet2_distilmos.mos.build import build_frontend

RECIPES = Path(__file__).resolve().parents[3] / "egs2"


@pytest.fixture
def exp(tmp_path, monkeypatch):
    """An experiment directory, in the directory that a recipe would run in."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "exp" / "mos_x"
    folder.mkdir(parents=True)
    config = {"frontend": "hf", "head": "distilmos", "score_range": [1, 5]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "3epoch.pth").write_bytes(b"weights")
    (folder / "best.pth").symlink_to("3epoch.pth")
    (folder / "RESULTS.md").write_text("the table\n")
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"png")
    return folder


def pack(**changed):
    options = {
        "train_config": "exp/mos_x/config.yaml",
        "model_file": "exp/mos_x/best.pth",
        "outpath": "exp/mos_x/mos_x.zip",
        "results": "exp/mos_x",
        **changed,
    }
    return main([str(word) for k, v in options.items() for word in (f"--{k}", v)])


def contents(path="exp/mos_x/mos_x.zip"):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def test_pack_holds_what_a_user_needs(exp, tmp_path, monkeypatch):
    assert pack() == 0
    files = contents()
    assert set(files) == {
        "meta.yaml",
        *(f"exp/mos_x/{n}" for n in ("config.yaml", "3epoch.pth", "README.md")),
        *("exp/mos_x/RESULTS.md", "exp/mos_x/images/a.png"),
    }
    meta = yaml.safe_load(files["meta.yaml"])
    assert meta["yaml_files"] == {"train_config": "exp/mos_x/config.yaml"}
    assert meta["files"] == {"model_file": "exp/mos_x/3epoch.pth"}
    card = files["exp/mos_x/README.md"].decode()
    assert "head: `distilmos`" in card and "the table" in card
    # From elsewhere the names are the same.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    paths = {"train_config": exp / "config.yaml", "model_file": exp / "best.pth"}
    assert pack(**paths, results=exp, outpath="new.zip") == 0
    assert set(contents("new.zip")) == set(files) and os.listdir() == ["new.zip"]


def test_unpack_gives_an_experiment(exp, tmp_path, capsys):
    for weights in (b"weights", b"new"):  # a new .zip replaces what an older one left
        (exp / "3epoch.pth").write_bytes(weights)
        assert pack() == 0
        capsys.readouterr()
        assert main(["--unpack", "exp/mos_x/mos_x.zip", "--output_dir", "out"]) == 0
        assert capsys.readouterr().out == "3epoch.pth\n"
        assert (tmp_path / "out" / "3epoch.pth").read_bytes() == weights
    # The links of an unpacked model point to their neighbours.
    (tmp_path / "out").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "3epoch.pth").read_bytes() == b"new"
    config = yaml.safe_load((tmp_path / "moved" / "config.yaml").read_text())
    assert config["head"] == "distilmos"


def test_upstream_files_go_in(exp, tmp_path, capsys):
    conf = {"path_or_url": "upstream_files/a.pt", "download_dir": "upstream_files"}
    config = {"frontend": "s3prl", "frontend_conf": {**conf, "upstream": "apc"}}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    assert pack() == 1
    assert "mos_x/upstream_files" in last_line(capsys)
    (exp / "upstream_files").mkdir()
    for name in ("a.pt", "b.pt"):
        (exp / "upstream_files" / name).write_text(name)
    assert pack() == 0
    assert {f"exp/mos_x/upstream_files/{n}.pt" for n in "ab"} <= set(contents())
    main(["--unpack", "exp/mos_x/mos_x.zip", "--output_dir", "out"])
    assert (tmp_path / "out" / "upstream_files" / "b.pt").read_text() == "b.pt"


def test_what_cannot_be_used_is_named(exp, tmp_path, capsys):
    (exp / "bad.yaml").write_text("a: [")
    (exp / "card.yaml").write_text("license: cc-by-4.0\n")
    (tmp_path / "text.zip").write_text("no archive")
    for option, path in (
        *(("train_config", "exp/none"), ("train_config", "exp/mos_x/bad.yaml")),
        *(("model_file", "exp/none"), ("outpath", "exp/x.tar")),
        *(("card", "exp/none"), ("card", "exp/mos_x/card.yaml")),
    ):
        assert pack(**{option: path}) == 1
        assert path in last_line(capsys)
        assert not (exp / "mos_x.zip").exists()
    for path in ("text.zip", "none.zip"):
        assert main(["--unpack", path, "--output_dir", "out"]) == 1
        assert path in last_line(capsys)
    for options in (["--upload", "x"], ["--unpack", "x"], ["--train_config", "x"]):
        with pytest.raises(SystemExit):
            main(options)


def test_public_config():
    private = {
        "output_dir": "exp/x",
        "config": "/home/ann lee/conf/train.yaml",
        "data": [["/data/secret/wav.scp", "speech", "sound"], ("dump/raw/a", 3)],
        "init_param": ["/home/ann/a.pth:frontend:frontend"],
        "frontend_conf": {"upstream": "microsoft/wavlm-base", "path": "~/up.pt"},
        "token": "../../ann/tokens.json",
        "url": "https://host/a/b.pt",
        "dist_init_method": "file:///home/ann/.dist_init_3",
        "wandb_entity": "ann",
        "listener_list": ["Ann", "Bob"],
        "corpus_list": ["bvcc", "somos"],
        "lr": None,
    }
    assert public_config(private) == {
        "output_dir": "exp/x",
        "config": "train.yaml",
        "data": [["wav.scp", "speech", "sound"], ["dump/raw/a", 3]],
        "init_param": ["a.pth:frontend:frontend"],
        "frontend_conf": {"upstream": "microsoft/wavlm-base", "path": "up.pt"},
        "token": "tokens.json",
        "url": "https://host/a/b.pt",
        "listener_list": ["unnamed_0", "unnamed_1"],
        "corpus_list": ["bvcc", "somos"],
        "lr": None,
    }


def test_results_lose_the_trainers_directories(exp):
    text = (
        "command: `./run.sh --python /home/ann/venv/bin/python --config ../ann/c.yaml "
        "--x exp/mos_x/a`, see https://host/a/b and ![plot](images/a.png), 3/4\n"
        '"problems": ["/data/x/metric.scp: found ~/ann/b"]\n'
    )
    for name in ("RESULTS.md", "results.json"):
        (exp / name).write_text(text)
    pack()
    expected = (
        "command: `./run.sh --python python --config c.yaml "
        "--x exp/mos_x/a`, see https://host/a/b and ![plot](images/a.png), 3/4\n"
        '"problems": ["metric.scp: found b"]\n'
    )
    files = contents()
    for name in ("RESULTS.md", "results.json"):
        assert files[f"exp/mos_x/{name}"].decode() == expected
    assert expected in files["exp/mos_x/README.md"].decode()
    assert (exp / "RESULTS.md").read_text() == text


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


def test_the_card_says_what_the_model_is():
    card = model_card("mos_x", CONFIG, {}, "")
    for words in (
        "# mos_x\n",
        "scale 0 to 100",
        "microsoft/wavlm-base; wavlm, 12 layers of 768",
        "mos_l1 × 1, token_ce × 0.1",
        "wavlm 3 (K = 200)",
        "seed: 7",
    ):
        assert words in card
    # Nothing is made up.
    assert card.count("Not stated by who packed the model.") == 2
    assert "Not measured" in card and "Contact" not in card
    assert huggingface_hub.ModelCard(card).data.license is None


@pytest.mark.parametrize(
    "frontend, conf, words",
    [
        ("hf", {"num_layers": 3}, "microsoft/wavlm-base; wavlm, the first 3 of 12 lay"),
        ("spec_cnn", {}, "none; spec_cnn trained from scratch, 3 layers of 96"),
    ],
)
def test_the_card_says_how_small_the_upstream_is(frontend, conf, words):
    if frontend == "hf":
        conf = {**CONFIG["frontend_conf"], **conf}
    else:
        conf = build_frontend(frontend, conf).resolved_conf()
    config = {**CONFIG, "frontend": frontend, "frontend_conf": conf}
    assert words in model_card("mos_x", config, {}, "")


def test_the_card_says_what_the_recipe_states():
    facts = {
        "licence": "cc-by-4.0",
        "languages": ["en", "de"],
        "data": "Ten clips.",
        "intended_use": "Codecs.",
        "limits": "One talker.",
        "contact": "a@b",
    }
    assert set(facts) == set(FIELDS)
    card = model_card("m", {}, facts, "# RESULTS\n## A\n| 1 |\n")
    data = huggingface_hub.ModelCard(card).data
    assert data.library_name == "espnet" and data.license == "cc-by-4.0"
    assert data.language == ["en", "de"]
    sections = dict(part.split("\n", 1) for part in card.split("\n## ")[1:])
    assert sections["Training data"].strip() == "Ten clips."
    assert sections["Licence"].strip() == "cc-by-4.0"
    assert sections["Intended use"].strip() == "Codecs."
    assert sections["Limits"].strip().startswith("- One talker.\n- ")
    assert sections["Contact"].strip() == "a@b"
    assert sections["Results"].strip() == "### A\n| 1 |"


@pytest.mark.parametrize(
    "path", sorted(RECIPES.glob("*/mos1/conf/model_card.yaml")), ids=str
)
def test_the_cards_of_the_recipes(path):
    facts = yaml.safe_load(path.read_text())
    assert facts["licence"] and facts["data"] and set(facts) <= set(FIELDS)


def test_upload_sends_the_files_with_the_readme_on_top(exp, monkeypatch, capsys):
    seen = {}

    class Api:
        def create_repo(self, name, exist_ok):
            seen["repo"] = name

        def upload_folder(self, repo_id, folder_path):
            paths = Path(folder_path).rglob("*")
            seen["files"] = {str(path.relative_to(folder_path)) for path in paths}

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    pack()
    command = ["--upload", "exp/mos_x/mos_x.zip", "--hf_repo", "a/b"]
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(command) == 1 and "hf auth login" in last_line(capsys)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    assert main(command) == 0
    assert seen["repo"] == "a/b"
    assert {"README.md", "meta.yaml", "exp/mos_x/3epoch.pth"} <= seen["files"]
