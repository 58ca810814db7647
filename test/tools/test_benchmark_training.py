# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import sys
from pathlib import Path

import pytest
import torch
import transformers

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))
import benchmark_training as tool  # noqa: E402

# What of SHEET is called: it knows an upstream by its name in s3prl.
LOSSES = """
class ScalarLoss:
    def __init__(self, tau):
        assert tau == 0.5

    def __call__(self, scores, labels, device):
        return (scores.mean((1, 2)) - labels).abs().sum()
"""
SSLMOS = """
import torch

class SSLMOS(torch.nn.Module):
    def __init__(self, model_input, ssl_module, s3prl_name, ssl_model_output_dim):
        super().__init__()
        from s3prl.nn import S3PRLUpstream

        assert (model_input, ssl_module) == ("waveform", "s3prl")
        assert s3prl_name in S3PRLUpstream.available_names()
        self.ssl_model = S3PRLUpstream(s3prl_name)

    def forward(self, inputs):
        states, _ = self.ssl_model(inputs["waveform"], inputs["waveform_lengths"])
        return {"mean_scores": states[-1][..., :1]}
"""


@pytest.fixture
def network():
    config = transformers.HubertConfig(
        conv_dim=[16, 16],
        conv_kernel=[20, 16],
        conv_stride=[20, 16],
        num_feat_extract_layers=2,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
    )
    return transformers.HubertModel(config)


def test_sheet_gets_the_same_network(network, tmp_path, monkeypatch):
    nn = pytest.importorskip("s3prl.nn")
    (tmp_path / "sheet" / "models").mkdir(parents=True)
    (tmp_path / "sheet" / "losses.py").write_text(LOSSES)
    (tmp_path / "sheet" / "models" / "sslmos.py").write_text(SSLMOS)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("sheet", "sheet.losses", "sheet.models", "sheet.models.sslmos")
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)  # restored behind the test
        del sys.modules[name]
    upstream = nn.S3PRLUpstream
    model, loss = tool._sheet(network.eval())
    assert nn.S3PRLUpstream is upstream
    speech, lengths = 0.1 * torch.randn(2, 6400), torch.tensor([6400, 6400])
    mos = torch.tensor([2.0, 4.0])
    value = loss(model.eval(), speech, lengths, mos)
    frames = network(speech).last_hidden_state[..., 0]
    expected = (frames.mean(1) - mos).abs().sum()
    assert torch.allclose(value, expected, atol=1e-5)
    value.backward()
    assert all(
        p.grad is not None for n, p in model.named_parameters() if "layers.0" in n
    )


def test_without_sheet(network, monkeypatch):
    pytest.importorskip("s3prl")
    monkeypatch.setitem(sys.modules, "sheet", None)
    with pytest.raises(RuntimeError, match="found no SHEET .*pip install --target"):
        tool._sheet(network)
