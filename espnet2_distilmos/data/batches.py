# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Length-sorted batches of audio files, decoded in background threads."""

import collections
import collections.abc
import concurrent.futures
import contextlib
import math
import os
import queue
import threading
from typing import (
    Dict,
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
    read_audio,
    read_header,
)
from espnet2_distilmos.data.datadir import DataError, read_scp

_Item = TypeVar("_Item")


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


@contextlib.contextmanager
def in_background(items: Iterable[_Item], depth: int = 4) -> Iterator[Iterator[_Item]]:
    """Run an iterator in a thread of its own, a few items ahead.

    Args:
        items: what to iterate over; left where it stands when the block ends.
        depth: items made ahead.

    Yields:
        An iterator over the same items that raises what ``items`` raises.
    """
    made: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(entry) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                made.put(entry, timeout=0.1)
                return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:  # raised again where the items are taken
            put((None, error))

    def take() -> Iterator[_Item]:
        while True:
            item, error = made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stop.set()
        thread.join()


def too_short(
    path: str, num_samples: int, fs: int, minimum_samples: int, utt_id: str = ""
) -> AudioError:
    """Return the error of a file with fewer samples at ``fs`` than a frame needs."""
    name = f"utterance {utt_id}: {path}" if utt_id else path
    advice = "remove the utterance (stage 4 filters by duration)"
    return AudioError(
        f"{name} has {num_samples} samples at {fs} Hz, expected at least the "
        f"{minimum_samples} of one frame; {advice if utt_id else 'leave it out'}."
    )


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
        prefetch: Batches decoded ahead.
        channel: ``mean`` of all channels, or the number of one.
        maximum_samples: Longer ones at ``fs`` are left out and listed in
            ``too_long``; None takes all.
        name_utterances: Name the utterance in sentences; else only the file.

    Attributes:
        too_long: Ids of more than ``maximum_samples``, complete after the iteration.
        failures: Sentence by utterance id, complete after the iteration.
        num_batches: Number of batches planned; the iteration may yield fewer where
            a whole batch is unusable.

    Raises:
        DataError: The wav.scp cannot be read or ``batch_seconds`` is not positive.
    """

    def __init__(
        self,
        wav_scp: Union[str, Mapping[str, str]],
        batch_seconds: float,
        fs: int = 16000,
        minimum_samples: int = 1,
        utt_ids: Optional[Sequence[str]] = None,
        num_threads: int = 2,
        prefetch: int = 4,
        channel: Channel = "mean",
        maximum_samples: Optional[int] = None,
        name_utterances: bool = True,
    ):
        if not batch_seconds > 0:
            raise DataError(
                f"the batch size is {batch_seconds} seconds, expected a positive "
                "number; correct --batch_seconds."
            )
        known: Mapping[str, int] = {}
        if not isinstance(wav_scp, collections.abc.Mapping):
            known = read_num_samples(wav_scp)
            wav_scp = read_scp(wav_scp)
        if utt_ids is not None:
            wav_scp = {utt_id: wav_scp[utt_id] for utt_id in utt_ids}
        self.wav_scp = wav_scp
        self.fs = fs
        self.minimum_samples = minimum_samples
        self.num_threads = num_threads
        self.prefetch = prefetch
        self.channel = channel
        self.maximum_samples = maximum_samples
        self.name_utterances = name_utterances
        self.too_long: List[str] = []
        self.failures: Dict[str, str] = {}
        self.num_samples = self._lengths(known)
        self._limit = batch_seconds * fs
        self._plan = self._make_plan(self.num_samples)

    def drop(self, utt_ids: Iterable[str]) -> None:
        """Leave out these utterances, such as those that are done already."""
        dropped = set(utt_ids)
        self._plan = self._make_plan([i for i in self.num_samples if i not in dropped])

    @property
    def num_batches(self) -> int:
        return len(self._plan)

    def _name(self, utt_id: str) -> str:
        return utt_id if self.name_utterances else ""

    def _lengths(self, known: Mapping[str, int]) -> Dict[str, int]:
        def length(utt_id: str) -> Union[int, AudioError]:
            if utt_id in known:
                return known[utt_id]
            try:
                samples, rate, _ = read_header(self.wav_scp[utt_id], self._name(utt_id))
            except AudioError as error:
                return error
            return math.ceil(samples * self.fs / rate)

        lengths = {}
        with concurrent.futures.ThreadPoolExecutor(self.num_threads) as pool:
            for utt_id, result in zip(self.wav_scp, pool.map(length, self.wav_scp)):
                if isinstance(result, AudioError):
                    self.failures[utt_id] = str(result)
                else:
                    lengths[utt_id] = result
        return lengths

    def _make_plan(self, utt_ids: Iterable[str]) -> List[List[str]]:
        most = self.maximum_samples
        ids, self.too_long = [], []
        for utt_id in utt_ids:
            fits = most is None or self.num_samples[utt_id] <= most
            (ids if fits else self.too_long).append(utt_id)
        # sort() is stable: equal lengths keep the order of the wav.scp
        ids.sort(key=lambda utt_id: -self.num_samples[utt_id])
        plan = []
        start = 0
        while start < len(ids):
            longest = max(self.num_samples[ids[start]], 1)
            count = max(int(self._limit // longest), 1)
            plan.append(ids[start : start + count])
            start += count
        return plan

    def _decode(self, utt_id: str) -> Union[np.ndarray, AudioError, None]:
        path, name = self.wav_scp[utt_id], self._name(utt_id)
        try:
            samples = read_audio(
                path, self.fs, name, self.channel, self.maximum_samples
            )
        except AudioError as error:
            return error
        if samples is not None and len(samples) < self.minimum_samples:
            return too_short(path, len(samples), self.fs, self.minimum_samples, name)
        return samples

    def __iter__(self) -> Iterator[AudioBatch]:
        pool = concurrent.futures.ThreadPoolExecutor(self.num_threads)
        try:
            waiting: collections.deque = collections.deque()
            plan = iter(self._plan)
            for utt_ids in plan:
                waiting.append(
                    (utt_ids, [pool.submit(self._decode, i) for i in utt_ids])
                )
                if len(waiting) > self.prefetch:
                    batch = self._collate(*waiting.popleft())
                    if batch is not None:
                        yield batch
            while waiting:
                batch = self._collate(*waiting.popleft())
                if batch is not None:
                    yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collate(self, utt_ids, futures) -> Optional[AudioBatch]:
        good = []
        for utt_id, future in zip(utt_ids, futures):
            samples = future.result()
            if isinstance(samples, AudioError):
                self.failures[utt_id] = str(samples)
            elif samples is None:
                # The header had declared less.
                self.too_long.append(utt_id)
            else:
                good.append((utt_id, samples))
        if not good:
            return None
        lengths = np.array([len(samples) for _, samples in good], dtype=np.int64)
        speech = np.zeros((len(good), lengths.max()), dtype=np.float32)
        for row, (_, samples) in zip(speech, good):
            row[: len(samples)] = samples
        return AudioBatch([utt_id for utt_id, _ in good], speech, lengths)

    def sorted_failures(self) -> Dict[str, str]:
        """Return the failures in the order of the wav.scp."""
        return {i: self.failures[i] for i in self.wav_scp if i in self.failures}
