# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Ways to spoil speech, all of which keep it aligned in time with its original.

P.862.2 compares a degraded signal with its reference at the same moment, so nothing
here delays, stretches or warps. Every function takes

    ``audio``: float64 (samples,) at 16 kHz,
    ``rng``: ``numpy.random.Generator``, the only source of chance,

and the family's own parameters, and returns float64 (samples,) of the same length
(the codecs may pad a little; ``systems.render`` trims). Levels in dB are relative to
the signal's own root mean square unless a name says otherwise.
"""

import io

import numpy as np
import scipy.fft
import soundfile as sf
from scipy.signal import butter, correlate, firwin2, lfilter, resample_poly, sosfiltfilt

from espnet2_distilmos.distortion.signals import (
    coloured_noise,
    from_db,
    reverberant_tail,
    rms,
)

SAMPLE_RATE = 16000


# ---------------------------------------------------------------- shared helpers


def stft(audio, size=512, hop=128):
    """Short-time spectrum, complex (frames, size // 2 + 1), with a root-Hann window."""
    padded = np.pad(audio, (size, size + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    return scipy.fft.rfft(frames * _root_hann(size), axis=1)


def istft(spectrum, length, size=512, hop=128):
    """Invert ``stft`` (exactly, where the spectrum is unchanged): (length,)."""
    window = _root_hann(size)
    frames = scipy.fft.irfft(spectrum, size, axis=1) * window
    audio = np.zeros((len(frames) - 1) * hop + size)
    weight = np.zeros_like(audio)
    for index, frame in enumerate(frames):
        audio[index * hop : index * hop + size] += frame
        weight[index * hop : index * hop + size] += window**2
    return (audio / np.maximum(weight, 1e-3))[size : size + length]


def _root_hann(size):
    return np.sin(np.pi * (np.arange(size) + 0.5) / size)


def mel_filters(bands, size, rate=SAMPLE_RATE):
    """Triangular filters (bands, size // 2 + 1), equally wide in mel, rows sum to 1."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.arange(size // 2 + 1) * rate / size
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    filters = np.maximum(0, np.minimum(rise, fall))
    # A filter narrower than a bin would be empty: give it the nearest bin.
    nearest = np.rint(edges[1:-1] * size / rate).astype(int)
    empty = filters.sum(axis=1) == 0
    filters[empty, nearest[empty]] = 1
    return filters / filters.sum(axis=1, keepdims=True)


def align(degraded, audio, longest=1600):
    """Undo a codec's delay of up to ``longest`` samples either way."""
    size = min(len(degraded), len(audio))
    likeness = correlate(degraded[:size], audio[:size], mode="full", method="fft")
    centre = size - 1
    near = likeness[centre - longest : centre + longest + 1]
    delay = int(np.argmax(near)) - longest
    return degraded[delay:] if delay >= 0 else np.pad(degraded, (-delay, 0))


def smooth_random(rng, length, rate_hz):
    """Random curve (length,) of zero mean, changing at ``rate_hz``."""
    knots = rng.standard_normal(int(length / SAMPLE_RATE * rate_hz) + 4)
    places = np.arange(length) * rate_hz / SAMPLE_RATE + rng.uniform()
    return np.interp(places, np.arange(len(knots)), knots)


# ------------------------------------------------------------- in-domain families


def unchanged(audio, rng):
    """Leave the signal as it is."""
    return audio.copy()


def add_noise(audio, rng, colour, snr_db):
    """Add stationary noise ("white", "pink") or "babble" made of the signal itself."""
    if colour == "babble":
        added = _babble(audio, rng)
    else:
        added = coloured_noise(len(audio), rng, colour == "pink", lowest_bin=20)
    return audio + added * (rms(audio) / rms(added) * from_db(-snr_db))


def _babble(audio, rng, talkers=8):
    # Reversed copies at other speeds have speech's spectrum and rhythm, but no words.
    total = np.zeros(len(audio))
    for _ in range(talkers):
        speed = rng.uniform(0.75, 1.3)
        places = np.arange(len(audio)) * speed + rng.uniform(0, len(audio))
        total += np.interp(
            places, np.arange(len(audio)), audio[::-1], period=len(audio)
        )
    return total


def reverberate(audio, rng, t60, direct_db):
    """Convolve with a decaying noise tail; the direct sound stays at delay 0.

    Args:
        t60: Seconds in which the tail falls by 60 dB.
        direct_db: Energy of the direct sound over that of the tail, in dB.
    """
    # The first wall is a metre away.
    tail = reverberant_tail(t60, rng, SAMPLE_RATE, silence=0.003)
    tail = lfilter([0.6], [1, -0.4], tail)  # walls and air swallow high frequencies
    tail *= from_db(-direct_db) / np.sqrt((tail**2).sum())
    response = tail
    response[0] += 1
    size = scipy.fft.next_fast_len(len(audio) + len(tail))
    product = scipy.fft.rfft(audio, size) * scipy.fft.rfft(response, size)
    return scipy.fft.irfft(product, size)[: len(audio)]


def clip_hard(audio, rng, threshold_db):
    """Cut off everything above a threshold given over the root mean square."""
    threshold = rms(audio) * from_db(threshold_db)
    return np.clip(audio, -threshold, threshold)


def clip_soft(audio, rng, threshold_db):
    """Saturate smoothly (tanh) at a threshold given over the root mean square."""
    threshold = rms(audio) * from_db(threshold_db)
    return threshold * np.tanh(audio / threshold)


def limit_band(audio, rng, low_hz, high_hz):
    """Zero-phase band limits; ``None`` leaves a side open."""
    for cutoff, kind in ((low_hz, "highpass"), (high_hz, "lowpass")):
        if cutoff is not None:
            sos = butter(8, cutoff, kind, fs=SAMPLE_RATE, output="sos")
            audio = sosfiltfilt(sos, audio)
    return audio.copy()


def lose_packets(audio, rng, rate, conceal, burst=1.3, packet=320):
    """Lose packets of 20 ms in bursts (a two-state Gilbert channel).

    Args:
        rate: Share of packets lost.
        conceal: "zero" leaves silence, "repeat" plays the last good packet again,
            quieter each time.
        burst: Mean length of a loss in packets.
    """
    degraded = audio.copy()
    packets = len(audio) // packet
    enter = rate / burst / (1 - rate)
    # The first packets are never lost, so that there is something to repeat; at least
    # one loss falls where there is speech, so that no clip passes untouched.
    energy = (audio[: packets * packet].reshape(-1, packet) ** 2).sum(axis=1)
    loud = 2 + np.flatnonzero(energy[2:] > 0.5 * np.mean(energy))
    if not len(loud):
        raise ValueError(
            "found no sound after its first two packets, expected some that can be "
            "lost; leave it out."
        )
    certain = int(rng.choice(loud))
    lost, run = False, 0
    for index in range(2, packets):
        lost = rng.uniform() < (1 - 1 / burst if lost else enter)
        if not lost and index != certain:
            run = 0
            continue
        run += 1
        place = slice(index * packet, (index + 1) * packet)
        if conceal == "zero":
            degraded[place] = 0
        else:
            last = degraded[place.start - packet : place.start]
            degraded[place] = last * (0.8 if run > 1 else 1.0)
    return degraded


def code(audio, rng, container, subtype, rate=SAMPLE_RATE, level=None):
    """Send the signal through one of libsndfile's codecs in memory.

    Args:
        container, subtype: libsndfile's names, for example "WAV" and "GSM610".
        rate: Rate in Hz at which the codec works.
        level: libsndfile's compression level, 0 to 1, for the perceptual codecs.
    """
    narrow = audio if rate == SAMPLE_RATE else resample_poly(audio, rate, SAMPLE_RATE)
    # Codecs see a healthy level and half a second of silence behind the speech, which
    # takes up their look-ahead.
    gain = 0.7 / max(np.abs(narrow).max(), 1e-9)
    narrow = np.pad(narrow * gain, (0, rate // 2))
    buffer = io.BytesIO()
    sf.write(
        buffer,
        narrow,
        rate,
        format=container,
        subtype=subtype,
        compression_level=level,
    )
    buffer.seek(0)
    decoded, decoded_rate = sf.read(buffer, dtype="float64")
    if decoded_rate != SAMPLE_RATE:
        decoded = resample_poly(decoded, SAMPLE_RATE, decoded_rate)
    return align(decoded / gain, audio)


def griffin_lim(audio, rng, bands, iterations):
    """Drop the phase, keep ``bands`` mel bands, and guess the phase again."""
    size, hop = 512, 128
    magnitude = np.abs(stft(audio, size, hop))
    filters = mel_filters(int(bands), size)
    # Each filter paints its mean back over the bins it covers.
    spread = filters / np.maximum(filters.sum(axis=0, keepdims=True), 1e-9)
    magnitude = np.sqrt((magnitude**2) @ filters.T @ spread)
    spectrum = magnitude * np.exp(2j * np.pi * rng.uniform(size=magnitude.shape))
    for _ in range(int(iterations)):
        again = stft(istft(spectrum, len(audio), size, hop), size, hop)
        spectrum = magnitude * again / np.maximum(np.abs(again), 1e-9)
    return istft(spectrum, len(audio), size, hop)


def lpc_vocoder(audio, rng, order):
    """Classic vocoder: all-pole envelope, excited by pulses or by noise."""
    size, hop = 512, 128
    padded = np.pad(audio, (size, size + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    correlation = _autocorrelation(frames * np.hanning(size))
    envelope = _all_pole_envelope(correlation, int(order), size)
    pitch = _pitch(_autocorrelation(frames - frames.mean(axis=1, keepdims=True)))
    excitation = _pulses_or_noise(pitch, len(audio), size, hop, rng)
    spectrum = stft(excitation, size, hop)
    # Scale each frame to the energy it had.
    shaped = spectrum * envelope
    wanted = np.abs(stft(audio, size, hop))
    gain = np.sqrt((wanted**2).sum(axis=1) / ((np.abs(shaped) ** 2).sum(axis=1) + 1e-9))
    return istft(shaped * gain[:, None], len(audio), size, hop)


def _autocorrelation(frames):
    power = np.abs(scipy.fft.rfft(frames, 2 * frames.shape[1], axis=1)) ** 2
    return scipy.fft.irfft(power, axis=1)[:, : frames.shape[1]]


def _all_pole_envelope(correlation, order, size):
    """Levinson-Durbin recursion over all frames: complex (frames, size // 2 + 1)."""
    correlation = correlation[:, : order + 1].copy()
    correlation[:, 0] = correlation[:, 0] * 1.0001 + 1e-9
    polynomial = np.zeros((len(correlation), order + 1))
    polynomial[:, 0] = 1
    error = correlation[:, 0].copy()
    for step in range(1, order + 1):
        flipped = correlation[:, step:0:-1]
        reflection = -(polynomial[:, :step] * flipped).sum(axis=1) / error
        update = reflection[:, None] * polynomial[:, step::-1][:, : step + 1]
        polynomial[:, : step + 1] += update
        error *= 1 - reflection**2
    return 1 / scipy.fft.rfft(polynomial, size, axis=1)


def _pitch(correlation, low_hz=70, high_hz=400, voiced=0.4):
    """Pitch in Hz of every frame (frames,), 0 where it is unvoiced."""
    shortest, longest = SAMPLE_RATE // high_hz, SAMPLE_RATE // low_hz
    size = correlation.shape[1]
    # A finite frame overlaps itself less at longer lags.
    overlap = size / (size - np.arange(shortest, longest))
    lags = correlation[:, shortest:longest] * overlap
    # Multiples of the period fit as well: take the shortest of the good lags.
    best = (lags >= 0.9 * lags.max(axis=1, keepdims=True)).argmax(axis=1)
    # That is the foot of its peak, so climb from there.
    nearby = np.minimum(best[:, None] + np.arange(shortest // 2), lags.shape[1] - 1)
    climb = np.take_along_axis(lags, nearby, axis=1).argmax(axis=1)
    best = nearby[np.arange(len(lags)), climb]
    strength = lags[np.arange(len(lags)), best] / (correlation[:, 0] + 1e-6)
    return np.where(strength > voiced, SAMPLE_RATE / (best + shortest), 0.0)


def _pulses_or_noise(pitch, length, size, hop, rng):
    centres = np.arange(len(pitch)) * hop - size // 2
    nearest = np.clip(
        np.rint((np.arange(length) - centres[0]) / hop), 0, len(pitch) - 1
    )
    frequency = pitch[nearest.astype(int)]
    turns = np.floor(np.cumsum(frequency) / SAMPLE_RATE)
    pulses = np.diff(turns, prepend=0) > 0
    # A pulse has as much energy as the noise over one period.
    height = np.sqrt(SAMPLE_RATE / np.maximum(frequency, 1.0))
    noise = rng.standard_normal(length)
    return np.where(frequency > 0, pulses * height + 0.1 * noise, noise)


def channel_vocoder(audio, rng, bands):
    """Noise in ``bands`` channels that follows the speech's envelopes, no pitch."""
    edges = np.geomspace(80, 7600, int(bands) + 1)
    noise = rng.standard_normal(len(audio))
    smoother = butter(2, 40, fs=SAMPLE_RATE, output="sos")
    degraded = np.zeros(len(audio))
    for low, high in zip(edges[:-1], edges[1:]):
        sos = butter(3, (low, high), "bandpass", fs=SAMPLE_RATE, output="sos")
        envelope = np.maximum(0, sosfiltfilt(smoother, np.abs(sosfiltfilt(sos, audio))))
        carrier = sosfiltfilt(sos, noise)
        degraded += envelope * carrier / rms(carrier)
    return degraded


# --------------------------------------------------------- out-of-domain families


def mnru(audio, rng, q_db):
    """Modulated noise reference unit (ITU-T P.810): noise that follows the signal."""
    return audio * (1 + from_db(-q_db) * rng.standard_normal(len(audio)))


def quantise(audio, rng, bits):
    """Uniform quantisation of the signal at full scale to ``bits`` bits."""
    step = 2 * np.abs(audio).max() / 2**bits
    return np.rint(audio / step) * step


def spectral_subtraction(audio, rng, snr_db, factor):
    """Add white noise and remove it again, which leaves musical tones."""
    noise = rng.standard_normal(len(audio)) * rms(audio) * from_db(-snr_db)
    spectrum = stft(audio + noise)
    power = np.abs(spectrum) ** 2 + 1e-20
    expected = factor * (np.abs(stft(noise)) ** 2).mean(axis=0)
    return istft(
        spectrum * np.sqrt(np.maximum(1 - expected / power, 0.0001)), len(audio)
    )


def disturb_phase(audio, rng, radians):
    """Add normal noise of a standard deviation of ``radians`` to the STFT's phase."""
    spectrum = stft(audio)
    jitter = radians * rng.standard_normal(spectrum.shape)
    return istft(spectrum * np.exp(1j * jitter), len(audio))


def quantise_spectrum(audio, rng, step_db, phases):
    """Round the STFT's magnitude to steps in dB and its phase to a few angles."""
    spectrum = stft(audio)
    level = 20 * np.log10(np.abs(spectrum) + 1e-9)
    angle = 2 * np.pi / phases
    level = np.rint(level / step_db) * step_db
    phase = np.rint(np.angle(spectrum) / angle) * angle
    return istft(from_db(level) * np.exp(1j * phase), len(audio))


def modulate(audio, rng, hertz, depth):
    """Multiply by a slow or audible sine: tremolo or ring modulation."""
    phase = 2 * np.pi * (np.arange(len(audio)) * hertz / SAMPLE_RATE + rng.uniform())
    return audio * (1 - depth / 2 + depth / 2 * np.sin(phase))


def comb(audio, rng, delay_ms, gain):
    """Add one earlier and one later copy: a comb filter without phase."""
    delay = int(round(delay_ms * SAMPLE_RATE / 1000))
    padded = np.pad(audio, delay)
    copies = padded[: len(audio)] + padded[2 * delay : 2 * delay + len(audio)]
    return audio + gain / 2 * copies


def notch(audio, rng, count, width_hz):
    """Cut narrow random bands out of the spectrum."""
    spectrum = scipy.fft.rfft(audio)
    hertz = np.arange(len(spectrum)) * SAMPLE_RATE / len(audio)
    # One notch in each of ``count`` stretches, equally wide in log frequency.
    edges = np.geomspace(250, 5000, int(count) + 1)
    for low, high in zip(edges[:-1], edges[1:]):
        centre = rng.uniform(low, high)
        width = width_hz * centre / 1000
        spectrum *= 1 - np.exp(-0.5 * ((hertz - centre) / width) ** 4)
    return scipy.fft.irfft(spectrum, len(audio))


def click(audio, rng, per_second, peak_db):
    """Add short decaying impulses at random moments."""
    impulses = np.zeros(len(audio))
    count = max(1, rng.poisson(per_second * len(audio) / SAMPLE_RATE))
    where = rng.integers(0, len(audio), count)
    impulses[where] = rng.choice([-1.0, 1.0], count) * rng.uniform(0.5, 1.0, count)
    ringing = lfilter([1], [1, -1.2, 0.72], impulses)
    return audio + ringing * rms(audio) * from_db(peak_db)


def hum(audio, rng, snr_db):
    """Add mains hum of 50 or 60 Hz with buzzing harmonics."""
    mains = rng.choice([50, 60])
    seconds = np.arange(len(audio)) / SAMPLE_RATE
    noise = np.zeros(len(audio))
    for harmonic in range(1, 40):
        phase = rng.uniform(0, 2 * np.pi)
        tone = np.sin(2 * np.pi * harmonic * mains * seconds + phase)
        noise += tone / harmonic**0.7
    return audio + noise * (rms(audio) / rms(noise) * from_db(-snr_db))


def alias(audio, rng, hold):
    """Keep every ``hold``-th sample and hold it, with no filter on either side."""
    hold = int(round(hold))
    kept = np.repeat(audio[::hold], hold)[: len(audio)]
    return np.roll(kept, -(hold // 2))


def wander_gain(audio, rng, spread_db, rate_hz):
    """Let the gain wander at random."""
    return audio * from_db(spread_db * smooth_random(rng, len(audio), rate_hz))


def keep_coefficients(audio, rng, share, size=640):
    """Transform coder: keep only the largest ``share`` of each MDCT frame."""
    half = size // 2
    window = np.sin(np.pi * (np.arange(size) + 0.5) / size)
    padded = np.pad(audio, (half, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::half] * window
    angle = np.arange(size)[:, None] + 0.5 + half / 2
    basis = np.cos(np.pi / half * angle * (np.arange(half) + 0.5)) * np.sqrt(2 / half)
    coefficients = frames @ basis
    kept = max(1, int(round(share * half)))
    least = -np.partition(-np.abs(coefficients), kept - 1, axis=1)[:, kept - 1]
    coefficients[np.abs(coefficients) < least[:, None]] = 0
    degraded = np.zeros(len(padded) + size)
    for index, frame in enumerate(coefficients @ basis.T * window):
        degraded[index * half : index * half + size] += frame
    return degraded[half : half + len(audio)]


def sinusoids(audio, rng, partials):
    """Keep the strongest spectral peaks of each frame and drop the rest."""
    spectrum = stft(audio, 1024, 256)
    magnitude = np.abs(spectrum)
    left = np.pad(magnitude, ((0, 0), (1, 0)))[:, :-1]
    right = np.pad(magnitude, ((0, 0), (0, 1)))[:, 1:]
    peak = np.where((magnitude >= left) & (magnitude > right), magnitude, 0)
    least = -np.partition(-peak, int(partials) - 1, axis=1)[:, int(partials) - 1]
    chosen = (peak >= least[:, None]) & (peak > 0)
    # A windowed sine fills the neighbouring bins as well.
    wide = chosen.copy()
    wide[:, 1:] |= chosen[:, :-1]
    wide[:, :-1] |= chosen[:, 1:]
    return istft(spectrum * wide, len(audio), 1024, 256)


def tilt(audio, rng, db_per_octave):
    """Tilt the spectrum around 1 kHz (linear phase, delay taken out)."""
    taps = 513
    hertz = np.concatenate([[0], np.geomspace(60, 8000, 40)])
    octaves = np.log2(np.maximum(hertz, 60) / 1000)
    gains = from_db(np.clip(db_per_octave * octaves, -60, 30))
    kernel = firwin2(taps, hertz, gains, fs=SAMPLE_RATE)
    return np.convolve(audio, kernel)[taps // 2 :][: len(audio)]


def gate_spectrum(audio, rng, threshold_db):
    """Over-suppression: mute all time-frequency cells under a threshold.

    Args:
        threshold_db: Level of the threshold over the clip's mean cell power.
    """
    spectrum = stft(audio)
    power = np.abs(spectrum) ** 2
    return istft(
        spectrum * (power > power.mean() * 10 ** (threshold_db / 10)), len(audio)
    )


def smear(audio, rng, frames):
    """Blur the magnitudes over time and keep the phase."""
    spectrum = stft(audio)
    width = int(round(frames)) * 2 + 1
    kernel = np.hanning(width + 2)[1:-1]
    magnitude = np.abs(spectrum)
    power = scipy.fft.irfft(
        scipy.fft.rfft(magnitude**2, len(magnitude) + width, axis=0)
        * scipy.fft.rfft(kernel / kernel.sum(), len(magnitude) + width)[:, None],
        len(magnitude) + width,
        axis=0,
    )[width // 2 : width // 2 + len(magnitude)]
    blurred = np.sqrt(np.maximum(power, 0))
    return istft(blurred * spectrum / np.maximum(magnitude, 1e-9), len(audio))


def dead_zone(audio, rng, threshold_db):
    """Crossover distortion: small values vanish, large ones shrink."""
    threshold = rms(audio) * from_db(threshold_db)
    return np.sign(audio) * np.maximum(np.abs(audio) - threshold, 0)


def punch_holes(audio, rng, share):
    """Erase random rectangles (60 ms, 500 Hz) of the time-frequency plane."""
    spectrum = stft(audio)
    rows, columns = spectrum.shape[0] // 8 + 1, spectrum.shape[1] // 16 + 1
    kept = rng.uniform(size=(rows, columns)) >= share
    mask = np.repeat(np.repeat(kept, 8, axis=0), 16, axis=1)
    return istft(spectrum * mask[: len(spectrum), : spectrum.shape[1]], len(audio))
