"""Workers on one or several machines, placed by Ray: each has an object of its own, and does the next piece of work.

A worker that is lost (its process was killed, its machine went away) is replaced, given what the others were given last, and
its piece is done again. Whatever it does must therefore be a function of its arguments.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field

from repirl.config import Config
from repirl.errors import EngineFault, UserError
from repirl.precision import training_dtype, training_in


class RaySettings(Config):
    """How many workers, where, and what each of them needs."""

    address: str | None = None
    """Of a cluster (`auto`: the one of this machine); None: one is started here for the run."""
    samplers: int = Field(default=1, ge=0)
    """Workers that sample; 0: the learner does it."""
    sampler_gpus: float = Field(default=0, ge=0)
    """GPUs of each of them."""
    sampler_cpus: float = Field(default=1, gt=0)
    """CPU cores of each of them."""
    scorers: int = Field(default=0, ge=0)
    """Workers that score with a frozen reward; 0: the learner does it."""
    scorer_gpus: float = Field(default=0, ge=0)
    """GPUs of each of them."""
    graders: int = Field(default=0, ge=0)
    """Workers that grade, one core each; 0: the learner's machine does it."""
    losses: int = Field(default=8, ge=0)
    """So many workers may be lost before the run ends."""
    start_timeout_s: float = Field(default=600, gt=0)
    """Until a worker must be up: a cluster may have to make room."""
    request_timeout_s: float = Field(default=3600, gt=0)
    """Longest wait for an answer; a worker that gives none is lost."""


def connect(settings: RaySettings) -> None:
    """Join the cluster, or start one here; UserError if Ray is not installed or there is no such cluster."""
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise UserError("Ray is not installed", todo="pip install 'repirl[ray]'") from error
    if ray.is_initialized():
        return
    address = settings.address or "local"  # with None Ray joins whatever `ray start` once left on this machine
    try:
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        todo = "give the address that `ray start` printed, or leave it out to start one here"
        if settings.address is not None:
            todo += "; one that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN everywhere"
        raise UserError("no Ray cluster answers", settings.address or "this machine", todo) from error


class Workers:
    """`count` actors, each with the object that `make()` gives there.

    `options` are Ray's for an actor (`num_cpus`, `num_gpus`). `prepare(actor)` is called on each that is new, in place of one
    that was lost too; it returns a reference to wait for, or None.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        count: int,
        settings: RaySettings,
        options: dict[str, Any],
        prepare: Callable[[Any], Any] = lambda actor: None,
    ) -> None:
        import ray

        connect(settings)
        self._make, self._settings, self._prepare = make, settings, prepare
        self._actor_class: Any = ray.remote(_Worker).options(**options)
        self.lost = 0
        self._dtype = training_dtype()
        self.actors: list[Any] = [self._made() for _ in range(count)]
        self._wait_until_up(self.actors)

    def _made(self) -> Any:
        return self._actor_class.remote(self._make, self._dtype)

    def map(self, method: str, pieces: Sequence[tuple[Any, ...]], on_done: Callable[[int], None] = lambda i: None) -> list[Any]:
        """`method(*piece)` of each, in order; whoever is free takes the next. `on_done(number of the piece)`.

        An error of the method itself is raised here. EngineFault if too many workers are lost.
        """
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        found: list[Any] = [None] * len(pieces)
        waiting = list(reversed(range(len(pieces))))
        idle = list(range(len(self.actors)))
        running: dict[Any, tuple[int, int]] = {}
        while waiting or running:
            while waiting and idle:
                place, piece = idle.pop(), waiting.pop()
                running[self.actors[place].do.remote(method, *pieces[piece])] = place, piece
            ready, hung = ray.wait(list(running), num_returns=1, timeout=self._settings.request_timeout_s)
            if not ready:  # none of them answers: they are lost as well
                for reference in hung:
                    place, piece = running.pop(reference)
                    waiting.append(piece)
                    self._replace(place, TimeoutError(f"no answer in {self._settings.request_timeout_s:g} s"))
                    idle.append(place)
                continue
            done = ready[0]
            place, piece = running.pop(done)
            try:
                found[piece] = ray.get(done)
                on_done(piece)
            except RayTaskError as error:
                raise error.cause from None  # the method's own, as if it had been called here
            except RayActorError as error:
                waiting.append(piece)
                self._replace(place, error)
            idle.append(place)
        return found

    def each(self, method: str, *given: Any) -> list[Any]:
        """`method(*given)` of every worker; one that is lost meanwhile is replaced, and its result is None."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        references = [actor.do.remote(method, *given) for actor in self.actors]
        found: list[Any] = []
        for place, reference in enumerate(references):
            try:
                found.append(ray.get(reference, timeout=self._settings.request_timeout_s))
            except RayTaskError as error:
                raise error.cause from None
            except (RayActorError, GetTimeoutError) as error:
                self._replace(place, error)
                found.append(None)
        return found

    def close(self) -> None:
        """End the workers."""
        import ray

        for actor in self.actors:
            ray.kill(actor)
        self.actors = []

    def _replace(self, place: int, error: Exception) -> None:
        """A new worker in place of a lost one, given what it needs."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

        while True:
            self.lost += 1
            if self.lost > self._settings.losses:
                what = f"{self.lost} workers were lost, the last: {_line(error, 0)}"
                raise EngineFault(what, "look at the cluster's machines") from error
            ray.kill(self.actors[place])  # it may be a machine that only answers no more
            self.actors[place] = self._made()
            try:
                self._wait_until_up([self.actors[place]])
                if (prepared := self._prepare(self.actors[place])) is not None:
                    ray.get(prepared, timeout=self._settings.request_timeout_s)
                return
            except RayTaskError as fault:
                raise fault.cause from None
            except (RayActorError, GetTimeoutError, _NotMade) as fault:  # the next one may be placed elsewhere
                error = fault

    def _wait_until_up(self, actors: Sequence[Any]) -> None:
        import ray
        from ray.exceptions import RayActorError

        answers = [actor.up.remote() for actor in actors]
        ready, late = ray.wait(answers, num_returns=len(actors), timeout=self._settings.start_timeout_s)
        try:
            ray.get(ready)
        except RayActorError as error:
            raise _NotMade(f"a worker could not be made: {_line(error, -1)}", "look at its machine") from error
        if late:
            what = f"{len(late)} of {len(actors)} workers did not start in {self._settings.start_timeout_s:.0f} s"
            todo = "the cluster has too few free cores or GPUs: ask for fewer workers, or raise start_timeout_s"
            raise EngineFault(what, todo)


class _NotMade(EngineFault):
    """A worker ended while it was being made."""


class _Worker:
    """The actor; `dtype` is the precision of the learner's passes."""

    def __init__(self, make: Callable[[], Any], dtype: str) -> None:
        self.dtype = dtype
        with training_in(dtype):
            self.own = make()

    def up(self) -> None:
        """Answers once it has been made."""

    def pid(self) -> int:
        """Its process, on its machine."""
        return os.getpid()

    def do(self, method: str, *given: Any) -> Any:
        with training_in(self.dtype):
            return getattr(self.own, method)(*given)


def _line(error: Exception, which: int) -> str:
    return str(error).strip().split("\n")[which][:200]
