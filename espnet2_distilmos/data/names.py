# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Names of audio files: their endings, and what people see as one name."""

import re
import unicodedata

# What libsndfile decodes, by the ending of the name.
AUDIO_SUFFIXES = frozenset(
    ".wav .wave .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .snd .caf .w64 .rf64 "
    ".sph .nist .voc".split()
)
# Audio all the same, for other decoders.
FOREIGN_SUFFIXES = frozenset(
    ".m4a .aac .mp4 .m4b .wma .webm .weba .amr .ac3 .eac3 .mka .3gp .ape .wv .tta "
    ".mpc .spx .dsf .dff".split()
)

_ENDING = re.compile(
    rf"({'|'.join(map(re.escape, AUDIO_SUFFIXES | FOREIGN_SUFFIXES))})\Z",
    re.IGNORECASE,
)


def without_ending(name: str) -> str:
    """Return the name of a file or utterance without the ending of an audio file."""
    return _ENDING.sub("", name)


def as_seen(name: str) -> str:
    r"""Return a name as people see it, to compare it with others, never to open it.

    One letter has several forms in Unicode, and macOS writes another than Linux;
    Windows has a slash of its own; the case of an ending says nothing.

    >>> as_seen(r"x\a.WAV")
    'x/a.wav'
    """
    text = unicodedata.normalize("NFC", name).replace("\\", "/")
    return _ENDING.sub(lambda ending: ending[0].lower(), text)
