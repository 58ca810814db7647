# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A predictor behind HTTP: what `distilmos serve` runs.

Requests are read and decoded side by side; one thread scores what is waiting, in
batches. Everything that a caller can make grow has a bound (:class:`Limits`).

Neither FastAPI nor torch is imported with this module.
"""

import asyncio
import concurrent.futures
import contextlib
import hmac
import json
import math
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from espnet2_distilmos import __version__
from espnet2_distilmos.data.audio import (
    SAMPLE_RATES,
    AudioError,
    check_length,
    check_samples,
    read_audio,
    read_header,
)
from espnet2_distilmos.data.names import AUDIO_SUFFIXES, FOREIGN_SUFFIXES

# More files than this in one request are several requests.
MAX_FILES = 100
# What an upload is called that has no name.
NO_NAME = "the upload"
# Refused requests are asked to come back after at most so many seconds.
_LONGEST_WAIT = 60


@dataclass(frozen=True)
class Limits:
    """What the service takes on.

    Attributes:
        requests: requests in work; more are answered with 429.
        bytes: of their bodies, all together; 429.
        seconds: of their audio, all together; 429.
        body: bytes of one request; 413.
        duration: seconds of one file; 422.
        timeout: seconds until a body is there (408), and from then until its score is
            (503).
        threads: that decode.
    """

    requests: int = 256
    bytes: int = 1 << 30
    seconds: float = 3600.0
    body: int = 64 << 20
    duration: float = 300.0
    timeout: float = 60.0
    threads: int = 2


class Refused(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: int, sentence: str, retry_after: Optional[int] = None):
        super().__init__(sentence)
        self.status = status
        self.headers = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)


# Scoring


@dataclass(eq=False)
class _Work:
    wave: np.ndarray
    fs: float
    seconds: float
    future: concurrent.futures.Future = field(
        default_factory=concurrent.futures.Future, repr=False
    )


class Batcher:
    """Scores what comes together in one batch, in a thread of its own.

    A batch has whatever waits longest, and of the others those nearest to it in length,
    as many as keep count x longest within the predictor's ``batch_seconds``. Nothing is
    waited for: while a batch is scored, the next one gathers.

    Args:
        predictor: a MOSPredictor.
        on_batch: told how many were scored together, how many seconds of audio, and in
            how many seconds.
    """

    def __init__(self, predictor, on_batch: Callable[[int, float, float], None]):
        self._predictor = predictor
        self._on_batch = on_batch
        self._waiting: List[_Work] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, wave: np.ndarray, fs: float) -> concurrent.futures.Future:
        """Let a waveform (N,) or (channels, N) be scored.

        Returns:
            What will hold the MOSResult, or what the predictor raised; if it is
            cancelled before its batch begins, it is not scored.
        """
        work = _Work(wave, fs, wave.shape[-1] / fs)
        with self._changed:
            self._waiting.append(work)
            self._changed.notify()
        return work.future

    def close(self) -> None:
        """Score what waits, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch = self._take()
            begun = time.monotonic()
            batch = [w for w in batch if w.future.set_running_or_notify_cancel()]
            if batch:
                self._score(batch)
                audio = sum(work.seconds for work in batch)
                self._on_batch(len(batch), audio, time.monotonic() - begun)

    def _take(self) -> List[_Work]:
        first, *others = self._waiting
        others.sort(key=lambda work: abs(work.seconds - first.seconds))
        batch, longest = [first], first.seconds
        for work in others:
            longest = max(longest, work.seconds)
            if longest * (len(batch) + 1) > self._predictor.batch_seconds:
                break
            batch.append(work)
        taken = set(map(id, batch))
        self._waiting = [work for work in self._waiting if id(work) not in taken]
        return batch

    def _score(self, batch: Sequence[_Work]) -> None:
        try:
            waves, rates = [w.wave for w in batch], [w.fs for w in batch]
            results = self._predictor(waves, rates)
        except Exception as error:  # of any kind: the thread goes on for the others
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One at a time: each is to have its own score or sentence.
            for work in batch:
                self._score([work])
            return
        for work, result in zip(batch, results):
            work.future.set_result(result)


# What is taken on


