# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A fabricated p835 in both layouts: every published name and row format, noise."""

import csv
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ..corpora import bvrnn

TALKERS = ("f1", "f2", "f3", "m1", "m2", "m3")
SHEETS = {
    "Fullband-results per file": ("fb", "degraded_fullband_48KHz", 48000),
    "16KHzWB-results per file": ("wb", "degraded_WB_16KHz", 16000),
}


def write_audio(path: Path, rate: int, level: float, rng) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * rng.standard_normal(round(rate * rng.uniform(0.2, 0.3)))
    soundfile.write(path, samples, rate)


def write_csv(path: Path, columns, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def p835_mos(band: str, number: int, talker: str) -> float:
    """Overall MOS of a clip, with more digits than an extract has."""
    talker_bias = TALKERS.index(talker) / 50
    return 1.3 + (number * 5 % 13) / 4 + talker_bias + 0.1234567 * (band == "wb")


def write_p835_extract(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for band in ("fb", "wb"):
        for number in range(13):
            for talker in TALKERS:
                utt = f"p835{band}_c{number}_{talker}"
                mos = p835_mos(band, number, talker)
                write_audio(folder / "flac" / f"{utt}.flac", 16000, mos / 50, rng)
                row = [utt, f"flac/{utt}.flac", f"{band}_c{number}", round(mos, 4), 9]
                rows.append([*row, 4, 4.5, 0.6, "P.835 OVRL 1-5", 0.25, talker])
    columns = "utt,wav,system,mos,n_votes,mos_sig,mos_bak,std,raw_scale,seconds,talker"
    write_csv(folder / "ratings.csv", columns.split(","), rows)
    return folder


def write_workbook(path: Path, sheets) -> None:
    """Write an .xlsx as spreadsheet programs do: texts shared, numbers in place."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    shared, parts = [], {}
    for number, rows in enumerate(sheets.values(), 1):
        lines = []
        for y, row in enumerate(rows, 1):
            cells = []
            for x, value in enumerate(row):
                place = f'r="{chr(ord("A") + x)}{y}"'
                if isinstance(value, str):
                    shared.append(value)
                    cells.append(f'<c {place} t="s"><v>{len(shared) - 1}</v></c>')
                elif value is not None:
                    cells.append(f"<c {place}><v>{value!r}</v></c>")
                else:
                    cells.append(f"<c {place}/>")
            lines.append(f'<row r="{y}">{"".join(cells)}</row>')
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData>'
            "</worksheet>"
        )
    listed = "".join(
        f'<sheet name="{name}" sheetId="{n}" r:id="rId{n}"/>'
        for n, name in enumerate(sheets, 1)
    )
    parts["xl/workbook.xml"] = (
        f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets>'
        "</workbook>"
    )
    relations = "".join(
        f'<Relationship Id="rId{n}" Target="worksheets/sheet{n}.xml"/>'
        for n in range(1, len(sheets) + 1)
    )
    parts["xl/_rels/workbook.xml.rels"] = f"<Relationships>{relations}</Relationships>"
    texts = "".join(f"<si><t>{text}</t></si>" for text in shared)
    parts["xl/sharedStrings.xml"] = f'<sst xmlns="{main}">{texts}</sst>'
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)


def write_p835_toolkit(checkout: Path) -> Path:
    """The checkout of the P.808 toolkit: a workbook, and the audio at two rates."""
    folder = checkout / "p835_reference_conditions"
    rng = np.random.default_rng(0)
    sheets = {"description": [["Title", "P.835 refernce conditions CS"]]}
    for sheet, (band, audio, rate) in SHEETS.items():
        head = "file_url short_file_name condition_num _ MOS_BAK std_bak 95%CI_bak"
        head = [*head.split(), "MOS_SIG", "std_sig", "95%CI_sig", "MOS_OVRL"]
        head[3] = "n votes"
        rows = [head]
        for number in range(13):
            for talker in reversed(TALKERS):
                name = f"c{number}_{talker}.wav"
                write_audio(folder / audio / name, rate, 0.1, rng)
                row = [f"https://example.org/{name}", name, number, 9, 4.5, 0.1, 0.1]
                row += [4, None, 0.2, p835_mos(band, number, talker)]
                rows.append(row)
        sheets[sheet] = rows
    write_workbook(folder / "CSP835_Ref_Conditions.xlsx", sheets)
    return checkout


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """Both layouts, and a folder of bvrnn; not to be changed."""
    root = tmp_path_factory.mktemp("corpora")
    bvrnn(root / "bvrnn")
    return {
        "extract": write_p835_extract(root / "p835"),
        "P.808": write_p835_toolkit(root / "P.808"),
        "bvrnn": root / "bvrnn",
    }


@pytest.fixture
def own_corpora(corpora, tmp_path):
    """A copy of them to spoil."""
    shutil.copytree(corpora["extract"].parent, tmp_path / "own")
    return {n: tmp_path / "own" / path.name for n, path in corpora.items()}
