# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Length-sorted batches of audio files, decoded ahead."""

import collections
import concurrent.futures
import math
import numbers
import os
from typing import (
    Callable,
    Deque,
    Dict,
    Hashable,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    TypeVar,
    Union,
)

import numpy as np

from espnet2_distilmos.data.audio import (
    AudioError,
    Channel,
    check_length,
    describe,
    read_audio,
    read_header,
)
from espnet2_distilmos.data.datadir import DataError, read_scp

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_Key = TypeVar("_Key", bound=Hashable)


class AudioBatch(NamedTuple):
    """A padded batch.

    Attributes:
        utt_ids: B utterance ids, longest first.
        speech: Samples (B, N), float32 in [-1, 1], zero-padded on the right.
        speech_lengths: Samples of each utterance (B,), int64.
    """

    utt_ids: List[str]
    speech: np.ndarray
    speech_lengths: np.ndarray


def map_ahead(
    function: Callable[[_Item], _Made],
    items: Iterable[_Item],
    num_threads: int = 1,
    depth: int = 4,
) -> Iterator[_Made]:
    """As ``map``, in threads and no more than ``depth`` items ahead.

    Example:
        >>> list(map_ahead(len, ["a", "bb", "ccc"], num_threads=2))
        [1, 2, 3]
    """
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        waiting: Deque[concurrent.futures.Future] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def check_seconds(name: str, value: float) -> None:
    """Refuse a length of batches or windows that none can have.

    Args:
        name: of the option, for the message.
        value: in seconds.

    Raises:
        DataError: It is no positive and finite number.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise DataError(
            f"found {name}={value!r}, expected a positive number of seconds, such as "
            f"{name}=60."
        )


def plan_batches(num_samples: Mapping[_Key, int], most: float) -> List[List[_Key]]:
    """Group by length, longest first; equal lengths keep their order.

    Args:
        num_samples: Length by id.
        most: Limit on count x longest of a batch; one item is always taken.

    Returns:
        Ids of each batch.

    Example:
        >>> plan_batches({"a": 2, "b": 5, "c": 2, "d": 1}, most=5)
        [['b'], ['a', 'c'], ['d']]
    """
    ids = sorted(num_samples, key=lambda key: -num_samples[key])
    plan = []
    start = 0
    while start < len(ids):
        count = max(int(most // max(num_samples[ids[start]], 1)), 1)
        plan.append(ids[start : start + count])
        start += count
    return plan


def read_num_samples(wav_scp: str) -> Dict[str, int]:
    """Read ``utt2num_samples`` beside a wav.scp.

    Args:
        wav_scp: Path of the wav.scp.

    Returns:
        Number of samples by utterance id; empty where there is no such file.

    Raises:
        DataError: A value is not a positive integer.
    """
    path = os.path.join(os.path.dirname(wav_scp), "utt2num_samples")
    if not os.path.isfile(path):
        return {}
    lengths = {}
    for utt_id, value in read_scp(path).items():
        if not value.isdecimal():
            raise DataError(
                f"{path}: utterance {utt_id} has {value!r} samples, expected a whole "
                "number; run stage 2 again."
            )
        lengths[utt_id] = int(value)
    return lengths


class AudioBatches:
    """Iterate over the files of a wav.scp in length-sorted padded batches.

    The order is deterministic: longest first (so that what does not fit into memory
    shows at once), equal lengths in the order of the wav.scp. A batch takes as many
    utterances as keep count x longest within the limit, and at least one. A file
    that cannot be used is left out and its sentence is kept in ``failures``.

    Args:
        wav_scp: Path of a wav.scp, or its contents (paths by utterance id). With a
            path, lengths come from ``utt2num_samples`` beside it, where present, and
            from the files' headers otherwise.
        batch_seconds: Limit on the padded size of a batch, in seconds.
        fs: Sampling rate in Hz that the files are brought to.
        minimum_samples: Utterances with fewer samples at ``fs`` are failures.
        utt_ids: Take only these utterances, or None for all.
        num_threads: Decoding threads.
        channel: ``mean`` of all channels, or the number of one.
        maximum_samples: Longer ones at ``fs`` are left out and listed in
            ``too_long``; None takes all.
        names: Names of the utterances in sentences; None for the ids, "" for none.

    Attributes:
        too_long: Ids of more than ``maximum_samples``, complete after the iteration.
        failures: Sentence by utterance id, complete after the iteration.

    Raises:
        DataError: The wav.scp cannot be read, or there is no such ``batch_seconds``.
    """

    def __init__(
        self,
        wav_scp: Union[str, Mapping[str, str]],
        batch_seconds: float,
        fs: int = 16000,
        minimum_samples: int = 1,
        utt_ids: Optional[Sequence[str]] = None,
        num_threads: int = 2,
        channel: Channel = "mean",
        maximum_samples: Optional[int] = None,
        names: Optional[Mapping[str, str]] = None,
    ):
        check_seconds("batch_seconds", batch_seconds)
        self._known: Mapping[str, int] = {}
        if not isinstance(wav_scp, collections.abc.Mapping):
            self._known = read_num_samples(wav_scp)
            wav_scp = read_scp(wav_scp)
        if utt_ids is not None:
            wav_scp = {utt_id: wav_scp[utt_id] for utt_id in utt_ids}
        self.wav_scp = wav_scp
        self.fs = fs
        self.minimum_samples = minimum_samples
        self.num_threads = num_threads
        self.channel = channel
        self.maximum_samples = maximum_samples
        self.names = names or {utt_id: utt_id for utt_id in wav_scp}
        self.failures: Dict[str, str] = {}
        self.num_samples: Dict[str, int] = {}
        found = map_ahead(self._length, wav_scp, num_threads, depth=100)
        for utt_id, length in zip(wav_scp, found):
            if isinstance(length, AudioError):
                self.failures[utt_id] = str(length)
            else:
                self.num_samples[utt_id] = length
        self._most = batch_seconds * fs
        self.drop(())

    def drop(self, utt_ids: Iterable[str]) -> None:
        """Leave out these utterances, such as those that are done already."""
        dropped = set(utt_ids)
        kept = {i: n for i, n in self.num_samples.items() if i not in dropped}
        most = math.inf if self.maximum_samples is None else self.maximum_samples
        self.too_long = [i for i, n in kept.items() if n > most]
        short = {i: n for i, n in kept.items() if n <= most}
        self._plan = plan_batches(short, self._most)

    def __len__(self) -> int:
        """Batches planned; fewer come where a whole batch is unusable."""
        return len(self._plan)

    def _length(self, utt_id: str) -> Union[int, AudioError]:
        if utt_id in self._known:
            return self._known[utt_id]
        try:
            length, rate, _ = read_header(self.wav_scp[utt_id], self.names[utt_id])
        except AudioError as error:
            return error
        return math.ceil(length * self.fs / rate)

    def _decode(self, utt_ids: Sequence[str]) -> List:
        """Samples, None where they are too many, or an error, of each utterance."""
        decoded: List = []
        for utt_id in utt_ids:
            path, name = self.wav_scp[utt_id], self.names[utt_id]
            try:
                samples = read_audio(
                    path, self.fs, name, self.channel, self.maximum_samples
                )
                if samples is not None:
                    name = describe(path, name)
                    check_length(len(samples), self.minimum_samples, self.fs, name)
                decoded.append(samples)
            except AudioError as error:
                decoded.append(error)
        return decoded

    def __iter__(self) -> Iterator[AudioBatch]:
        depth = self.num_threads + 2
        decoded = map_ahead(self._decode, self._plan, self.num_threads, depth)
        for utt_ids, found in zip(self._plan, decoded):
            good = {}
            for utt_id, samples in zip(utt_ids, found):
                if isinstance(samples, AudioError):
                    self.failures[utt_id] = str(samples)
                elif samples is None:
                    # The header had declared less.
                    self.too_long.append(utt_id)
                else:
                    good[utt_id] = samples
            if not good:
                continue
            lengths = np.array([len(samples) for samples in good.values()], np.int64)
            speech = np.zeros((len(good), lengths.max()), dtype=np.float32)
            for row, samples in zip(speech, good.values()):
                row[: len(samples)] = samples
            yield AudioBatch(list(good), speech, lengths)

    def sorted_failures(self) -> Dict[str, str]:
        """Return the failures in the order of the wav.scp."""
        return {i: self.failures[i] for i in self.wav_scp if i in self.failures}
