# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

import unicodedata

import pytest

from espnet2_distilmos.data.names import (
    AUDIO_SUFFIXES,
    FOREIGN_SUFFIXES,
    as_seen,
    without_ending,
)


@pytest.mark.parametrize("suffix", sorted(AUDIO_SUFFIXES | FOREIGN_SUFFIXES))
def test_endings_in_any_case(suffix):
    for ending in (suffix, suffix.upper(), suffix.title()):
        assert without_ending(f"x/a.b{ending}") == "x/a.b"
        assert as_seen(f"x/A.B{ending}") == f"x/A.B{suffix}"


def test_what_is_no_ending():
    for name in ("sys.v1", "wav", "a.wav.txt", "a.wav\n", "a.wav "):
        assert without_ending(name) == as_seen(name) == name


def test_letters_and_slashes():
    composed, decomposed = (unicodedata.normalize(f, "é/ü") for f in ("NFC", "NFD"))
    assert composed != decomposed
    assert as_seen(decomposed) == as_seen(composed) == composed
    assert as_seen("D:\\x\\a.WAV") == "D:/x/a.wav"
