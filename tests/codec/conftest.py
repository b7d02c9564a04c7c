"""Both codecs in one run: `twin` is each in turn, `pair` crosses them, `twins` is both."""

import pytest

from tests.codec._twins import MAKERS, native, pure

CROSSINGS = [(one, other) for one in MAKERS for other in MAKERS]


@pytest.fixture(params=MAKERS)
def twin(request):
    return MAKERS[request.param]()


@pytest.fixture(params=CROSSINGS, ids=lambda pair: "{}-writes-{}-reads".format(*pair))
def pair(request):
    return [MAKERS[name]() for name in request.param]


@pytest.fixture
def twins():
    return pure(), native()
