"""Stands for a Python with vLLM: takes its server's options, answers on its Unix socket, and notes what it is asked.

A completion with an even seed ends after 5 tokens with the first of `stop_token_ids`; others go on to their limit. Every token
has the log-probability -0.5. The environment says what goes wrong: FAKE_VLLM_MODE is `dies`, `second-dies`, `silent`,
`refuses`, `breaks`, `second-breaks`, `second-misses` or `first-slow`; first and second are those whose process notes itself so.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer

from safetensors.numpy import load_file

MODE = os.environ.get("FAKE_VLLM_MODE", "")
NOTES = Path(os.environ["FAKE_VLLM_NOTES"])


def note(**said) -> None:
    """A line, whole: several servers write into the file."""
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, (json.dumps(said | {"by": os.getpid()}) + "\n").encode())
    os.close(file)


def place() -> int:
    """How many servers noted themselves before this one."""
    started = [row["process"] for row in map(json.loads, NOTES.read_text().splitlines()) if "process" in row]
    return started.index(os.getpid())


def completion(body: dict) -> dict:
    ended = body["seed"] % 2 == 0 and body["max_tokens"] >= 5
    tokens = [3 + (body["seed"] + i) % 90 for i in range(body["max_tokens"])]
    tokens = [*tokens[:4], body["stop_token_ids"][0]] if ended else tokens
    logprobs = {"token_logprobs": [-0.5] * len(tokens)}
    return {"choices": [{"token_ids": tokens, "logprobs": logprobs, "finish_reason": "stop" if ended else "length"}]}


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass

    def do_GET(self) -> None:
        self.answer({})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/collective_rpc":
            files = [{name: value.tolist() for name, value in load_file(path).items()} for path in body["args"]]
            note(method=body["method"], names=[sorted(file) for file in files], weights=files)
            missed = ["model.norm.weight"] if MODE == "second-misses" and place() == 1 else []
            self.answer({"results": [missed if body["method"] == "repirl_end_weights" else None]})
        elif self.path == "/reset_prefix_cache":
            note(method="reset_prefix_cache")
            self.answer({"success": True})
        elif MODE == "breaks" or (MODE == "second-breaks" and place() == 1):
            os._exit(7)
        elif MODE == "refuses":
            self.answer({"error": {"message": "no room for it"}}, 400)
        else:
            note(request=body)
            if MODE == "first-slow" and place() == 0:
                time.sleep(0.5)
            self.answer(completion(body))

    def answer(self, payload: dict, status: int = 200) -> None:
        content = json.dumps(payload).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True
    request_queue_size = 512

    def get_request(self):
        return super().get_request()[0], ("", 0)


def main() -> None:
    options = sys.argv[3:]  # after -m and the module
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    note(process=os.getpid(), module=sys.argv[2], options=options, path=os.environ["PYTHONPATH"], gpus=gpus)
    if MODE == "dies" or (MODE == "second-dies" and place() == 1):
        print("some words", "ValueError: no such architecture", "more words", sep="\n", flush=True)
        sys.exit(3)
    if MODE == "silent":
        time.sleep(600)
    Server(options[options.index("--uds") + 1], Handler).serve_forever()


if __name__ == "__main__":
    main()
