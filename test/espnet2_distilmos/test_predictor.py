# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import concurrent.futures
import contextlib
import copy
import itertools
import logging
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings

import numpy as np
import pytest
import soundfile
import torch
import yaml

from espnet2_distilmos import MOSPredictor
from espnet2_distilmos.data.audio import read_audio
from espnet2_distilmos.evaluation.trust import fit_scale
from espnet2_distilmos.mos.build import build_model
from espnet2_distilmos.mos.checkpoint import load_model
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.predictor import MOSResult, _Resample


@pytest.fixture(scope="module")
def predictor(scorer_dir):
    return MOSPredictor.from_pretrained(str(scorer_dir))


def syllables(seconds=1.3, rate=16000, seed=0, top=3500.0):
    """Harmonics under an envelope of syllables, band-limited, with silent ends.

    A sum of sinusoids: at every rate the samples of one and the same signal.
    """
    generator = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    pitch = generator.uniform(90, 220)
    signal = np.zeros_like(t)
    for k in range(1, int(top / pitch)):
        phase = generator.uniform(0, 2 * np.pi)
        signal += np.cos(2 * np.pi * k * pitch * t + phase) / k
    envelope = 0.6 + 0.4 * np.sin(2 * np.pi * generator.uniform(2, 5) * t)
    fade = np.clip(np.minimum(t, seconds - t) / 0.1, 0, 1)
    return 0.15 * signal * envelope * np.sin(np.pi / 2 * fade) ** 2


def alone(model, wave):
    """The model's own answer to one waveform."""
    speech = torch.as_tensor(wave, dtype=torch.float32)[None]
    return model.inference(speech, torch.tensor([speech.size(1)]), [0, 1])


# Scores


def test_result_is_the_models_own(predictor, scorer_dir):
    model, _ = load_model(
        scorer_dir / "config.yaml", scorer_dir / "valid.sys_srcc.best.pth"
    )
    wave = syllables()
    expected = alone(model, wave)
    found = predictor(wave, 16000, token_posteriors=True)
    assert isinstance(found, MOSResult) and isinstance(found.score, float)
    assert found.score == pytest.approx(float(expected.utt_mos[0]), abs=1e-4)
    np.testing.assert_allclose(found.frames, expected.frame_mos[0], atol=1e-5)
    np.testing.assert_allclose(found.embedding, expected.embedding[0], atol=1e-5)
    assert found.seconds == len(wave) / 16000 and found.note == ""
    assert list(found.token_posteriors) == ["hubert_l01", "hubert_l02"]
    for logits, posteriors in zip(
        expected.token_logits, found.token_posteriors.values()
    ):
        expected_posteriors = np.exp(logits[0].numpy())
        expected_posteriors /= expected_posteriors.sum(-1, keepdims=True)
        np.testing.assert_allclose(posteriors, expected_posteriors, atol=1e-5)
    assert predictor(wave, 16000).token_posteriors is None


def test_bf16_is_near_and_the_same_in_any_batch(predictor, scorer_dir):
    waves = [syllables(0.4 + 0.37 * k, seed=k) for k in range(4)]
    rounded = MOSPredictor.from_pretrained(str(scorer_dir), precision="bf16")
    found = rounded(waves, 16000)
    for wave, whole, result in zip(waves, predictor(waves, 16000), found):
        assert 0 < abs(result.score - whole.score) < 0.05
        assert result.score == rounded(wave, 16000).score
        assert result.frames.dtype == np.float32
    assert rounded.fingerprint != predictor.fingerprint
    assert rounded.model_fingerprint == predictor.model_fingerprint
    with pytest.raises(ValueError, match="fp32 or bf16"):
        MOSPredictor.from_pretrained(str(scorer_dir), precision="fp16")


@pytest.mark.parametrize(
    "capabilities,slow",
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False}, True),
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_a_cpu_without_bf16_is_warned_of(
    capabilities, slow, scorer_dir, caplog, monkeypatch
):
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: capabilities, raising=False
    )
    MOSPredictor.from_pretrained(str(scorer_dir), precision="bf16")
    assert ("no instructions for bfloat16" in caplog.text) == slow
    caplog.clear()
    MOSPredictor.from_pretrained(str(scorer_dir))
    assert not caplog.text


def test_alone_in_any_batch_in_any_order(predictor):
    waves = [syllables(0.4 + 0.37 * k, seed=k) for k in range(6)]
    single = [predictor(wave, 16000) for wave in waves]
    scores = [result.score for result in single]
    assert max(scores) - min(scores) > 0.1
    for order in ([5, 2, 0, 4, 1, 3], [3, 3, 0]):
        found = predictor([waves[i] for i in order], 16000)
        for i, result in zip(order, found):
            assert result.score == pytest.approx(scores[i], abs=1e-4)
            np.testing.assert_allclose(result.frames, single[i].frames, atol=1e-4)
            np.testing.assert_allclose(result.embedding, single[i].embedding, atol=1e-4)
            assert result.seconds == single[i].seconds
    assert predictor([], 16000) == []


