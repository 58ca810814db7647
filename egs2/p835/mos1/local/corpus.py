# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The clips and ratings of p835 and bvrnn, in their owners' layouts or as an extract.

An extract is a directory with ``ratings.csv`` (columns ``utt``, ``wav``, ``system``,
``mos``, for p835 also ``talker``) and the audio that its column ``wav`` names.
"""

import csv
import json
import os
import random
import re
import zipfile
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple
from xml.etree import ElementTree

from espnet2_distilmos.data.audio import AUDIO_SUFFIXES
from espnet2_distilmos.data.datadir import DataError

TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
NUM_CONDITIONS = 13  # c0 to c12, each at two bandwidths
SOURCES = tuple(f"stim_{number:02d}" for number in range(1, 17))
CODECS = (
    "Proposed_1.38",
    "Proposed_1.38_16kHz",
    "Proposed_5.51",
    "Proposed_5.51_16kHz",
    "Lyra_3",
    "Lyra_6",
    "AudioDec",
    "Reference",
)

P835_WORKBOOK = "CSP835_Ref_Conditions.xlsx"
# Sheet of the workbook, folder of its audio, and the bandwidth in our names.
P835_PARTS = (
    ("Fullband-results per file", "degraded_fullband_48KHz", "fb"),
    ("16KHzWB-results per file", "degraded_WB_16KHz", "wb"),
)
BVRNN_RATINGS = "ratings_formated_filtered.csv"


class Clip(NamedTuple):
    """A rated clip; ``source`` is the recording it was made from."""

    utt_id: str
    path: str
    system: str
    source: str
    mos: float


class Corpus(NamedTuple):
    """The good clips, sorted by id, and a sentence for each fault."""

    clips: List[Clip]
    faults: List[str]


# A row as a layout gives it: where it stands, id, path, system, source, score.
Row = Tuple[str, str, str, str, str, object]


def _read_csv(path: str, columns: Sequence[str]) -> List[Tuple[str, Dict[str, str]]]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = reader.fieldnames or []
            rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read ({error}), expected a CSV file of ratings; "
            "download it again."
        ) from error
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(
            f"{path} has the columns {','.join(names)}, expected also "
            f"{','.join(missing)}; download it again."
        )
    return rows


def _read_extract(folder: str, source: Callable[[Dict[str, str]], str]) -> List[Row]:
    path = os.path.join(folder, "ratings.csv")
    return [
        (
            where,
            row["utt"],
            os.path.join(folder, row["wav"] or ""),
            "_".join((row["system"] or "").split()),
            source(row),
            row["mos"],
        )
        for where, row in _read_csv(path, ("utt", "wav", "system", "mos"))
    ]


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


def _read_p835_workbook(folder: str) -> List[Row]:
    path = os.path.join(folder, P835_WORKBOOK)
    tables = read_workbook(path, [sheet for sheet, _, _ in P835_PARTS])
    rows: List[Row] = []
    for sheet, audio, band in P835_PARTS:
        for number, row in enumerate(tables[sheet], 2):
            name = row.get("short_file_name", "")
            stem = os.path.splitext(name)[0]
            condition, _, talker = stem.partition("_")
            rows.append(
                (
                    f"{path}, sheet {sheet}, row {number}",
                    f"p835{band}_{stem}",
                    os.path.join(folder, audio, name),
                    f"{band}_{condition}",
                    talker,
                    _rounded(row.get("MOS_OVRL", ""), 4),
                )
            )
    return rows


def _read_bvrnn_ratings(folder: str) -> List[Row]:
    path = os.path.join(folder, BVRNN_RATINGS)
    rows: List[Row] = []
    for where, row in _read_csv(path, ("condition", "ratings", "file")):
        if not row["file"]:
            continue  # the anchor, whose audio was not published
        stem = os.path.splitext(row["file"])[0].replace("/", "_")
        try:
            votes = [float(vote) for vote in json.loads(row["ratings"])]
            mos: object = round(sum(votes) / len(votes), 3)
        except (TypeError, ValueError, ZeroDivisionError):
            mos = row["ratings"]
        rows.append(
            (
                where,
                f"bvrnn_{stem}",
                os.path.join(folder, "audio", *row["file"].split("/")),
                "_".join(row["condition"].split()),
                stem[: len("stim_01")],
                mos,
            )
        )
    return rows


def _rounded(text: str, decimals: int) -> object:
    try:
        return round(float(text), decimals)
    except ValueError:
        return text


def _check(
    rows: Sequence[Row],
    expected: Dict[Tuple[str, str], None],
    score_range: Tuple[float, float],
    names: Tuple[str, str],
) -> Corpus:
    """Keep the good rows; ``expected`` holds every (system, source) there must be."""
    clips: Dict[str, Clip] = {}
    faults = []
    known = set()
    for where, utt_id, path, system, source, mos in rows:
        known.add((system, source))
        if utt_id in clips:
            faults.append(
                f"{where}: the clip {utt_id} occurs a second time, expected once; "
                "remove the row."
            )
            continue
        if not utt_id or len(utt_id.split()) != 1:
            faults.append(
                f"{where}: the clip's name is {utt_id!r}, expected one word; correct "
                "the row."
            )
            continue
        if (system, source) not in expected:
            faults.append(
                f"{where}: the clip {utt_id} is of {names[0]} {system!r} and "
                f"{names[1]} {source!r}, expected those of the published set; correct "
                "or remove the row."
            )
            continue
        try:
            score = float(mos)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            score = float("nan")
        if not score_range[0] <= score <= score_range[1]:
            faults.append(
                f"{where}: the clip {utt_id} has the score {mos!r}, expected a number "
                f"from {score_range[0]:g} to {score_range[1]:g}; correct the row."
            )
            continue
        if not os.path.isfile(path):
            faults.append(
                f"{where}: the audio of {utt_id}, {path}, does not exist; download it "
                "again."
            )
            continue
        clips[utt_id] = Clip(utt_id, path, system, source, score)
    missing: Dict[str, List[str]] = {}
    for system, source in expected:
        if (system, source) not in known:
            missing.setdefault(source, []).append(system)
    for source, systems in missing.items():
        faults.append(
            f"{rows[0][0].split(':')[0] if rows else 'the list'} has no rating for "
            f"{len(systems)} of the {len({s for s, _ in expected})} {names[0]}s of "
            f"{names[1]} {source} (the first is {systems[0]}), expected all of the "
            "published set; download it again."
        )
    return Corpus(sorted(clips.values()), faults)


def _folder(
    folder: str, inner: str, files: Sequence[str], what: str
) -> Tuple[str, str]:
    """Find which layout it is: the folder and the file of ``files`` that it has."""
    for candidate in (folder, os.path.join(folder, inner)):
        for name in files:
            if os.path.isfile(os.path.join(candidate, name)):
                return candidate, name
    raise DataError(
        f"{folder} has neither {' nor '.join(files)}, expected {what}; correct the "
        "variable in db.sh."
    )


def read_p835(folder: str) -> Corpus:
    """Read the P.835 reference conditions of the P.808 toolkit.

    Args:
        folder: ``p835_reference_conditions`` of github.com/microsoft/P.808, that
            checkout, or an extract.

    Returns:
        156 clips if all is there: systems ``fb_c0`` to ``wb_c12``, sources the six
        talkers (each says one passage), scores the overall MOS, 1 to 5.

    Raises:
        DataError: Nothing can be read.
    """
    folder, name = _folder(
        folder,
        "p835_reference_conditions",
        (P835_WORKBOOK, "ratings.csv"),
        "p835_reference_conditions of github.com/microsoft/P.808",
    )
    if name == P835_WORKBOOK:
        rows = _read_p835_workbook(folder)
    else:
        rows = _read_extract(folder, lambda row: row.get("talker") or "")
    expected = {
        (f"{band}_c{number}", talker): None
        for talker in TALKERS
        for _, _, band in P835_PARTS
        for number in range(NUM_CONDITIONS)
    }
    return _check(rows, expected, (1.0, 5.0), ("condition", "talker"))


def read_bvrnn(folder: str) -> Corpus:
    """Read the neural codecs' MUSHRA test of Stahl et al.

    Args:
        folder: ``mushra_results_dataset`` of
            github.com/BenjSta/bernoulli-var-speech-codec, that checkout, or an extract.

    Returns:
        128 clips if all is there: eight codecs, 16 sources ``stim_01`` to ``stim_16``,
        scores the mean MUSHRA rating, 0 to 100, of the listeners whom the owners kept.

    Raises:
        DataError: Nothing can be read.
    """
    folder, name = _folder(
        folder,
        "mushra_results_dataset",
        (BVRNN_RATINGS, "ratings.csv"),
        "mushra_results_dataset of github.com/BenjSta/bernoulli-var-speech-codec",
    )
    if name == BVRNN_RATINGS:
        rows = _read_bvrnn_ratings(folder)
    else:
        rows = _read_extract(folder, _stimulus)
    expected = {(codec, source): None for source in SOURCES for codec in CODECS}
    return _check(rows, expected, (0.0, 100.0), ("codec", "source"))


def _stimulus(row: Dict[str, str]) -> str:
    found: Optional[re.Match] = re.search(r"stim_\d\d", row["utt"] or "")
    return found.group() if found else ""


def draw_speech(folder: str, count: int, seed: int = 0) -> Dict[str, str]:
    """Draw audio files of a folder and its sub-folders, each as likely as the others.

    Args:
        folder: Any folder of speech; what is no audio by its name is left alone.
        count: How many files to draw, or all if there are fewer.
        seed: Of the draw, which does not depend on the order of the file system.

    Returns:
        Paths by id; an id is the path in the folder without its ending.

    Raises:
        DataError: There is no audio, or two drawn files would have one id.
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
    drawn: Dict[str, str] = {}
    for path in sorted(random.Random(seed).sample(paths, min(count, len(paths)))):
        utt_id = re.sub(r"[^\w.-]+", "_", os.path.splitext(path)[0])
        if utt_id in drawn:
            raise DataError(
                f"{folder}/{path} and {drawn[utt_id]} would both be {utt_id}, expected "
                "one name an utterance; rename one."
            )
        drawn[utt_id] = os.path.join(folder, path)
    return drawn
