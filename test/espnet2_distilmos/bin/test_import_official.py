# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import logging
import os
import subprocess
import sys

import pytest
import soundfile
import torch
import yaml
from mos import official_models as official

from espnet2_distilmos.bin.import_official import main
from espnet2_distilmos.bin.mos_inference import main as infer
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_metric_scp, write_scp
from espnet2_distilmos.mos.build import load_model


class Released:
    """A directory as it lies on the hub."""

    def __init__(self, root, backbone):
        self.root = root
        self.cfg = official.model_cfg(backbone)
        self.states = official.make_states(self.cfg)
        self.checkpoint = root / "model.pth.tar"
        self.config = root / "model_cfg.yaml"
        self.write()

    def write(self):
        torch.save({"model": self.states, "epoch": 7}, self.checkpoint)
        self.config.write_text(yaml.safe_dump(self.cfg))

    def command(self, out="out"):
        cmd = ["--checkpoint", self.checkpoint, "--config", self.config]
        return [str(part) for part in [*cmd, "--output", self.root / out]]


@pytest.fixture
def released(tmp_path):
    return Released(tmp_path, "wavlm")


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_from_the_release_to_scores(tmp_path, backbone):
    released = Released(tmp_path, backbone)
    command = [sys.executable, "-m", "espnet2_distilmos.bin.import_official"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([*command, *released.command()], check=True, env=env)
    # The released files are not needed any more.
    released.checkpoint.unlink()
    released.config.unlink()
    assert sorted(os.listdir(tmp_path / "out")) == ["config.yaml", "model.pth"]

    paths, expected = {}, {}
    for k, samples in enumerate((5000, 11111, 16000)):
        path = tmp_path / f"{k}.wav"
        speech = official.make_speech(samples, seed=k)
        soundfile.write(path, speech.clamp(-1, 1).numpy(), 16000, subtype="FLOAT")
        paths[str(k)] = str(path)
        speech = torch.from_numpy(read_audio(str(path)))
        forward = official.official_forward(released.cfg, released.states, speech)
        expected[str(k)] = forward["mos"]
    write_scp(tmp_path / "wav.scp", paths)
    out = tmp_path / "out"
    command = ["--train_config", out / "config.yaml", "--model_file", out / "model.pth"]
    command += ["--wav_scp", tmp_path / "wav.scp", "--output_dir", tmp_path / "scores"]
    # One file a batch; metric.scp has six decimals.
    command += ["--batch_seconds", "0.5"]
    assert infer([str(part) for part in command]) == 0
    scores = read_metric_scp(tmp_path / "scores" / "metric.scp")
    assert list(scores) == list(paths)
    for utt_id, score in scores.items():
        assert score == pytest.approx(expected[utt_id], abs=1e-5)


def test_the_directory(released, caplog):
    del released.cfg["freeze_wavlm"]
    released.write()
    with caplog.at_level(logging.INFO):
        assert main(released.command()) == 0
    assert "lacks freeze_wavlm: the values are those that the authors'" in caplog.text
    assert "wavlm of 3 layers" in caplog.text
    out = released.root / "out"
    model, config = load_model(out / "config.yaml", out / "model.pth")
    assert config["mos_format_version"] == 1
    assert [c.id for c in model.token_columns] == ["wavlm_l01", "wavlm_l03"]
    states = torch.load(out / "model.pth", weights_only=True)
    logits = released.states["weighted_sum.layer_logits"]
    assert torch.equal(states["head.weighted_sum.mix.weights"], logits)
    # Complete, whatever the next transformers takes for a default.
    assert config["frontend_conf"] == model.frontend.resolved_conf()
    assert config["frontend_conf"]["upstream_config"]["layer_norm_eps"] == 1e-5


def test_an_experiment_is_not_overwritten(released, capsys):
    assert main(released.command()) == 0
    before = (released.root / "out" / "config.yaml").read_bytes()
    assert main(released.command()) == 1
    assert "out/config.yaml is there already, expected" in capsys.readouterr().err
    assert (released.root / "out" / "config.yaml").read_bytes() == before


def test_fine_tuning_starts_from_the_directory(released, mos_corpus):
    from espnet2_distilmos.tasks.mos import MOSTask

    assert main(released.command()) == 0
    out = released.root / "out"
    args = mos_corpus.args(
        released.root / "exp",
        *("--init_model", out),
        tokens=False,
        frontend_conf={},
        head_conf={},
        losses={"mos_l1": {"weight": 1.0}},
    )
    model = MOSTask.build_model(args)
    states = torch.load(out / "model.pth", weights_only=True)
    found = model.state_dict()
    assert all(torch.equal(value, states[key]) for key, value in found.items())
    # Without tokens no predictor is left to train.
    assert {k.split(".")[1] for k in states if k not in found} == {"predictors"}
    model.train()
    torch.manual_seed(0)
    speech = torch.stack([official.make_speech(6000, seed=k) for k in range(2)])
    result = model(speech, torch.tensor([6000, 6000]), mos=torch.tensor([2.0, 4.0]))
    result["loss"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None}
    assert "frontend.model.encoder.layers.0.attention.q_proj.weight" in moved
    assert "head.weighted_sum.mix.weights" in moved


def spoil(released, how):
    if how == "text":
        released.checkpoint.write_text("not a checkpoint\n")
    elif how == "empty":
        released.checkpoint.write_bytes(b"")
    elif how == "cut":
        content = released.checkpoint.read_bytes()
        released.checkpoint.write_bytes(content[: len(content) // 2])
    elif how == "code":
        torch.save({"model": released.states, "hook": Released}, released.checkpoint)
    elif how == "absent":
        released.checkpoint.unlink()
    elif how == "directory":
        released.checkpoint.unlink()
        released.checkpoint.mkdir()
    elif how == "list":
        torch.save([1, 2], released.checkpoint)
    elif how == "no tensors":
        torch.save({"epoch": 3}, released.checkpoint)
    elif how == "name":
        released.states["ssl.mask_embedding"] = released.states.pop("ssl.mask_emb")
        released.write()
    elif how == "shape":
        released.states["linear.weight"] = torch.zeros(2, official.HIDDEN)
        released.write()
    elif how == "extra":
        released.states["decoder.extra"] = torch.zeros(2)
        released.write()
    elif how == "config absent":
        released.config.unlink()
    elif how == "config no yaml":
        released.config.write_text("a: [1\nb: c: d\n")
    elif how == "config binary":
        released.config.write_bytes(b"\xff\xfe\x00\x01")
    elif how == "config other":
        released.config.write_text("optim: adam\n")
    elif how == "config tag":
        released.config.write_text("!!python/object/apply:os.getcwd []\n")
    elif how == "config kernel":
        released.cfg["wavlm_cfg"]["encoder_attention_heads"] = 5
        released.write()


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("text", "model.pth.tar is no checkpoint of tensors and plain values (Unpick"),
        ("empty", "model.pth.tar is no checkpoint of tensors and plain values (EOF"),
        ("cut", "model.pth.tar is no checkpoint of tensors and plain values ("),
        ("code", "model.pth.tar is no checkpoint of tensors and plain values (Unpick"),
        ("absent", "model.pth.tar cannot be read (No such file or directory), expect"),
        ("directory", "model.pth.tar cannot be read (Is a directory), expected the"),
        ("list", "model.pth.tar is no checkpoint of tensors and plain values (Type"),
        ("no tensors", "model.pth.tar: found int at 'epoch', expected a tensor"),
        ("name", "model_cfg.yaml: found nothing for ssl.mask_emb, expected shape (32"),
        ("shape", "found shape (2, 12) for linear.weight, expected shape (1, 12): use"),
        ("extra", "found 1 tensors that DistilMOS with this model_cfg.yaml does not"),
        ("config absent", "model_cfg.yaml cannot be read (No such file or directory)"),
        ("config no yaml", "model_cfg.yaml is not YAML ("),
        ("config binary", "model_cfg.yaml is not YAML ("),
        ("config other", "found none of the keys downsample_kernels, downsample_str"),
        ("config tag", "model_cfg.yaml is not YAML (could not determine a construct"),
        ("config kernel", "the configuration describes no network that can be built"),
    ],
)
def test_a_wrong_file_gets_one_sentence(released, capsys, how, sentence):
    spoil(released, how)
    assert main(released.command()) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith("import_official: ") and error.count("\n") == 1
    assert not (released.root / "out").exists()


def test_a_full_disk_leaves_no_experiment(released, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert main(released.command()) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert os.listdir(released.root / "out") == []