def test_numpy_torch_and_integers_agree(predictor):
    wave = np.round(syllables() * 32768).clip(-32768, 32767)
    expected = predictor(wave / 32768, 16000).score
    for same in (
        (wave / 32768).astype(np.float32),
        (wave / 32768).astype(">f8"),
        wave.astype(np.int16),
        (wave * 65536).astype(np.int32),
        torch.from_numpy(wave.astype(np.int16)),
        np.repeat(wave / 32768, 2)[::2],
    ):
        assert predictor(same, 16000).score == pytest.approx(expected, abs=1e-4)
    bytes_ = np.round(wave / 256 + 128).clip(0, 255).astype(np.uint8)
    expected = predictor((bytes_.astype(float) - 128) / 128, 16000).score
    assert predictor(bytes_, 16000).score == pytest.approx(expected, abs=1e-5)


def test_any_array_and_any_number(predictor):
    """The same samples and rate, however they are held."""
    wave = syllables().astype(np.float32)
    tensor = torch.from_numpy(wave)
    expected = predictor(wave, 16000).score
    read_only = wave.copy()
    read_only.setflags(write=False)
    held = [
        read_only,
        wave[::-1].copy()[::-1],
        wave[None],
        np.stack([wave, wave]),
        tensor.clone().requires_grad_(),
        torch.complex(tensor, -tensor).conj().imag,
        torch.stack([tensor] * 2, 1).T,
    ]
    for same in held:
        for grad in (False, True):
            found = predictor(same, 16000, grad=grad)
            found = float(torch.as_tensor(found.score).detach())
            assert found == pytest.approx(expected, abs=1e-6)
    for fs in (16000.0, np.array(16000), np.int32(16000), torch.tensor(16000)):
        assert predictor(wave, fs).score == expected
    for fs in ((16000, 16000), np.array([16000, 16000]), np.array(16000)):
        found = [result.score for result in predictor([wave, wave], fs)]
        assert found == pytest.approx([expected] * 2, abs=1e-6)
    one = copy.deepcopy(predictor)
    one.channel = 0
    assert one(held[5], 16000).score == pytest.approx(expected, abs=1e-6)


def test_any_rate_scores_the_same(predictor):
    scores = {
        rate: predictor(syllables(rate=rate), rate).score
        for rate in (8000, 16000, 22050, 44100)
    }
    assert max(scores.values()) - min(scores.values()) < 0.02, scores
    # and ignoring the rate would change the score
    assert abs(predictor(syllables(rate=44100), 16000).score - scores[16000]) > 0.02


def test_files_score_as_arrays(predictor, tmp_path):
    for rate, channels in ((16000, 1), (44100, 2), (8000, 3)):
        wave = np.stack([syllables(rate=rate, seed=s) for s in range(channels)])
        path = str(tmp_path / f"{rate}.wav")
        soundfile.write(path, wave.T, rate, subtype="FLOAT")
        (found,) = predictor.predict_files([path])
        assert found.result.score == pytest.approx(predictor(wave, rate).score, 1e-6)


# Channels


def test_channels_are_averaged_or_one_is_taken(predictor, scorer_dir):
    waves = np.stack([syllables(seed=0), syllables(seed=1)])
    left, right, mean = (predictor(w, 16000).score for w in (*waves, waves.mean(0)))
    assert abs(left - right) > 0.05
    assert predictor(waves, 16000).score == pytest.approx(mean, abs=1e-4)
    for channel, expected in ((0, left), ("1", right)):
        chosen = MOSPredictor.from_pretrained(str(scorer_dir), channel=channel)
        assert chosen(waves, 16000).score == pytest.approx(expected, abs=1e-4)
    for one in (waves[0], waves[:1]):
        with pytest.raises(ValueError, match="1 channels, expected one with the num"):
            chosen(one, 16000)


# In somebody else's program


@contextlib.contextmanager
def changed(read, write, value):
    before = read()
    write(value)
    try:
        yield
    finally:
        write(before)


def default_dtype(dtype):
    return changed(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextlib.contextmanager
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def default_device():
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


HOSTS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "set_default_device": default_device,
    "with device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "matmul precision": lambda: changed(
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
        "medium",
    ),
    "deterministic": lambda: changed(
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
        True,
    ),
    "errstate": lambda: np.errstate(all="raise"),
    "warnings": warnings_are_errors,
}


def settings_of_the_host():
    numbers = random.getstate(), np.random.get_state()[1].tolist()
    precisions = [torch.get_float32_matmul_precision()]
    if hasattr(torch.backends, "fp32_precision"):
        for kind in (torch.backends.mkldnn.matmul, torch.backends.cudnn.conv):
            precisions.append(kind.fp32_precision)
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(1).device,
        "autocast": torch.is_autocast_enabled("cpu"),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "precisions": precisions,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "errstate": np.geterr(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "log": (logging.root.level, list(logging.root.handlers)),
        "random": (*numbers, torch.default_generator.get_state().tolist()),
    }


