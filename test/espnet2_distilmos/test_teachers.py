# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import sys
import types

import numpy as np
import pytest
import torch

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.teachers import Teacher, is_table, load_teacher, teach


def audio(seconds=0.5, peak=0.5):
    rng = np.random.default_rng(0)
    return (peak * rng.uniform(-1, 1, int(16000 * seconds))).astype(np.float32)


class DistillMOS(torch.nn.Module):
    """Stands in for the released network: the duration of one clip at a time."""

    def __init__(self):
        super().__init__()
        print("weights loaded")

    def forward(self, x):
        assert x.dim() == 2 and x.size(0) == 1 and not self.training
        assert not torch.is_grad_enabled()
        return torch.full((1, 1), x.size(1) / 16000)


def run_dnsmos(sample, sr):
    if np.abs(sample).max() > 1 or sr != 16000:
        raise ValueError("np.ndarray values must be between -1 and 1.")
    return {"ovrl_mos": 1.0, "sig_mos": 2.0, "bak_mos": 3.0, "p808_mos": 4.0}


@pytest.fixture
def packages(monkeypatch):
    dnsmos = types.SimpleNamespace(run=run_dnsmos)
    plcmos = types.SimpleNamespace(
        run=lambda sample, sr: {"plcmos": np.random.normal(), "model": "v2"}
    )
    speechmos = types.SimpleNamespace(dnsmos=dnsmos, plcmos=plcmos, __path__=[])
    modules = {"speechmos": speechmos, "speechmos.dnsmos": dnsmos}
    modules["speechmos.plcmos"] = plcmos
    modules["distillmos"] = types.SimpleNamespace(ConvTransformerSQAModel=DistillMOS)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_packages(packages, capsys):
    teacher = load_teacher("distillmos")
    assert teach(teacher, audio(0.5), "u") == {"distillmos": 0.5}
    # It greets where a table may be.
    found = capsys.readouterr()
    assert found.out == "" and "weights loaded" in found.err
    teacher = load_teacher("dnsmos")
    assert teacher.keys[0] == "dnsmos_ovrl"
    values = {"dnsmos_ovrl": 1, "dnsmos_sig": 2, "dnsmos_bak": 3, "dnsmos_p808": 4}
    assert teach(teacher, audio(peak=3.0), "u") == values
    teacher = load_teacher("plcmos")
    np.random.seed(7)
    expected = np.random.RandomState(7).normal(size=2)
    first = teach(teacher, audio(), "u")
    # Its raters are the same for every clip, and nobody else's numbers change.
    assert np.random.normal() == expected[0]
    assert teach(teacher, audio(0.1), "v") == first
    assert np.random.normal() == expected[1]


@pytest.mark.parametrize(
    "name, package",
    [("distillmos", "distillmos"), ("dnsmos", "speechmos"), ("plcmos", "speechmos")],
)
def test_a_package_that_is_missing_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=f"pip install {package}") as error:
        load_teacher(name)
    assert "espnet2_distilmos[teachers]" in str(error.value)


def test_a_model_of_ours(scorer_dir):
    teacher = load_teacher("mos_big", str(scorer_dir))
    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    expected = predictor(audio(), 16000).score
    assert teacher.keys == ("mos_big",)
    assert teacher.fingerprint == predictor.fingerprint
    assert teach(teacher, audio(), "u")["mos_big"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(DataError, match="clip u: mos_big cannot score it: .*samples"):
        teach(teacher, audio()[:1], "clip u")


def test_scores_that_are_none_are_refused():
    teacher = Teacher("t", ("t",), "", lambda audio: {"t": float("nan")})
    with pytest.raises(DataError, match="u: t gives it .*nan.*expected finite"):
        teach(teacher, audio(), "u")


def test_what_is_a_table(scorer_dir, tmp_path):
    (tmp_path / "scores.csv").write_text("id,mos\nu,3\n")
    models = [tmp_path / name for name in ("model.zip", "model.onnx")]
    for path in models:
        path.write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metric.scp").write_text('u {"mos": 3}\n')
    assert is_table(str(tmp_path / "scores.csv")) and is_table(str(tmp_path / "data"))
    for path in (scorer_dir, *models, tmp_path / "none.csv"):
        assert not is_table(str(path))
