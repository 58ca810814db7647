# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The pretrained upstream that is in the repository."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.span_mask import SpanMask

MOS1 = Path(__file__).resolve().parents[3] / "egs2" / "mini_mos" / "mos1"
UPSTREAM = MOS1 / "upstream" / "hubert_tiny"


@pytest.fixture(scope="module")
def shipped():
    return HFFrontend(upstream=str(UPSTREAM)).eval()


def test_it_is_the_network_of_the_recipes(shipped):
    ssl1 = MOS1.parent / "ssl1" / "conf" / "train_hubert.yaml"
    conf = yaml.safe_load(ssl1.read_text())["frontend_conf"]
    random = HFFrontend(**conf)
    assert shipped.normalize_waveform and random.normalize_waveform
    shapes = [
        {name: tuple(p.shape) for name, p in f.named_parameters()}
        for f in (shipped, random)
    ]
    assert shapes[0] == shapes[1]
    default = yaml.safe_load((MOS1 / "conf" / "train_distilmos.yaml").read_text())
    upstream = default["frontend_conf"]["upstream"]
    assert (MOS1 / upstream).resolve() == UPSTREAM.resolve()


def test_it_is_small_and_says_where_it_is_from():
    size = sum(path.stat().st_size for path in UPSTREAM.iterdir())
    assert size < 6e6
    card = (UPSTREAM / "README.md").read_text()
    for words in ("CC BY 4.0", "CC BY-SA 3.0", "CC BY 3.0", "public domain"):
        assert words in card, words


def test_it_infers_what_hidden_frames_sound_like(shipped):
    """Ridge regression from masked frames' states, fitted to other speakers."""
    mfcc, mask = MFCCFrontend(True, receptive_field=930), SpanMask()
    random = HFFrontend(
        upstream_config=shipped.resolved_conf()["upstream_config"],
        normalize_waveform=True,
    ).eval()
    networks = {"shipped": shipped, "random": random}
    paths = sorted((MOS1 / "corpus" / "clean" / "dev").glob("*.opus"))
    states = {(name, accent): [] for name in networks for accent in "ab"}
    wanted = {accent: [] for accent in "ab"}  # American, British voices
    for path in paths:
        speech = torch.from_numpy(read_audio(str(path)))[None]
        length, accent = torch.tensor([speech.size(1)]), path.name[0]
        hidden = mask([mfcc.num_frames(speech.size(1))], [path.name], 0)
        with torch.inference_mode():
            (features,), _ = mfcc(speech, length)
            wanted[accent].append(features[0, :, 0][hidden[0]].numpy())
            for name, network in networks.items():
                found, _ = network(speech, length, hidden)
                states[name, accent].append(found[4][0][hidden[0]].numpy())
    y, z = [np.concatenate(wanted[accent]) for accent in "ab"]
    correlation = {}
    for name in networks:
        x, test = [np.concatenate(states[name, accent]) for accent in "ab"]
        ridge = make_pipeline(StandardScaler(), Ridge(100)).fit(x, y)
        correlation[name] = np.corrcoef(ridge.predict(test), z)[0, 1]
    # 0.65 and 0.28.
    assert correlation["shipped"] > max(0.5, correlation["random"] + 0.2), correlation
