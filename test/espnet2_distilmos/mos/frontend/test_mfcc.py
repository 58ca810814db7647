# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import numpy as np
import pytest
import torch
import torchaudio

from espnet2_distilmos.mos.build import build_frontend
from espnet2_distilmos.mos.frontend.hf import HFFrontend
from espnet2_distilmos.mos.frontend.mfcc import MFCCFrontend

from .tiny_upstreams import inexactness

# The convolutions of the recipe's network have a field of 930 samples.
CONVOLUTIONS = dict(
    model_type="hubert",
    conv_dim=[4] * 5,
    conv_kernel=[20, 8, 4, 4, 4],
    conv_stride=[10, 4, 2, 2, 2],
    num_feat_extract_layers=5,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=1,
    intermediate_size=8,
    num_conv_pos_embeddings=4,
    num_conv_pos_embedding_groups=1,
)


def noise(samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(samples, generator=generator)


def test_every_second_frame_of_torchaudio_and_slopes_over_five_frames():
    speech, lengths = noise(8000)[None], torch.tensor([8000])
    (found,), frames = MFCCFrontend()(speech, lengths)
    ceps = torchaudio.compliance.kaldi.mfcc(speech, use_energy=False)
    assert frames.tolist() == [24] and found.shape == (1, 24, 39)
    torch.testing.assert_close(found[0, :, :13], ceps[:48:2])
    (every,), _ = MFCCFrontend(frame_shift=160)(speech, lengths)
    static, first, second = np.split(every[0].numpy(), 3, axis=1)
    for values, delta in ((static, first), (first, second)):
        for frame in (2, 20):
            slopes = np.polyfit(np.arange(5), values[frame - 2 : frame + 3], 1)[0]
            np.testing.assert_allclose(delta[frame], slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("normalize", [False, True])
def test_alone_as_in_a_batch(normalize):
    frontend = MFCCFrontend(normalize, receptive_field=930)
    # The padding is not zero.
    speech = torch.stack([noise(8000, seed) for seed in range(3)]) + 0.01
    assert inexactness(frontend, speech, torch.tensor([8000, 930, 5555])) == 0


def test_frames_are_where_those_of_the_network_are():
    network = HFFrontend(upstream_config=CONVOLUTIONS)
    mfcc = MFCCFrontend(receptive_field=network.minimum_samples)
    assert mfcc.frame_centre == network.frame_centre == 464.5
    assert mfcc.frame_shift == network.frame_shift
    for samples in (929, 930, 1249, 1250, 16000, 48001):
        assert mfcc.num_frames(samples) == network.num_frames(samples)
    # A click in the middle of the network's frame 10 is loudest in frame 10 here.
    speech = 1e-3 * noise(16000)
    speech[10 * 320 + 464] = 1.0
    (found,), _ = mfcc(speech[None], torch.tensor([16000]))
    (quiet,), _ = mfcc(1e-3 * noise(16000)[None], torch.tensor([16000]))
    change = (found - quiet)[0, :, :13].norm(dim=1)
    assert int(change.argmax()) == 10
    # 400 samples of window, 320 from frame to frame: its neighbours hardly change.
    assert change[[8, 12]].max() == 0


def test_normalised_features_do_not_depend_on_the_level():
    speech, lengths = noise(8000)[None], torch.tensor([8000])
    frontend = MFCCFrontend(normalize_waveform=True)
    loud, soft = frontend(speech, lengths)[0][0], frontend(0.1 * speech, lengths)[0][0]
    torch.testing.assert_close(loud, soft, rtol=1e-3, atol=1e-2)


def test_what_is_impossible_is_refused():
    for options in ({"receptive_field": 399}, {"frame_shift": 250}):
        with pytest.raises(ValueError, match="receptive_field=.*frame_shift="):
            MFCCFrontend(**options)
    with pytest.raises(ValueError, match="no mask embedding"):
        MFCCFrontend()(noise(400)[None], torch.tensor([400]), torch.ones(1, 1) > 0)


def test_it_is_rebuilt_from_its_configuration():
    frontend = MFCCFrontend(True, 930, 160)
    again = build_frontend("mfcc", frontend.resolved_conf())
    assert again.fingerprint() == frontend.fingerprint()
    others = [MFCCFrontend(), MFCCFrontend(True), MFCCFrontend(True, 930)]
    assert len({f.fingerprint() for f in [frontend, *others]}) == 4
    assert (frontend.num_layers, frontend.output_size()) == (0, 39)
