"""A store that speaks S3 over HTTP (moto's server), and a door in front of it where answers go wrong as a real store's do.

Run as a script, by an interpreter that has moto, it is the store: it prints its port and answers until its input ends.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACCESS_KEY = "AKIALLMOPSTESTKEY0000"
SECRET_KEY = "qK7+the/secret+of+the+tests/0123456789AB"  # noqa: S105
REGION = "eu-central-1"
_HELD_SECONDS = 30.0


@dataclass(frozen=True)
class Refusal:
    """An answer with an error in it, in XML as S3 gives it.

    :param status: HTTP status
    :param code: name of the error
    :param message: what it says
    :param headers: besides those of every answer
    :param further: elements besides code and message
    """

    status: int
    code: str
    message: str = "refused"
    headers: Mapping[str, str] = field(default_factory=dict)
    further: str = ""


class Hang:
    """No answer."""


class Cut:
    """An answer that ends in the middle of its content."""


DENIED = Refusal(403, "AccessDenied", "Access Denied")
UNKNOWN_KEY = Refusal(
    403,
    "InvalidAccessKeyId",
    "The AWS Access Key Id you provided does not exist in our records.",
    further=f"<AWSAccessKeyId>{ACCESS_KEY}</AWSAccessKeyId>",
)
OTHER_REGION = Refusal(
    301,
    "PermanentRedirect",
    "The bucket you are attempting to access must be addressed using the specified endpoint.",
    headers={"x-amz-bucket-region": "us-west-2"},
    further="<Endpoint>bucket.s3-us-west-2.amazonaws.com</Endpoint>",
)
SLOW_DOWN = Refusal(503, "SlowDown", "Please reduce your request rate.")


class ObjectStore:
    """The store behind its door.

    :param target: port of the store itself
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.requests: list[tuple[str, str]] = []
        self.fault: Refusal | Hang | Cut | None = None
        self.fault_path = ""
        self.closing = threading.Event()

    def start(self) -> None:
        """Open the door."""
        handler = type("Door", (_Door,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Shut it, and let go of what is kept waiting."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    @contextlib.contextmanager
    def failing(self, fault: Refusal | Hang | Cut, path: str = "") -> Iterator[None]:
        """Answer so.

        :param fault: how
        :param path: regular expression of the paths that are answered so; all where it is empty
        """
        self.fault, self.fault_path = fault, path
        try:
            yield
        finally:
            self.fault = None
            self.closing.set()
            self.closing = threading.Event()

    def environment(self) -> dict[str, str]:
        """The variables by which clients of S3 find the store."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def connection(self, **extra: Any) -> str:
        """An Airflow connection to the store, as an environment variable holds it.

        :param extra: fields of its extra, besides address and region
        """
        return json.dumps(
            {
                "conn_type": "aws",
                "login": ACCESS_KEY,
                "password": SECRET_KEY,
                "extra": {"endpoint_url": self.url, "region_name": REGION, **extra},
            }
        )

    def client(self) -> Any:
        """Amazon's own client of it, past the door."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.target}",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name=REGION,
        )

    def make_bucket(self, name: str) -> Any:
        """A client of the store, which has a bucket then.

        :param name: the bucket's name
        """
        client = self.client()
        client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return client


class _Door(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        """Pass the request on, or let it go wrong."""
        body = self._body()
        self.store.requests.append((self.command, self.path))
        fault = self.store.fault
        if fault is not None and not re.search(self.store.fault_path, self.path):
            fault = None
        if isinstance(fault, Hang):
            self.store.closing.wait(_HELD_SECONDS)
            self.close_connection = True
        elif isinstance(fault, Refusal):
            self._refuse(fault)
        else:
            self._pass_on(body, is_cut=isinstance(fault, Cut))

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _refuse(self, fault: Refusal) -> None:
        text = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{fault.code}</Code><Message>{fault.message}</Message>'
            f"{fault.further}<RequestId>4442587FB7D0A2F9</RequestId></Error>"
        ).encode()
        self.send_response(fault.status)
        for name, value in {"Content-Type": "application/xml", **fault.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _pass_on(self, body: bytes, *, is_cut: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.store.target, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name != "Transfer-Encoding"}
        headers["Content-Length"] = str(len(body))
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(size or 0))
        self.end_headers()
        if is_cut and self.command == "GET" and answer.status < 300:
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def object_store(python: Path | str = sys.executable) -> Iterator[ObjectStore]:
    """A store on loopback.

    :param python: interpreter that has moto
    """
    process = subprocess.Popen(
        [str(python), __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
    )
    try:
        assert process.stdout is not None
        store = ObjectStore(int(process.stdout.readline()))
        store.start()
        try:
            yield store
        finally:
            store.stop()
    finally:
        process.kill()
        process.wait()


def _serve() -> None:
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
