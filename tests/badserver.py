"""A local web server that misbehaves as told, for the tests of downloads."""

import contextlib
import http.server
import random
import time

CONTENT = random.Random(0).randbytes(300_000)
HALF = len(CONTENT) // 2


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `script` holds what to do with the next requests ("good" once it is used up)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.always = [], [], "good"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()

    def do_GET(self):
        server = self.server
        server.seen.append(self.headers.get("Range"))
        getattr(self, server.script.pop(0) if server.script else server.always)()

    def answer(self, code, body, *, length=None, every=0.0, **headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        for piece in body if every else ():
            time.sleep(every)
            self.wfile.write(bytes([piece]))
        self.wfile.write(b"" if every else body)
        self.close_connection = True

    def start(self):
        value = self.headers.get("Range")
        return int(value.removeprefix("bytes=").removesuffix("-")) if value else 0

    def rest(self, body, total=None, **more):
        start, total = self.start(), total or len(CONTENT)
        if start:
            span = f"bytes {start}-{total - 1}/{total}"
            self.answer(206, body, Content_Range=span, length=total - start, **more)
        else:
            self.answer(200, body, length=total, **more)

    def good(self):
        self.rest(CONTENT[self.start() :])

    def dies(self):
        self.rest(CONTENT[self.start() : self.start() + (len(CONTENT) - self.start()) // 2])

    def ignores_range(self):
        self.answer(200, CONTENT)

    def dies_ignoring_range(self):
        self.answer(200, CONTENT[:HALF], length=len(CONTENT))

    def truncates(self):
        if self.start() >= HALF:
            self.answer(416, b"", Content_Range=f"bytes */{HALF}")
        else:
            self.answer(200, CONTENT[:HALF])

    def corrupts(self):
        body = bytes(byte ^ 1 for byte in CONTENT)
        self.rest(body[self.start() :])

    def corrupt_half(self):
        self.answer(200, bytes(HALF), length=len(CONTENT))

    def too_long(self):
        self.answer(200, CONTENT + b"more")

    def other_version(self):
        self.rest(CONTENT[self.start() :] + b"new", total=len(CONTENT) + 3)

    def drips(self):
        with contextlib.suppress(ConnectionError):  # the client gives up
            self.answer(200, CONTENT[:3], length=len(CONTENT), every=0.05)

    def missing(self):
        self.answer(404, b"404: Not Found")

    def broken(self):
        self.answer(500, b"oops")

    def busy(self):
        self.answer(429, b"slow down", Retry_After="1")

    def hangs_up(self):
        self.connection.close()
