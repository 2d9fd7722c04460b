"""Tries a Lambda image out, inside of it: a runtime API that has one request, and the image's own command beside it.

    python lambda_trial.py COMMAND...

Ends with status 0 when the command has answered GET /health with a 200, as AWS would have asked it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

SECONDS = 60
NEXT = "/2018-06-01/runtime/invocation/next"
EVENT = {
    "version": "2.0",
    "rawPath": "/health",
    "rawQueryString": "",
    "headers": {"host": "trial"},
    "requestContext": {"http": {"method": "GET", "path": "/health", "sourceIp": "127.0.0.1"}, "stage": "$default"},
    "isBase64Encoded": False,
}


class RuntimeApi(BaseHTTPRequestHandler):
    """Lambda's side: hands out the one request, takes the answer, and then has nothing more."""

    protocol_version = "HTTP/1.1"  # the runtime sends its answers in chunks

    answers: ClassVar[list[dict[str, object]]] = []
    is_asked = threading.Event()
    is_done = threading.Event()

    def do_GET(self) -> None:
        if self.is_asked.is_set():
            self.is_done.wait(SECONDS)
            return
        self.is_asked.set()
        body = json.dumps(EVENT).encode()
        self.send_response(200)
        self.send_header("Lambda-Runtime-Aws-Request-Id", "trial")
        self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + SECONDS) * 1000)))
        self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:none:000000000000:function:trial")
        self.send_header("Lambda-Runtime-Trace-Id", "Root=1-0-0;Sampled=0")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.answers.append(json.loads(self.read_body()))
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()
        self.is_done.set()

    def read_body(self) -> bytes:
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the library's name
        pass


def main(command: list[str]) -> int:
    server = ThreadingHTTPServer(("127.0.0.1", 0), RuntimeApi)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    runtime = {"AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}", "AWS_LAMBDA_FUNCTION_NAME": "trial"}
    function = subprocess.Popen(command, env={**os.environ, **runtime})
    deadline = time.monotonic() + SECONDS
    while not RuntimeApi.is_done.wait(0.1) and function.poll() is None and time.monotonic() < deadline:
        pass
    function.kill()
    [answer] = RuntimeApi.answers or [{"errorMessage": f"no answer within {SECONDS} seconds, or none at all"}]
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0 if answer.get("statusCode") == 200 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
