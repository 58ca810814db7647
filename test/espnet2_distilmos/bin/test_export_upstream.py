# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import json
import stat

import pytest
import torch
import transformers

import espnet2_distilmos.bin.export_upstream as module
from espnet2_distilmos.bin.export_upstream import main
from espnet2_distilmos.mos.build import load_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend


@pytest.fixture(scope="module")
def experiment(mos_corpus, tmp_path_factory):
    conf = dict(mos_corpus.frontend_conf, normalize_waveform=True)
    info = json.loads((mos_corpus.root / "tokens.json").read_text())
    frontend = HFFrontend(**conf)
    info["upstream_fingerprint"] = frontend.fingerprint()
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "tokens.json").write_text(json.dumps(info))
    return mos_corpus.train(
        folder / "exp",
        *["--token_info", folder / "tokens.json"],
        frontend_conf=conf,
        max_epoch=1,
    )


def hidden_states(frontend):
    speech = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return frontend.eval()(speech, torch.tensor([8000, 5000]))[0]


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("float16", 2e-2)])
def test_the_copy_has_the_same_hidden_states(
    dtype, tolerance, experiment, tmp_path, capsys
):
    output = tmp_path / "new" / "upstream"
    assert main([str(experiment), str(output), "--dtype", dtype]) == 0
    assert "hidden states differ by" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    for path in output.iterdir():
        assert path.stat().st_mode & stat.S_IROTH
    trained, _ = load_model(
        experiment / "config.yaml", experiment / "valid.sys_srcc.best.pth"
    )
    copy = HFFrontend(upstream=str(output))
    assert copy.normalize_waveform
    for a, b in zip(hidden_states(trained.frontend), hidden_states(copy)):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
    # The mask embedding came along.
    expected = trained.frontend.model.masked_spec_embed.to(getattr(torch, dtype))
    assert torch.equal(copy.model.masked_spec_embed, expected.float())
    # transformers itself reads it.
    network = transformers.AutoModel.from_pretrained(output, dtype=torch.float32)
    for key, value in network.state_dict().items():
        assert torch.equal(value, copy.model.state_dict()[key])
    assert json.loads((output / "config.json").read_text())["dtype"] == dtype


def test_nothing_is_replaced_unasked(experiment, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main([str(experiment), str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main([str(experiment), str(tmp_path), "--overwrite"]) == 0
    assert not (tmp_path / "mine").exists()


def test_a_copy_that_differs_gets_no_name(experiment, tmp_path, capsys, monkeypatch):
    original = module.plain_network

    def changed(*args):
        network = original(*args)
        with torch.no_grad():
            network.feature_projection.projection.bias += 1.0
        return network

    monkeypatch.setattr(module, "plain_network", changed)
    assert main([str(experiment), str(tmp_path / "upstream")]) == 1
    assert "hidden states of the copy that differ" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change,sentence", [("lora", "adapters"), ("log_mel", "waveform")]
)
def test_what_no_checkpoint_holds(
    change, sentence, experiment, tmp_path, capsys, monkeypatch
):
    def broken(*args):
        model, config = load_model(*args)
        if change == "lora":
            model.frontend.lora = {"rank": 1}
        else:
            model.frontend.family.takes_waveform = False
        return model, config

    monkeypatch.setattr(module, "load_model", broken)
    assert main([str(experiment), str(tmp_path / "upstream")]) == 1
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
