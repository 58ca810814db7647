# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""The named systems of mini_mos and how one of them renders a clip.

A system is one line: its name, a function of ``degradations.py`` and its parameters.
A parameter given as a pair is drawn from that range for each clip, so that the clips
of a system differ; a list is drawn from its members. After a change here run
``local/compute_labels.py``, which the labels of the corpus come from.
"""

import hashlib

import degradations as d
import numpy as np

SEED = 2026

IN_DOMAIN = {
    "clean": (d.unchanged, {}),
    "white_weak": (d.add_noise, dict(colour="white", snr_db=(32, 46))),
    "white_strong": (d.add_noise, dict(colour="white", snr_db=(15, 28))),
    "pink": (d.add_noise, dict(colour="pink", snr_db=(14, 28))),
    "babble_weak": (d.add_noise, dict(colour="babble", snr_db=(18, 30))),
    "babble_strong": (d.add_noise, dict(colour="babble", snr_db=(6, 17))),
    "reverb_near": (d.reverberate, dict(t60=(0.15, 0.4), direct_db=(8, 16))),
    "reverb_far": (d.reverberate, dict(t60=(0.4, 1.0), direct_db=(-4, 6))),
    "clip_weak": (d.clip_hard, dict(threshold_db=(5, 12))),
    "clip_strong": (d.clip_hard, dict(threshold_db=(-8, 1))),
    "saturation": (d.clip_soft, dict(threshold_db=(-4, 8))),
    "telephone": (d.limit_band, dict(low_hz=(200, 400), high_hz=(3000, 3600))),
    "lowpass": (d.limit_band, dict(low_hz=None, high_hz=(3500, 6000))),
    "loss_zero": (d.lose_packets, dict(rate=(0.005, 0.1), conceal="zero")),
    "loss_repeat": (d.lose_packets, dict(rate=(0.01, 0.15), conceal="repeat")),
    "mu_law": (d.code, dict(container="WAV", subtype="ULAW")),
    "adpcm": (d.code, dict(container="WAV", subtype="IMA_ADPCM", rate=[8000, 16000])),
    "gsm": (d.code, dict(container="WAV", subtype="GSM610", rate=8000)),
    "opus": (d.code, dict(container="OGG", subtype="OPUS", level=(0.96, 1.0))),
    "vorbis": (d.code, dict(container="OGG", subtype="VORBIS", level=(0.8, 1.0))),
    "mp3": (d.code, dict(container="MP3", subtype="MPEG_LAYER_III", level=(0.7, 1.0))),
    "griffin_lim": (d.griffin_lim, dict(bands=(24, 100), iterations=(8, 32))),
    "lpc_vocoder": (d.lpc_vocoder, dict(order=(10, 24))),
    "channel_vocoder": (d.channel_vocoder, dict(bands=(8, 32))),
}

OUT_OF_DOMAIN = {
    "mnru_weak": (d.mnru, dict(q_db=(24, 36))),
    "mnru_strong": (d.mnru, dict(q_db=(6, 18))),
    "bits_many": (d.quantise, dict(bits=(8, 10.5))),
    "bits_few": (d.quantise, dict(bits=(4, 7))),
    "musical_noise": (d.spectral_subtraction, dict(snr_db=(5, 25), factor=(1.5, 4))),
    "phase_weak": (d.disturb_phase, dict(radians=(0.05, 0.4))),
    "phase_strong": (d.disturb_phase, dict(radians=(0.6, 1.6))),
    "coarse_spectrum": (d.quantise_spectrum, dict(step_db=(4, 20), phases=(3, 8))),
    "tremolo": (d.modulate, dict(hertz=(3, 12), depth=(0.5, 1.0))),
    "ring": (d.modulate, dict(hertz=(40, 160), depth=(0.1, 0.8))),
    "comb": (d.comb, dict(delay_ms=(1, 12), gain=(0.5, 1.0))),
    "notches": (d.notch, dict(count=(3, 8), width_hz=(40, 120))),
    "clicks": (d.click, dict(per_second=(1, 8), peak_db=(0, 16))),
    "hum": (d.hum, dict(snr_db=(8, 32))),
    "aliasing": (d.alias, dict(hold=[2, 3])),
    "unsteady_gain": (d.wander_gain, dict(spread_db=(3, 9), rate_hz=(8, 30))),
    "mdct_fine": (d.keep_coefficients, dict(share=(0.15, 0.4))),
    "mdct_coarse": (d.keep_coefficients, dict(share=(0.02, 0.08))),
    "sinusoids": (d.sinusoids, dict(partials=(10, 60))),
    "tilt": (d.tilt, dict(db_per_octave=(-16, 9))),
    "gate": (d.gate_spectrum, dict(threshold_db=(-30, 0))),
    "smear": (d.smear, dict(frames=(2, 12))),
    "crossover": (d.dead_zone, dict(threshold_db=(-30, -6))),
    "holes": (d.punch_holes, dict(share=(0.01, 0.15))),
}

SYSTEMS = {**IN_DOMAIN, **OUT_OF_DOMAIN}


def generator(utterance):
    """Return the random generator of one utterance, the same on every machine."""
    digest = hashlib.sha256(f"{SEED}/{utterance}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def render(audio, system, utterance):
    """Degrade a clip and play it at a random level.

    Args:
        audio: float64 (samples,), clean speech at 16 kHz.
        system: Name of the system.
        utterance: Id that all random draws follow from.

    Returns:
        int16 (samples,), as long as ``audio``, never beyond 0.99 of full scale.
    """
    function, parameters = SYSTEMS[system]
    rng = generator(utterance)
    drawn = {name: _draw(value, rng) for name, value in parameters.items()}
    level = d.from_db(rng.uniform(-30, -22))
    degraded = function(audio, rng, **drawn)[: len(audio)]
    degraded = np.pad(degraded, (0, len(audio) - len(degraded)))
    degraded *= level / d.rms(degraded)
    degraded *= min(1.0, 0.99 / max(np.abs(degraded).max(), 1e-9))
    return np.rint(degraded * 32767).astype(np.int16)


def _draw(value, rng):
    if isinstance(value, tuple):
        return float(rng.uniform(*value))
    if isinstance(value, list):
        return value[int(rng.integers(len(value)))]
    return value