@pytest.fixture(scope="module")
def mfcc_dir(scorer_dir, tmp_path_factory):
    """A frontend that makes tensors of torch's default dtype in every batch."""
    folder = tmp_path_factory.mktemp("mfcc")
    config = yaml.safe_load((scorer_dir / "config.yaml").read_text())
    config.update(frontend="mfcc", frontend_conf={}, head="ssl_mos", token_info=None)
    config["head_conf"] = {"hidden_dim": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config, load_pretrained=True)
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.mark.parametrize("host", HOSTS)
def test_a_score_is_the_same_whatever_the_host_sets(
    scorer_dir, mfcc_dir, tmp_path, host
):
    """When it is set as the model is loaded, and when it is set as it scores."""
    short, long = syllables(0.7), syllables(2.5, rate=22050)
    path = str(tmp_path / "a.flac")
    soundfile.write(path, long, 22050, subtype="PCM_24")
    tensor = torch.from_numpy(short)

    def load():
        folders = (str(scorer_dir), str(mfcc_dir))
        options = {"max_seconds": 2.0, "batch_seconds": 10}
        return [MOSPredictor.from_pretrained(f, **options) for f in folders]

    def scores(predictors):
        found = []
        for one in predictors:
            results = one([short, short[:9000], long], [16000, 16000, 22050])
            results += [file.result for file in one.predict_files([path])]
            found += [r.score for r in results] + results[2].frames.tolist()
        return found

    def gradient(predictors):
        wave = tensor.clone().requires_grad_(True)
        score = predictors[0](wave, 16000, grad=True).score
        return torch.autograd.grad(score, wave)[0]

    plain = load()
    expected, slope = scores(plain), gradient(plain)
    wave = tensor.clone().requires_grad_(True)
    with HOSTS[host]():
        before = settings_of_the_host()
        loaded = load()
        assert scores(plain) == expected
        differentiable = plain[0](wave, 16000, grad=True).score
        copied = copy.deepcopy(plain)
        after = settings_of_the_host()
    assert after == before
    for one in (loaded, copied):
        assert scores(one) == expected
        assert torch.equal(gradient(one), slope)
    assert torch.equal(torch.autograd.grad(differentiable, wave)[0], slope)


def test_the_working_directory_may_change(scorer_dir, predictor, monkeypatch, tmp_path):
    monkeypatch.chdir(scorer_dir)
    found = MOSPredictor.from_pretrained(".")
    monkeypatch.chdir(tmp_path)
    assert found(syllables(), 16000).score == predictor(syllables(), 16000).score
    assert pickle.loads(pickle.dumps(found)).fingerprint == predictor.fingerprint


def set_all(module, name, value):
    for part in module.modules():
        setattr(part, name, value)


@pytest.mark.parametrize(
    "change",
    [
        lambda host: host.train(),
        lambda host: host.mos.head.train(),
        lambda host: set_all(host, "training", True),
        lambda host: host.requires_grad_(True),
    ],
    ids=["train", "train a part", "training", "requires_grad_"],
)
def test_a_trainer_around_it_changes_nothing(scorer_dir, change):
    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    waves = [torch.from_numpy(syllables(0.5 + 0.3 * k, seed=k)) for k in range(3)]
    expected = [result.score for result in predictor(waves, 16000)]
    states = copy.deepcopy(predictor.model.state_dict())
    host = torch.nn.Module()
    host.mos = predictor.model
    for grad in (True, False):
        change(host)
        wave = waves[0].clone().requires_grad_(True)
        results = predictor([wave, *waves[1:]], 16000, grad=grad)
        found = [float(torch.as_tensor(r.score).detach()) for r in results]
        assert found == pytest.approx(expected, abs=1e-6)
        if grad:
            results[0].score.backward()
    assert all(p.grad is None for p in predictor.model.parameters())
    for name, value in predictor.model.state_dict().items():
        assert torch.equal(value, states[name]), name


def test_a_trainer_in_another_thread_does_not_reach_a_batch(scorer_dir):
    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    expected = predictor(syllables(), 16000).score

    def train(*_):
        predictor.model.train()

    predictor.model.head.register_forward_pre_hook(train)
    assert predictor(syllables(), 16000).score == expected


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda host: host.half(), "weights of torch.float16 on cpu, expected"),
        (lambda host: host.double(), "weights of torch.float64 on cpu, expected"),
        (lambda host: host.to("meta"), "weights of torch.float32 on meta, expected"),
    ],
)
def test_weights_that_were_cast_or_moved_are_refused(scorer_dir, change, found):
    predictor = MOSPredictor.from_pretrained(str(scorer_dir))
    change(predictor.model)
    with pytest.raises(ValueError, match=found):
        predictor(syllables(), 16000)


def test_a_pickled_predictor(corpora_dir):
    """It has what was loaded and chosen, no file, and no tensor of this process."""
    made = MOSPredictor.from_pretrained(
        str(corpora_dir), corpus="b", max_seconds=9, scale=fit_scale([2, 3], [20, 40])
    )
    with default_dtype(torch.float64), torch.inference_mode():
        copied = pickle.loads(pickle.dumps(made))
    for same in (copied, pickle.loads(pickle.dumps(copied))):
        assert same.fingerprint == made.fingerprint
        result, expected = same(syllables(), 16000), made(syllables(), 16000)
        assert result.score == expected.score
        assert pickle.loads(pickle.dumps(result)).score == expected.score
        wave = torch.from_numpy(syllables()).requires_grad_(True)
        same(wave, 16000, grad=True).score.backward()
        assert wave.grad.any()


