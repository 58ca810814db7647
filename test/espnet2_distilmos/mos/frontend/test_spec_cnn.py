# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import scipy.signal
import torch
import yaml

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.spec_cnn import SIZES, SpecCNNFrontend

from .tiny_upstreams import (
    batch,
    check_layer_of_parameters,
    inexactness,
    loss_of,
    relative_difference,
    states_of,
    trained_of,
)

TINY = dict(channels=[4, 6, 8], hidden_size=32, num_layers=3, num_attention_heads=2)


def tiny(**options):
    return SpecCNNFrontend(**{**TINY, "intermediate_size": 48, **options})


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("normalize", [True, False])
def test_padding_exact(size, normalize):
    """Also where little is left to round: one frame, a tone, nothing above 3 kHz."""
    frontend = SpecCNNFrontend(size, normalize_waveform=normalize).eval()
    lengths = (16000, 9000, 8000, 3211, 480, 320)
    speech, lengths = batch(lengths)
    tone = np.sin(0.3 * np.arange(16000))
    low = scipy.signal.firwin(301, 3000, fs=16000)
    speech[1] = torch.from_numpy(np.convolve(speech[1], low, "same"))
    speech[2] = torch.from_numpy(0.5 * tone)
    assert inexactness(frontend, speech, lengths) < 1e-5
    # Also when the padding is not zero, and longer than any item.
    for i, n in enumerate(lengths):
        speech[i, n:] = 0.5
    assert inexactness(frontend, speech, lengths) < 1e-5
    padded = torch.nn.functional.pad(speech, (0, 5000), value=0.5)
    with torch.no_grad():
        alone, frames = frontend(speech[:1], lengths[:1])
        found, _ = frontend(padded[:1], lengths[:1])
    for a, b in zip(found, alone, strict=True):
        assert relative_difference(a, b) < 1e-5


def test_spectrum_is_that_of_scipy_with_magnitudes_to_the_power_of_0_3():
    frontend = tiny(normalize_waveform=False)
    speech = batch((8000,))[0]
    found = frontend.model.spectrum(speech)[0].numpy()
    window = scipy.signal.get_window("hann", 320)
    stft = scipy.signal.ShortTimeFFT(window, 160, 16000).stft(
        speech[0].double().numpy(), p0=1, p1=1 + found.shape[1]
    )
    stft = stft[1:].T  # without 0 Hz
    expected = np.abs(stft) ** 0.3 * np.exp(1j * np.angle(stft))
    assert found.shape == (2, (8000 - 320) // 160 + 1, 160)
    # scipy counts phases from the middle of a window.
    turned = expected * np.exp(-1j * np.pi * np.arange(1, 161))
    np.testing.assert_allclose(found[0] + 1j * found[1], turned, atol=2e-2)
    loud = np.abs(stft) > 0.1
    np.testing.assert_allclose((found[0] + 1j * found[1])[loud], turned[loud], 1e-4)


def test_frames_and_their_centre():
    frontend = tiny().eval()
    for samples in (320, 479, 480, 639, 640, 16000, 48001):
        found = states_of(frontend, torch.randn(1, samples), torch.tensor([samples]))
        assert {h.size(1) for h in found} == {frontend.num_frames(samples)}
    assert frontend.num_frames(320) == 1 and frontend.num_frames(319) == 0
    with pytest.raises(ValueError, match="319 .*samples.*320"):
        frontend(torch.randn(1, 319), torch.tensor([319]))
    # What the convolutions of a frame read lies about its centre.
    speech = batch((8000,))[0].requires_grad_(True)
    frontend = tiny(normalize_waveform=False)
    x = frontend.model.spectrum(speech).float()
    for block in frontend.model.convolutions:
        x = block(x)
    (gradient,) = torch.autograd.grad(x[0, :, 9].sum(), speech)
    field = gradient[0].nonzero()
    expected = frontend.frame_centre + 9 * frontend.frame_shift
    # The window's weight is zero at its first sample.
    assert float(field.min() + field.max()) / 2 == pytest.approx(expected, abs=0.5)


def test_level_counts_only_where_it_is_not_normalised():
    speech, lengths = batch()
    for normalize in (True, False):
        frontend = tiny(normalize_waveform=normalize).eval()
        states = states_of(frontend, speech, lengths)[-1][0]
        quiet = states_of(frontend, 0.1 * speech, lengths)[-1][0]
        assert (relative_difference(quiet, states) < 1e-2) is normalize


def test_silence_has_finite_states_and_gradients():
    frontend = tiny().train()
    speech = torch.zeros(2, 8000, requires_grad=True)
    loss_of(*frontend(speech, torch.tensor([8000, 640]))).backward()
    gradients = [p.grad for p in trained_of(frontend).values()] + [speech.grad]
    assert all(g.isfinite().all() for g in gradients)


def test_rebuilt_without_files_and_seeded():
    torch.manual_seed(5)
    frontend = tiny(init_seed=3).eval()
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    conf = yaml.safe_load(yaml.safe_dump(frontend.resolved_conf()))
    rebuilt = build_frontend("spec_cnn", conf, load_pretrained=False).eval()
    assert rebuilt.fingerprint() == frontend.fingerprint()
    for a, b in zip(states_of(frontend), states_of(rebuilt), strict=True):
        assert torch.equal(a, b)
    others = [dict(init_seed=4), dict(init_seed=3, normalize_waveform=False)]
    others.append(dict(init_seed=3, num_attention_heads=4))
    fingerprints = {tiny(**other).fingerprint() for other in others}
    assert len({*fingerprints, frontend.fingerprint()}) == 4
    assert frontend.checkpoint_files() == []


@pytest.mark.parametrize(
    "options",
    [
        {"size": "xl"},
        {"channels": [4]},
        {"channels": [4, 0]},
        {"channels": 4},
        {"hidden_size": 30, "num_attention_heads": 4},
        {"num_layers": 0},
        {"num_layers": "3"},
        {"intermediate_size": 1.5},
        {"dropout": 1.0},
        {"freeze": 4},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match="found ") as error:
        tiny(**options)
    assert "\n" not in str(error.value)


def test_layer_of_a_parameter_is_the_first_hidden_state_that_depends_on_it():
    check_layer_of_parameters(tiny())


@pytest.mark.parametrize("freeze", ["none", "cnn", "all", 2])
def test_exactly_what_is_not_frozen_is_trained(freeze):
    frontend = tiny(freeze=freeze, dropout=0.5)
    frozen = {"none": -1, "cnn": -1, "all": 3}.get(freeze, freeze)
    expected = states_of(frontend.eval())
    hidden_states, frames = frontend.train()(*batch())
    for number, (a, b) in enumerate(zip(hidden_states, expected)):
        assert torch.equal(a, b) is (number <= frozen)
    loss = loss_of(hidden_states, frames)
    if loss.requires_grad:
        loss.backward()
    gradients = {k for k, p in frontend.named_parameters() if p.grad is not None}
    cnn = "model.convolutions." if freeze == "cnn" else "none"
    assert gradients == {
        name
        for name, layer in frontend.layer_of_parameters().items()
        if layer > frozen
        and not name.startswith(cnn)
        and name != "model.mask_embedding"
    }


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"lora": {}}])
def test_checkpointing_and_new_adapters_change_nothing(options):
    if "lora" in options:
        pytest.importorskip("peft")
    gradients = []
    for conf in ({}, options):
        frontend = tiny(dropout=0.0, **conf).train()
        assert frontend.fingerprint() == tiny().fingerprint()
        speech, lengths = batch()
        speech.requires_grad_(True)
        loss_of(*frontend(speech, lengths)).backward()
        gradients.append(speech.grad)
    assert relative_difference(*gradients) < 1e-4
    if "lora" in options:
        # A and B of rank 8 at four maps of each layer.
        assert sum(p.numel() for p in trained_of(frontend).values()) == 3 * 4 * 8 * 64


