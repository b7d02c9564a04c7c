"""House rules for the public names: the list equals reality, and each name says what it is."""

import inspect
import tomllib

import treering
from tests.house._tree import ROOT, refuse, text


def test_every_public_name_exists_once():
    names = list(treering.__all__)
    missing = [entry for entry in names if not hasattr(treering, entry)]
    refuse(missing, "Define these, or take them out of treering.__all__.")
    twice = sorted({entry for entry in names if names.count(entry) > 1})
    refuse(twice, "Named twice in treering.__all__.")


def test_every_reachable_name_is_meant_to_be():
    unlisted = [
        entry
        for entry, value in vars(treering).items()
        if not entry.startswith("_")
        and not inspect.ismodule(value)
        and entry not in (*treering.__all__, "annotations")
    ]
    refuse(unlisted, "List these in treering.__all__, or import them under a _name.")


def test_every_public_name_is_explained():
    offenders = []
    for entry in treering.__all__:
        value = getattr(treering, entry)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue  # a constant is explained where it is defined
        if not _documented(value):
            offenders.append(entry)
        if inspect.isclass(value):
            offenders += [f"{entry}.{method}" for method in _undocumented_methods(value)]
    refuse(offenders, "Give these a docstring: what it does, what is durable when it returns.")


def test_the_version_is_said_once():
    project = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]
    assert getattr(treering, "__version__", None) in (None, project["version"]), (
        "Make treering.__version__ and the version in pyproject.toml the same."
    )


def _documented(value):
    # A class's docstring must be its own: the one it inherits explains something else.
    doc = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return bool(doc and doc.strip())


def _undocumented_methods(cls):
    for attribute, value in vars(cls).items():
        method = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if attribute.startswith("_"):
            continue
        if (inspect.isroutine(method) or isinstance(method, property)) and not inspect.getdoc(
            getattr(cls, attribute)
        ):
            yield attribute
