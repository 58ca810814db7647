#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Render the degraded clips of mini_mos and write their Kaldi-style data directories.

The labels are read from the corpus: *simulated* MOS, ITU-T P.862.2 MOS-LQO. A killed
run resumes; audio of another version of the recipe is rendered anew.
"""

import argparse
import hashlib
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import soundfile as sf
from corpus import DATA_DIRS, SAMPLE_RATE, read_clean, read_labels

from espnet2_distilmos.cli import call, progress
from espnet2_distilmos.data.datadir import atomic_write, write_metric_scp, write_scp
from espnet2_distilmos.distortion import fingerprint
from espnet2_distilmos.distortion.systems import render

STAMP = "recipe_version.txt"


def recipe_version(corpus, clips):
    """Return a digest of all that the rendered audio depends on."""
    digest = hashlib.sha256(fingerprint().encode())
    digest.update((Path(__file__).resolve().parent / "corpus.py").read_bytes())
    for source in sorted({clip.source for clip in clips}):
        digest.update(source.encode())
        digest.update((Path(corpus) / source).read_bytes())
    return digest.hexdigest()


def discard_other_version(audio_dir, version):
    """Remove what another version, or a killed run, left in ``audio_dir``."""
    stamp = audio_dir / STAMP
    same = stamp.exists() and stamp.read_text().strip() == version
    for path in audio_dir.glob("*/.*.tmp*" if same else "*/*.flac"):
        path.unlink()
    # The stamp comes last: killed before it, the next run discards again.
    if not same:
        with atomic_write(stamp) as f:
            f.write(version + "\n")


def audio_path(audio_dir, clip):
    """Return where the rendered clip lies."""
    return audio_dir / DATA_DIRS[clip.dataset] / f"{clip.utterance}.flac"


def render_clips(corpus, audio_dir, clips):
    """Render the clips, all from one clean clip, as 16-bit FLAC."""
    clean = read_clean(corpus, clips[0].source)
    for clip in clips:
        degraded = render(clean, clip.system, clip.utterance)
        with atomic_write(audio_path(audio_dir, clip), "wb") as f:
            sf.write(f, degraded, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


def render_missing(corpus, audio_dir, clips, nj):
    """Render what ``audio_dir`` lacks in ``nj`` processes."""
    missing = defaultdict(list)
    for clip in clips:
        if not audio_path(audio_dir, clip).exists():
            missing[clip.source].append(clip)
    total = sum(map(len, missing.values()))
    print(f"{len(clips)} clips, {total} of them to render", file=sys.stderr)
    if total:
        work = partial(render_clips, corpus, audio_dir)
        with ProcessPoolExecutor(nj) as pool:
            done = pool.map(work, missing.values())
            list(progress(done, "rendered", len(missing), unit="clean clip"))


def write_data_dir(folder, clips, audio_dir):
    """Write the Kaldi-style tables of one set."""
    utterances = defaultdict(list)
    for clip in sorted(clips, key=lambda clip: clip.utterance):
        utterances[clip.voice].append(clip.utterance)
    tables = {
        "wav.scp": {c.utterance: audio_path(audio_dir, c) for c in clips},
        "utt2spk": {c.utterance: c.voice for c in clips},
        "spk2utt": {voice: " ".join(ids) for voice, ids in utterances.items()},
        "utt2sys": {c.utterance: c.system for c in clips},
        "utt2src": {c.utterance: c.sentence for c in clips},
    }
    for name, values in tables.items():
        write_scp(folder / name, values)
    write_metric_scp(folder / "metric.scp", {c.utterance: c.mos_lqo for c in clips})


def prepare(args):
    """Render the audio and write the data directories; return the exit code."""
    clips = read_labels(args.corpus)
    discard_other_version(args.audio_dir, recipe_version(args.corpus, clips))
    render_missing(args.corpus, args.audio_dir, clips, max(1, args.nj))
    for dataset, name in DATA_DIRS.items():
        chosen = [clip for clip in clips if clip.dataset == dataset]
        write_data_dir(args.out / name, chosen, args.audio_dir)
        print(f"{args.out / name}: {len(chosen)} utterances", file=sys.stderr)
    return 0


def main(argv=None):
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--audio_dir", type=Path, default=Path("downloads/mini_mos"))
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--nj", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    return call(lambda: prepare(args))


if __name__ == "__main__":
    sys.exit(main())
