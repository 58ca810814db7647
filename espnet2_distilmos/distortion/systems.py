# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Named systems of degradations, and clips that went through one or two of them.

A system is one line: its name, a function of ``degradations`` and its parameters. A
parameter given as a pair is drawn from that range for each clip, so that the clips of a
system differ; a list is drawn from its members.

egs2/mini_mos renders its clips with :func:`render`, and its labels belong to exactly
these samples: after a change run its ``local/compute_labels.py``.
"""

import hashlib
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import numpy as np

import espnet2_distilmos.distortion.degradations as d

SEED = 2026
CLEAN = "clean"
# Root mean square of a finished clip in dB of full scale.
LEVELS_DB = (-30, -22)
# Less of a clip is too short for a frame of the slowest degradation.
MIN_SAMPLES = 3200

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


# A system's name and its drawn parameters.
Step = Tuple[str, Dict[str, Any]]


def generator(utterance: str, seed: int = SEED) -> np.random.Generator:
    """Return the random generator of one utterance, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{utterance}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def draw(system: str, rng: np.random.Generator) -> Step:
    """Draw the parameters of a system."""
    _, parameters = SYSTEMS[system]
    return system, {name: _draw(value, rng) for name, value in parameters.items()}


def _draw(value, rng):
    if isinstance(value, tuple):
        return float(rng.uniform(*value))
    if isinstance(value, list):
        return value[int(rng.integers(len(value)))]
    return value


def process(
    audio: np.ndarray, steps: Sequence[Step], level_db: float, rng: np.random.Generator
) -> np.ndarray:
    """Put a clip through systems, one after the other, and play it at a level.

    Args:
        audio: float64 (samples,), clean speech at 16 kHz.
        steps: what :func:`draw` returned for each of them.
        level_db: root mean square of the result in dB of full scale.
        rng: the source of what the systems draw besides.

    Returns:
        int16 (samples,), as long as ``audio``, never beyond 0.99 of full scale.
    """
    degraded = audio
    for system, parameters in steps:
        function, _ = SYSTEMS[system]
        degraded = function(degraded, rng, **parameters)[: len(audio)]
        degraded = np.pad(degraded, (0, len(audio) - len(degraded)))
    degraded *= d.from_db(level_db) / d.rms(degraded)
    degraded *= min(1.0, 0.99 / max(np.abs(degraded).max(), 1e-9))
    return np.rint(degraded * 32767).astype(np.int16)


def render(audio: np.ndarray, system: str, utterance: str) -> np.ndarray:
    """Degrade a clip by one system and play it at a random level.

    Args:
        audio: float64 (samples,), clean speech at 16 kHz.
        system: Name of the system.
        utterance: Id that all random draws follow from.

    Returns:
        int16 (samples,); see :func:`process`.
    """
    rng = generator(utterance)
    steps = [draw(system, rng)]
    return process(audio, steps, rng.uniform(*LEVELS_DB), rng)


class Copy(NamedTuple):
    """A degraded copy of a clip, and what was done to it.

    Attributes:
        audio: int16 (samples,), in time with the clip.
        steps: the systems with their parameters, in their order.
        level_db: root mean square that was asked for, in dB of full scale.
        snr_db: see :func:`snr`.
    """

    audio: np.ndarray
    steps: List[Step]
    level_db: float
    snr_db: float

    @property
    def system(self) -> str:
        """The names of the systems, with a plus between them."""
        return "+".join(system for system, _ in self.steps)


def choose_systems(
    source: str, number: int, clean_share: float, double_share: float, seed: int = SEED
) -> List[str]:
    """Choose the systems of one copy of a clip.

    The copies of a clip go through the systems in an order of the clip's own, so that
    no two begin with the same one before all had their turn. What is chosen does not
    depend on how many copies there are.

    Args:
        source: id of the clip.
        number: of the copy, from 0.
        clean_share: of all copies, those that only get a level.
        double_share: of the others, those that go through two different systems.
        seed: of all draws.
    """
    rng = generator(source, seed)
    # Clean copies stand 1 / clean_share apart, from a place that the clip draws.
    before = clean_share * number + rng.uniform()
    if np.floor(before + clean_share) > np.floor(before):
        return [CLEAN]
    names = [name for name in SYSTEMS if name != CLEAN]
    chosen = [names[rng.permutation(len(names))[number % len(names)]]]
    rng = generator(f"{source}/{number}", seed)
    if rng.uniform() < double_share:
        others = [name for name in names if name != chosen[0]]
        chosen.append(others[int(rng.integers(len(others)))])
    return chosen


def make_copy(
    audio: np.ndarray, systems: Sequence[str], utterance: str, seed: int = SEED
) -> Copy:
    """Put a clip through systems with drawn parameters and measure what is left of it.

    Args:
        audio: float64 (samples,), clean speech at 16 kHz.
        systems: names of the systems, in their order.
        utterance: id of the copy, that all draws follow from.
        seed: of all draws.

    Raises:
        ValueError: the clip is silent or shorter than 0.2 s, or nothing is left of it.
    """
    if len(audio) < MIN_SAMPLES or not np.any(audio):
        raise ValueError(
            f"it has {len(audio) / d.SAMPLE_RATE:.2f} s"
            f"{'' if np.any(audio) else ' of silence'}, expected at least "
            f"{MIN_SAMPLES / d.SAMPLE_RATE} s of speech; leave it out."
        )
    rng = generator(utterance, seed)
    steps = [draw(system, rng) for system in systems]
    level_db = float(rng.uniform(*LEVELS_DB))
    degraded = process(audio, steps, level_db, rng)
    if not np.any(degraded):
        raise ValueError(
            f"nothing of it is left after {'+'.join(systems)}, expected speech; leave "
            "it out."
        )
    return Copy(degraded, steps, level_db, snr(audio, degraded))


def snr(audio: np.ndarray, degraded: np.ndarray) -> float:
    r"""Ratio of what is left of a clip to what was added to it, in dB.

    The degraded clip is aligned with the original, up to 0.1 s either way, and the
    original brought to the gain that fits best in the sense of least squares. With a
    correlation coefficient of :math:`\rho` between them (means are not removed), that
    is :math:`10 \log_{10} \rho^2 / (1 - \rho^2)`. Resynthesis, which keeps no waveform,
    has a negative ratio whatever it sounds like.

    Args:
        audio: (samples,).
        degraded: (samples,), not silent.

    Returns:
        From -60 to 120.
    """
    degraded = degraded.astype(np.float64)
    degraded = d.align(degraded, audio)[: len(audio)]
    audio = audio[: len(degraded)]
    product = (audio @ degraded) ** 2
    energies = (audio @ audio) * (degraded @ degraded)
    kept = product / max(energies, 1e-300)
    ratio = max(kept, 1e-12) / max(1 - kept, 1e-12)
    return float(np.clip(10 * np.log10(ratio), -60.0, 120.0))
