# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from espnet2_distilmos.bin.dump_tokens import main as dump_tokens
from espnet2_distilmos.bin.learn_codebooks import main as learn_codebooks
from espnet2_distilmos.bin.mos_pack import main as mos_pack
from espnet2_distilmos.bin.mos_train import main as mos_train
from espnet2_distilmos.mos.build import build_frontend, load_model
from espnet2_distilmos.train.init_model import initial_frontend, initial_model

MOS_ONLY = {"losses": {"mos_l1": {"weight": 1.0}}, "tokens": False}


@pytest.fixture(scope="module")
def trained(mos_corpus, tmp_path_factory):
    """An experiment and its packed model."""
    out = mos_corpus.train(tmp_path_factory.mktemp("trained") / "exp", **MOS_ONLY)
    pack(out)
    return out


def pack(out):
    options = [
        "--train_config",
        out / "config.yaml",
        "--model_file",
        out / "1epoch.pth",
    ]
    assert mos_pack([str(o) for o in [*options, "--outpath", f"{out}.zip"]]) == 0


def test_without_a_trained_model(mos_corpus, tmp_path):
    config = mos_corpus.config()
    expected = build_frontend("hf", mos_corpus.frontend_conf).fingerprint()
    with initial_model(dict(config, token_info=mos_corpus.token_info)) as model:
        assert model.frontend.fingerprint() == expected
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    assert initial_frontend(str(path)).fingerprint() == expected
    seeded = initial_frontend(str(path), "--frontend_conf init_seed=1")
    assert seeded.fingerprint() != expected


@pytest.mark.parametrize("form", ["{}", "{}.zip", "{}/1epoch.pth", "{}/config.yaml"])
def test_every_form_of_a_trained_model(form, trained, tmp_path):
    init_model = form.format(trained)
    states = torch.load(trained / "1epoch.pth", weights_only=True)
    config = {"init_model": init_model, **MOS_ONLY}
    with initial_model(config) as model:
        assert all(torch.equal(v, states[k]) for k, v in model.state_dict().items())
        expected = model.frontend.fingerprint()
    path = tmp_path / "train.yaml"
    path.write_text("max_epoch: 1\n")
    args = f"--init_model {shlex.quote(init_model)}"
    assert initial_frontend(str(path), args).fingerprint() == expected
    path.write_text(yaml.safe_dump({"init_model": init_model}))
    assert initial_frontend(str(path)).fingerprint() == expected


def test_from_codebooks_to_fine_tuning(trained, mos_corpus, tmp_path):
    """Stages 5 and 7 see one network: the tokens' fingerprint is the training's."""
    train_args = f"--init_model {trained}.zip --frontend_conf freeze=cnn"
    config = tmp_path / "train.yaml"
    settings = {**mos_corpus.config(), "frontend_conf": {}, "head_conf": {}}
    del settings["frontend"], settings["head"]
    config.write_text(yaml.safe_dump(settings))
    common = ["--config", str(config), "--train_args", train_args]
    books = str(tmp_path / "codebooks.npz")
    options = ["--output", books, "--num_clusters", "4"]
    wav_scp = {
        name: str(mos_corpus.root / name / "wav.scp") for name in ("train", "valid")
    }
    assert learn_codebooks([*common, "--wav_scp", wav_scp["train"], *options]) == 0
    for name, path in wav_scp.items():
        options = ["--codebooks", books, "--output_dir", str(tmp_path / name)]
        assert dump_tokens([*common, "--wav_scp", path, *options]) == 0
    info = json.loads((tmp_path / "train" / "tokens.json").read_text())
    assert info["upstream_fingerprint"] != mos_corpus.token_info["upstream_fingerprint"]

    command = mos_corpus.command(tmp_path / "new", *train_args.split(), tokens=False)
    command[command.index("--config") + 1] = str(config)
    for name in wav_scp:
        tokens = f"{tmp_path}/{name}/tokens.scp,tokens,npy"
        command += [f"--{name}_data_path_and_name_and_type", tokens]
    command += ["--token_info", f"{tmp_path}/train/tokens.json"]
    mos_train(command)
    out = tmp_path / "new"
    model, found = load_model(out / "config.yaml", out / "1epoch.pth")
    assert found["token_info"] == info and len(model.head.predictors) == 2
    # What was frozen still is what the trained model has.
    states = torch.load(trained / "1epoch.pth", weights_only=True)
    key = "frontend.model.feature_extractor.conv_layers.0.conv.weight"
    assert torch.equal(model.state_dict()[key], states[key])
    moved = "frontend.model.encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(model.state_dict()[moved], states[moved])


def test_an_upstream_of_files_comes_along(mos_corpus, tmp_path):
    """From a zip, whose files are gone when training begins."""
    pytest.importorskip("s3prl")
    from s3prl.upstream.apc.apc import APC

    paras = dict(num_layers=3, hidden_size=16, dropout=0.1, residual=True)
    audio = dict(feat_type="fbank", feat_dim=20, frame_length=25, frame_shift=10)
    contents = {"config": {"data": {"audio": audio}, "model": {"paras": paras}}}
    contents["model"] = APC(20, **paras).state_dict()
    torch.save(contents, tmp_path / "apc.pt")
    conf = {"upstream": "apc", "path_or_url": str(tmp_path / "apc.pt")}
    first = mos_corpus.train(
        tmp_path / "first", frontend="s3prl", frontend_conf=conf, **MOS_ONLY
    )
    pack(first)
    shutil.rmtree(first)
    (tmp_path / "apc.pt").unlink()
    command = mos_corpus.command(
        tmp_path / "second", "--init_model", f"{first}.zip", **MOS_ONLY
    )
    config = Path(command[command.index("--config") + 1])
    settings = yaml.safe_load(config.read_text())
    del settings["frontend"], settings["frontend_conf"]
    config.write_text(yaml.safe_dump(settings))
    mos_train(command)
    Path(f"{first}.zip").unlink()
    out = tmp_path / "second"
    found = yaml.safe_load((out / "config.yaml").read_text())["frontend_conf"]
    assert found["path_or_url"] == "upstream_files/apc.pt"
    model, _ = load_model(out / "config.yaml", out / "1epoch.pth")
    assert model.frontend.name == "apc"
