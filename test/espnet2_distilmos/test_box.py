# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The scorer that comes with the package."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import espnet2_distilmos
from espnet2_distilmos import MOSPredictor, load_predictor
from espnet2_distilmos.evaluation.formats import read_scores

FOLDER = Path(espnet2_distilmos.__file__).parent / "box"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Vowels of several voices, of 0.2 to 32 s, two of them in noise."""
    path = tmp_path_factory.mktemp("vowels")
    random = np.random.default_rng(0)
    for k, seconds in enumerate((3.0, 0.2, 7.5, 32.0, 1.0)):
        t = np.arange(int(16000 * seconds)) / 16000
        pitch = (90 + 25 * k) * (1 + 0.1 * np.sin(2 * np.pi * 1.3 * t))
        phase = 2 * np.pi * np.cumsum(pitch) / 16000
        wave = sum(np.sin(h * phase) / h for h in range(1, 20))
        wave = 0.1 * wave * (1 + np.sin(2 * np.pi * 3 * t))
        wave += (0.05 if k % 2 else 0.0005) * random.normal(size=len(t))
        soundfile.write(path / f"{k}.wav", wave.clip(-1, 1), 16000)
    return path


def test_the_files_are_those_of_the_card_and_small():
    card = (FOLDER / "README.md").read_text()
    sizes = []
    for name in ("box.onnx", "calibration.npz"):
        data = (FOLDER / name).read_bytes()
        sizes.append(len(data))
        (digest,) = re.findall(rf"`{name}` \| `([0-9a-f]{{64}})`", card)
        assert hashlib.sha256(data).hexdigest() == digest
    assert sum(sizes) < 12e6


def test_the_same_score_alone_in_any_order_and_on_two_runs(folder, tmp_path):
    files = sorted(str(path) for path in folder.iterdir())
    predictor = load_predictor()
    alone = {path: next(predictor.predict_files([path])).result for path in files}
    for found in load_predictor("box").predict_files(files[::-1]):
        assert found.result.score == alone[found.path].score
    # By the command too, without torch.
    code = (
        "import sys\n"
        "from espnet2_distilmos.bin.distilmos import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'espnet2'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    output = tmp_path / "scores.csv"
    command = [sys.executable, "-c", code, "predict", str(folder)]
    command += ["--interval", "0.9", "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("box: ")
    records = {Path(r.path).name: r for r in read_scores(str(output)).records}
    for path, result in alone.items():
        record = records[Path(path).name]
        assert record.score == pytest.approx(result.score, abs=1e-6)
        lower, upper = result.interval(0.9)
        assert float(record.extra["upper"]) == pytest.approx(upper, abs=1e-6)
        assert record.extra["novel"] == result.novel


def test_the_score_is_what_its_parts_make_it(folder):
    """The mean of the frames; of an embedding of 768, mean and SD of layer 3."""
    predictor = MOSPredictor.from_pretrained()
    scores = []
    for found in predictor.predict_files(sorted(map(str, folder.iterdir()))):
        result = found.result
        assert len(result.embedding) == 768
        if not result.note.startswith("longer"):
            assert result.score == pytest.approx(result.frames.mean(), abs=1e-4)
        scores.append(result.score)
    assert np.ptp(scores) > 0.1
    # Nothing like speech is flagged.
    clips = [np.sin(np.arange(40000) * f) * 0.1 for f in (0.05, 0.3)]
    assert all(clip.novel for clip in predictor(clips, 16000))


def test_what_it_cannot_is_said():
    predictor = load_predictor()
    with pytest.raises(ValueError, match="gradients"):
        predictor(np.zeros(16000), 16000, grad=True)
    assert "digital silence" in predictor(np.zeros(16000), 16000).note
