#!/usr/bin/env python3

# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Data directories of the P.808 toolkit's P.835 reference conditions, and of folds.

The owner's layout, github.com/microsoft/P.808, or an extract of it::

    p835_reference_conditions/CSP835_Ref_Conditions.xlsx     a sheet for each bandwidth
    p835_reference_conditions/degraded_*/c0_f1.wav
    ratings.csv    utt,wav,system,mos,talker
    flac/p835fb_c0_f1.flac                                   what its column wav names

All clips are the set p835. A fold f1 holds out the clips of talker f1, f1_g0 those of
talker f1 in the conditions of group 0.
"""

import argparse
import os
import random
import re
import sys
import zipfile
from typing import Dict, Iterator, List, Optional, Sequence, Tuple
from xml.etree import ElementTree

from espnet2_distilmos.data.corpus import (
    Clip,
    ClipSet,
    fold_sets,
    one_word,
    read_table,
    run_parser,
    wanted_sets,
)
from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.names import AUDIO_SUFFIXES

TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
NUM_GROUPS = 3
CLIPS = 156  # of 6 talkers, 13 conditions and 2 bandwidths
NUM_SPEECH = 400  # utterances without ratings that are drawn
WORKBOOK = "CSP835_Ref_Conditions.xlsx"
# Sheet of the workbook, folder of its audio, and the bandwidth in our names.
PARTS = (
    ("Fullband-results per file", "degraded_fullband_48KHz", "fb"),
    ("16KHzWB-results per file", "degraded_WB_16KHz", "wb"),
)


def read_workbook(path: str, sheets: Sequence[str]) -> Dict[str, List[Dict[str, str]]]:
    """Read tables of an .xlsx file; the first row of each sheet names the columns.

    Args:
        path: The workbook.
        sheets: Names of the sheets wanted.

    Returns:
        By sheet its rows, each a dict of texts by column name; empty cells are absent.

    Raises:
        DataError: It is not such a file or lacks a sheet.
    """
    main = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    relation = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
    tables = {}
    try:
        with zipfile.ZipFile(path) as archive:

            def tree(name):
                return ElementTree.fromstring(archive.read(name))

            shared = [
                "".join(text.text or "" for text in item.iter(f"{main}t"))
                for item in tree("xl/sharedStrings.xml")
            ]
            targets = {
                item.get("Id"): item.get("Target")
                for item in tree("xl/_rels/workbook.xml.rels")
            }
            parts = {
                sheet.get("name"): targets[sheet.get(relation)]
                for sheet in tree("xl/workbook.xml").iter(f"{main}sheet")
            }
            for sheet in sheets:
                rows = []
                for row in tree("xl/" + parts[sheet]).iter(f"{main}row"):
                    cells = {}
                    for cell in row.iter(f"{main}c"):
                        value = cell.find(f"{main}v")
                        if value is not None and value.text is not None:
                            text = value.text
                            if cell.get("t") == "s":
                                text = shared[int(text)]
                            cells[re.sub(r"\d", "", cell.get("r"))] = text
                    rows.append(cells)
                names = rows[0]
                tables[sheet] = [
                    {names[k]: v for k, v in row.items() if k in names}
                    for row in rows[1:]
                    if row
                ]
    except (OSError, zipfile.BadZipFile, ElementTree.ParseError) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a workbook (.xlsx); "
            "download it again."
        ) from error
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} has not the tables {', '.join(sheets)} (looking for {error}), "
            "expected them as in the P.808 toolkit; download it again."
        ) from error
    return tables


# Where a row stands, its clip's id, audio, condition, talker and score.
Row = Tuple[str, str, str, str, str, object]


def workbook_rows(folder: str) -> Iterator[Row]:
    """Read the rows of the owner's workbook."""
    path = os.path.join(folder, WORKBOOK)
    tables = read_workbook(path, [sheet for sheet, _, _ in PARTS])
    for sheet, audio, band in PARTS:
        for number, row in enumerate(tables[sheet], 2):
            name = row.get("short_file_name", "")
            stem = os.path.splitext(name)[0]
            condition, _, talker = stem.partition("_")
            mos: object = row.get("MOS_OVRL", "")
            if re.fullmatch(r"\d+(\.\d+)?", str(mos)):
                mos = round(float(str(mos)), 4)
            wav = os.path.join(folder, audio, name)
            where = f"{path}, sheet {sheet}, row {number}"
            system = f"{band}_{condition}"
            yield where, f"p835{band}_{stem}", wav, system, talker, mos