class _Load:
    """Requests, bytes and seconds in work, and whether more fit."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.taken = {"requests": 0, "bytes": 0, "seconds": 0.0}
        # Time that scoring a second of audio takes.
        self._audio = self._scoring = 0.0

    @contextlib.contextmanager
    def take(self, **amounts: float):
        """Have the amounts in work during the block.

        Raises:
            Refused: 429, there are too many, or the work would not be done in time.
        """
        for name, amount in amounts.items():
            most = getattr(self.limits, name)
            if self.taken[name] + amount > most or self._wait() > self.limits.timeout:
                raise Refused(
                    429,
                    f"the server has {self.taken[name]:g} {name} in work, expected at "
                    f"most {most:g}, and those that are done within "
                    f"{self.limits.timeout:g} s; come back later",
                    self.retry_after(),
                )
        for name, amount in amounts.items():
            self.taken[name] += amount
        try:
            yield
        finally:
            for name, amount in amounts.items():
                self.taken[name] -= amount

    def scored(self, audio: float, seconds: float) -> None:
        """Learn how long scoring takes; old batches count less and less."""
        self._audio = 0.9 * self._audio + audio
        self._scoring = 0.9 * self._scoring + seconds

    def _wait(self) -> float:
        """Seconds until all that is in work should be done."""
        return self.taken["seconds"] * self._scoring / max(self._audio, 1e-3)

    def retry_after(self) -> int:
        """Seconds after which half of the work should be done."""
        return min(max(math.ceil(self._wait() / 2), 1), _LONGEST_WAIT)


class _Gate:
    """Lets requests in: the token, and the bounds of what is taken on.

    An ASGI application around another one.

    Args:
        app: the other one.
        load: what is in work.
        token: None lets everybody in.
        on_answer: told the status of each answer of /score.
    """

    def __init__(self, app, load: _Load, token: Optional[str], on_answer):
        self.app = app
        self.load = load
        self.token = token.encode() if token else None
        self.on_answer = on_answer

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.token and scope["path"] != "/health":
            given = headers.get(b"authorization", b"")
            # In constant time, so that its beginning cannot be guessed by the clock.
            if not hmac.compare_digest(given, b"Bearer " + self.token):
                sentence = "found no token or another one, expected the server's own "
                sentence += "in the header `Authorization: Bearer TOKEN`"
                await _refuse(Refused(401, sentence), send)
                return
        if scope["path"] != "/score":
            await self.app(scope, receive, send)
            return
        await self._admit(scope, receive, self._counted(send), headers)

    def _counted(self, send):
        async def counted(message):
            if message["type"] == "http.response.start":
                self.on_answer(message["status"])
            await send(message)

        return counted

    async def _admit(self, scope, receive, send, headers) -> None:
        limits = self.load.limits
        length = headers.get(b"content-length", b"")
        size = int(length) if length.isdigit() else limits.body
        if size > limits.body:
            await _refuse(_too_large(limits), send)
            return
        body = _Body(receive, limits)
        try:
            with self.load.take(requests=1, bytes=size):
                await self.app(scope, body.receive, send)
                return
        except Refused as error:
            refused = error
        with contextlib.suppress(Refused):
            # Whoever still sends would not read the answer.
            await body.drain()
        await _refuse(refused, send, close=not body.is_whole)


class _Body:
    """What is received of a request, within bytes and time."""

    def __init__(self, receive, limits: Limits):
        self._receive = receive
        self._limits = limits
        self._length = 0
        self._until = time.monotonic() + limits.timeout
        self.is_whole = False

    async def receive(self) -> Dict[str, Any]:
        if self.is_whole:  # only whether the client leaves is left to learn
            return await self._receive()
        wait = self._until - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(wait, 0))
        except asyncio.TimeoutError:
            raise Refused(
                408,
                f"the request was not there within {self._limits.timeout:g} s, "
                "expected all of it; send it faster or in parts",
            ) from None
        self._length += len(message.get("body", b""))
        if self._length > self._limits.body:
            raise _too_large(self._limits)
        self.is_whole = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        while not self.is_whole:
            await self.receive()


def _too_large(limits: Limits) -> Refused:
    return Refused(
        413,
        f"the request is larger than the {limits.body} bytes that the server takes "
        "(--max-megabytes), expected less; send fewer files at a time, or compress "
        "them as FLAC",
    )


async def _refuse(error: Refused, send, close: bool = True) -> None:
    body = json.dumps({"error": str(error)}).encode()
    headers = [(b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(body)).encode()))
    headers += [(k.lower().encode(), v.encode()) for k, v in error.headers.items()]
    headers += [(b"connection", b"close")] * close
    await send(
        {"type": "http.response.start", "status": error.status, "headers": headers}
    )
    await send({"type": "http.response.body", "body": body})


# Uploads


class Upload(NamedTuple):
    """A file as it came.

    Attributes:
        name: what the caller calls it; for sentences, never opened.
        path: where its bytes lie.
    """

    name: str
    path: str


def _new_path(folder: str, name: str) -> str:
    """A new file in ``folder``, of the caller's name only the ending if it is known:
    by it libsndfile knows an MP3, and messages know what libsndfile cannot decode."""
    suffix = os.path.splitext(name)[1].lower()
    suffix = suffix if suffix in AUDIO_SUFFIXES | FOREIGN_SUFFIXES else ""
    handle, path = tempfile.mkstemp(suffix, dir=folder)
    os.close(handle)
    return path


async def _receive_uploads(request, folder: str, name: str) -> List[Upload]:
    """The files of a request: its parts, or its body."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        upload = Upload(name or NO_NAME, _new_path(folder, name))
        with open(upload.path, "wb") as file:
            async for block in request.stream():
                file.write(block)
        return [upload]
    uploads = []
    async with request.form(max_files=MAX_FILES, max_fields=MAX_FILES) as form:
        for key, part in form.multi_items():
            if isinstance(part, str):
                raise Refused(
                    422, f"the part {key} is text, expected files with names alone"
                )
            name = part.filename or NO_NAME
            uploads.append(Upload(name, _new_path(folder, name)))
            with open(uploads[-1].path, "wb") as file:
                while block := await part.read(1 << 20):
                    file.write(block)
    if not uploads:
        raise Refused(422, "the form has no part, expected files")
    return uploads


