"""The event loop of one call to the sandbox: servers kept busy until every job has ended.

A job that breaks its server is tried again after all others, so that it cannot take them along. Whether a job that breaks
every server or the sandbox is to blame is for the caller to find out: see `SandboxPool.run`.
"""

from __future__ import annotations

import selectors
import time
from collections import Counter
from collections.abc import Sequence

from repirl.grading.sandbox.server import MAX_TIMEOUTS, Job, Run, SandboxLimits, Server, ServerFault, Stream

# Most programs end sooner than this, with an answer that fits the socket's buffer: their sockets are never polled.
POLL_AFTER_S = 0.005
MAX_TRIES = 3  # of a job; two servers may have died of the same cause before it came


class Batch:
    """The event loop of one call: keeps its servers busy until every job has ended."""

    def __init__(self, jobs: Sequence[Job], limits: SandboxLimits) -> None:
        self.jobs, self.limits = jobs, limits
        self.waiting = list(range(len(jobs)))[::-1]
        self.results: list[Run | None] = [None] * len(jobs)
        self.busy: dict[Server, int] = {}
        self.broken: set[Server] = set()
        self.tries: Counter[int] = Counter()  # that ended with a broken server, by job
        self.timeouts: Counter[int] = Counter()  # by group
        self.suspects: list[int] = []  # jobs that broke MAX_TRIES servers
        self.fault: str | None = None  # why the last broken server broke

    def ends(self) -> list[Run]:
        """One end per job."""
        missing = Run(fault="the sandbox gave no answer")
        return [missing if run is None else run for run in self.results]

    def give_up(self, fault: str) -> None:
        """The remaining jobs end with this fault."""
        for index in self.waiting:
            self.results[index] = Run(fault=fault)
        self.waiting.clear()

    def blame(self) -> None:
        """Acquits the sandbox: what broke so far is the doing of the jobs with which it broke again and again."""
        for index in self.suspects:
            self.results[index] = Run(broke=True)
        self.suspects, self.fault = [], None

    def drive(self, servers: Sequence[Server]) -> None:
        """Until nothing waits, or all `servers` are broken."""
        with selectors.DefaultSelector() as selector:
            for server in servers:
                selector.register(server.control, selectors.EVENT_READ, (server, None))
                self._next(server, selector)
            while self.busy:
                now = time.monotonic()
                unpolled = any(not server.polled for server in self.busy)
                timeout = POLL_AFTER_S if unpolled else min(s.deadline for s in self.busy) - now
                for key, mask in selector.select(max(timeout, 0)):
                    server, stream = key.data
                    if stream is not None:
                        self._on_stream(server, stream, mask, selector)
                    elif server in self.busy:
                        self._on_answer(server, selector)
                self._on_time(selector)

    def _next(self, server: Server, selector: selectors.BaseSelector) -> None:
        while self.waiting and self._given_up(self.waiting[-1]):
            self.results[self.waiting.pop()] = Run(not_run=True)
        if not self.waiting:
            return
        self.busy[server] = self.waiting.pop()
        try:
            server.begin(self.jobs[self.busy[server]], self.limits)
        except ServerFault as fault:
            self._broken(server, str(fault), selector, began=False)

    def _given_up(self, index: int) -> bool:
        group = self.jobs[index].group
        return group is not None and self.timeouts[group] >= MAX_TIMEOUTS

    def _on_answer(self, server: Server, selector: selectors.BaseSelector) -> None:
        self._unregister_streams(server, selector)
        index = self.busy[server]
        try:
            self.results[index] = run = server.finish(self.limits)
        except ServerFault as fault:
            self._broken(server, str(fault), selector)
            return
        if (group := self.jobs[index].group) is not None:
            self.timeouts[group] += run.out_of_time(self.limits)
        del self.busy[server]
        if server.spent:
            self._retire(server, selector)
        else:
            self._next(server, selector)

    def _broken(self, server: Server, why: str, selector: selectors.BaseSelector, began: bool = True) -> None:
        index = self.busy.pop(server)
        self.fault = why
        self.tries[index] += began or server.number == 1  # an idle server may have died long ago, a new one has not
        if self.tries[index] >= MAX_TRIES:
            self.results[index] = Run(fault=why)
            self.suspects.append(index)
        else:  # the server may have died of something that this program has no part in, and was dead if it never began
            self.waiting.insert(0, index)
        self._unregister_streams(server, selector)
        server.drop_streams()
        self._retire(server, selector)

    def _retire(self, server: Server, selector: selectors.BaseSelector) -> None:
        selector.unregister(server.control)
        self.broken.add(server)

    def _unregister_streams(self, server: Server, selector: selectors.BaseSelector) -> None:
        for stream in server.streams:
            if stream.sock in selector.get_map():
                selector.unregister(stream.sock)

    def _on_stream(self, server: Server, stream: Stream, mask: int, selector: selectors.BaseSelector) -> None:
        if stream not in server.streams:  # its server answered in the same round
            return
        if mask & selectors.EVENT_WRITE:
            stream.send_some()
            if not stream.outgoing:
                selector.modify(stream.sock, selectors.EVENT_READ, (server, stream))
        if mask & selectors.EVENT_READ:
            stream.read_some(self.limits.output_bytes)
            if not stream.open or stream.size > self.limits.output_bytes:
                selector.unregister(stream.sock)
            if stream.size > self.limits.output_bytes:
                server.cancel()

    def _on_time(self, selector: selectors.BaseSelector) -> None:
        now = time.monotonic()
        for server in list(self.busy):
            if now > server.deadline:
                self._broken(server, "the sandbox server does not answer", selector)
            elif not server.polled and now - server.started >= POLL_AFTER_S:
                server.polled = True
                for stream in server.streams:
                    mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.outgoing else 0)
                    selector.register(stream.sock, mask, (server, stream))
