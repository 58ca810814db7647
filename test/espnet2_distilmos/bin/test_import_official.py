# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import os

import pytest
import soundfile
import torch
import yaml
from mos import official_models as official

from espnet2_distilmos.bin.import_official import main
from espnet2_distilmos.bin.mos_inference import main as infer
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.data.datadir import read_metric_scp, write_scp


class Released:
    """A directory as it lies on the hub."""

    def __init__(self, root, backbone):
        self.root = root
        self.cfg = official.model_cfg(backbone)
        self.states = official.make_states(self.cfg)
        self.checkpoint = root / "model.pth.tar"
        self.config = root / "model_cfg.yaml"
        torch.save({"model": self.states, "epoch": 7}, self.checkpoint)
        self.config.write_text(yaml.safe_dump(self.cfg))

    def convert(self):
        cmd = ["--checkpoint", self.checkpoint, "--config", self.config]
        return main([str(part) for part in [*cmd, "--output", self.root / "out"]])


@pytest.fixture
def released(tmp_path):
    return Released(tmp_path, "wavlm")


@pytest.mark.parametrize("backbone", ["wavlm", "w2v2"])
def test_from_the_release_to_scores(tmp_path, backbone):
    released = Released(tmp_path, backbone)
    assert released.convert() == 0
    # The released files are not needed any more.
    released.checkpoint.unlink()
    released.config.unlink()
    out = tmp_path / "out"
    assert sorted(os.listdir(out)) == ["config.yaml", "model.pth"]
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
    command = ["--train_config", out / "config.yaml", "--model_file", out / "model.pth"]
    command += ["--wav_scp", tmp_path / "wav.scp", "--output_dir", tmp_path / "scores"]
    # One file a batch; metric.scp has six decimals.
    command += ["--batch_seconds", "0.5"]
    assert infer([str(part) for part in command]) == 0
    scores = read_metric_scp(tmp_path / "scores" / "metric.scp")
    assert scores == pytest.approx(expected, abs=1e-5)


def test_fine_tuning_starts_from_the_directory(released, mos_corpus):
    from espnet2_distilmos.tasks.mos import MOSTask

    assert released.convert() == 0
    args = mos_corpus.args(
        released.root / "exp",
        *("--init_model", released.root / "out"),
        tokens=False,
        frontend_conf={},
        head_conf={},
        losses={"mos_l1": {"weight": 1.0}},
    )
    model = MOSTask.build_model(args)
    states = torch.load(released.root / "out" / "model.pth", weights_only=True)
    assert all(torch.equal(v, states[k]) for k, v in model.state_dict().items())


def spoil(released, how):
    if how == "there":
        assert released.convert() == 0
    elif how == "absent":
        released.checkpoint.unlink()
    elif how == "text":
        released.checkpoint.write_text("404: Not Found")
    elif how == "config tag":
        released.config.write_text("!!python/object/apply:os.abort []")
    else:
        released.config.write_text("hidden_dim: 13\n")


@pytest.mark.parametrize(
    "how,words",
    [
        ("there", "out/config.yaml"),
        ("absent", "model.pth.tar"),
        ("text", "model.pth.tar"),
        ("config tag", "model_cfg.yaml"),
        ("config", "model_cfg.yaml"),
    ],
)
def test_a_wrong_file_gets_one_sentence(released, capsys, how, words):
    spoil(released, how)
    capsys.readouterr()
    assert released.convert() == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert words in error
    assert (released.root / "out").exists() is (how == "there")


def test_a_full_disk_leaves_no_experiment(released, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert released.convert() == 1
    assert os.listdir(released.root / "out") == []