class Decoded(NamedTuple):
    """A waveform (N,) or (channels, N), and its rate in Hz."""

    wave: np.ndarray
    fs: float


def measure(upload: Upload, rate: Optional[float], channels: int) -> float:
    """Seconds of an upload, from its header alone; raw samples if ``rate`` is given.

    Raises:
        AudioError: it is no audio, or a part of it.
    """
    if rate is None:
        with _named(upload):
            length, fs, _ = read_header(upload.path)
        return length / fs
    size = os.path.getsize(upload.path)
    if size == 0 or size % (4 * channels):
        raise AudioError(
            f"{upload.name} has {size} bytes, expected samples of float32, 4 bytes a "
            f"channel of {channels}; leave out the rate where it is a file"
        )
    return size / 4 / channels / rate


def decode(
    upload: Upload, rate: Optional[float], channels: int, predictor, duration: float
) -> Decoded:
    """Decode as `predict` does.

    Raises:
        AudioError: it is no audio, cannot be scored, or is longer than it said.
    """
    if rate is not None:
        samples = np.fromfile(upload.path, "<f4").reshape(-1, channels).T
        check_samples(samples, upload.name)
        return Decoded(samples, rate)
    fs = predictor.sample_rate
    with _named(upload):
        samples = read_audio(
            upload.path,
            fs,
            channel=predictor.channel,
            maximum_samples=math.ceil(duration * fs),
        )
    if samples is None:
        raise _too_long(upload.name, duration)
    check_length(len(samples), predictor.minimum_samples, fs, upload.name)
    return Decoded(samples, fs)


def _too_long(name: str, duration: float) -> AudioError:
    return AudioError(
        f"{name} is longer than the {duration:g} s that the server takes "
        "(--max-duration), expected less; cut it, or score it with `distilmos predict`"
    )


@contextlib.contextmanager
def _named(upload: Upload):
    """Sentences about the caller's name, not about where the bytes lie."""
    try:
        yield
    except AudioError as error:
        raise AudioError(str(error).replace(upload.path, upload.name)) from error


# Answers


def to_row(name: str, result, wanted: Mapping[str, Any]) -> Dict[str, Any]:
    """What is said of a file: JSON types.

    Args:
        name: the caller's.
        result: its MOSResult.
        wanted: ``interval`` (a level, or None), ``frames``, ``embedding``.
    """
    row = {"name": name, "score": result.score, "error": ""}
    if wanted["interval"] is not None:
        row["lower"], row["upper"] = result.interval(wanted["interval"])
    if (novelty := result.novelty) is not None:
        row.update(novelty=novelty, novel=novelty > 1)
    row.update(seconds=result.seconds, note=result.note, raw_score=result.raw_score)
    if wanted["frames"]:
        row.update(frames=result.frames.tolist(), times=result.times.tolist())
    if wanted["embedding"]:
        row["embedding"] = result.embedding.tolist()
    return row


def to_failure(name: str, error: BaseException) -> Dict[str, Any]:
    """The same of a file that has no score."""
    sentence = str(error).replace("waveform 0 of 1", name)
    if not isinstance(error, ValueError):
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        sentence = f"{name} could not be scored ({reason}), expected a score"
    return {"name": name, "score": None, "error": sentence}


