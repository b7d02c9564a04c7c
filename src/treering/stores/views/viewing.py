"""Views: what a handler makes of a log's records, durable, each record taken in exactly once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from treering import Reader, ReadOnlyError, Record, UsageError, Wal
from treering.fold.kit import Moment, Projection, ViewState, WritableView, as_text

Handler = Callable[[WritableView, Record], object]
Prefixes = bytes | tuple[bytes, ...] | None


class Definition:
    """A handler with its name, version and choice of records; made by `view`. Can be called as the
    function that it is."""

    def __init__(
        self, name: str, handler: Handler, version: int, prefix: Prefixes, stream: int | None
    ) -> None:
        self.name, self.handler, self.version = name, handler, version
        self.prefix, self.stream = prefix, stream

    def __call__(self, view: WritableView, record: Record) -> object:
        """Handle one record."""
        return self.handler(view, record)


def view(
    name: str, *, version: int = 1, prefix: Prefixes = None, stream: int | None = None
) -> Callable[[Any], Definition]:
    """Make a view of a function of `(view, record)`, or of a class whose objects have a method
    `apply(view, record)`. `version` is to be raised when the handler changes: what it made before
    is then made anew. `prefix` chooses records by their keys (bytes, or several in a tuple),
    `stream` those of one store in a log that several share."""
    as_text(name, "a view's name", 80)
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 1 << 63:
        raise UsageError(f"version must be a whole number from 1 on, not {version!r:.40}")
    given = prefix if isinstance(prefix, tuple) else (prefix or b"",)
    if not all(isinstance(each, bytes) for each in given):
        raise UsageError("a prefix is bytes, or several in a tuple")
    if stream is not None and (isinstance(stream, bool) or not isinstance(stream, int)):
        raise UsageError(f"stream must be a number, not {stream!r:.40}")
    return lambda found: Definition(name, _function(found), version, prefix, stream)


def _function(found: Any) -> Handler:
    handler = found() if isinstance(found, type) else found
    apply = getattr(handler, "apply", handler)
    if not callable(apply):
        raise UsageError(
            f"a view's handler is a function of the view and a record, not {type(found).__name__}",
            hint="Or a class with a method apply(view, record)",
        )
    return apply  # type: ignore[no-any-return]


class _Chosen:
    """The records of a reader that a view wants."""

    def __init__(self, reader: Reader, prefix: Prefixes, stream: int | None) -> None:
        self._reader, self._prefix, self._stream = reader, prefix, stream

    @property
    def position(self) -> int:
        return self._reader.position

    def __iter__(self) -> Iterator[Record]:
        prefix, stream = self._prefix, self._stream
        for record in self._reader:
            if stream is not None and record.stream != stream:
                continue
            if prefix is None or record.key.startswith(prefix):
                yield record


class View(Projection[Record]):
    """A dict of texts to JSON values that `handler(view, record)` makes of a log's records, in the
    directory `path`. Survives, goes on where it was, and takes in each record exactly once,
    whichever of any number of processes runs it, and whenever they are killed. Thread-safe.

    `log` is an open `Wal`, or the path of one, which is then opened read-only: the view never
    writes to it. With a `Wal` that may write a view never knows more than what is durable there
    (it waits); with a path it may for a moment, and notices if a power failure takes that back.

    `handler` is a definition (see `view`), or a function, then with version 1 and the name of the
    directory. It must depend on the record and the view alone. With a higher version than the
    view's, or when the log took back what the view has seen, or is another one, the view is made
    anew by itself and `trouble` says why, unless the log no longer has all that it was made of:
    then UsageError asks for `rebuild`. A lower version is refused.

    With `read_only=True` it can only be looked at, in any process, beside the one that runs it; it
    needs no handler then, and no right to write. `options` are those of the view's own log and its
    checkpoints (default: FsyncPolicy.OS). Raises what `Wal.open` raises.
    """

    def __init__(
        self,
        log: Wal | str | os.PathLike[str],
        path: str | os.PathLike[str],
        handler: Definition | Handler | None = None,
        *,
        read_only: bool = False,
        **options: Any,
    ) -> None:
        if handler is None and not read_only:
            raise UsageError(
                "a view has a handler", hint="read_only=True looks at one without running it"
            )
        if not isinstance(handler, Definition):
            handler = view(os.path.basename(os.fspath(path))[:80] or "view")(handler or _nothing)
        self._definition, self.version = handler, handler.version
        self.read_only = read_only
        self._owns_log = not isinstance(log, Wal)
        files = {key: options[key] for key in ("files", "clock") if key in options}
        self._log = log if isinstance(log, Wal) else Wal.open(log, read_only=True, **files)
        try:
            if os.path.realpath(path) == os.path.realpath(self._log.path):
                raise UsageError(
                    "the view cannot be kept in the log that it follows",
                    path=self._log.path,
                    hint="Give it a directory of its own",
                )
            super().__init__(
                handler.name, path, handler.handler, {**options, "read_only": read_only}
            )
        except BaseException:
            self._close_log()
            raise

    @property
    def _wal(self) -> Wal:
        return self._log

    def _items(self, start: int, stop: int) -> _Chosen:
        reader = self._log.read_from(start, stop=stop)
        return _Chosen(reader, self._definition.prefix, self._definition.stream)

    def _wait_durable(self, reached: int) -> None:
        try:
            super()._wait_durable(reached)
        except ReadOnlyError:
            pass  # the fingerprint of the last record tells if it is lost

    # --- Beginning anew ---------------------------------------------------------------------------

    def catch_up(self, limit: int | None = None) -> int:
        """Take in the records that are in the log now, 256 in one commit, at most `limit` in all;
        how many this call did. `limit=0` takes in none.

        An exception of the handler is raised, with a note which record it was; of its batch nothing
        is kept, and the next call begins with that batch again. Raises PrunedError if the log was
        truncated before the view had seen all of it; UsageError as the class says; ReadOnlyError,
        DiskFullError.
        """
        if self.read_only:
            raise ReadOnlyError("the view was opened with read_only=True", hint="Open it without")
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise UsageError(f"limit must be a whole number, not {limit!r:.40}")
        return super().catch_up(limit)

    def rebuild(self) -> int:
        """Forget the view, and take in all that the log has from its oldest record on; how many
        records. Other readers see it grow anew."""
        if self.read_only:
            raise ReadOnlyError("the view was opened with read_only=True", hint="Open it without")
        return super().rebuild()

    def _had_to_begin_anew(self, state: ViewState, seen: int, now: Moment) -> bool:
        if state.version > self.version:
            raise UsageError(
                f"the view was made by version {state.version}, this handler is {self.version}",
                path=self._fold.wal.path,
                hint="Run the newer program, or call rebuild() to go back",
            )
        if 0 < state.version < self.version:
            self._begin_anew(f"version {self.version} follows {state.version}", state, seen)
            return True
        return super()._had_to_begin_anew(state, seen, now)

    def _begin_anew(self, why: str, state: ViewState, seen: int) -> None:
        first = self._log.first_position
        if first > state.mark.began and state.mark.log_id == self._log.log_id:
            raise UsageError(
                f"the view has to be made anew ({why}), but the log no longer has all of it",
                path=self._fold.wal.path,
                position=first,
                hint="rebuild() makes it of what is left",
            )
        fold = self._fold

        def decide(now: ViewState) -> list[Record]:
            return self._blank() if fold.position == seen else []

        if fold.command(decide):
            self._fold.note(f"made anew: {why}")

    # --- Knowing and closing ----------------------------------------------------------------------

    @property
    def reached(self) -> int:
        """Records of the log before this position are in the view."""
        return self.position

    @property
    def trouble(self) -> list[str]:
        """What went wrong with snapshots, and why the view was made anew; in words, the last."""
        return self._fold.trouble

    def sync(self) -> None:
        """Make the view durable; blocks for an fsync. (What power loss takes from it is made again
        from the log.)"""
        self._fold.wal.sync()

    def checkpoint(self) -> int:
        """Write a snapshot of the view, and drop the part of its log that nobody needs any more;
        done by itself, too, as `treering.fold.Fold` says. Durable at return."""
        return self._fold.checkpoint()

    def _close_log(self) -> None:
        if self._owns_log:
            self._log.close()

    def close(self) -> None:
        """Let go of the view, and of the log if it was given as a path; idempotent."""
        super().close()
        self._close_log()

    def __repr__(self) -> str:
        return f"<treering.stores.views.View {self.name!r} of {self._log.path!r}>"


def _nothing(view: WritableView, record: Record) -> None:
    """The handler of one that is only looked at."""
