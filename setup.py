"""Builds the one optional extension module; everything else is said in pyproject.toml.

The native codec is a speed-up, never a need: without Cython or a working C compiler the package
installs in pure Python and says so in one line. The environment variable TREERING_NATIVE chooses:

    unset     build it if that works
    require   fail if it cannot be built
    0         do not try
"""

import os
import sys
from glob import glob
from pathlib import Path
from textwrap import shorten

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

CORE = "src/treering/_core"
MODE = os.environ.get("TREERING_NATIVE", "").strip() or "auto"
if MODE not in ("auto", "require", "0"):
    raise SystemExit(f"treering: TREERING_NATIVE={MODE!r}: unset it, or use require or 0")


def notice(text):
    print(f"treering: {text}", file=sys.stderr, flush=True)


class BuildNative(build_ext):
    def build_extension(self, ext):
        try:
            self._build(ext)
        except Exception as error:
            cause = shorten(f"{type(error).__name__}: {error}", 100)
            if MODE == "require":
                raise SystemExit(
                    f"treering: native codec not built ({cause}), and TREERING_NATIVE=require"
                ) from error
            self._remove_stale(ext)
            notice(f"native codec not built ({cause}); installing in pure Python")
        else:
            notice("native codec built")

    def _build(self, ext):
        import Cython  # noqa: F401  (its absence is the clearest cause to name)

        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = ["/O2"] if msvc else ["-O3", "-fno-strict-aliasing"]
        super().build_extension(ext)

    def _remove_stale(self, ext):
        # An earlier build's module must not be packed, or imported, beside newer Python sources.
        filename = Path(self.get_ext_filename(ext.name))
        Path(self.build_lib, filename).unlink(missing_ok=True)
        if self.editable_mode or self.inplace:
            Path("src", filename).unlink(missing_ok=True)


native = Extension(
    "treering._core._codec_c",
    [f"{CORE}/_codec_c.pyx"],
    include_dirs=[CORE],
    depends=sorted(glob(f"{CORE}/*.h") + glob(f"{CORE}/*.pxd")),
    optional=MODE != "require",
)
native.cython_c_in_temp = True  # keeps generated C out of the source tree

if MODE == "0":
    notice("native codec skipped (TREERING_NATIVE=0); installing in pure Python")
setup(ext_modules=[] if MODE == "0" else [native], cmdclass={"build_ext": BuildNative})
