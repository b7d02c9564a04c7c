"""Data to bytes and back: the codec, registered classes, and bringing old data up to date."""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from treering import DamageError, UsageError, VersionError
from treering.fold.kit import as_text

from .event import SCHEMA_MAX
from .names import TYPE_BYTES_MAX

T = TypeVar("T")
Upcaster = Callable[[Any], Any]


class Codec(Protocol):
    """How data becomes bytes. All that use one log have to use codecs that read each other's."""

    def encode(self, data: Any) -> bytes:
        """`data` as bytes; TypeError or ValueError for what cannot be written."""

    def decode(self, raw: bytes) -> Any:
        """Plain values (dicts, lists, texts, numbers) from bytes; ValueError for others' bytes."""

    def build(self, value: Any, cls: type[Any]) -> Any:
        """An instance of a registered class from plain values; TypeError, ValueError, KeyError."""


class JsonCodec:
    """JSON, with the standard library. Writes JSON values and dataclasses (also within); what comes
    back is what JSON keeps: a tuple is a list, a dict's keys are texts."""

    def __init__(self) -> None:
        # A circle ends as a RecursionError, too, and looking for one costs every event.
        self._encode = json.JSONEncoder(
            ensure_ascii=False,
            check_circular=False,
            separators=(",", ":"),
            allow_nan=False,
            default=_fields,
        ).encode

    def encode(self, data: Any) -> bytes:
        """See Codec."""
        return self._encode(data).encode()

    def decode(self, raw: bytes) -> Any:
        """See Codec."""
        return json.loads(raw)

    def build(self, value: Any, cls: type[Any]) -> Any:
        """See Codec."""
        return _built(value, cls)


def _fields(data: Any) -> dict[str, Any]:
    if not dataclasses.is_dataclass(data) or isinstance(data, type):
        raise TypeError(f"{type(data).__name__} is no JSON value and no dataclass")
    return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}


@functools.lru_cache(maxsize=1024)
def _annotations(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise TypeError(f"an annotation of {cls.__name__} is not known: {error}") from error


def _built(value: Any, wanted: Any) -> Any:
    """`value` as the annotation says, where that names a dataclass; else as it is."""
    if isinstance(wanted, type) and dataclasses.is_dataclass(wanted):
        if not isinstance(value, Mapping):
            raise TypeError(f"{wanted.__name__} needs a dict, not {type(value).__name__}")
        hints = _annotations(wanted)
        return wanted(**{name: _built(each, hints.get(name)) for name, each in value.items()})
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is list and isinstance(value, list):
        return [_built(each, inner[0]) for each in value]
    if origin is tuple and isinstance(value, list):
        kinds = inner if inner[-1] is not Ellipsis else inner[:1] * len(value)
        return tuple(_built(each, kind) for each, kind in zip(value, kinds, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _built(each, inner[1]) for name, each in value.items()}
    if origin in (typing.Union, types.UnionType) and value is not None:
        others = [each for each in inner if each is not type(None)]
        return _built(value, others[0]) if len(others) == 1 else value
    return tuple(value) if wanted is tuple and isinstance(value, list) else value


class Registry:
    """What a handle knows of types: their classes, versions, and how to bring old data up to date.

    It is the program's, not the log's: each program registers what it needs.
    """

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec: Codec = JsonCodec() if codec is None else codec
        self.versions: dict[str, int] = {}
        self._classes: dict[str, type[Any]] = {}
        self._names: dict[type[Any], str] = {}
        self._upcasters: dict[tuple[str, int], Upcaster] = {}

    def register(self, cls: type[T], name: str | None, version: int) -> type[T]:
        """See `EventStore.register`."""
        if not isinstance(cls, type):
            raise UsageError(f"a class is registered, not {cls!r:.60}")
        name = cls.__name__ if name is None else name
        as_text(name, "an event's type", TYPE_BYTES_MAX)
        _check_schema(version)
        if self._classes.get(name, cls) is not cls:
            raise UsageError(f"another class is registered as {name!r:.60}", hint="Give it a name")
        self._classes[name], self._names[cls] = cls, name
        self.versions[name] = version
        return cls

    def upcast(self, name: str, from_version: int, function: Upcaster) -> None:
        """See `EventStore.upcast`."""
        _check_schema(from_version)
        if not callable(function):
            raise UsageError("an upcaster is a function of the old data that returns the new")
        self._upcasters[name, from_version] = function
        if name not in self._classes:
            self.versions[name] = max(self.versions.get(name, 1), from_version + 1)

    def known_name(self, data: Any) -> str | None:
        """The type of a registered class's instance; None for other data."""
        return self._names.get(type(data))

    def name_of(self, data: Any) -> str:
        """The type of a registered class's instance."""
        name = self._names.get(type(data))
        if name is None:
            raise UsageError(
                f"an event is an Event or of a registered class, not {type(data).__name__}",
                hint="Write Event(type, data), or register the class with store.register",
            )
        return name

    def encode(self, name: str, data: Any) -> bytes:
        """The data of an event of that type, as bytes."""
        cls = self._classes.get(name)
        if cls is not None and type(data) is not cls:
            raise UsageError(
                f"{name!r:.60} is registered as {cls.__name__}, and this is {type(data).__name__}"
            )
        try:
            return self.codec.encode(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the data of {name!r:.60} cannot be written: {error}",
                hint="Use JSON values, a registered class, bytes, or a codec that can",
            ) from error

    def decode(self, name: str, schema: int, raw: bytes, position: int | None) -> Any:
        """The data of an event of that type, written with version `schema` of it."""
        try:
            value = self.codec.decode(raw)
        except (ValueError, TypeError, RecursionError) as error:
            raise DamageError(
                f"the data of {name!r:.60} is not what the codec writes: {error}",
                position=position,
                hint="Look at the event's `raw`, or open the store with the codec that wrote it",
            ) from error
        newest = self.versions.get(name)
        if newest is not None and schema != newest:
            value = self._brought_up(name, schema, newest, value, position)
        cls = self._classes.get(name)
        return value if cls is None else self._instance(value, cls, name, position)

    def _brought_up(
        self, name: str, schema: int, newest: int, value: Any, position: int | None
    ) -> Any:
        if schema > newest:
            raise VersionError(
                f"{name!r:.60} of version {schema}: this program knows up to {newest}",
                position=position,
                hint="A newer program wrote it: update this one",
            )
        for version in range(schema, newest):
            function = self._upcasters.get((name, version))
            if function is None:
                raise UsageError(
                    f"nothing brings {name!r:.60} from version {version} to {version + 1}",
                    position=position,
                    hint=f"Register it: store.upcast({name!r:.60}, {version}, function)",
                )
            value = function(value)
        return value

    def _instance(self, value: Any, cls: type[Any], name: str, position: int | None) -> Any:
        try:
            return self.codec.build(value, cls)
        except (TypeError, ValueError, KeyError) as error:
            raise UsageError(
                f"{name!r:.60} does not fit into {cls.__name__}: {error}",
                position=position,
                hint="Raise the class's version, and register an upcaster for the old one",
            ) from error


def _check_schema(version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version <= SCHEMA_MAX:
        raise UsageError(f"a type's version is from 1 to {SCHEMA_MAX}, not {version!r:.40}")