@pytest.mark.slow
def test_spawned_processes(predictor):
    joblib = pytest.importorskip("joblib")
    waves = [syllables(seed=seed) for seed in range(2)]
    expected = [predictor(wave, 16000).score for wave in waves]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = [pool.apply(predictor, (wave, 16000)).score for wave in waves]
    assert found == pytest.approx(expected, abs=1e-5)
    work = [joblib.delayed(predictor)(wave, 16000) for wave in waves]
    found = [result.score for result in joblib.Parallel(2, backend="loky")(work)]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_scores_while_a_thread_of_the_parent_does(scorer_dir):
    """In the middle of a padded batch, in float64, with a pool of torch's threads."""
    shared = MOSPredictor.from_pretrained(str(scorer_dir), batch_seconds=60)
    waves = [syllables(2.0), syllables(1.2)]
    is_inside, may_go_on = threading.Event(), threading.Event()
    encoder, parent = shared.model.frontend.model.encoder, os.getpid()
    forward = encoder.forward

    def slow_forward(*args, **kwargs):
        if os.getpid() == parent:
            is_inside.set()
            may_go_on.wait(60)
        return forward(*args, **kwargs)

    def child(results):
        dtype = torch.get_default_dtype()
        results.put((dtype, shared(waves[0], 16000).score, torch.get_num_threads()))

    fork = multiprocessing.get_context("fork")
    results = fork.SimpleQueue()
    process = fork.Process(target=child, args=(results,))
    threads = changed(torch.get_num_threads, torch.set_num_threads, 2)
    with threads, default_dtype(torch.float64):
        expected = shared(waves[0], 16000).score
        encoder.forward = slow_forward
        scorer = threading.Thread(target=shared, args=(waves, 16000))
        scorer.start()
        try:
            assert is_inside.wait(60)
            process.start()
            process.join(60)
        finally:
            may_go_on.set()
            scorer.join()
            process.kill()
    assert not results.empty(), "the child waits"
    dtype, score, num_threads = results.get()
    assert score == pytest.approx(expected, abs=1e-5)
    assert (dtype, num_threads) == (torch.float64, 1)


# Threads


def test_threads_take_turns(scorer_dir):
    """Padded batches of several threads, as a server's, do not mix."""
    shared = MOSPredictor.from_pretrained(str(scorer_dir), batch_seconds=10)
    sets = [
        [syllables(0.4 + 0.1 * ((k + j) % 7), seed=k) for k in range(5)]
        for j in range(6)
    ]
    expected = [[r.score for r in shared(waves, 16000)] for waves in sets]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(2):
            found = pool.map(lambda waves: shared(waves, 16000), sets)
            for results, scores in zip(found, expected):
                assert [r.score for r in results] == pytest.approx(scores, abs=1e-4)


def test_copies(predictor):
    again = copy.deepcopy(predictor)
    assert again(syllables(), 16000).score == predictor(syllables(), 16000).score
    assert again.fingerprint == predictor.fingerprint


# Times


def test_times_are_the_middle_of_the_receptive_field(predictor, scorer_dir):
    """The span of samples that a frame before the transformer depends on."""
    model, _ = load_model(
        scorer_dir / "config.yaml", scorer_dir / "valid.sys_srcc.best.pth"
    )
    wave = torch.from_numpy(syllables()).float()
    result = predictor(wave, 16000)
    convolutions = model.frontend.model.feature_extractor
    # Group norm depends on everything; without it the span is that of the kernels.
    convolutions.conv_layers[0].layer_norm = torch.nn.Identity()
    for frame in (0, 7, 40):
        wave.requires_grad_(True)
        feature = convolutions(wave[None])[0, :, frame].sum()
        (gradient,) = torch.autograd.grad(feature, wave)
        span = gradient.nonzero()
        middle = float(span.min() + span.max()) / 2 / 16000
        assert result.times[frame] == pytest.approx(middle, abs=1e-9)
    assert len(result.times) == len(result.frames)


# Long waveforms


@pytest.fixture(scope="module")
def short_limit(scorer_dir):
    return MOSPredictor.from_pretrained(str(scorer_dir), max_seconds=2.0)


