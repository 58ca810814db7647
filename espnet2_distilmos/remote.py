# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A MOSPredictor that is elsewhere: scores of `distilmos serve`."""

import itertools
import json
import os
import random
import time
import urllib.parse
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np

from espnet2_distilmos.abs_predictor import (
    FileResult,
    MOSResult,
    checked_channels,
    checked_rate,
    rates_of,
)
from espnet2_distilmos.data.audio import AudioError, describe, read_header
from espnet2_distilmos.data.batches import map_ahead
from espnet2_distilmos.evaluation.trust import Confidence

# Busy, ending, or a proxy that does not reach the server yet: another try may succeed.
_BUSY = (429, 502, 503, 504)
# Seconds between two tries: the first, and the longest.
_WAITS = (0.1, 5.0)
# They wait for the server, mostly; so it has something to score together.
_REQUESTS_PER_THREAD = 8
# Whoever mistyped the URL is told sooner than one whose server restarts.
_FIRST_PATIENCE = 10.0


@dataclass(frozen=True)
class RemoteResult(MOSResult):
    """What the server says of one waveform; ``novelty`` was measured there.

    Attributes:
        frames, times, embedding: None where they were not asked for.
    """

    novelty: Optional[float] = None


def to_result(row: Dict[str, Any], confidence: Confidence) -> RemoteResult:
    """The result that the service made a row of, ``service.to_row``."""

    def array(name: str, dtype) -> Optional[np.ndarray]:
        return np.array(row[name], dtype) if name in row else None

    return RemoteResult(
        score=row["score"],
        frames=array("frames", np.float32),
        times=array("times", np.float64),
        embedding=array("embedding", np.float32),
        seconds=row["seconds"],
        note=row["note"],
        raw_score=row["raw_score"],
        confidence=confidence,
        novelty=row.get("novelty"),
    )