def extract_rows(folder: str, faults: List[str]) -> Iterator[Row]:
    """Read the rows of an extract, a folder with ratings.csv."""
    path = os.path.join(folder, "ratings.csv")
    columns = ("utt", "wav", "system", "mos", "talker")
    for where, row in read_table(path, columns, faults):
        wav = os.path.join(folder, row["wav"])
        system = one_word(row["system"])
        yield where, row["utt"], wav, system, row["talker"], row["mos"]


def read_p835(folder: str) -> ClipSet:
    """Read the corpus: the folder of the toolkit, that checkout, or an extract."""
    clip_set = ClipSet("p835", CLIPS, group=None)
    inner = os.path.join(folder, "p835_reference_conditions")
    for root in (folder, inner):
        if os.path.isfile(os.path.join(root, WORKBOOK)):
            rows = workbook_rows(root)
            break
        if os.path.isfile(os.path.join(root, "ratings.csv")):
            rows = extract_rows(root, clip_set.faults)
            break
    else:
        raise DataError(
            f"{folder} has neither {WORKBOOK} nor ratings.csv, expected "
            "p835_reference_conditions of github.com/microsoft/P.808; correct P835 in "
            "db.sh."
        )
    for where, utt_id, wav, system, talker, mos in rows:
        if talker not in TALKERS or not re.fullmatch(r"[fw]b_c(\d|1[0-2])", system):
            clip_set.faults.append(
                f"{where}: the clip {utt_id} is of condition {system!r} and talker "
                f"{talker!r}, expected those of the published set; correct the row."
            )
            continue
        place = dict(speaker=talker, source=talker)
        clip_set.add(where, utt_id, wav, system, mos, **place)
    return clip_set


# Folds


def all_folds() -> Dict[str, Tuple[str, str, Optional[int]]]:
    """Return test talker, validation talker and held-out group of each fold.

    The validation talker is the one after the test talker in the order f1, f2, f3, m1,
    m2, m3, and f1 after m3. The group is None where all conditions are in training.
    """
    folds: Dict[str, Tuple[str, str, Optional[int]]] = {}
    for test, valid in zip(TALKERS, (*TALKERS[1:], TALKERS[0])):
        folds[test] = (test, valid, None)
        for group in range(NUM_GROUPS):
            folds[f"{test}_g{group}"] = (test, valid, group)
    return folds


def group_of(system: str) -> int:
    """Return the group of a condition, its number modulo 3.

    Both bandwidths of a condition are in one group, as they are the same degradation.
    Every third condition makes a group, so that each has mild and severe ones.
    """
    return int(system.rpartition("c")[2]) % NUM_GROUPS


def part_of(clip: Clip, test: str, valid: str, group: Optional[int]) -> str:
    """Return train, dev or test for a clip in a fold, or "" if it is in none.

    In none are clips of a held-out condition by other talkers, and clips of another
    condition by the test talker.
    """
    held_out = group is None or group_of(clip.system) == group
    if clip.speaker == test:
        return "test" if held_out else ""
    if group is not None and held_out:
        return ""
    return "dev" if clip.speaker == valid else "train"


def draw_speech(folder: str, count: int, seed: int = 0) -> ClipSet:
    """Draw audio files of a folder and its sub-folders, each as likely as the others.

    Args:
        folder: Any folder of speech; what is no audio by its name is left alone.
        count: How many files to draw, or all if there are fewer.
        seed: Of the draw, which does not depend on the order of the file system.

    Returns:
        Unlabelled clips; an id is the path in the folder without its ending.

    Raises:
        DataError: There is no audio.
    """
    paths = sorted(
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
    )
    if not paths:
        raise DataError(
            f"SPEECH is {folder}, where no audio was found, expected a folder of "
            "speech; correct it in db.sh, or empty it to go without."
        )
    clip_set = ClipSet("speech", systems=False, group=None)
    for path in sorted(random.Random(seed).sample(paths, min(count, len(paths)))):
        utt_id = re.sub(r"[^\w.-]+", "_", os.path.splitext(path)[0])
        # Two that would have one name are a fault.
        clip_set.add(path, utt_id, os.path.join(folder, path), "", None)
    return clip_set


def read(args: argparse.Namespace) -> List[ClipSet]:
    """Return the sets that ``--sets`` names; all without it."""
    p835 = read_p835(args.corpus)
    folds = {
        fold: {clip.utt_id: part_of(clip, *settings) for clip in p835.clips()}
        for fold, settings in all_folds().items()
    }
    sets = [p835, *fold_sets(p835, folds)]
    speech = os.environ.get("SPEECH")
    if speech:
        sets.append(draw_speech(speech, NUM_SPEECH))
    wanted = wanted_sets(args, [clip_set.name for clip_set in sets])
    return [clip_set for clip_set in sets if clip_set.name in wanted]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("corpus", help="p835_reference_conditions, or an extract")
    sys.exit(run_parser(parser, read))
