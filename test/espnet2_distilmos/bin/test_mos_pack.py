# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import zipfile

import huggingface_hub
import pytest
import yaml

from espnet2_distilmos.bin.mos_pack import get_parser, main


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
