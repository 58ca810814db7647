# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Tiny random networks of every family of ``frontend: hf``, for several tests."""

import pytest
import torch
import transformers

from espnet2_distilmos.mos.frontend.hf import HFFrontend

LAYERS = dict(
    hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
)
WAVEFORM = dict(
    LAYERS,
    conv_dim=[16, 24, 32],
    conv_kernel=[10, 8, 4],
    conv_stride=[5, 8, 8],
    num_feat_extract_layers=3,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=2,
)
BASE = dict(WAVEFORM, feat_extract_norm="group", do_stable_layer_norm=False)
POST = dict(WAVEFORM, feat_extract_norm="layer", do_stable_layer_norm=False)
LARGE = dict(WAVEFORM, feat_extract_norm="layer", do_stable_layer_norm=True)
DATA2VEC = dict(WAVEFORM, num_conv_pos_embeddings=5, conv_pos_kernel_size=19)
BERT = dict(LAYERS, conv_depthwise_kernel_size=7)
BERT.update(left_max_position_embeddings=8, right_max_position_embeddings=4)
WHISPER = dict(
    d_model=32,
    encoder_layers=3,
    encoder_attention_heads=2,
    encoder_ffn_dim=48,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=16,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
)
VARIANTS = {
    "hubert base": dict(BASE, model_type="hubert"),
    "wav2vec2 large": dict(LARGE, model_type="wav2vec2"),
    "wav2vec2 layer norm, post-norm": dict(POST, model_type="wav2vec2"),
    "wavlm base": dict(BASE, model_type="wavlm"),
    "wavlm large": dict(LARGE, model_type="wavlm"),
    "unispeech-sat base": dict(BASE, model_type="unispeech-sat"),
    "data2vec-audio": dict(DATA2VEC, model_type="data2vec-audio"),
    "data2vec-audio, even kernel": dict(
        DATA2VEC, model_type="data2vec-audio", conv_pos_kernel_size=6
    ),
    "wav2vec2-bert": dict(BERT, model_type="wav2vec2-bert"),
    "wav2vec2-bert relative": dict(
        BERT, model_type="wav2vec2-bert", position_embeddings_type="relative"
    ),
    "wav2vec2-bert rotary": dict(
        BERT, model_type="wav2vec2-bert", position_embeddings_type="rotary"
    ),
    "whisper": dict(WHISPER, model_type="whisper"),
    "whisper large-v3": dict(WHISPER, model_type="whisper", num_mel_bins=128),
}
# The first variant of each family.
FIRST = {VARIANTS[name]["model_type"]: name for name in reversed(VARIANTS)}


def in_turn(names):
    """Parameters of a test: all but two variants, or their families, are slow."""
    fast = ("hubert base", "wavlm base", "hubert", "wavlm")
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in fast else slow, id=n) for n in names]


each_variant = pytest.mark.parametrize("variant", in_turn(VARIANTS))
each_family = pytest.mark.parametrize("model_type", in_turn(FIRST))


def tiny(variant="hubert base", options=None, **changes):
    config = dict(VARIANTS[FIRST.get(variant, variant)], **changes)
    return HFFrontend(upstream_config=config, **(options or {}))


def layers_of(frontend):
    return getattr(frontend.model, "encoder", frontend.model).layers


def noiseless(variant):
    """Changes that switch dropout off."""
    variant = FIRST.get(variant, variant)
    config = transformers.AutoConfig.for_model(VARIANTS[variant]["model_type"])
    return {k: 0.0 for k in config.to_dict() if k.endswith("dropout")}


def batch(lengths=(8000, 3210, 5555), seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(lengths)
    speech = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
    for i, n in enumerate(lengths):
        speech[i, n:] = 0
    return speech, lengths


def states_of(frontend, *inputs):
    with torch.no_grad():
        return frontend(*(inputs or batch()))[0]


def trained_of(frontend):
    return {k: p for k, p in frontend.named_parameters() if p.requires_grad}


def check_layer_of_parameters(frontend):
    """Each has the number of the first hidden state that depends on it."""
    layer_of, trained = frontend.layer_of_parameters(), trained_of(frontend)
    assert set(layer_of) == {name for name, _ in frontend.named_parameters()}
    first = {}
    for number, h in enumerate(frontend.train()(*batch())[0]):
        grads = torch.autograd.grad(
            h.sum(), list(trained.values()), retain_graph=True, allow_unused=True
        )
        for name, grad in zip(trained, grads):
            if grad is not None:
                first.setdefault(name, number)
    assert {name: layer_of[name] for name in trained} == first
    assert set(first.values()) == {0, 1, 2, 3}


def relative_difference(found, expected):
    """Largest difference relative to the expected layer's RMS."""
    assert found.shape == expected.shape
    return ((found - expected).abs().max() / expected.square().mean().sqrt()).item()


def loss_of(hidden_states, lengths):
    """Random weights for the valid frames: a layer norm's square would be constant."""
    generator = torch.Generator().manual_seed(1)
    loss = hidden_states[0].new_zeros(())
    for h in hidden_states:
        for item, frames in zip(h, lengths):
            weights = torch.randn(item[:frames].shape, generator=generator)
            loss = loss + (item[:frames] * weights).mean()
    return loss


def inexactness(frontend, speech, lengths):
    """Largest difference of a padded batch to each item alone, by the layer's RMS."""
    worst = 0.0
    with torch.no_grad():
        hidden_states, frames = frontend(speech, lengths)
        assert len(hidden_states) == frontend.num_layers + 1
        for i, n in enumerate(lengths):
            alone, count = frontend(speech[i : i + 1, :n], lengths[i : i + 1])
            assert count[0] == frames[i] == frontend.num_frames(int(n))
            for padded, single in zip(hidden_states, alone, strict=True):
                assert torch.isfinite(padded).all()
                assert single.shape == (1, count[0], frontend.output_size())
                padded = padded[i : i + 1, : count[0]]
                worst = max(worst, relative_difference(padded, single))
    return worst
