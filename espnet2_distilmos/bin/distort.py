#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make degraded copies of speech: the command `distilmos distort`."""

import argparse
import contextlib
import csv
import functools
import hashlib
import json
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import soundfile

from espnet2_distilmos.cli import progress, run
from espnet2_distilmos.data.audio import AudioError, read_audio
from espnet2_distilmos.data.corpus import one_word
from espnet2_distilmos.data.datadir import (
    DataError,
    atomic_write,
    path_of_id,
    write_scp,
)
from espnet2_distilmos.data.inputs import InputFile, collect_inputs
from espnet2_distilmos.data.names import without_ending
from espnet2_distilmos.distortion import fingerprint

# Of distortion.systems, which a help text does not load: it takes a second.
SAMPLE_RATE, SEED = 16000, 2026
MANIFEST = "manifest.csv"
# What a copy's file says of itself, in the order of the manifest's columns.
Row = Dict[str, Any]
COLUMNS = ("id", "source", "systems", "parameters", "level_db", "snr_db")
COLUMNS += ("start", "seconds")


class Settings(NamedTuple):
    """What the copies depend on beside the speech."""

    copies: int
    clean_share: float
    double_share: float
    max_seconds: float
    seed: int


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Make degraded copies of speech, each through one or two of the "
        "systems of espnet2_distilmos/distortion/systems.py with drawn parameters, and "
        "list them as a data directory (wav.scp, utt2sys, utt2src) and in manifest.csv "
        "(systems, parameters, signal-to-noise ratio).",
        epilog="A copy depends on its id alone, which is made of the source's and a "
        "number. Finished copies are kept: a killed run goes on. Exit code: 0, or 1 "
        "when a source has no copies (a sentence says why).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="SPEECH",
        help="directory (of data, or searched in depth), wav.scp, table.csv:column or "
        "audio file",
    )
    parser.add_argument("--copies", type=int, default=4, help="of each source")
    parser.add_argument("--output", required=True, metavar="DIR", help="data directory")
    parser.add_argument("--nj", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument(
        "--clean_share", type=float, default=0.1, help="of the copies: only a level"
    )
    parser.add_argument(
        "--double_share", type=float, default=0.5, help="of the others: two systems"
    )
    parser.add_argument(
        "--max_seconds",
        type=float,
        default=30.0,
        help="of longer speech each copy takes a part of its own",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of all draws")
    return parser


def find_sources(
    inputs: Sequence[str], folder: str
) -> Tuple[List[InputFile], Dict[str, str]]:
    """Find the speech; ids become one word without a slash or an ending.

    Args:
        inputs: as of the command.
        folder: gets the copies, which are no speech if an input holds it.

    Returns:
        Sources with unique ids, and a sentence by the id of those that have none.
    """
    lists = [os.path.join(name, "wav.scp") for name in inputs]
    names = [scp if os.path.isfile(scp) else n for scp, n in zip(lists, inputs)]
    found: Dict[str, InputFile] = {}
    failures = {}
    copies = os.path.join(os.path.realpath(folder), "")
    for item in collect_inputs(names):
        if os.path.realpath(item.path).startswith(copies):
            continue
        source = one_word(without_ending(item.id).replace("/", " "))
        reason = item.error
        if not source or not source.isprintable():
            reason = f"{item.path} makes no id of one word, expected text; rename it."
        elif source in found:
            reason = (
                f"{item.path} and {found[source].path} both make the id {source}, "
                "expected one each; name them in a wav.scp."
            )
        if reason:
            failures[item.id] = reason
        else:
            found[source] = item._replace(id=source)
    return list(found.values()), failures


def read_row(path: str, stamp: str) -> Optional[Row]:
    """What a finished copy says of itself; None where it is to be made."""
    try:
        with soundfile.SoundFile(path) as file:
            comment = json.loads(file.comment)
        return comment["row"] if comment["stamp"] == stamp else None
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError, KeyError):
        return None


def write_copy(
    path: str, stamp: str, audio: np.ndarray, number: int, row: Row, settings: Settings
) -> None:
    """Make one copy, and complete its row; the file keeps both."""
    from espnet2_distilmos.distortion.systems import (
        choose_systems,
        generator,
        make_copy,
    )

    length = round(settings.max_seconds * SAMPLE_RATE)
    start = 0
    if len(audio) > length:
        rng = generator(f"{row['id']}/start", settings.seed)
        start = int(rng.integers(len(audio) - length + 1))
    systems = choose_systems(
        row["source"],
        number,
        settings.clean_share,
        settings.double_share,
        settings.seed,
    )
    piece = audio[start : start + length]
    copy = make_copy(piece, systems, row["id"], settings.seed)
    row.update(
        systems=copy.system,
        parameters=json.dumps([parameters for _, parameters in copy.steps]),
        level_db=round(copy.level_db, 2),
        snr_db=round(copy.snr_db, 2),
        start=round(start / SAMPLE_RATE, 6),
        seconds=round(len(copy.audio) / SAMPLE_RATE, 4),
    )
    comment = json.dumps({"stamp": stamp, "row": row})
    with atomic_write(path, "wb") as file, soundfile.SoundFile(
        file, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC"
    ) as flac:
        flac.comment = comment
        flac.write(copy.audio)


def copy_source(
    source: InputFile, folder: str, settings: Settings
) -> Tuple[List[Row], str]:
    """Make the copies of one source that ``folder`` lacks.

    Returns:
        The rows of all copies, and a sentence where something went wrong.
    """
    rows: List[Row] = []
    failed: Dict[str, str] = {}
    audio = None
    try:
        with open(source.path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        for number in range(settings.copies):
            row: Row = {"id": f"{source.id}_c{number}", "source": source.id}
            # How many copies there are makes none another.
            parts = [fingerprint(), content, row["id"], settings._replace(copies=0)]
            stamp = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
            path = path_of_id(folder, row["id"], ".flac")
            finished = read_row(path, stamp)
            if finished is None:
                if audio is None:
                    audio = read_audio(source.path, SAMPLE_RATE).astype(np.float64)
                try:
                    write_copy(path, stamp, audio, number, row, settings)
                except DataError:
                    raise
                except ValueError as error:
                    failed[row["id"]] = str(error)
                    continue
                finished = row
            rows.append(finished)
    except DataError:
        raise  # the output cannot be written
    except AudioError as error:
        return rows, str(error)
    except OSError as error:
        return rows, f"{source.path} cannot be read ({error.strerror}); leave it out."
    if not failed:
        return rows, ""
    which = f" makes no {', '.join(failed)}" if rows else ""
    return rows, f"{source.path}{which}: {' '.join(dict.fromkeys(failed.values()))}"


def _one_thread() -> None:
    """Products of matrices round alike whatever ``--nj`` is."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)


def write_tables(output: str, folder: str, rows: Sequence[Row]) -> None:
    """Write the data directory and the manifest; wav.scp last."""
    with atomic_write(os.path.join(output, MANIFEST)) as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tables = {
        "utt2sys": {row["id"]: row["systems"] for row in rows},
        "utt2src": {row["id"]: row["source"] for row in rows},
        "wav.scp": {row["id"]: path_of_id(folder, row["id"], ".flac") for row in rows},
    }
    for name, table in tables.items():
        write_scp(os.path.join(output, name), table)


def distort(args: argparse.Namespace) -> Dict[str, str]:
    """Do what the options say.

    Returns:
        A sentence by the source that has no copies, or not all.

    Raises:
        DataError: an option is impossible, or nothing can be read or written.
    """
    settings = Settings(*(getattr(args, name) for name in Settings._fields))
    shares = (settings.clean_share, settings.double_share)
    if (
        min(settings.copies, args.nj) < 1
        or not all(0 <= share <= 1 for share in shares)
        or not 1 <= settings.max_seconds
        or not np.isfinite(settings.max_seconds * SAMPLE_RATE)
    ):
        raise DataError(
            f"found {settings} and --nj {args.nj}, expected at least one copy, one "
            "process and one second, finite seconds, and shares from 0 to 1; correct "
            "the options."
        )
    scp, manifest = (os.path.join(args.output, n) for n in ("wav.scp", MANIFEST))
    if os.path.exists(scp) and not os.path.exists(manifest):
        raise DataError(
            f"{scp} is there and was not written by this command, expected a new "
            "directory as --output, as the list would be lost."
        )
    folder = os.path.join(args.output, "data")
    sources, failures = find_sources(args.inputs, folder)
    work = functools.partial(copy_source, folder=folder, settings=settings)
    rows: List[Row] = []
    with ProcessPoolExecutor(args.nj, initializer=_one_thread) as pool:
        done = progress(pool.map(work, sources), "distort", len(sources), "source")
        for source, (made, sentence) in zip(sources, done):
            rows += made
            if sentence:
                failures[source.id] = sentence
    if rows:
        # As write_scp sorts.
        rows.sort(key=lambda row: row["id"].encode("utf-8"))
        write_tables(args.output, folder, rows)
    else:
        # Of an earlier run, perhaps.
        with contextlib.suppress(OSError):
            os.remove(os.path.join(args.output, "wav.scp"))
    print(f"{args.output}: {len(rows)} copies", file=sys.stderr)
    return failures


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return run(lambda: distort(args), "sources are without copies, or lack some.")


if __name__ == "__main__":
    sys.exit(main())
