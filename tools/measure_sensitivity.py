#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""How much a model's scores change with the level and with leading silence.

Neither is quality by itself; what a model makes of them is what its training data and
its upstream's normalisation taught it. For each gain, and each duration of digital
silence before the speech: the mean change of the score against the clip as it is, its
standard deviation and greatest size, and the SRCC of the changed with the unchanged
scores. Gains are limited by each clip's own peak: what would clip is left out, and the
number of clips says so.
"""

import argparse
import sys
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

GAINS_DB = (-20.0, -10.0, -6.0, 6.0, 10.0, 20.0)
SILENCE_SECONDS = (0.1, 0.5, 1.0, 3.0)


def with_gain(speech: np.ndarray, gain_db: float) -> Optional[np.ndarray]:
    """Change the level; None where a sample would leave [-1, 1].

    Args:
        speech: waveform (n,) in [-1, 1].
        gain_db: decibels.
    """
    louder = (speech * 10 ** (gain_db / 20)).astype(np.float32)
    return None if np.abs(louder).max(initial=0.0) > 1.0 else louder


def with_silence(speech: np.ndarray, seconds: float, fs: int) -> np.ndarray:
    """Put digital silence before a waveform (n,)."""
    silence = np.zeros(round(seconds * fs), np.float32)
    return np.concatenate([silence, speech.astype(np.float32)])


def summarise(before: Sequence[float], after: Sequence[float]) -> Dict[str, float]:
    """Compare the scores of the same clips: mean, SD and size of change, SRCC."""
    from espnet2_distilmos.evaluation.metrics import srcc

    change = np.asarray(after) - np.asarray(before)
    rank = srcc(after, before).value
    return {
        "clips": len(change),
        "mean": change.mean(),
        "sd": change.std(),
        "largest": np.abs(change).max(),
        "srcc": np.nan if rank is None else rank,
    }


def measure(score: Callable, clips: List[np.ndarray], fs: int) -> Dict[str, Dict]:
    """Score the clips as they are and changed.

    Args:
        score: a list of waveforms to a list of scores.
        clips: waveforms.
        fs: their rate in Hz.

    Returns:
        ``summarise`` by the name of the change; one that fits no clip is left out.
    """
    plain = score(clips)
    changes = {
        f"{g:+g} dB": [with_gain(speech, g) for speech in clips] for g in GAINS_DB
    }
    for seconds in SILENCE_SECONDS:
        name = f"{seconds:g} s of silence before"
        changes[name] = [with_silence(speech, seconds, fs) for speech in clips]
    rows = {}
    for name, changed in changes.items():
        kept = [i for i, speech in enumerate(changed) if speech is not None]
        if kept:
            after = score([changed[i] for i in kept])
            rows[name] = summarise([plain[i] for i in kept], after)
    return rows


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="as for `distilmos predict`")
    parser.add_argument("wav_scp")
    parser.add_argument("--clips", type=int, default=50, help="most clips (50)")
    return parser


def main(cmd: Optional[Sequence[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    from espnet2_distilmos.data.audio import read_audio
    from espnet2_distilmos.data.datadir import read_scp
    from espnet2_distilmos.predictor import MOSPredictor

    predictor = MOSPredictor.from_pretrained(args.model)
    paths = read_scp(args.wav_scp)
    # Evenly over the list, which is sorted by system or speaker.
    step = max(1, len(paths) // args.clips)
    ids = list(paths)[::step][: args.clips]
    fs = predictor.sample_rate
    clips = [read_audio(paths[utt_id], fs, utt_id) for utt_id in ids]

    def score(waves):
        return [result.score for result in predictor(waves, fs)]

    print("| change | clips | mean | SD | largest | SRCC with the unchanged |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, row in measure(score, clips, fs).items():
        cells = f"{row['mean']:+.3f} | {row['sd']:.3f} | {row['largest']:.3f}"
        print(f"| {name} | {row['clips']} | {cells} | {row['srcc']:.3f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
