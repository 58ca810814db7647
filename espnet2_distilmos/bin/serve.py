#!/usr/bin/env python3
# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Score what is sent over HTTP: the command `distilmos serve`."""

import argparse
import ipaddress
import os
import signal
import socket
import sys
import warnings
from typing import List, Optional

from espnet2_distilmos.cli import (
    add_model_arguments,
    add_scoring_arguments,
    call,
    is_url,
    load_predictor,
    needs_extra,
)
from espnet2_distilmos.data.datadir import DataError, read_text
from espnet2_distilmos.service import Limits, make_app

TOKEN = "DISTILMOS_TOKEN"
_DEFAULT = Limits()


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Score audio that is sent over HTTP. `curl --data-binary "
        "@clip.wav 'http://127.0.0.1:8476/score?name=clip.wav'` gives one score, `curl "
        "-F f=@a.wav -F f=@b.mp3 http://127.0.0.1:8476/score` several; GET /health, "
        "/model and /metrics (Prometheus). RemoteMOSPredictor calls it from Python, "
        "and `distilmos predict --model http://127.0.0.1:8476`.",
        epilog="On SIGTERM no request is taken on any more, those that were are "
        "answered, and the exit code is 0. Each of the bounds has an answer of its "
        "own: 429 and Retry-After (too much in work), 413, 408 and 422.",
    )
    add_model_arguments(parser)
    add_scoring_arguments(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at (default: %(default)s, this machine only)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8476,
        help="0 takes any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        help="callers must have the token in this file, in `Authorization: Bearer "
        f"TOKEN` (default: ${TOKEN}; without one everybody may call)",
    )
    parser.add_argument(
        "--max-requests",
        type=int,
        default=_DEFAULT.requests,
        metavar="N",
        help="requests in work (default: %(default)s)",
    )
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=_DEFAULT.body / 2**20,
        metavar="MB",
        help="size of a request (default: %(default)g)",
    )
    parser.add_argument(
        "--max-duration",
        type=float,
        default=_DEFAULT.duration,
        metavar="SECONDS",
        help="of one file (default: %(default)g)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=_DEFAULT.timeout,
        metavar="SECONDS",
        help="for a request to arrive, and from then on for its score (default: "
        "%(default)g)",
    )
    return parser


def _read_token(args: argparse.Namespace) -> Optional[str]:
    if args.token_file is None:
        return os.environ.get(TOKEN) or None
    token = read_text(args.token_file).strip()
    if not token:
        raise DataError(f"{args.token_file} is empty, expected a token; write one.")
    return token


def _check_options(args: argparse.Namespace) -> None:
    if is_url(args.model):
        raise DataError(
            f"--model is {args.model}, expected a model of this machine or of the hub."
        )
    if not 0 <= args.port < 2**16:
        raise DataError(f"--port is {args.port}, expected one from 0 to 65535.")
    for name in ("max_requests", "max_megabytes", "max_duration", "timeout", "jobs"):
        value = getattr(args, name)
        if not 0 < value < float("inf"):
            option = f"--{name.replace('_', '-')}"
            raise DataError(f"{option} is {value:g}, expected a number above 0.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family, backlog=1024)
    except OSError as error:
        raise DataError(
            f"{host}, port {port} cannot be listened at "
            f"({getattr(error, 'strerror', None) or error}), expected a free port of "
            "this machine; choose another with --host and --port."
        ) from error


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _protocol(timeout: float):
    """uvicorn's HTTP/1.1, which closes what sends no whole head of a request in time.

    Args:
        timeout: seconds from the connection, or from the first byte after the last
            answer; a connection that is idle is bound by uvicorn's keep-alive.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        _deadline = None

        def _has_request(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _set_deadline(self) -> None:
            if self._deadline is None and not self._has_request():
                self._deadline = self.loop.call_later(timeout, self._expire)
            elif self._deadline is not None and self._has_request():
                self._deadline.cancel()
                self._deadline = None

        def _expire(self) -> None:
            self._deadline = None
            if not self._has_request():
                self.transport.close()

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._set_deadline()

        def connection_lost(self, exc) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            super().connection_lost(exc)

    return Protocol


def serve(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT.

    Raises:
        DataError, ValueError, OSError: it cannot begin.
    """
    _check_options(args)
    token = _read_token(args)
    with needs_extra("serve"):
        import fastapi  # noqa: F401
        import uvicorn
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    limits = Limits(
        requests=args.max_requests,
        body=int(args.max_megabytes * 2**20),
        bytes=max(_DEFAULT.bytes, int(args.max_megabytes * 2**20)),
        duration=args.max_duration,
        seconds=max(_DEFAULT.seconds, args.max_duration),
        timeout=args.timeout,
        threads=args.jobs,
    )
    # Before the model, which takes seconds: callers wait, a taken port is told at once.
    with _listen(args.host, args.port) as listening:
        predictor = load_predictor(args)
        predictor.own_weights()
        with needs_extra("serve"):
            app = make_app(predictor, limits, token)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=_protocol(args.timeout),
                log_level="warning",
                access_log=False,
                timeout_keep_alive=30,
                # Until then whatever was taken on has its answer.
                timeout_graceful_shutdown=int(2 * args.timeout) + 5,
            )
        )
        # uvicorn, which has a handler of its own, raises it again at the end; to be
        # ended is no failure.
        signal.signal(signal.SIGTERM, lambda *_: setattr(server, "should_exit", True))
        address, port = listening.getsockname()[:2]
        if not _is_loopback(address) and token is None:
            print(
                f"{address} can be reached from other machines, and whoever does may "
                f"call; --token-file or ${TOKEN} asks for a token",
                file=sys.stderr,
            )
        shown = f"[{address}]" if ":" in address else address
        print(f"listening at http://{shown}:{port}", flush=True)
        server.run(sockets=[listening])
    return 0


def main(cmd: Optional[List[str]] = None) -> int:
    args = get_parser().parse_args(cmd)
    return call(lambda: serve(args))


if __name__ == "__main__":
    sys.exit(main())