def test_masked_frames_are_the_mask_embedding_before_the_positions():
    frontend = tiny().eval()
    speech, lengths = batch((8000, 5000))
    mask = torch.zeros(2, frontend.num_frames(8000), dtype=torch.bool)
    mask[0], mask[1, 3:9] = True, True
    plain = states_of(frontend, speech, lengths)
    masked = states_of(frontend, speech, lengths, mask)
    # What is hidden whole does not depend on what was said.
    other = states_of(frontend, speech.flip(1) + 0.1, lengths, mask)
    for a, b, c in zip(masked, other, plain, strict=True):
        assert torch.equal(a[0], b[0])
        # Of the next frames the positions read, up to 15 away.
        assert not torch.allclose(a[1, :3], c[1, :3], atol=1e-4)
    embedding = frontend.model.mask_embedding
    assert not embedding.requires_grad
    frontend.set_mask_training(True)
    frontend(speech, lengths, mask)[0][-1][0, 0, 0].backward()
    assert embedding.grad.any()


def test_spectrum_stays_exact_under_autocast():
    frontend = tiny().eval()
    expected, frames = frontend(*batch())
    inputs = []
    frontend.model.convolutions[0].register_forward_pre_hook(
        lambda _, args: inputs.append(args[0])
    )
    states_of(frontend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = states_of(frontend)
    for a, b in zip(found, expected, strict=True):
        for i, t in enumerate(frames):
            assert relative_difference(a[i, :t].float(), b[i, :t]) < 0.3
    assert torch.equal(*inputs)


def test_learns_to_tell_how_noisy_a_tone_is():
    """From random weights, and of tones that it has not been trained with."""
    generator = torch.Generator().manual_seed(0)

    def clips(count):
        level = torch.rand(count, 1, generator=generator)
        pitch = 0.05 + 0.5 * torch.rand(count, 1, generator=generator)
        noise = torch.randn(count, 3200, generator=generator)
        tone = torch.sin(pitch * torch.arange(3200))
        return tone + 10 ** (level * 2 - 2) * noise, level[:, 0] - 0.5

    torch.manual_seed(0)
    frontend, linear = tiny(dropout=0.0), torch.nn.Linear(32, 1)
    parameters = [*trained_of(frontend).values(), *linear.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3)

    def error(count):
        speech, level = clips(count)
        states, _ = frontend(speech, torch.full((count,), 3200))
        return (linear(states[-1].mean(dim=1))[:, 0] - level).square().mean()

    for _ in range(60):
        optimizer.zero_grad()
        error(16).backward()
        optimizer.step()
    with torch.no_grad():
        # The variance of a uniform level is 1 / 12.
        assert error(64) < 0.25 / 12
