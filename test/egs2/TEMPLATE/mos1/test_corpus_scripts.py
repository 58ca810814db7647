# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Scripts that recipes of corpora share: download.sh, prepare_corpus.sh."""

import hashlib
import subprocess
from pathlib import Path

import pytest

TEMPLATE = Path(__file__).resolve().parents[4] / "egs2" / "TEMPLATE" / "mos1"
CONTENT = bytes(range(256)) * 64


def run(folder, script, *arguments, code=0):
    for name in ("scripts", "utils"):
        if not (folder / name).exists():
            (folder / name).symlink_to(TEMPLATE / name)
    result = subprocess.run(
        [f"scripts/utils/{script}", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    return result


@pytest.fixture
def url(tmp_path):
    (tmp_path / "served").write_bytes(CONTENT)
    return f"file://{tmp_path}/served"


@pytest.mark.parametrize("part", [None, CONTENT[:1000]])
def test_download_goes_on_where_it_stopped(tmp_path, url, part):
    file = tmp_path / "downloads" / "corpus.zip"
    if part is not None:
        file.parent.mkdir()
        Path(f"{file}.part").write_bytes(part)
    md5 = hashlib.md5(CONTENT).hexdigest()
    run(tmp_path, "download.sh", "--md5", md5, url, "downloads/corpus.zip")
    assert file.read_bytes() == CONTENT
    assert [path.name for path in file.parent.iterdir()] == ["corpus.zip"]
    # What is there is kept: no second download.
    (tmp_path / "served").unlink()
    run(tmp_path, "download.sh", url, "downloads/corpus.zip")


def test_a_download_with_another_checksum_is_not_kept(tmp_path, url):
    arguments = ("--md5", "0" * 32, url, "downloads/corpus.zip")
    result = run(tmp_path, "download.sh", *arguments, code=1)
    assert f"has the checksum {hashlib.md5(CONTENT).hexdigest()}, expected 0" in (
        result.stderr
    )
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_download_that_fails_ends_with_a_sentence(tmp_path):
    arguments = (f"file://{tmp_path}/none", "downloads/corpus.zip")
    result = run(tmp_path, "download.sh", *arguments, code=1)
    last = result.stderr.splitlines()[-1]
    assert "could not be downloaded" in last and "downloads/corpus.zip by hand" in last


@pytest.mark.parametrize("value", ["", "/nowhere", "downloads"])
def test_a_corpus_that_is_not_there_is_named(tmp_path, value):
    (tmp_path / "path.sh").write_text("")
    (tmp_path / "db.sh").write_text(f"BVCC={value}\n")
    options = ("--corpus", "BVCC", "--corpus_home", "a place", "--download", "false")
    result = run(tmp_path, "prepare_corpus.sh", *options, code=1)
    (line,) = result.stderr.splitlines()
    assert "BVCC of db.sh" in line and "a place" in line