def describe_model(predictor, limits: Limits) -> Dict[str, Any]:
    """What `GET /model` says: what scores, and within which bounds."""
    confidence = predictor.confidence
    calibration = confidence.calibration
    if calibration is not None:
        # What intervals need; novelty is measured here.
        calibration = {k: v for k, v in calibration.items() if k != "novelty"}
    return {
        "version": __version__,
        "scorer": predictor.fingerprint,
        "about": predictor.about,
        "sample_rate": predictor.sample_rate,
        "minimum_samples": predictor.minimum_samples,
        "frame_shift": predictor.frame_shift,
        "frame_centre": predictor.frame_centre,
        "channel": predictor.channel,
        "batch_seconds": predictor.batch_seconds,
        "max_duration": limits.duration,
        "max_body": limits.body,
        "max_files": MAX_FILES,
        "confidence": {
            "model": predictor.method_fingerprint,
            "calibration": calibration,
            "scale": confidence.scale,
            "score_range": confidence.score_range,
            "missing": confidence.missing,
            "fingerprint": confidence.fingerprint,
            "has_novelty": confidence.has_novelty,
        },
    }


class _Metrics:
    """Prometheus' counters of one service."""

    def __init__(self, load: _Load):
        import prometheus_client as client

        self._generate = client.generate_latest
        self.content_type = client.CONTENT_TYPE_LATEST
        self.registry = registry = client.CollectorRegistry()
        client.ProcessCollector(registry=registry)
        self.answers = client.Counter(
            "distilmos_answers", "Answers of /score", ["status"], registry=registry
        )
        self.files = client.Counter(
            "distilmos_files", "Files by outcome", ["outcome"], registry=registry
        )
        self.audio = client.Counter(
            "distilmos_audio_seconds", "Seconds of scored audio", registry=registry
        )
        self.scoring = client.Counter(
            "distilmos_scoring_seconds", "Seconds spent scoring", registry=registry
        )
        self.batches = client.Histogram(
            "distilmos_batch_files",
            "Files scored together",
            buckets=[2**k for k in range(11)],
            registry=registry,
        )
        self.seconds = client.Histogram(
            "distilmos_answer_seconds",
            "From the whole request to its answer",
            registry=registry,
        )
        self.answered = lambda status: self.answers.labels(status).inc()
        for name in load.taken:
            gauge = client.Gauge(
                f"distilmos_in_work_{name}", f"{name} in work", registry=registry
            )
            gauge.set_function(lambda name=name: load.taken[name])

    def generate(self) -> bytes:
        return self._generate(self.registry)


# The application


def _answer_errors(app, answer: Callable[..., Any]) -> None:
    """Let an application answer what is wrong with a request as JSON, in a sentence.

    Args:
        app: of FastAPI.
        answer: makes a response of status, content and headers.
    """
    from fastapi import Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect

    @app.exception_handler(Refused)
    async def refuse(request, error):
        headers = dict(error.headers)
        if error.status in (408, 413):
            headers["Connection"] = "close"
        return answer(error.status, {"error": str(error)}, headers)

    @app.exception_handler(ClientDisconnect)
    async def forget(request, error):
        return Response(status_code=400)

    @app.exception_handler(RequestValidationError)
    async def explain(request, error):
        one = error.errors()[0]
        found = f"found {one['loc'][-1]}={one.get('input')!s:.80}"
        return answer(422, {"error": f"{found}, expected another: {one['msg']}"})

    @app.exception_handler(HTTPException)
    async def say(request, error):
        return answer(error.status_code, {"error": str(error.detail)}, error.headers)


