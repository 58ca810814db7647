# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import os
import shutil
import stat

import pytest
import torch
import transformers
import yaml
from mos.frontend.tiny_upstreams import FIRST, VARIANTS, each_family

from espnet2_distilmos.bin import export_upstream
from espnet2_distilmos.bin.export_upstream import main
from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend


def experiment(scorer_dir, folder, **frontend_conf):
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    config["frontend_conf"].update({"normalize_waveform": True, **frontend_conf})
    model = build_model(config, load_pretrained=True).eval()
    config["frontend_conf"] = model.frontend.resolved_conf()
    folder.mkdir()
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return model.frontend


def hidden_states(frontend):
    speech = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return frontend.eval()(speech, torch.tensor([8000, 5000]))[0]


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("float16", 2e-2)])
def test_the_copy_has_the_same_hidden_states(dtype, tolerance, scorer_dir, tmp_path):
    trained = experiment(scorer_dir, tmp_path / "exp")
    output = tmp_path / "new" / "upstream"
    assert main([str(tmp_path / "exp"), str(output), "--dtype", dtype]) == 0
    files = {path.name: path.stat().st_mode for path in output.iterdir()}
    assert all(mode & stat.S_IROTH for mode in files.values())
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(files) == names
    copy = HFFrontend(upstream=str(output))
    assert copy.normalize_waveform
    for a, b in zip(hidden_states(trained), hidden_states(copy)):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    # The mask embedding came along.
    expected = trained.model.masked_spec_embed.to(getattr(torch, dtype))
    assert torch.equal(copy.model.masked_spec_embed, expected.float())
    # transformers itself reads it.
    network = transformers.AutoModel.from_pretrained(output, dtype=torch.float32)
    for key, value in network.state_dict().items():
        assert torch.equal(value, copy.model.state_dict()[key])
    assert json.loads((output / "config.json").read_text())["dtype"] == dtype


def test_the_copy_of_a_cut_network_is_as_small(scorer_dir, tmp_path):
    trained = experiment(scorer_dir, tmp_path / "exp", num_layers=1)
    assert main([str(tmp_path / "exp"), str(tmp_path / "out")]) == 0
    copy = HFFrontend(upstream=str(tmp_path / "out"))
    assert (trained.num_layers, copy.num_layers) == (1, 1)
    for a, b in zip(hidden_states(trained), hidden_states(copy), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


EXTRACTORS = {
    "whisper": transformers.WhisperFeatureExtractor,
    "wav2vec2-bert": transformers.SeamlessM4TFeatureExtractor,
}


@each_family
def test_transformers_reads_every_family(model_type, scorer_dir, tmp_path):
    """Its own classes: the weights, and what the extractor shall do."""
    takes_waveform = model_type not in EXTRACTORS
    conf = {"upstream_config": VARIANTS[FIRST[model_type]]}
    conf["normalize_waveform"] = takes_waveform
    trained = experiment(scorer_dir, tmp_path / "exp", **conf)
    output = tmp_path / "out"
    assert main([str(tmp_path / "exp"), str(output)]) == 0
    copy = HFFrontend(upstream=str(output))
    for a, b in zip(hidden_states(trained), hidden_states(copy), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    network = transformers.AutoModel.from_pretrained(output)
    network = network.encoder if model_type == "whisper" else network
    found = network.state_dict()
    for key, value in trained.model.state_dict().items():
        assert torch.equal(value, found[key])
    extractor = EXTRACTORS.get(model_type, transformers.Wav2Vec2FeatureExtractor)
    options = extractor.from_pretrained(output).to_dict()
    expected = dict(trained.family.extractor_conf)
    if takes_waveform:
        expected["do_normalize"] = True
    assert {key: options[key] for key in expected} == expected


def test_nothing_is_replaced_unasked(scorer_dir, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine").touch()
    assert main([str(scorer_dir), str(output)]) == 1
    assert str(output) in capsys.readouterr().err and (output / "mine").exists()
    # An earlier export alone is replaced.
    assert main([str(scorer_dir), str(output), "--overwrite"]) == 1
    assert (
        "it has mine, expected" in capsys.readouterr().err
        and (output / "mine").exists()
    )
    (output / "mine").rename(output / "config.json")
    assert main([str(scorer_dir), str(output), "--overwrite"]) == 0
    assert len(list(output.iterdir())) == 3 and len(list(tmp_path.iterdir())) == 1
    copy = shutil.copytree(scorer_dir, tmp_path / "model")
    before = sorted(os.listdir(copy))
    assert main([str(copy), str(copy), "--overwrite"]) == 1
    assert sorted(os.listdir(copy)) == before


def test_a_copy_that_differs_gets_no_name(scorer_dir, tmp_path, capsys, monkeypatch):
    original = export_upstream.write_checkpoint

    def changed(frontend, *args):
        original(frontend, *args)
        with torch.no_grad():
            frontend.model.feature_projection.projection.bias += 1.0

    monkeypatch.setattr(export_upstream, "write_checkpoint", changed)
    assert main([str(scorer_dir), str(tmp_path / "upstream")]) == 1
    assert "differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "conf,words",
    [
        ({"lora": {"rank": 1}}, "adapters"),
        ({"upstream_config": VARIANTS["whisper"], "num_layers": 1}, "norm"),
    ],
)
def test_what_no_checkpoint_holds(conf, words, scorer_dir, tmp_path, capsys):
    pytest.importorskip("peft")
    experiment(scorer_dir, tmp_path / "exp", **conf)
    assert main([str(tmp_path / "exp"), str(tmp_path / "upstream")]) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "upstream").exists()
