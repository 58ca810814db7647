#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make a minute of tones in noise whose label is the level of the noise."""

import argparse
import json
from pathlib import Path

import numpy as np
import soundfile

FS = 16000
# Noise levels in dB below the tone: the systems, with labels from 1 to 5.
SYSTEMS = {f"snr{snr:02d}": snr for snr in range(0, 50, 10)}
SPEAKERS = {"train": 8, "dev": 3, "test": 3}


def make(rng, snr):
    """Two seconds of a harmonic tone that glides and pauses, in white noise."""
    time = np.arange(2 * FS) / FS
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / FS
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    tone *= np.sin(2 * np.pi * 2 * time) > -0.5
    noise = rng.normal(size=time.size) * np.std(tone) * 10 ** (-snr / 20)
    return 0.1 * (tone + noise) / np.std(tone + noise)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("audio_dir", type=Path)
    parser.add_argument("data_dir", type=Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    args.audio_dir.mkdir(parents=True, exist_ok=True)
    for name, count in SPEAKERS.items():
        files = {f: [] for f in ("wav.scp", "utt2spk", "spk2utt", "utt2sys")}
        files["metric.scp"] = []
        for n in range(count):
            speaker = f"{name}{n}"
            for system, snr in SYSTEMS.items():
                utt_id = f"{speaker}_{system}"
                path = args.audio_dir / f"{utt_id}.wav"
                soundfile.write(path, make(rng, snr), FS)
                mos = round(1 + snr / 10 + rng.uniform(-0.2, 0.2) * (0 < snr < 40), 2)
                files["wav.scp"].append(f"{utt_id} {path}")
                files["utt2spk"].append(f"{utt_id} {speaker}")
                files["utt2sys"].append(f"{utt_id} {system}")
                files["metric.scp"].append(f"{utt_id} {json.dumps({'mos': mos})}")
            ids = " ".join(f"{speaker}_{system}" for system in SYSTEMS)
            files["spk2utt"].append(f"{speaker} {ids}")
        folder = args.data_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, lines in files.items():
            (folder / file).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
