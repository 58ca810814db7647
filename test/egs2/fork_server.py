# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A python3 for the recipes under test, whose imports are made once.

Each Python of a recipe spends seconds on importing torch, transformers and ESPnet, and
a run of all stages starts dozens. Here a server imports them, and a process forked from
it does what `python3 -m MODULE` or `python3 SCRIPT.py` would do: same arguments,
directory, environment, files, signals, exit code, and end, should the caller be killed.

    fork_server.py SOCKET           the server, until its stdin is closed
    fork_server.py SOCKET PYTHON .. the client; what is no module of ours or script is
                                    left to PYTHON itself
"""

import json
import os
import select
import signal
import socket
import sys

OWN = ("espnet2.", "espnet2_distilmos.")


def is_ours(words):
    """Whether the server runs this command line."""
    if words[:1] == ["-m"]:
        return len(words) > 1 and words[1].startswith(OWN)
    return bool(words) and words[0].endswith(".py")


def ask(path, words):
    """Let the server run a command; return its exit code."""
    order = {"argv": words, "cwd": os.getcwd(), "env": dict(os.environ)}
    data = json.dumps(order).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [len(data).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(data)
        pid = int.from_bytes(server.recv(8), "big")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = server.recv(8)
    return int(code) if code else 1


def receive(client):
    """What a client wants, with its stdin, stdout and stderr."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        data += client.recv(1 << 16)
    return json.loads(data), files


def become(order, files):
    """Turn this process into the one that is wanted, and run it."""
    import runpy

    os.setpgid(0, 0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    words = order["argv"]
    for folder in reversed(order["env"].get("PYTHONPATH", "").split(":")):
        if folder and folder not in sys.path:
            sys.path.insert(1, folder)
    if words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], order["cwd"]
        sys.modules.pop(words[1], None)
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, os.path.dirname(os.path.abspath(words[0]))
        runpy.run_path(words[0], run_name="__main__")


def end(work):
    """Do the work and end as Python ends, but take no time to free what is imported."""
    import atexit
    import threading
    import traceback

    code, interrupted = 0, False
    try:
        work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, (int, type(None))) else 1
        if error.code is not code:
            print(error.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exc()
        code, interrupted = 1, isinstance(error, KeyboardInterrupt)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError:  # nobody reads it
            code = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit((code or 0) & 0xFF)


def attend(client, order, files):
    """Fork the wanted process, and tell the client how it ended, or end it with it."""
    pid = os.fork()
    if not pid:
        client.close()
        end(lambda: become(order, files))
    for file in files:
        os.close(file)
    client.sendall(pid.to_bytes(8, "big"))
    handle = os.pidfd_open(pid)
    ready, _, _ = select.select([handle, client], [], [])
    if handle not in ready:  # the client was killed
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # before it had its own group
            os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        client.sendall(str(code if code >= 0 else 128 - code).encode())
    except OSError:
        pass
    os._exit(0)


def serve(path):
    """Import everything, then fork for each client."""
    import gc
    import importlib
    import pkgutil

    import espnet2.bin.launch  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401
    from transformers.models.hubert import modeling_hubert  # noqa: F401
    from transformers.models.whisper import modeling_whisper  # noqa: F401

    import espnet2_distilmos.bin as commands

    for module in pkgutil.iter_modules(commands.__path__):
        importlib.import_module(f"{commands.__name__}.{module.name}")
    gc.freeze()  # a collection would write to, and so copy, all of it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen(64)
        os.rename(f"{path}.new", path)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            client, _ = listener.accept()
            if os.fork():
                client.close()
                continue
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attend(client, *receive(client))
            return


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    elif is_ours(sys.argv[3:]):
        sys.exit(ask(sys.argv[1], sys.argv[3:]))
    else:
        os.execv(sys.argv[2], sys.argv[2:])
