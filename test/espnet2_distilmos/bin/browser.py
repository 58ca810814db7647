# Copyright 2026 espnet2_distilmos developers
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""A headless Chromium, driven by its own protocol through a pipe: no driver needed."""

import base64
import json
import os
import selectors
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a browser of its own.

    Attributes:
        complaints: Errors and warnings of the console, and exceptions.
        requests: URLs that the page asked for, but for itself and what it holds.
    """

    def __init__(self, program, folder, seconds=120):
        self.deadline = time.monotonic() + seconds
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The protocol is on the descriptors 3 and 4.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        options = ["--headless", "--no-sandbox", "--remote-debugging-pipe"]
        options += ["--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"]
        options += ["--no-first-run", f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", program, *options, "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self._session = b"", 0, None
        self._events = []
        self.complaints, self.requests = [], []
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            found = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = found["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def close(self):
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _receive(self):
        """Wait for a message, and take note of what it says about the page."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._read, selectors.EVENT_READ)
            while b"\0" not in self._buffer:
                left = self.deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    raise TimeoutError("the browser does not answer")
                content = os.read(self._read, 1 << 20)
                if not content:
                    raise EOFError("the browser has ended")
                self._buffer += content
        text, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(text)
        method, found = message.get("method"), message.get("params", {})
        self._events.append(method)
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(found["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            if found["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(found["args"]))
        elif method == "Log.entryAdded":
            if found["entry"]["level"] in ("error", "warning"):
                self.complaints.append(json.dumps(found["entry"]))
        elif method == "Network.requestWillBeSent":
            url = found["request"]["url"]
            if not url.startswith(("data:", "blob:")) and url != self.url:
                self.requests.append(url)
        return message

    def call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._write, content) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, path, width=1200, height=900):
        """Open a file and wait until its script has ended."""
        self.url = path.resolve().as_uri()
        self.resize(width, height)
        self._events.clear()
        error = self.call("Page.navigate", url=self.url).get("errorText")
        if error:
            raise FileNotFoundError(f"{path}: {error}")
        while "Page.loadEventFired" not in self._events:
            self._receive()
        self.wait("document.documentElement.dataset.ready === 'true'")

    def resize(self, width, height, mobile=False):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def evaluate(self, expression):
        """Value of a JavaScript expression; of a promise, what it gives."""
        result = self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"]))
        return result["result"].get("value")

    def wait(self, condition):
        """Wait until an expression is true."""
        while not self.evaluate(condition):
            if time.monotonic() > self.deadline:
                raise TimeoutError(f"{condition}; {self.complaints}")
            time.sleep(0.05)

    def press(self, key, code, text="", modifiers=0):
        """Press and release a key."""
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        down = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=down, text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def screenshot(self, path, **options):
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path):
        data = self.call("Page.printToPDF", printBackground=True)["data"]
        path.write_bytes(base64.b64decode(data))
