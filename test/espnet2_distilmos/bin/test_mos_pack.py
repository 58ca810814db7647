# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os
import zipfile

import huggingface_hub
import pytest
import yaml

from espnet2_distilmos.bin.mos_pack import get_parser, main, public_config


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
    return main([word for k, v in options.items() for word in (f"--{k}", v)])


def test_pack_holds_what_a_user_needs(exp):
    assert pack() == 0
    with zipfile.ZipFile(exp / "mos_x.zip") as archive:
        names = set(archive.namelist())
        meta = yaml.safe_load(archive.read("meta.yaml"))
        card = archive.read("exp/mos_x/README.md").decode()
    assert meta["yaml_files"] == {"train_config": "exp/mos_x/config.yaml"}
    assert meta["files"] == {"model_file": "exp/mos_x/3epoch.pth"}
    assert {"exp/mos_x/RESULTS.md", "exp/mos_x/images/a.png"} <= names
    assert "head: `distilmos`" in card and "the table" in card
    assert [p.name for p in exp.iterdir() if p.name.startswith(".")] == []


def test_the_card_states_what_the_recipe_says(exp, capsys):
    facts = exp / "model_card.yaml"
    facts.write_text("licence: cc-by-4.0\ndata: Ten clips of one talker.\n")
    assert pack(card=str(facts)) == 0
    with zipfile.ZipFile(exp / "mos_x.zip") as archive:
        card = archive.read("exp/mos_x/README.md").decode()
    assert card.startswith("---\nlibrary_name: espnet\nlicense: cc-by-4.0\n")
    assert "Ten clips of one talker." in card and "# mos_x\n" in card
    facts.write_text("license: cc-by-4.0\n")
    assert pack(card=str(facts)) == 1
    assert "found ['license'], expected some of licence" in capsys.readouterr().err


def test_unpack_gives_an_experiment(exp, tmp_path, capsys):
    pack()
    out = tmp_path / "other"
    capsys.readouterr()
    for _ in range(2):  # a repeat replaces the links
        assert main(["--unpack", str(exp / "mos_x.zip"), "--output_dir", str(out)]) == 0
        assert capsys.readouterr().out == "3epoch.pth\n"
    assert (out / "3epoch.pth").read_bytes() == b"weights"
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["head"] == "distilmos"


@pytest.mark.parametrize("missing", ["train_config", "model_file"])
def test_a_missing_file_is_named(exp, capsys, missing):
    assert pack(**{missing: "exp/mos_x/none"}) == 1
    assert "exp/mos_x/none is not there" in capsys.readouterr().err
    assert not (exp / "mos_x.zip").exists()


def test_what_is_no_packed_model_is_refused(exp, tmp_path, capsys):
    (tmp_path / "text.zip").write_text("no archive")
    assert main(["--unpack", "text.zip", "--output_dir", "out"]) == 1
    assert "text.zip is not a packed model" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "asr.zip", "w") as archive:
        meta = {"yaml_files": {"asr_train_config": "c.yaml"}, "files": {}}
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        archive.writestr("c.yaml", "{}")
    assert main(["--unpack", "asr.zip", "--output_dir", "out"]) == 1
    assert "has no model_file and train_config" in capsys.readouterr().err


def test_a_new_zip_replaces_what_an_older_one_left(exp, tmp_path, capsys):
    for weights in (b"weights", b"new"):
        (exp / "3epoch.pth").write_bytes(weights)
        pack()
        assert main(["--unpack", "exp/mos_x/mos_x.zip", "--output_dir", "out"]) == 0
        assert (tmp_path / "out" / "3epoch.pth").read_bytes() == weights
    # The links of an unpacked model point to their neighbours.
    (tmp_path / "out").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "3epoch.pth").read_bytes() == b"new"


