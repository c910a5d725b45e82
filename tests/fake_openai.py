"""A server that speaks as much of OpenAI's protocol as the engine uses, in a thread: for tests, without a model.

A token is a character. A completion follows from prompt and seed alone, as at a server that keeps to seeds.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

MODEL = "some/model"
LOGPROB = -0.5


def sums(prompt: str, seed: int) -> str:
    """Solves `Compute EXPRESSION`, in every third seed rightly, in words that differ by the seed."""
    value = eval(prompt.removeprefix("Compute "))
    return f"try {seed % 7}: \\boxed{{{value if seed % 3 == 0 else value + 1}}}"


@dataclass
class FakeServer:
    """`answer(prompt, seed)` is the text; `failures` are statuses given before requests succeed; from request `fails_from`
    on none does; `asked` has the bodies."""

    answer: Callable[[str, int], str] = sums
    owned_by: str = "vllm"
    key: str | None = None
    context: int = 10_000
    delay_s: float = 0.0
    failures: list[int] = field(default_factory=list)
    fails_from: int | None = None
    fails_with: int = 500
    lists_with: int = 200
    finish: str | None = None
    usage: bool = True
    raw: bytes | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    busy: int = 0
    busiest: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def models(self) -> tuple[int, Any]:
        if self.lists_with != 200:
            return self.lists_with, {"detail": "no list"}
        card = {"id": MODEL, "object": "model", "created": int(time.time()), "owned_by": self.owned_by, "root": "hub/weights"}
        return 200, {"object": "list", "data": [card]}

    def complete(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.asked.append(body)
            failure = self.failures.pop(0) if self.failures else None
            if self.fails_from is not None and len(self.asked) > self.fails_from:
                failure = self.fails_with
        if failure is not None:
            said = f"failure {failure}"  # a refusal of the framework's own is worded otherwise
            return failure, {"detail": said} if failure == 422 else {"error": {"message": said, "code": failure}}
        if body["model"] != MODEL:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
        is_chat = path.endswith("/chat/completions")
        prompt = body["messages"][0]["content"] if is_chat else body["prompt"]
        if isinstance(prompt, list):
            prompt = "".join(map(chr, prompt))
        limit = body["max_tokens"] if "max_tokens" in body else body["max_completion_tokens"]
        if len(prompt) + limit > self.context:
            message = f"This model's maximum context length is {self.context} tokens. However, you requested more."
            return 400, {"error": {"message": message, "code": 400}}
        text = self.answer(prompt, body.get("seed", 0))
        ends = [text.find(one) + len(one) for one in body.get("stop", ()) if one in text]
        if ends:
            text = text[: min(ends)]
            if not body.get("include_stop_str_in_output"):
                text = next(text.removesuffix(one) for one in body["stop"] if text.endswith(one))
        length = len(text) + (0 if ends else 1)  # the token that ends a text
        cut = length > limit
        text, length = text[:limit], min(length, limit)
        ids = [*map(ord, text), 0][:length]
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.finish or ("length" if cut else "stop"), "logprobs": None}
        if "logprobs" in body:
            listed = {"content": [{"token": "x", "logprob": LOGPROB}] * length}
            choice["logprobs"] = listed if is_chat else {"token_logprobs": [LOGPROB] * length}
        if body.get("return_token_ids"):
            choice["token_ids"] = ids
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        usage = {"usage": {"prompt_tokens": len(prompt), "completion_tokens": length}} if self.usage else {}
        return 200, {"id": "x", "created": 0, "model": MODEL, "object": "text_completion", "choices": [choice], **usage}


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(*(server.models() if self._allowed() else self._refusal()))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.busy += 1
                server.busiest = max(server.busiest, server.busy)
            time.sleep(server.delay_s)
            status, answer = server.complete(self.path, body) if self._allowed() else self._refusal()
            with server.lock:
                server.busy -= 1
            self._reply(status, answer)

        def _allowed(self) -> bool:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            server.keys.add(given)
            return server.key in (None, given)

        def _refusal(self) -> tuple[int, Any]:
            return 401, {"error": {"message": f"Incorrect API key provided: {self.headers['Authorization']}", "code": 401}}

        def _reply(self, status: int, answer: Any) -> None:
            content = json.dumps(answer).encode() if server.raw is None else server.raw
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if server.raw is None else "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of some tests."""


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """The server at `server.url` for the while; what asks it needs the client."""
    pytest.importorskip("openai")
    http = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
