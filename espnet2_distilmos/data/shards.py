# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The part of a list of files that one machine of many scores."""

import hashlib
import heapq
import os
import re
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence

from espnet2_distilmos.data.datadir import DataError
from espnet2_distilmos.data.inputs import InputFile

#: What every row of a shard's table says beside the scores; see :meth:`Shard.columns`.
COLUMNS = ("shard", "place", "inputs")


class Shard(NamedTuple):
    """One of ``count`` parts, numbered from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read ``3/16``.

        Raises:
            DataError: It is none, or there is no such part.

        >>> Shard.parse("3/16")
        Shard(number=3, count=16)
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        shard = cls(*map(int, found.groups())) if found else cls(0, 0)
        if not 1 <= shard.number <= shard.count:
            raise DataError(
                f"found the shard {text}, expected one such as 3/16, from 1/16 to "
                "16/16."
            )
        return shard

    def path(self, path: str) -> str:
        """Return the name of this part of a file, so that no part replaces another.

        >>> Shard(3, 16).path("out/scores.csv")
        'out/scores.3of16.csv'
        """
        stem, suffix = os.path.splitext(path)
        return f"{stem}.{self.number}of{self.count}{suffix}"

    def places(self, items: Sequence[InputFile], num_threads: int) -> List[int]:
        """Choose this part of a list of files.

        The parts depend on ids and durations only, each file is in one of them, and
        they have nearly equal durations. Only headers are read; a file whose header
        cannot be read counts as empty.

        Args:
            items: All files, the same for each part.
            num_threads: Threads that read headers.

        Returns:
            Places in ``items``, rising.

        Raises:
            DataError: There are more parts than files.
        """
        if len(items) < self.count:
            raise DataError(
                f"found {self.count} shards of {len(items)} files, expected at most as "
                "many shards as files; take fewer."
            )
        from espnet2_distilmos.data.batches import map_ahead  # merging reads no audio

        lengths = map_ahead(_seconds, items, num_threads, depth=100)
        seconds = {item.id: length for item, length in zip(items, lengths)}
        numbers = split(seconds, self.count)
        return [p for p, item in enumerate(items) if numbers[item.id] == self.number]

    def columns(self, items: Sequence[InputFile]) -> List[Dict[str, Any]]:
        """What lets :func:`~espnet2_distilmos.evaluation.predictions.merge` see that
        nothing is missing: the shard, the place in the list of all files, from 1, and
        how long that list is, with a digest of its ids; of each file."""
        digest = hashlib.sha256()
        for item in items:
            digest.update(os.fsencode(item.id) + b"\0")
        inputs = f"{len(items)}-{digest.hexdigest()[:12]}"
        shard = f"{self.number}/{self.count}"
        values = [(shard, place, inputs) for place in range(1, len(items) + 1)]
        return [dict(zip(COLUMNS, one)) for one in values]


def _seconds(item: InputFile) -> float:
    from espnet2_distilmos.data.audio import AudioError, read_header

    try:
        length, rate, _ = read_header(item.path)
    except AudioError:
        return 0.0
    return length / rate


def split(seconds: Mapping[str, float], count: int) -> Dict[str, int]:
    """Give each id a number from 1 to ``count``.

    The longest first, each to whichever part has least so far (Graham, 1969: no part is
    longer than 4/3 of what the best division has).

    >>> split({"a": 3, "b": 2, "c": 2, "d": 1}, 2)
    {'a': 1, 'b': 2, 'c': 2, 'd': 1}
    """
    heap = [(0.0, 0, number) for number in range(1, count + 1)]
    numbers = {}
    for name in sorted(seconds, key=lambda name: (-seconds[name], os.fsencode(name))):
        total, files, number = heap[0]
        numbers[name] = number
        heapq.heapreplace(heap, (total + seconds[name], files + 1, number))
    return numbers
