"""What docs/performance.md says below a table: where the time goes, what is missed and why."""

NOTES: dict[str, str] = {
    "durable": """
Where the rest goes: with the disk taken out (the log on tmpfs, where fdatasync does nothing) a
whole `put` under ALWAYS takes 3.5 us. On the disk it costs some 10 us more than the raw pair of
calls: code and data have left the caches while the thread slept, and the kernel write-protects a
page that it has written, so that the next store into it faults once.
""",
    "group": """
**Threads.** With 64 threads `perf` finds half of all time in the kernel's wake-ups and task
switches (27 % in `try_to_wake_up`, 24 % in `finish_task_switch`), a third of it each for the
interpreter lock's condition, for that lock's own mutex, and for our futex: an append of a
sleeping thread costs three switches between two virtual processors, and ours is one of them.
Groups are large (40 appends per fsync), so it is not the disk that limits. On one processor
(`taskset -c 0`) the same program makes twice as many appends.

**Tasks.** All 1,024 tasks share one fsync (1,024 appends per fsync); what limits is the event
loop's own processor time. asyncio alone, with a future per task and nothing behind it, makes 0.78
M rounds/s here (1.3 us each); 72 % of a profile's samples are in the interpreter, 1.3 % in the
native append.

**Processes.** Four processes nearly always share each fsync (3.9 appends per fsync; before the
leader waited a moment for those it had just let go, 2.5). A round is the fsync itself and four
wake-ups and appends on two processors; with more processors than two, less of that is one after
the other.
""",
    "verify": """
Half of the time is the kernel's copy from its page cache, see the second row; the checksums are 5
%. Segments are read with pread, not mapped: an unreadable sector becomes an error, not the end of
the process.
""",
    "follow": """
The way of a record: append, futex, the follower's thread wakes, takes the interpreter lock, reads
4 KiB, decodes. The pipe beside it wakes a thread that does nothing else.
""",
    "pure": """
One readable append is 16 Python calls, of them two to the C library's mutex. Where there is a
compiler, the native build does the same in 0.1 us.
""",
    "key-value": """
A put is the log's own append (some 0.35 us of it, argument checks included), a lock of the
thread's, the dict, and counting for the next checkpoint; each of these a Python call.
""",
    "events": """
**A stream among many.** Each of the 100 events lies in another 64 KiB block, for each of which the
log knows one frame: an event costs a read of 37 KB on average and the checksums of some 190 frames
before it. With warm processor caches that is 9 us; with 1.5 GB of log behind them more than twice
that. Events of one stream that were appended together, or near each other, share all of it.
""",
    "job-queue": """
**One process.** get and ack are two decisions on the newest state, each appended on the condition
that nobody came in between (3 us each with an empty decision), and some 4 us each for the order of
jobs, the lease, and the job that is handed out. litequeue's pop depends on how much waits: 40 us
on an empty queue, 274 us here.

**64 threads.** They share fsyncs as the log's appends do, at the same rate (see group commit).
""",
    "cache": """
**set.** In a loop of its own, over entries without a ttl, it takes 1.4 to 1.5 us; the row sets keys
of which some had one, as its neighbours do. Of that the log's append is a third; the rest is
Python: the key and the value to bytes, the entry in memory, the size, the note that it was used.
""",
    "views": """
**get.** The log knows one frame in 64 KiB, so a look-up reads 36 KB on average and checks the
frames before its record: some 3 us each while both are in the processor's caches, and more than
twice that at random places of a log of 1 GB. Signposts that lie closer together, in memory, would
save most of it. By path, read-only, each query looks at the directory first.
""",
    "blobs": """
**Large blobs.** Besides what the writer by hand does, a put takes the CRC-32 of each chunk, so it
needs a fifth more processor time; a reader half as much more, for it copies, too. The disk is the
same for both. Known bytes that come as a stream are written before their digest is known, but not
fsynced.

**Small ones.** A put is three fsyncs: of file, directory and log. Threads share only that of the
log.
""",
}
