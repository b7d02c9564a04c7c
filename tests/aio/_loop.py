"""Words for stories about tasks."""

import asyncio
import functools
import threading

# Long enough to never matter; a test that needs it has failed.
PATIENCE = 30


def asynchronous(test):
    """A test that is a coroutine, in a loop of its own."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        async def within_patience():
            async with asyncio.timeout(PATIENCE):
                await test(*args, **kwargs)

        asyncio.run(within_patience())

    return run


class Gate:
    """Stops the threads that come to it until it is opened; tasks can wait for one to come."""

    def __init__(self):
        self.came = 0
        self._open = threading.Event()

    def wait(self):
        """For the thread: stop here. (What a stalling file system calls.)"""
        self.came += 1
        assert self._open.wait(PATIENCE), "nobody opened the gate"

    def open(self):
        """Let all pass from now on."""
        self._open.set()

    async def reached(self, times=1):
        """Return when so many have come."""
        await until(lambda: self.came >= times)


async def until(true):
    """Return when it is true; the loop goes on meanwhile."""
    while not true():
        await asyncio.sleep(0.0005)


async def turns(count=50):
    """Let every task that can run do so for a while."""
    for _ in range(count):
        await asyncio.sleep(0)


async def settle(*tasks):
    """What became of each task: its result, or its exception."""
    return await asyncio.gather(*tasks, return_exceptions=True)
