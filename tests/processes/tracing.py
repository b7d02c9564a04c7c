"""Which system calls a task makes: by strace, or for fsyncs by a library put before the C library's.

One of the two must be there; tests that need them fail, and say what to install, rather than let
group commit and deadlines go unproved.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes.calls import MARK
from tests.processes.nursery import is_pure, run_alone

SYNCS = "fsync,fdatasync,sync_file_range,msync,sync,syncfs"

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void note(const char *call, const char *what)
{
    char line[5000];
    int length = snprintf(line, sizeof line, "%s(%s)\\n", call, what);
    int file = open(getenv("TREERING_TRACE"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0 || write(file, line, length) != length) abort();
    close(file);
}

static int sync_noted(const char *call, int descriptor)
{
    char link[64], path[4096], what[4200];
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    snprintf(what, sizeof what, "%d<%s>", descriptor, path);
    note(call, what);
    return real(descriptor);
}

int fsync(int descriptor) { return sync_noted("fsync", descriptor); }
int fdatasync(int descriptor) { return sync_noted("fdatasync", descriptor); }
int mkdir(const char *path, mode_t mode)
{
    int (*real)(const char *, mode_t) = (int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "mkdir");
    char what[4200];
    snprintf(what, sizeof what, "\\"%s\\", %o", path, mode);
    note("mkdir", what);
    return real(path, mode);
}
"""


@functools.cache
def has_strace() -> bool:
    """Whether strace is installed and allowed to trace."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode == 0


def traced(task: str, folder: Path, calls: str, **options) -> tuple[list[str], object]:
    """The lines of the trace, in order, and the task's result."""
    trace = folder / "trace"
    names = f"{calls},mkdir,mkdirat" if calls != "all" else "all"
    prefix = ["strace", "-f", "-qq", "-y", "-s", "4096", "-o", str(trace), "-e", f"trace={names}"]
    result = run_alone(task, prefix=prefix, **options)
    return trace.read_text(errors="replace").splitlines(), result


def shimmed(task: str, folder: Path, **options) -> tuple[list[str], object]:
    """As `traced`, for fsyncs only, without strace."""
    source, library, trace = folder / "shim.c", folder / "shim.so", folder / "trace"
    source.write_text(SHIM)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    env = {"LD_PRELOAD": str(library), "TREERING_TRACE": str(trace)}
    result = run_alone(task, env=env, **options)
    return trace.read_text().splitlines(), result


class Counted(dict):
    """How many fsyncs of a segment, of anything, in each marked part of a task; `result` is what
    the task gave."""

    result: object = None


def count_syncs(task: str, folder: Path, by: str = "", **options) -> Counted:
    """The task's fsyncs: {part: (of the tail segment, of anything)}."""
    if by != "shim" and has_strace():
        lines, result = traced(task, folder, SYNCS, **options)
    elif shutil.which("gcc"):
        lines, result = shimmed(task, folder, **options)
    elif is_pure():
        pytest.skip("neither strace nor gcc is here: the fsyncs were NOT counted")
    else:
        pytest.fail("neither strace nor gcc is here: install one to count the fsyncs")
    counted = Counted()
    counted.result = result
    part = ""
    for line in lines:
        found = re.search(rf"{MARK}(\w+)", line)
        if found:
            part = found[1]
        elif re.search(r"\b(fsync|fdatasync|sync_file_range|msync|sync|syncfs)\(", line):
            segments, all_of_them = counted.get(part, (0, 0))
            counted[part] = segments + (".seg>" in line), all_of_them + 1
        counted.setdefault(part, (0, 0))
    return counted