def test_pack_from_anywhere_has_the_same_names(exp, tmp_path, monkeypatch):
    pack()
    with zipfile.ZipFile(exp / "mos_x.zip") as archive:
        expected = sorted(archive.namelist())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    options = {
        "train_config": str(exp / "config.yaml"),
        "model_file": str(exp / "best.pth"),
        "results": str(exp),
    }
    assert pack(**options, outpath="new.zip") == 0
    with zipfile.ZipFile("new.zip") as archive:
        assert sorted(archive.namelist()) == expected
    assert sorted(os.listdir()) == ["README.md", "new.zip"]


def test_upstream_files_go_in(exp, tmp_path, capsys):
    conf = {"path_or_url": "upstream_files/a.pt", "download_dir": "upstream_files"}
    config = {"frontend": "s3prl", "frontend_conf": {**conf, "upstream": "apc"}}
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    assert pack() == 1
    error = capsys.readouterr().err
    assert "mos_x/upstream_files is not there, expected it since" in error
    (exp / "upstream_files").mkdir()
    for name in ("a.pt", "b.pt"):
        (exp / "upstream_files" / name).write_text(name)
    assert pack() == 0
    with zipfile.ZipFile(exp / "mos_x.zip") as archive:
        names = [n for n in archive.namelist() if "upstream_files" in n]
        packed = yaml.safe_load(archive.read("exp/mos_x/config.yaml"))
    assert sorted(names) == [f"exp/mos_x/upstream_files/{n}.pt" for n in "ab"]
    # As ESPnet's unpack finds and rewrites it.
    assert packed["frontend_conf"]["path_or_url"] in names
    main(["--unpack", str(exp / "mos_x.zip"), "--output_dir", "out"])
    assert (tmp_path / "out" / "upstream_files" / "b.pt").read_text() == "b.pt"


def test_listeners_lose_their_names():
    config = {"listener_list": ["Ann", "Bob"], "corpus_list": ["bvcc", "somos"]}
    public = public_config(config)
    assert public["listener_list"] == ["unnamed_0", "unnamed_1"]
    assert public["corpus_list"] == ["bvcc", "somos"]
    assert config["listener_list"] == ["Ann", "Bob"]


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
        "dist_master_addr": "node7",
        "wandb_entity": "ann",
        "seed": 3,
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
        "dist_init_method": None,
        "dist_master_addr": None,
        "wandb_entity": None,
        "seed": 3,
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
    with zipfile.ZipFile(exp / "mos_x.zip") as archive:
        for name in ("RESULTS.md", "results.json"):
            assert archive.read(f"exp/mos_x/{name}").decode() == expected
        assert expected in archive.read("exp/mos_x/README.md").decode()
    assert (exp / "RESULTS.md").read_text() == text


def test_a_config_that_is_none_is_refused(exp, capsys):
    for content in ("a: [", "[3]"):
        (exp / "config.yaml").write_text(content)
        assert pack() == 1
        assert "config.yaml that training wrote" in capsys.readouterr().err


def test_upload_without_login_says_so(exp, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    pack()
    assert main(["--upload", "exp/mos_x/mos_x.zip", "--hf_repo", "a/b"]) == 1
    assert "run 'hf auth login' and stage 11 again" in capsys.readouterr().err


def test_upload_sends_the_files_with_the_readme_on_top(exp, monkeypatch):
    seen = {}

    class Api:
        def create_repo(self, name, exist_ok):
            seen["repo"] = name

        def upload_folder(self, repo_id, folder_path):
            from pathlib import Path

            folder = Path(folder_path)
            seen["files"] = {
                str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()
            }

    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "token")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    pack()
    assert main(["--upload", "exp/mos_x/mos_x.zip", "--hf_repo", "a/b"]) == 0
    assert seen["repo"] == "a/b"
    assert {"README.md", "meta.yaml", "exp/mos_x/3epoch.pth"} <= seen["files"]


def test_parser_names_what_is_missing(capsys):
    assert get_parser().description
    for options in (["--upload", "x"], ["--unpack", "x"], ["--train_config", "x"]):
        with pytest.raises(SystemExit):
            main(options)
        assert "is missing" in capsys.readouterr().err