class RemoteMOSPredictor:
    """Scores by `distilmos serve`, as :class:`MOSPredictor` gives them.

    Scoring is idempotent, so what fails on the way (no connection, one that breaks, a
    server that is busy or ends) is tried again, with longer and longer breaks or when
    the server says. What the server refuses is not.

    Several threads may use one; it can be pickled.

    Args:
        url: of the server, such as ``http://127.0.0.1:8476``.
        token: the server's, where it has one; None for $DISTILMOS_TOKEN.
        patience: seconds in which a request is tried again.
        timeout: seconds that one try may take.
        frames: ask for frame scores and embedding, which a score as a reward does
            without.

    Attributes:
        sample_rate, frame_shift, frame_centre, minimum_samples, channel: as of the
            MOSPredictor there.
        confidence: intervals of it; novelty comes with the results.
        fingerprint: identifies what scores.
        about: what there is to know about the model, or "".

    Raises:
        ValueError: the URL is none, or what answers is no `distilmos serve`.
        OSError: nothing answers, or the server refuses (its sentence says why).
        ImportError: urllib3 is not there.
    """

    # Neighbours are the server's business.
    datastore = None

    def __init__(
        self,
        url: str,
        token: Optional[str] = None,
        patience: float = 60.0,
        timeout: float = 150.0,
        frames: bool = True,
    ):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"found the URL {url!r:.80}, expected one such as http://127.0.0.1:8476"
            )
        self.url = url.rstrip("/")
        self.patience = patience
        self.timeout = timeout
        self.frames = frames
        token = token or os.environ.get("DISTILMOS_TOKEN")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connect()
        try:
            patience = min(patience, _FIRST_PATIENCE)
            model = self._call("GET", "/model", patience=patience)
            self.fingerprint = model["scorer"]
            self.about = model["about"]
            self.sample_rate = model["sample_rate"]
            self.minimum_samples = model["minimum_samples"]
            self.frame_shift = model["frame_shift"]
            self.frame_centre = model["frame_centre"]
            self.channel = model["channel"]
            self.max_body = model["max_body"]
            self.confidence = _RemoteConfidence(model["confidence"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{url} answers, but not as `distilmos serve` does (no {error}), "
                "expected that; correct host and port"
            ) from error

    def _connect(self) -> None:
        import urllib3

        # As many connections as there are threads.
        self._pool = urllib3.PoolManager(maxsize=256, retries=False)

    def __getstate__(self) -> Dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_pool"}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def _call(
        self,
        method: str,
        path: str,
        query: Optional[Dict[str, Any]] = None,
        body: Optional[bytes] = None,
        patience: Optional[float] = None,
    ) -> Dict[str, Any]:
        """Ask until there is an answer.

        Raises:
            OSError: there is none within ``patience`` seconds (those of the predictor
                by default), or it is no score and no sentence.
            _NoScore: the server's sentence.
        """
        import urllib3

        patience = self.patience if patience is None else patience

        url = self.url + path
        if query:
            url += "?" + urllib.parse.urlencode(query)
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        until = time.monotonic() + patience
        wait, longest = _WAITS
        while True:
            try:
                answer = self._pool.request(
                    method, url, body=body, headers=headers, timeout=self.timeout
                )
                found, asked = f"status {answer.status}", None
                if answer.status not in _BUSY:
                    break
                asked = answer.headers.get("Retry-After", "")
            except urllib3.exceptions.HTTPError as error:
                found, asked = " ".join(str(error).split())[:200], ""
            # Not all at one moment.
            pause = wait * random.uniform(0.5, 1.5)
            if asked.isdigit():
                pause = int(asked) * random.uniform(1.0, 1.2)
            wait = min(2 * wait, longest)
            if time.monotonic() + pause > until:
                kind = _Busy if found.startswith("status 503") else OSError
                raise kind(
                    f"{self.url} gave no answer within {patience:g} s ({found}), "
                    "expected `distilmos serve` there; start it, or correct the URL"
                )
            time.sleep(pause)
        try:
            content = json.loads(answer.data)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise OSError(
                f"{self.url} answered {found} without JSON, expected `distilmos "
                "serve` there; correct the URL"
            )
        if answer.status != 200:
            if "score" in content:
                raise _NoScore(content["error"])
            raise OSError(f"{self.url}: {content.get('error', found)}")
        return content

    # In memory

    def __call__(
        self,
        wave: Any,
        fs: Union[int, Sequence[int]],
        token_posteriors: bool = False,
        grad: bool = False,
    ) -> Union[RemoteResult, List[RemoteResult]]:
        """Score one waveform, or a list of them; see ``MOSPredictor``.

        Raises:
            ValueError: a waveform cannot be scored, the sentence says which and why; or
                gradients or posteriors are asked for, which stay with the model.
            OSError: no server answers, or it refuses.
        """
        for name, value in (("token_posteriors", token_posteriors), ("grad", grad)):
            if value:
                raise ValueError(
                    f"found {name}={value!r} for the server {self.url}, expected "
                    "scores alone; load the model itself for that, with MOSPredictor"
                )
        if not isinstance(wave, (list, tuple)):
            return self([wave], [fs])[0]
        rates = rates_of(wave, fs)
        names = [f"waveform {i} of {len(wave)}" for i in range(len(wave))]
        # All are looked at before one is sent.
        jobs = []
        for one, rate, name in zip(wave, rates, names):
            if hasattr(one, "detach"):  # a tensor, maybe of another device
                one = one.detach().cpu().numpy()
            channels = checked_channels(one, name)
            rate = checked_rate(rate, name)
            query = {"name": name, "rate": rate, "channels": len(channels)}
            jobs.append((channels.T.astype("<f4").tobytes(), query))
        count = 2 * _REQUESTS_PER_THREAD
        return list(map_ahead(lambda job: self._score(*job), jobs, count, 2 * count))

    def _score(self, body: bytes, query: Dict[str, Any]) -> RemoteResult:
        if len(body) > self.max_body:
            raise _NoScore(
                f"{query['name']} has {len(body)} bytes, expected at most the "
                f"{self.max_body} that the server takes (--max-megabytes); cut it"
            )
        wanted = {"frames": self.frames, "embedding": self.frames}
        row = self._call("POST", "/score", {**query, **wanted}, body)
        return to_result(row, self.confidence)

    # Files

    def predict_files(
        self,
        paths: Iterable[str],
        num_threads: int = 2,
        in_order: bool = True,
        token_posteriors: bool = False,
        utt_ids: Optional[Iterable[str]] = None,
    ) -> Iterator[FileResult]:
        """Score files; see ``MOSPredictor``.

        Headers are read here: what is no audio is not sent.

        Args:
            paths: audio files, of this machine.
            num_threads: eight requests at a time for each.
            in_order: the order is always that of ``paths``.
            token_posteriors: refused.
            utt_ids: names of the utterances for the sentences.

        Yields:
            A result a path.

        Raises:
            OSError: no server answers, or it refuses.
        """
        if token_posteriors:
            self([], [], token_posteriors)
        ids = itertools.repeat("") if utt_ids is None else utt_ids
        files = zip(itertools.count(), paths, ids)
        count = _REQUESTS_PER_THREAD * num_threads
        yield from map_ahead(self._score_file, files, count, 2 * count)

    def _score_file(self, file: Tuple[int, str, str]) -> FileResult:
        index, path, utt_id = file
        # Paths of this machine are not the server's business.
        name = "upload" + os.path.splitext(path)[1].lower()
        try:
            read_header(path, utt_id)
            try:
                with open(path, "rb") as opened:
                    body = opened.read(self.max_body + 1)
            except OSError as error:
                raise AudioError(
                    f"{describe(path, utt_id)} cannot be read ({error.strerror}), "
                    "expected an audio file; check it."
                ) from error
            return FileResult(index, path, self._score(body, {"name": name}), "")
        except _NoScore as error:
            sentence = describe(path, utt_id) + str(error).removeprefix(name)
            return FileResult(index, path, None, sentence)
        except AudioError as error:
            return FileResult(index, path, None, str(error))
        except _Busy as error:
            # It may be this file that takes too long; the next may not.
            error = f"{describe(path, utt_id)} has no score ({error})"
            return FileResult(index, path, None, error)


class _Busy(OSError):
    """The server says again and again that it was not done in time."""


class _NoScore(AudioError):
    """The server's sentence of what cannot be scored."""


class _RemoteConfidence(Confidence):
    """Intervals of the model there; novelty, which is measured there, is left out."""

    # In place of what Confidence finds out from the arrays that were left out.
    fingerprint: Optional[str] = None
    has_novelty = False

    def __init__(self, stored: Dict[str, Any]):
        names = ("model", "calibration", "scale", "score_range")
        super().__init__(*(stored[name] for name in names))
        self.missing = stored["missing"]
        self.fingerprint = stored["fingerprint"]
        self.has_novelty = stored["has_novelty"]
