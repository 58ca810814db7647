# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os
import sys
import types
import zipfile

import pytest
import torch
import yaml

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.trained_model import (
    keep_files,
    open_trained_model,
    unpack_zip,
)

CRITERIA = [["valid", "sys_srcc", "max"], ["valid", "utt_srcc", "max"]]


def experiment(folder, *names, criteria=CRITERIA):
    folder.mkdir(exist_ok=True)
    config = {} if criteria is None else {"best_model_criterion": criteria}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name in names:
        torch.save({}, folder / name)  # a zip archive, too
    return folder


def found(path):
    with open_trained_model(str(path)) as model:
        assert os.path.isfile(model.train_config)
        return os.path.relpath(model.model_file, os.path.dirname(model.train_config))


SYS, UTT = "valid.sys_srcc.best.pth", "valid.utt_srcc.best.pth"


@pytest.mark.parametrize(
    "names,expected",
    [
        ([UTT, SYS, "1epoch.pth", "model.pth", "checkpoint.pth"], SYS),
        ([UTT, "1epoch.pth", "model.pth"], UTT),
        (["1epoch.pth", "model.pth"], "model.pth"),
        (["checkpoint.pth", "checkpoint.previous.pth", "3epoch.pth"], "3epoch.pth"),
    ],
)
def test_which_model_file_of_an_experiment(names, expected, tmp_path):
    folder = experiment(tmp_path / "exp", *names)
    assert found(folder) == found(folder / "config.yaml") == expected
    assert found(folder / names[0]) == names[0]


def test_the_experiments_own_criterion_decides(tmp_path):
    folder = experiment(tmp_path / "exp", SYS, UTT, criteria=CRITERIA[1:])
    assert found(folder) == UTT


@pytest.mark.parametrize(
    "names,message",
    [
        (["1epoch.pth", "2epoch.pth"], "found 2 model files .1epoch.pth, 2epoch.pth."),
        (["checkpoint.pth"], "found no model, expected valid.sys_srcc.best.pth or"),
    ],
)
def test_nothing_says_which(names, message, tmp_path):
    folder = experiment(tmp_path / "exp", *names)
    with pytest.raises(DataError, match=f"exp: {message}"):
        found(folder)
    assert found(folder / names[0]) == names[0]


def test_what_is_no_model(tmp_path):
    with pytest.raises(DataError, match="none: found nothing, expected an experiment"):
        found(tmp_path / "none")
    with pytest.raises(DataError, match="found no config.yaml"):
        found(tmp_path)
    torch.save({}, tmp_path / "a.pth")
    with pytest.raises(DataError, match="a.pth: found no config.yaml"):
        found(tmp_path / "a.pth")
    for content in ("a: [", "- 3", "\xff"):
        (tmp_path / "config.yaml").write_text(content, encoding="latin-1")
        with pytest.raises(DataError, match="config.yaml .*expected what training or"):
            found(tmp_path)


def packed(path, **meta):
    meta = {"yaml_files": {"train_config": "exp/x/config.yaml"}, **meta}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", yaml.safe_dump(meta))
        archive.writestr("exp/x/config.yaml", "{}")
        archive.writestr("exp/x/7epoch.pth", "weights")
    return path


def test_a_zip_is_there_as_long_as_it_is_open(tmp_path):
    path = packed(tmp_path / "a.zip", files={"model_file": "exp/x/7epoch.pth"})
    with open_trained_model(str(path)) as model:
        with open(model.model_file) as file:
            assert file.read() == "weights"
    assert not os.path.exists(model.model_file)
    unpack_zip(str(path), str(tmp_path / "out"))
    assert found(tmp_path / "out") == "7epoch.pth"


def test_a_zip_of_something_else(tmp_path):
    path = packed(tmp_path / "a.zip", files={"asr_model_file": "exp/x/7epoch.pth"})
    with pytest.raises(DataError, match="a.zip has no model_file, expected a model of"):
        found(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(DataError, match="a.zip is not a packed model"):
        found(path)


def test_keep_files(tmp_path):
    sources = [tmp_path / "a" / "x.pt", tmp_path / "b" / "y.pt"]
    for source in sources:
        source.parent.mkdir()
        source.write_text(source.name)
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "x.pt").symlink_to(sources[0])
    names = [str(source) for source in sources]
    keep_files([*names, names[0]], str(folder))
    times = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    assert set(times) == {"x.pt", "y.pt"} and not (folder / "x.pt").is_symlink()
    keep_files(names, str(folder))  # nothing to do
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    with open(sources[0], "r+") as file:  # in place, as torch.save does it
        file.write("other")
    assert (folder / "x.pt").read_text() == "x.pt"
    keep_files(names, str(folder))
    assert (folder / "x.pt").read_text() == "other"


def test_files_that_cannot_be_kept(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.pt").write_text(name)
    names = [str(tmp_path / name / "x.pt") for name in ("a", "b")]
    with pytest.raises(DataError, match="a/x.pt and .*b/x.pt have one name"):
        keep_files(names, str(tmp_path / "kept"))
    with pytest.raises(DataError, match="none.pt cannot be copied to .*No such file"):
        keep_files([str(tmp_path / "none.pt")], str(tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_tags_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = packed(tmp_path / "a.zip", files={"model_file": "exp/x/7epoch.pth"})
    unpack_zip(str(path), str(tmp_path / "out"))
    seen = []

    def snapshot_download(tag):
        seen.append(tag)
        if tag == "user/model":
            return str(tmp_path / "out")
        raise OSError("no network\nat all")

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    assert found("user/model") == "7epoch.pth"
    with pytest.raises(DataError, match="hub gave none .OSError: no network at all."):
        found("user/other")
    # what cannot be a tag, or is a mistyped path, is not asked for
    for name in ("none", "./none/x", "/none/x", "a/b/c", "out/x"):
        with pytest.raises(DataError, match="found nothing, expected an experiment"):
            found(name)
    assert seen == ["user/model", "user/other"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="install huggingface_hub for the hub"):
        found("user/model")