def make_app(predictor, limits: Limits, token: Optional[str] = None):
    """The FastAPI application around a predictor.

    * ``POST /score``: the body is a file, or there are several files in the parts of a
      form; with ``rate`` (and ``channels``) they are raw interleaved little-endian
      float32 samples in [-1, 1]. ``name`` (of a body), ``interval=LEVEL``, ``frames``
      and ``embedding`` are options of the query. The answer of a body is a row (422
      where it has no score, with the reason), that of a form ``{"results": [rows]}`` in
      its order.
    * ``GET /health``, ``/model``, ``/metrics``.

    Args:
        predictor: a MOSPredictor, used by one thread at a time.
        limits: what is taken on.
        token: what callers must have in ``Authorization: Bearer``; None for nobody.

    Returns:
        The application; it scores from its start-up to its shutdown.

    Raises:
        ImportError: FastAPI, python-multipart or prometheus-client are not there.
    """
    # FastAPI would miss it only at the first form.
    import python_multipart  # noqa: F401
    from fastapi import FastAPI, Query, Request, Response
    from fastapi.responses import JSONResponse

    load = _Load(limits)
    metrics = _Metrics(load)
    model = describe_model(predictor, limits)

    def on_batch(count: int, audio: float, seconds: float) -> None:
        metrics.batches.observe(count)
        metrics.scoring.inc(seconds)
        load.scored(audio, seconds)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        app.state.batcher = Batcher(predictor, on_batch)
        pool = concurrent.futures.ThreadPoolExecutor(limits.threads, "decoder")
        with tempfile.TemporaryDirectory(prefix="distilmos-") as folder, pool:
            app.state.folder, app.state.pool = folder, pool
            yield
            await asyncio.to_thread(app.state.batcher.close)

    # Its pages of documentation would load scripts from elsewhere.
    app = FastAPI(
        title="distilmos",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_middleware(_Gate, load=load, token=token, on_answer=metrics.answered)

    def answer(status: int, content: Any, headers: Optional[Dict[str, str]] = None):
        return JSONResponse(content, status, headers)

    _answer_errors(app, answer)

    @app.get("/health")
    async def health():
        is_alive = app.state.batcher.is_alive
        return answer(
            200 if is_alive else 503, {"status": "ok" if is_alive else "broken"}
        )

    @app.get("/model")
    async def get_model():
        return answer(200, model)

    @app.get("/metrics")
    async def get_metrics():
        return Response(metrics.generate(), media_type=metrics.content_type)

    async def in_thread(function, *arguments):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(app.state.pool, function, *arguments)

    async def find_seconds(upload: Upload, rate, channels) -> float:
        seconds = await in_thread(measure, upload, rate, channels)
        if seconds > limits.duration:
            raise _too_long(upload.name, limits.duration)
        return seconds

    async def score_upload(upload: Upload, seconds, rate, channels, wanted):
        """The row of a file of which its length, or what is wrong, is known."""
        try:
            if isinstance(seconds, BaseException):
                raise seconds
            decoded = await in_thread(
                decode, upload, rate, channels, predictor, limits.duration
            )
            future = app.state.batcher.submit(*decoded)
            row = to_row(upload.name, await asyncio.wrap_future(future), wanted)
        except Exception as error:  # of any kind: it is this file's
            outcome = "refused" if isinstance(error, ValueError) else "failed"
            metrics.files.labels(outcome).inc()
            return to_failure(upload.name, error)
        metrics.files.labels("scored").inc()
        metrics.audio.inc(row["seconds"])
        return row

    async def score_all(uploads: Sequence[Upload], rate, channels, wanted):
        """The rows of the files of one request."""
        found = await asyncio.gather(
            *(find_seconds(upload, rate, channels) for upload in uploads),
            return_exceptions=True,
        )
        total = sum(one for one in found if not isinstance(one, BaseException))
        if total > limits.seconds:
            raise Refused(
                413,
                f"the files of the request have {total:g} s, expected at most the "
                f"{limits.seconds:g} s that the server has in work; send fewer",
            )
        with load.take(seconds=total):
            return await asyncio.gather(
                *(
                    score_upload(upload, seconds, rate, channels, wanted)
                    for upload, seconds in zip(uploads, found)
                )
            )

    low, high = SAMPLE_RATES

    @app.post("/score")
    async def score(
        request: Request,
        rate: Optional[float] = Query(None, ge=low, le=high),
        channels: int = Query(1, ge=1, le=64),
        interval: Optional[float] = Query(None, gt=0, lt=1),
        frames: bool = False,
        embedding: bool = False,
        name: str = "",
    ):
        if interval is not None:
            try:
                predictor.confidence.half_width(interval)
            except ValueError as error:
                raise Refused(422, f"no intervals can be given: {error}") from error
        wanted = {"interval": interval, "frames": frames, "embedding": embedding}
        with tempfile.TemporaryDirectory(dir=app.state.folder) as folder:
            uploads = await _receive_uploads(request, folder, name)
            begun = time.monotonic()
            try:
                rows = await asyncio.wait_for(
                    score_all(uploads, rate, channels, wanted), limits.timeout
                )
            except asyncio.TimeoutError:
                raise Refused(
                    503,
                    f"there was no score within {limits.timeout:g} s, expected less "
                    "work at a time; come back later",
                    load.retry_after(),
                ) from None
        metrics.seconds.observe(time.monotonic() - begun)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            return answer(200, {"results": rows})
        return answer(200 if rows[0]["score"] is not None else 422, rows[0])

    return app
