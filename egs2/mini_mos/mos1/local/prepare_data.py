#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
# Apache 2.0 (http://www.apache.org/licenses/LICENSE-2.0)
"""Render the degraded clips of mini_mos and write their Kaldi-style data directories.

The labels are read from the corpus: *simulated* MOS, ITU-T P.862.2 MOS-LQO. A killed
run resumes; audio of another version of the recipe is rendered anew.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import soundfile as sf
from corpus import DATA_DIRS, SAMPLE_RATE, read_clean, read_labels
from systems import render

from espnet2_distilmos.data.datadir import atomic_write

STAMP = "recipe_version.txt"


def recipe_version(corpus, clips):
    """Return a digest of all that the rendered audio depends on."""
    digest = hashlib.sha256()
    here = Path(__file__).resolve().parent
    for path in (here / "degradations.py", here / "systems.py", here / "corpus.py"):
        digest.update(path.read_bytes())
    for source in sorted({clip.source for clip in clips}):
        digest.update(source.encode())
        digest.update((Path(corpus) / source).read_bytes())
    return digest.hexdigest()


def discard_other_version(audio_dir, version):
    """Remove what another version, or a killed run, left in ``audio_dir``."""
    stamp = audio_dir / STAMP
    same = stamp.exists() and stamp.read_text().strip() == version
    for name in DATA_DIRS.values():
        folder = audio_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".*.tmp" if same else "*.flac"):
            path.unlink()
    # The stamp comes last: killed before it, the next run discards again.
    if not same:
        with atomic_write(stamp) as f:
            f.write(version + "\n")


def audio_path(audio_dir, clip):
    """Return where the rendered clip lies."""
    return audio_dir / DATA_DIRS[clip.dataset] / f"{clip.utterance}.flac"


def render_clips(corpus, audio_dir, clips):
    """Render the clips, all from one clean clip, as 16-bit FLAC; return how many."""
    clean = read_clean(corpus, clips[0].source)
    for clip in clips:
        path = audio_path(audio_dir, clip)
        beside = path.with_name(f".{path.stem}.tmp")
        degraded = render(clean, clip.system, clip.utterance)
        sf.write(beside, degraded, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        os.replace(beside, path)
    return len(clips)


def render_missing(corpus, audio_dir, clips, nj):
    """Render what ``audio_dir`` lacks in ``nj`` processes."""
    missing = defaultdict(list)
    for clip in clips:
        if not audio_path(audio_dir, clip).exists():
            missing[clip.source].append(clip)
    total, done, shown = sum(map(len, missing.values())), 0, 0
    print(f"{len(clips)} clips, {total} of them to render", file=sys.stderr)
    if not total:
        return
    with ProcessPoolExecutor(nj) as pool:
        jobs = [
            pool.submit(render_clips, corpus, audio_dir, group)
            for group in missing.values()
        ]
        for job in as_completed(jobs):
            done += job.result()
            if done * 10 // total > shown:
                shown = done * 10 // total
                print(f"rendered {done} of {total} clips", file=sys.stderr)


def write_data_dir(folder, clips, audio_dir):
    """Write the Kaldi-style tables of one set, sorted as ``LC_ALL=C sort`` does."""
    folder.mkdir(parents=True, exist_ok=True)
    clips = sorted(clips, key=lambda clip: clip.utterance)
    utterances = defaultdict(list)
    for clip in clips:
        utterances[clip.voice].append(clip.utterance)
    tables = {
        "wav.scp": [(c.utterance, audio_path(audio_dir, c)) for c in clips],
        "utt2spk": [(c.utterance, c.voice) for c in clips],
        "spk2utt": [(voice, " ".join(utterances[voice])) for voice in utterances],
        "utt2sys": [(c.utterance, c.system) for c in clips],
        "utt2src": [(c.utterance, c.sentence) for c in clips],
        "metric.scp": [(c.utterance, json.dumps({"mos": c.mos_lqo})) for c in clips],
    }
    for name, rows in tables.items():
        with atomic_write(folder / name) as f:
            f.writelines(f"{key} {value}\n" for key, value in rows)


def main(argv=None):
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--audio_dir", type=Path, default=Path("downloads/mini_mos"))
    parser.add_argument("--out", type=Path, default=Path("data"))
    parser.add_argument("--nj", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)

    try:
        clips = read_labels(args.corpus)
        version = recipe_version(args.corpus, clips)
        discard_other_version(args.audio_dir, version)
        render_missing(args.corpus, args.audio_dir, clips, max(1, args.nj))
        for dataset, name in DATA_DIRS.items():
            chosen = [clip for clip in clips if clip.dataset == dataset]
            write_data_dir(args.out / name, chosen, args.audio_dir)
            print(f"{args.out / name}: {len(chosen)} utterances", file=sys.stderr)
    except (OSError, ValueError, sf.LibsndfileError) as error:
        print(f"{parser.prog}: {error}. Mend that and run it again.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