def by_hand(model, wave, plan):
    """Windows and blended frames, written out frame by frame."""
    starts = list(range(0, len(wave) - plan.window, plan.hop))
    last = (len(wave) - plan.window) // plan.grid * plan.grid
    starts = [s for s in starts if s < last] + [last]
    total = {}
    for start in starts:
        end = len(wave) if start == last else start + plan.window
        frames = alone(model, wave[start:end]).frame_mos[0].tolist()
        for i, score in enumerate(frames):
            weight = min(i + 1, len(frames) - i)
            total.setdefault(start // plan.grid + i, []).append((weight, score))
    return [
        sum(w * s for w, s in total[i]) / sum(w for w, _ in total[i])
        for i in range(len(total))
    ]


@pytest.mark.parametrize("samples", [32001, 47361, 100003])
def test_long_waveforms_in_windows(short_limit, samples):
    wave = np.concatenate([syllables(1.0, seed=s) for s in range(7)])[:samples]
    plan = short_limit.windows
    assert (plan.limit, plan.grid) == (32000, 320)
    assert plan.window <= plan.limit and plan.hop * 2 in (
        plan.window,
        plan.window - 320,
    )
    expected = by_hand(short_limit.model, wave.astype(np.float32), plan)
    found = short_limit(wave, 16000)
    assert len(found.frames) == short_limit.model.frontend.num_frames(samples)
    np.testing.assert_allclose(found.frames, expected, atol=1e-4)
    assert found.score == pytest.approx(np.mean(expected), abs=1e-4)
    assert found.seconds == samples / 16000
    assert found.note.startswith("longer than 2 s: scored in")
    assert found.times[-1] == pytest.approx((len(expected) - 1) * 0.02 + found.times[0])


def test_up_to_the_limit_utterances_are_whole(short_limit, predictor, scorer_dir):
    wave = np.concatenate([syllables(1.0, seed=s) for s in range(3)])
    found = short_limit(wave[:32000], 16000)
    assert found.note == "" and short_limit.windows.limit == 32000
    assert found.score == pytest.approx(predictor(wave[:32000], 16000).score, abs=1e-6)
    # The upstream's own limit counts too.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HFFrontend, "maximum_samples", 24000)
        limited = MOSPredictor.from_pretrained(str(scorer_dir))
    assert limited.windows.limit == 24000
    assert limited(wave, 16000).note.startswith("longer than 1.5 s")


def test_long_files_score_as_long_arrays(short_limit, tmp_path):
    waves = [
        np.concatenate([syllables(1.0, 44100, seed=s + k) for s in range(4 + k)])
        for k in range(3)
    ]
    paths = [str(tmp_path / f"{k}.flac") for k in range(3)]
    for path, wave in zip(paths, waves):
        soundfile.write(path, wave, 44100, subtype="PCM_24")
    for found, wave in zip(short_limit.predict_files(paths), waves):
        expected = short_limit(wave, 44100)
        assert found.result.score == pytest.approx(expected.score, abs=1e-4)
        assert found.result.note == expected.note != ""
        np.testing.assert_allclose(found.result.frames, expected.frames, atol=1e-3)


def test_a_head_whose_score_is_not_the_mean_of_its_frames(scorer_dir):
    """What it adds to the mean is averaged over the windows."""
    shifted = MOSPredictor.from_pretrained(str(scorer_dir), max_seconds=2.0)
    wave = np.concatenate([syllables(1.0, seed=s) for s in range(5)])
    before = shifted(wave, 16000).score
    head = shifted.model.head
    forward = head.forward

    def with_offset(*args):
        prediction = forward(*args)
        prediction.utt_mos = prediction.utt_mos + 0.25
        return prediction

    head.forward = with_offset
    assert shifted(wave, 16000).score == pytest.approx(before + 0.25, abs=1e-4)


# Gradients


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_gradient_of_the_score(predictor, rate):
    wave = torch.from_numpy(syllables(rate=rate)).requires_grad_(True)
    result = predictor(wave, rate, grad=True)
    assert float(result.score.detach()) == pytest.approx(
        predictor(wave.detach(), rate).score, abs=1e-5
    )
    (gradient,) = torch.autograd.grad(result.score, wave)
    # a finite difference along the gradient, in both directions
    step = 2e-4 * gradient / gradient.norm()
    up = predictor(wave.detach() + step, rate).score
    down = predictor(wave.detach() - step, rate).score
    assert up - down == pytest.approx(4e-4 * float(gradient.norm()), rel=0.02)
    assert all(p.grad is None for p in predictor.model.parameters())


@pytest.mark.parametrize("fs", [8000, 16001, 44100])
def test_resampling_gradient_is_the_transpose(fs):
    """<A x, y> = <x, A' y> for vectors that have nothing to do with each other."""
    generator = torch.Generator().manual_seed(fs)
    x = torch.randn(2 * fs + 7, generator=generator, requires_grad=True)
    y = _Resample.apply(x, float(fs), 16000.0)
    z = torch.randn(len(y), generator=generator)
    (back,) = torch.autograd.grad(y, x, z)
    assert back.shape == x.shape
    forward = float((y.detach().double() * z).sum())
    backward = float((x.detach().double() * back).sum())
    scale = float(y.detach().double().norm() * z.double().norm())
    assert abs(forward - backward) < 1e-5 * scale


def test_score_as_a_loss_reaches_what_made_the_waveform(short_limit):
    """Through a batch, a long waveform, two channels and another rate."""
    gain = torch.ones(3, requires_grad=True)
    waves = [
        gain[0] * torch.from_numpy(syllables(0.8)),
        gain[1] * torch.from_numpy(np.stack([syllables(3.0), syllables(3.0, seed=1)])),
        gain[2] * torch.from_numpy(syllables(0.8, rate=24000)),
    ]
    results = short_limit(waves, [16000, 16000, 24000], grad=True)
    torch.stack([r.score for r in results]).sum().backward()
    assert (gain.grad != 0).all() and torch.isfinite(gain.grad).all()
    assert results[1].frames.requires_grad and results[1].note


# What is refused


@pytest.mark.parametrize(
    "wave, fs, found",
    [
        (np.zeros((16000, 2)), 16000, r"shape \(16000, 2\)"),
        (np.zeros((1, 2, 3)), 16000, r"shape \(1, 2, 3\)"),
        (np.zeros(0), 16000, "0 samples at 16000 Hz, expected at least"),
        (np.zeros(2), 48000, "1 samples at 16000 Hz"),
        (np.zeros(16000, dtype=np.int64), 16000, "of type int64"),
        (np.zeros(16000, dtype=complex), 16000, "of type complex128"),
        (np.array(["a"]), 16000, "of type ndarray .str"),
        (None, 16000, r"of type NoneType \(object\)"),
        (np.zeros(16000).astype(object), 16000, r"of type ndarray \(object\)"),
        ([0.0] * 16000, 16000, "make one array of a list of numbers"),
        ([[[0.0, 1.0], [0.0]]], 16000, "is a list that makes no array"),
        (torch.zeros(16000).to_sparse(), 16000, "is a sparse_coo tensor, expected a"),
        (torch.zeros(16000).to_mkldnn(), 16000, "is a mkldnn tensor"),
        (torch.zeros(16000, device="meta"), 16000, "is a meta tensor"),
        (torch.nested.nested_tensor([torch.zeros(9)]), 16000, "is a nested tensor"),
        (torch.zeros(16000, dtype=torch.cfloat).conj(), 16000, "of type complex64"),
        (
            torch.quantize_per_tensor(torch.zeros(16000), 1.0, 0, torch.qint8),
            16000,
            "of type qint8",
        ),
        (np.full(16000, 1e300), 16000, "16000 samples that are NaN or infinite"),
        (np.zeros(16000), None, "waveform 0 of 1: found fs=None, expected"),
        (np.zeros(16000), 16000j, "fs=16000j, expected"),
        (np.zeros(16000), b"16000", "fs=b'16000', expected"),
        (np.zeros(16000), True, "fs=True, expected"),
        (np.zeros(16000), float("nan"), "fs=nan, expected"),
        (np.zeros(16000), [16000], r"fs=\[16000\], expected"),
        ([np.zeros(16000)] * 2, [16000, None], "waveform 1 of 2: found fs=None"),
        (torch.zeros(16000, dtype=torch.int64), 16000, "of type int64"),
        (np.array([1.0, np.nan] * 8000), 16000, "8000 samples that are NaN"),
        (np.array([0.0, 12000.0] * 8000), 16000, "float samples up to 12000"),
        (np.zeros(16000), "x", "fs='x'"),
        (np.zeros(16000), 16, "fs=16, expected a sampling rate from 1000 to"),
        ([np.ones(9999), np.zeros(5)], 16000, "waveform 1 of 2 has 5 samples"),
        ([np.zeros(16000)] * 2, [16000] * 3, "2 waveforms and 3 sampling rates"),
    ],
)
def test_unusable_waveforms_get_a_sentence(predictor, wave, fs, found):
    with pytest.raises(ValueError, match=found) as error:
        predictor(wave, fs)
    assert "\n" not in str(error.value)


def test_a_broken_model_is_named(scorer_dir):
    broken = MOSPredictor.from_pretrained(str(scorer_dir))
    broken.model.head.linear.bias.data.fill_(np.nan)
    with pytest.raises(ValueError, match="got the score nan"):
        broken(syllables(), 16000)
    broken.model.token_columns = ()
    with pytest.raises(ValueError, match="no token predictors"):
        broken(syllables(), 16000, token_posteriors=True)


@pytest.mark.parametrize(
    "options, found",
    [
        ({"device": "cuda:77"}, "device='cuda:77'"),
        ({"channel": "left"}, "channel='left'"),
        ({"max_seconds": 0.001}, "raise --max-seconds"),
        ({"max_seconds": float("nan")}, "max_seconds=nan"),
        ({"batch_seconds": 0}, "batch_seconds=0"),
        ({"batch_seconds": float("inf")}, "batch_seconds=inf, expected a positive"),
        ({"batch_seconds": "2"}, "batch_seconds='2', expected a positive number of s"),
        ({"device": "meta"}, "device='meta'"),
        ({"device": None}, "device='None'"),
    ],
)
def test_impossible_options(scorer_dir, options, found):
    with pytest.raises(ValueError, match=found):
        MOSPredictor.from_pretrained(str(scorer_dir), **options)


def test_silence_is_scored_with_a_note(predictor):
    found = predictor(np.zeros(16000), 16000)
    assert np.isfinite(found.score) and found.note == "digital silence"


# Files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of many lengths, with bad ones between."""
    folder = tmp_path_factory.mktemp("files")
    paths = []
    for k in range(9):
        path = folder / f"{k}.wav"
        soundfile.write(path, syllables(0.3 + 0.31 * ((5 * k) % 9), seed=k), 16000)
        paths.append(str(path))
    (folder / "text.wav").write_text("no audio")
    soundfile.write(folder / "short.wav", np.zeros(17), 16000)
    paths[3:3] = [str(folder / "text.wav"), str(folder / "none.wav")]
    paths.append(str(folder / "short.wav"))
    return paths


def test_files_come_in_order_with_sentences(predictor, folder):
    found = list(predictor.predict_files(folder))
    assert [f.path for f in found] == folder
    assert [f.index for f in found] == list(range(len(folder)))
    for one in found:
        if one.index in (3, 4, 11):
            assert one.result is None and one.path in one.error
            assert "wav.scp" not in one.error and one.error.endswith(".")
        else:
            expected = predictor(read_audio(one.path), 16000).score
            assert one.result.score == pytest.approx(expected, abs=1e-4)
            assert one.error == ""
    assert "cannot be read as audio" in found[3].error
    assert "does not exist" in found[4].error
    assert "17 samples at 16000 Hz" in found[11].error
    ids = [f"u{k}" for k in range(len(folder))]
    for one in predictor.predict_files(folder, utt_ids=ids):
        start = f"utterance u{one.index}: {one.path} "
        assert one.error.startswith(start if one.index in (3, 4, 11) else "")


def test_files_in_the_order_of_completion(predictor, folder):
    in_order = {f.index: f for f in predictor.predict_files(folder)}
    found = list(predictor.predict_files(folder, in_order=False, num_threads=1))
    assert sorted(f.index for f in found) == list(range(len(folder)))
    seconds = [f.result.seconds for f in found if f.result]
    assert seconds == sorted(seconds, reverse=True)  # longest first
    for one in found:
        expected = in_order[one.index]
        assert one[1] == expected[1] and one.error == expected.error
        if one.result:
            assert one.result.score == pytest.approx(expected.result.score, abs=1e-4)


def test_files_may_be_a_generator_without_end(predictor, folder, monkeypatch):
    monkeypatch.setattr("espnet2_distilmos.abs_predictor._SORTED_FILES", 4)
    found = predictor.predict_files(itertools.cycle(folder))
    assert isinstance(found, types.GeneratorType)
    first = list(itertools.islice(found, 2 * len(folder)))
    found.close()
    assert [f.path for f in first] == folder * 2
    assert [f.index for f in first] == list(range(2 * len(folder)))


def test_memory_does_not_hold_a_long_file(predictor, tmp_path):
    """Five minutes are 19 MB of float32."""
    path = str(tmp_path / "long.flac")
    with soundfile.SoundFile(path, "w", 16000, 1) as file:
        for k in range(30):
            file.write(np.resize(syllables(1.0, seed=k), 160000))
    tracemalloc.start()
    try:
        (found,) = predictor.predict_files([path])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.result.seconds == 300 and "in 29 windows of 20 s" in found.result.note
    assert peak < 12e6


def test_one_that_does_not_fit_into_memory_does_not_end_the_run(
    scorer_dir, folder, monkeypatch
):
    careful = MOSPredictor.from_pretrained(str(scorer_dir), batch_seconds=100)
    expected = list(careful.predict_files(folder))
    forward = careful.model.frontend.forward

    def small_only(speech, lengths):
        if speech.numel() > 40000:
            raise RuntimeError("out of memory")
        return forward(speech, lengths)

    monkeypatch.setattr(careful.model.frontend, "forward", small_only)
    for before, after in zip(expected, careful.predict_files(folder)):
        if before.result is None:
            assert after.error == before.error
        elif before.result.seconds > 2.5:
            assert after.result is None and "out of memory" in after.error
        else:
            assert after.result.score == pytest.approx(before.result.score, abs=1e-4)


# Fingerprints (intervals, novelty and scales: bin/test_calibrate.py)


def test_fingerprints(scorer_dir, tmp_path):
    """That of the model follows its weights only, the other also what is done."""
    makers = [{}, {"batch_seconds": 9}, {"channel": 0}, {"max_seconds": 9}]
    makers += [{"scale": fit_scale([2.0, 3.0], [20.0, 40.0])}]
    found = [MOSPredictor.from_pretrained(str(scorer_dir), **m) for m in makers]
    assert len({p.model_fingerprint for p in found}) == 1
    assert found[0].fingerprint == found[1].fingerprint
    assert len({p.fingerprint for p in found[1:]}) == 4
    states = torch.load(scorer_dir / "valid.sys_srcc.best.pth", weights_only=True)
    for key in ("head.linear.bias", max(states, key=lambda k: states[k].numel())):
        changed = {**states, key: states[key] * 1.001}
        torch.save(changed, tmp_path / "changed.pth")
        other = MOSPredictor(scorer_dir / "config.yaml", tmp_path / "changed.pth")
        assert other.model_fingerprint != found[0].model_fingerprint
        assert other.fingerprint != found[0].fingerprint


def test_fingerprints_are_those_of_version_0_1(predictor):
    """Its calibrations and rows still fit: values that it gave."""
    network = torch.nn.Linear(3, 600)
    for value in network.parameters():
        value.data = torch.arange(value.numel()).reshape(value.shape) % 97 / 64
    network.corpus, network.listener = None, "mean"
    found = copy.deepcopy(predictor)
    config = {"frontend": "hf", "frontend_conf": {"upstream": "/x/hubert"}}
    found.__dict__.update(model=network, config=config)
    for name in ("model_fingerprint", "fingerprint"):
        found.__dict__.pop(name, None)
    assert found.model_fingerprint == "76110de81d6c"
    assert found.fingerprint == "ab1bf92f5bb8"


# Corpora


def test_scores_are_of_the_mean_over_the_corpora_or_of_one(scorer_dir, corpora_dir):
    wave = syllables()
    plain = MOSPredictor.from_pretrained(str(scorer_dir))(wave, 16000)
    mean = MOSPredictor.from_pretrained(str(corpora_dir))
    assert mean(wave, 16000).score == plain.score
    one = MOSPredictor.from_pretrained(str(corpora_dir), corpus="b")
    assert abs(one(wave, 16000).score - plain.score) > 1e-3
    # By hand: the offset added to what the decoder takes.
    table = one.model.condition.corpus
    offset = table[1] - table.mean(dim=0)
    hook = mean.model.head.feature_processor.register_forward_hook(
        lambda module, inputs, output: (output[0] + offset, output[1])
    )
    expected = mean(wave, 16000).score
    hook.remove()
    assert one(wave, 16000).score == pytest.approx(expected, abs=1e-6)
    # A calibration of the one is none of the other.
    assert one.model_fingerprint != mean.model_fingerprint
    assert one.fingerprint != mean.fingerprint
    with pytest.raises(ValueError, match="found the corpus d, expected .*a, b, c"):
        MOSPredictor.from_pretrained(str(corpora_dir), corpus="d")
    with pytest.raises(ValueError, match="found the corpus b, expected"):
        MOSPredictor.from_pretrained(str(scorer_dir), corpus="b")


def test_scores_of_all_listeners(corpora_dir, scorer_dir):
    """There is one: its offset is added to what the decoder takes."""
    waves = [syllables(seconds, seed=4) for seconds in (0.4, 1.3)]
    mean = MOSPredictor.from_pretrained(str(corpora_dir), batch_seconds=9)
    all_of = MOSPredictor.from_pretrained(
        str(corpora_dir), batch_seconds=9, listener="all"
    )
    offset = mean.model.condition.listener[0]
    plain = mean(waves, 16000)
    hook = mean.model.head.feature_processor.register_forward_hook(
        lambda module, inputs, output: (output[0] + offset, output[1])
    )
    expected = [mean(wave, 16000) for wave in waves]
    hook.remove()
    for same in (all_of, pickle.loads(pickle.dumps(all_of))):
        for one, other, far in zip(same(waves, 16000), expected, plain):
            assert one.score == pytest.approx(other.score, abs=1e-5)
            np.testing.assert_allclose(one.frames, other.frames, atol=1e-4)
            assert abs(one.score - far.score) > 1e-3
        assert same.fingerprint == all_of.fingerprint != mean.fingerprint
        # Embeddings are others too: a datastore of the one is none of the other.
        assert same.model_fingerprint != mean.model_fingerprint
    with pytest.raises(ValueError, match="a model without listeners, expected"):
        MOSPredictor.from_pretrained(str(scorer_dir), listener="all")


# Files


@pytest.mark.parametrize("is_own", [False, True])
def test_the_models_file_may_go(is_own, scorer_dir, tmp_path):
    folder = shutil.copytree(scorer_dir, tmp_path / "model")
    predictor = MOSPredictor.from_pretrained(str(folder))
    wave = syllables()
    (file,) = folder.glob("*.pth")
    if is_own:
        predictor.own_weights()
        file.write_bytes(b"")
    else:
        beside = folder / "beside"
        beside.write_bytes(b"")
        beside.replace(file)
    expected = MOSPredictor.from_pretrained(str(scorer_dir))
    assert predictor(wave, 16000).score == expected(wave, 16000).score
    assert predictor.fingerprint == expected.fingerprint


# Imports


def test_a_score_without_the_training_stack(scorer_dir):
    code = (
        "import sys, numpy as np; sys.modules.update(soxr=None);"  # as if missing
        "from espnet2_distilmos import MOSPredictor;"
        f"p = MOSPredictor.from_pretrained({str(scorer_dir)!r});"
        "p(np.sin(np.arange(16000.)), 16000);"
        "bad = [m for m in sys.modules if m.startswith(('espnet2.tasks', "
        "'espnet2.asr.espnet', 'espnet2_distilmos.tasks', 'espnet2_distilmos.train', "
        "'sklearn', 's3prl', 'librosa', 'matplotlib', 'pandas'))];"
        "sys.exit(' '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE)
    assert done.returncode == 0, done.stderr


def test_the_package_itself_imports_nothing():
    code = (
        "import sys, espnet2_distilmos; espnet2_distilmos.__version__;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    import espnet2_distilmos

    with pytest.raises(AttributeError, match="no attribute 'NoSuchThing'"):
        espnet2_distilmos.NoSuchThing
