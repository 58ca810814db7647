# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos.data.datadir import DataError, read_scp
from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend
from espnet2_distilmos.mos.span_mask import SpanMask

from ..conftest import make_tree

ROOT = Path(__file__).resolve().parents[3]
SSL1 = ROOT / "egs2" / "mini_mos" / "ssl1"


def load_module(name):
    spec = importlib.util.spec_from_file_location(name, SSL1 / "local" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def probe():
    return load_module("probe")


@pytest.fixture(scope="module")
def prepare_speech():
    return load_module("prepare_speech")


def write_speech(root, speakers=3, utterances=4, seconds=1.2):
    """Folders of speakers, each with noises of a colour of its own."""
    generator = np.random.default_rng(0)
    for s in range(speakers):
        for u in range(utterances):
            path = root / f"speaker{s}" / f"utt{u}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = generator.normal(size=round((seconds + 0.1 * u) * 16000))
            soundfile.write(path, 0.05 * np.convolve(noise, np.ones(s + 1)), 16000)


# --- data -----------------------------------------------------------------------------


def test_speakers_are_folders_or_what_the_manifest_says(prepare_speech, tmp_path):
    write_speech(tmp_path, utterances=1)
    found = prepare_speech.find_speech(str(tmp_path))
    ids = {(f"speaker{s}_utt0", f"speaker{s}") for s in range(3)}
    assert {(u.utt_id, u.speaker) for u in found} == ids
    (tmp_path / "manifest.csv").write_text(
        "utt,wav,speaker\na,speaker0/utt0.wav,Ann B\nb,speaker1/utt0.wav,Bob\n"
    )
    found = prepare_speech.find_speech(str(tmp_path))
    assert [(u.utt_id, u.speaker) for u in found] == [
        ("Ann_B_utt0", "Ann_B"),
        ("Bob_utt0", "Bob"),
    ]
    for manifest, words in (("wav,speaker\nno.wav,Ann\n", "no.wav"), ("wav\n", "wav")):
        (tmp_path / "manifest.csv").write_text(manifest)
        with pytest.raises(DataError, match=f"manifest.csv .*{words}"):
            prepare_speech.find_speech(str(tmp_path))


LIBRISPEECH = "dev-clean/LibriSpeech/dev-clean/1272/128104/1272-128104-0000.flac"
PROMPTS = "usr/share/asterisk/sounds/ru_RU_f"


@pytest.mark.parametrize(
    "name, path, speaker, utterance",
    [
        ("speechocean762", "WAVE/SPEAKER0001/01.WAV", "SPEAKER0001", "_01"),
        ("librispeech", LIBRISPEECH, "1272", "_128104_1272-128104-0000"),
        ("ljspeech", "LJSpeech-1.1/wavs/LJ001-0001.wav", "LJ", "_001-0001"),
        ("asterisk", f"{PROMPTS}/digits/1.wav", "ru_RU_f", "_digits_1"),
    ],
)
def test_speakers_of_known_corpora(
    prepare_speech, tmp_path, name, path, speaker, utterance
):
    """The owners' folders, with files that are no speech."""
    for file in (path, "README.txt", "elsewhere.wav", f"{PROMPTS}/silence/1.wav"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (found,) = prepare_speech.find_corpus(name, str(tmp_path))
    assert found.speaker == f"{name}-{speaker}"
    assert found.utt_id == found.speaker + utterance
    (tmp_path / path).unlink()
    for wanted in (name, "vctk"):
        with pytest.raises(DataError):
            prepare_speech.find_corpus(wanted, str(tmp_path))


def test_corpora_are_downloaded_once(recipe, tmp_path):
    """From archives of the owners' layout, with what fetches them replaced."""
    write_speech(tmp_path / "WAVE", speakers=1)
    (tmp_path / "WAVE" / "speaker0").rename(tmp_path / "WAVE" / "SPEAKER0001")
    write_speech(tmp_path / "sounds" / "it", speakers=1, utterances=1)
    tar = ["tar", "-C", str(tmp_path), "-czf", str(tmp_path / "archive"), "WAVE"]
    subprocess.run(tar, check=True)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in {
        "curl": 'while [ "$1" != --output ]; do shift; done\n'
        f'echo "$3" >> {tmp_path}/calls\ncp {tmp_path}/archive "$2"',
        "apt-get": f'echo "$1" >> {tmp_path}/calls\ntouch a.deb',
        "dpkg-deb": f'cp -r {tmp_path}/sounds "$3"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\nset -eu\n{script}\n")
        (programs / name).chmod(0o755)
    command = ["local/data.sh", "--corpora", "speechocean762 asterisk"]
    command += ["--downloads", f"{tmp_path}/downloads", "--out", f"{tmp_path}/data"]
    path = f"{programs}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        subprocess.run(command, cwd=recipe, env=environment, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [call.rsplit("/", 1)[-1] for call in calls] == [
        "speechocean762.tar.gz",
        "download",
    ]
    speakers = [
        set(read_scp(tmp_path / "data" / name / "spk2utt")) for name in ("train", "dev")
    ]
    assert set.union(*speakers) == {"speechocean762-SPEAKER0001", "asterisk-it"}


def test_held_out_speakers_are_whole_and_drawn(prepare_speech):
    names = [f"s{k}" for k in range(40)]
    held_out = prepare_speech.hold_out(names, 0.1, 0)
    assert len(held_out) == 4
    assert held_out == prepare_speech.hold_out(names[::-1], 0.1, 0)
    assert held_out != prepare_speech.hold_out(names, 0.1, 1)
    assert len(prepare_speech.hold_out(["a", "b"], 0.01, 0)) == 1
    assert len(prepare_speech.hold_out(["a", "b"], 1.0, 0)) == 1
    with pytest.raises(DataError, match="the only speaker a"):
        prepare_speech.hold_out(["a"], 0.5, 0)


# --- probes ---------------------------------------------------------------------------


def test_silence_stands_where_the_masked_frames_listen(probe):
    frontend = MFCCFrontend()
    mask = torch.zeros(1, 49, dtype=torch.bool)
    mask[0, 10:20] = True
    silenced = probe.silence_spans(torch.ones(1, 16000), mask, frontend)
    gone = torch.nonzero(silenced[0] == 0)[:, 0]
    # Centres 199.5 + 320 t, half a frame to either side.
    assert (int(gone[0]), len(gone)) == (40 + 3200, 3200)


def test_classifier_against_scikit_learn(probe):
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    centres = 2 * generator.normal(size=(5, 8))
    y = generator.integers(5, size=4000)
    x = centres[y] + generator.normal(size=(4000, 8)) * [1, 1, 1, 1, 9, 9, 9, 9]
    x = x.astype(np.float32)
    found = probe.classifier_accuracy(x[:3000], y[:3000], x[3000:], y[3000:], 5)
    expected = LogisticRegression(max_iter=1000).fit(x[:3000], y[:3000])
    assert found == pytest.approx(expected.score(x[3000:], y[3000:]), abs=0.02)
    assert 0.5 < found < 1


def test_ridge_never_sees_the_talker_that_it_is_scored_on(probe):
    generator = np.random.default_rng(0)
    talkers = np.repeat(["a", "b", "c", "d"], 30)
    quality = generator.uniform(1, 5, size=120)
    level = np.repeat(generator.normal(size=4), 30) * 5
    # What the talkers share predicts; a clip's own number does not.
    pooled = np.stack([quality + generator.normal(size=120), level], 1)[:, None]
    rated = probe.Ratings(np.repeat(pooled, 2, 1), quality, talkers)
    own = probe.Ratings(rated.pooled, np.repeat([1.0, 2, 3, 4], 30), talkers)
    held_out, zero_shot = probe.ridge_srcc(rated, rated, 1)
    assert 0.6 < held_out < 0.95 and zero_shot > held_out - 0.1
    # A label that only the talker decides cannot be told of a new talker.
    assert probe.ridge_srcc(own, None, 0)[0] < 0.5


# --- the recipe -----------------------------------------------------------------------


def test_the_network_and_its_first_tokens_have_one_grid():
    train = yaml.safe_load((SSL1 / "conf" / "train_hubert.yaml").read_text())
    tokens = yaml.safe_load((SSL1 / "conf" / "tokens_mfcc.yaml").read_text())
    network = build_frontend(train["frontend"], train["frontend_conf"])
    mfcc = build_frontend(tokens["frontend"], tokens["frontend_conf"])
    assert mfcc.frame_centre == network.frame_centre
    assert mfcc.normalize_waveform == network.normalize_waveform
    assert all(mfcc.num_frames(n) == network.num_frames(n) for n in (930, 48000))
    assert sum(p.numel() for p in network.parameters()) < 3e6
    SpanMask(**train["model_conf"]["mask"])


TOY = dict(
    conv_dim=[8, 8, 8, 8, 8],
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)


@pytest.fixture
def recipe(tmp_path):
    """The recipe, with links to what it does not own, in a tree of its own."""
    make_tree(tmp_path)
    folder = tmp_path / "egs2" / "mini_mos" / "ssl1"
    folder.mkdir(parents=True)
    for path in SSL1.iterdir():
        if path.name in ("data", "dump", "exp"):
            continue
        if path.is_symlink():
            (folder / path.name).symlink_to(os.readlink(path))
        else:
            (folder / path.name).symlink_to(path)
    config = yaml.safe_load((SSL1 / "conf" / "train_hubert.yaml").read_text())
    config["frontend_conf"]["upstream_config"].update(TOY)
    config.update(batch_bins=48000, num_iters_per_epoch=2, max_epoch=2)
    config.update(use_matplotlib=False, use_tensorboard=False)
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(recipe, *options):
    """Run ssl.sh; what it makes stays out of the repository's own folders."""
    top = recipe.parents[2]
    command = ["./ssl.sh", "--nj", "1", "--train_threads", "1"]
    command += ["--train_config", str(top / "toy.yaml"), "--num_clusters", "5"]
    command += ["--dumpdir", str(top / "dump"), "--expdir", str(top / "exp")]
    command += options
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=recipe, env=environment, capture_output=True, text=True
    )


@pytest.mark.slow
def test_from_speech_to_an_upstream_in_two_iterations(recipe, tmp_path):
    write_speech(tmp_path / "speech")
    options = ["--local_data_opts", f"--speech_dir {tmp_path}/speech"]
    options += ["--stop_stage", "6", "--token_layer", "2"]
    options += ["--later_train_args", "--noisy_view noise_prob=0.5"]
    result = run(recipe, *options)
    logs = [*tmp_path.glob("dump/*/*/*.log"), *tmp_path.glob("exp/*/*.log")]
    tails = "".join(path.read_text()[-2000:] for path in logs)
    assert result.returncode == 0, result.stdout + result.stderr + tails

    # Whole speakers are held out.
    speakers = [
        set(read_scp(recipe / "data" / name / "spk2utt")) for name in ("train", "dev")
    ]
    assert [len(names) for names in speakers] == [2, 1]
    assert not speakers[0] & speakers[1]
    # Each iteration predicts the tokens of the one before, the first those of MFCC.
    for number, column in ((1, ("mfcc", 0)), (2, ("hubert", 2))):
        tokens = tmp_path / "dump/tokens" / f"iteration{number}" / "tokens.json"
        (found,) = json.loads(tokens.read_text())["columns"]
        assert (found["stream"], found["layer"], found["K"]) == (*column, 5)
        exp = tmp_path / "exp" / f"hubert_iteration{number}"
        upstream = HFFrontend(upstream=str(exp / "upstream"))
        trained = torch.load(exp / "valid.loss.best.pth")
        for key, value in upstream.state_dict().items():
            assert torch.equal(value, trained[f"frontend.{key}"].half().float())
    config = yaml.safe_load((exp / "config.yaml").read_text())
    first = f"{tmp_path}/exp/hubert_iteration1/valid.loss.best.pth"
    assert config["init_param"] == [f"{first}:frontend:frontend"]
    assert config["noisy_view"]["noise_prob"] == 0.5


def test_options_are_checked(recipe):
    result = run(recipe, "--help")
    assert result.returncode == 0 and "--token_layer (3)" in result.stdout
    for options, words in (
        (["--nj", "many"], "not a whole number"),
        (["--stage", "3", "--stop_stage", "3"], "run stage 2 first"),
    ):
        result = run(recipe, *options)
        assert result.returncode == 1 and words in result.stderr
