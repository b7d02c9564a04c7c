/* Words, mutexes and futexes in memory that several processes share. Included by _codec_c.pyx.

   The mutex is the C library's robust, process-shared one: when its holder dies, the kernel hands
   it to the next taker with EOWNERDEAD. Where that or the futex is missing (not Linux), the
   functions say so and the package uses its file lock and polling instead. */

#ifndef TREERING_SHARED_H
#define TREERING_SHARED_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifndef EOWNERDEAD
#define EOWNERDEAD 130 /* never returned where there are no robust mutexes */
#endif

#if defined(__GNUC__) || defined(__clang__)
#define TREERING_LOAD(pointer) __atomic_load_n((pointer), __ATOMIC_ACQUIRE)
#define TREERING_STORE(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_RELEASE)
#define TREERING_STORE_STRONG(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_SEQ_CST)
#define TREERING_ADD_ONE(pointer) ((void)__atomic_fetch_add((pointer), 1, __ATOMIC_SEQ_CST))
#define TREERING_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
/* Keeps the compiler from moving stores across: what a dead process had stored is in program order. */
#if defined(__x86_64__)
/* Giving a mutex back is a locked instruction here, which is a fence already. */
#define TREERING_FENCE_AFTER_UNLOCK() TREERING_BARRIER()
#else
#define TREERING_FENCE_AFTER_UNLOCK() TREERING_FENCE()
#endif
#define TREERING_BARRIER() __asm__ __volatile__("" ::: "memory")
#else
#define TREERING_LOAD(pointer) (*(volatile uint64_t *)(pointer))
#define TREERING_STORE(pointer, value) (*(volatile uint64_t *)(pointer) = (value))
#define TREERING_STORE_STRONG(pointer, value) (*(volatile uint64_t *)(pointer) = (value))
#define TREERING_ADD_ONE(pointer) ((void)++*(volatile uint64_t *)(pointer))
#define TREERING_FENCE() ((void)0)
#define TREERING_FENCE_AFTER_UNLOCK() ((void)0)
#define TREERING_BARRIER() ((void)0)
#endif

static uint64_t treering_load(const uint64_t *word) { return TREERING_LOAD(word); }
static void treering_store(uint64_t *word, uint64_t value) { TREERING_STORE(word, value); }
static void treering_store_strong(uint64_t *word, uint64_t value) { TREERING_STORE_STRONG(word, value); }
static void treering_add_one(uint64_t *word) { TREERING_ADD_ONE(word); }
static void treering_fence(void) { TREERING_FENCE(); }
static void treering_fence_after_unlock(void) { TREERING_FENCE_AFTER_UNLOCK(); }
static void treering_barrier(void) { TREERING_BARRIER(); }

/* The futex bit of those who follow the log; the 31 others belong to waiters for an fsync. */
#define TREERING_FOLLOWERS 0x80000000u

#if defined(__linux__)

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TREERING_HAS_MUTEX 1

static int treering_mutex_init(void *mutex, int is_private)
{
    pthread_mutexattr_t attributes;
    int code = pthread_mutexattr_init(&attributes);
    if (code == 0 && !is_private) {
        code = pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        if (code == 0) code = pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    }
    if (code == 0) {
        memset(mutex, 0, sizeof(pthread_mutex_t));
        code = pthread_mutex_init((pthread_mutex_t *)mutex, &attributes);
    }
    pthread_mutexattr_destroy(&attributes);
    return code;
}

static int treering_mutex_settle(void *mutex, int code)
{
    if (code == EOWNERDEAD) pthread_mutex_consistent((pthread_mutex_t *)mutex);
    return code;
}

static int treering_mutex_try(void *mutex)
{
    return treering_mutex_settle(mutex, pthread_mutex_trylock((pthread_mutex_t *)mutex));
}

static void treering_add_seconds(struct timespec *moment, double seconds)
{
    moment->tv_sec += (time_t)seconds;
    moment->tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (moment->tv_nsec >= 1000000000L) {
        moment->tv_nsec -= 1000000000L;
        moment->tv_sec += 1;
    }
}

static int treering_mutex_lock(void *mutex, double seconds)
{
    struct timespec limit;
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    clockid_t clock = CLOCK_MONOTONIC;
#else
    clockid_t clock = CLOCK_REALTIME;
#endif
    clock_gettime(clock, &limit);
    treering_add_seconds(&limit, seconds);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 30)
    return treering_mutex_settle(mutex, pthread_mutex_clocklock((pthread_mutex_t *)mutex, clock, &limit));
#else
    return treering_mutex_settle(mutex, pthread_mutex_timedlock((pthread_mutex_t *)mutex, &limit));
#endif
}

static int treering_mutex_unlock(void *mutex) { return pthread_mutex_unlock((pthread_mutex_t *)mutex); }

/* Whether this thread holds it: the first word of a robust mutex names its owner (FUTEX_TID_MASK). */
static int treering_mutex_is_mine(const void *mutex)
{
    uint32_t owner = __atomic_load_n((const uint32_t *)mutex, __ATOMIC_RELAXED) & 0x3FFFFFFFu;
    return owner > 2 && owner == (uint32_t)syscall(SYS_gettid); /* private ones hold 0, 1 or 2 */
}

/* The futex is the low half of a word. */
static uint32_t *treering_low_half(uint64_t *word)
{
    uint32_t *half = (uint32_t *)word;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    half += 1;
#endif
    return half;
}

/* Sleepers choose bits, wakers wake those that share one. 0 when woken, else EAGAIN when the word had
   moved already, ETIMEDOUT, or EINTR when a signal came. */
static int treering_futex_wait_bits(uint64_t *word, uint64_t seen, uint32_t bits, double seconds)
{
    struct timespec limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    treering_add_seconds(&limit, seconds);
    if (syscall(SYS_futex, treering_low_half(word), FUTEX_WAIT_BITSET, (uint32_t)seen, &limit, NULL, bits) == 0)
        return 0;
    return errno;
}

static void treering_futex_wake_bits(uint64_t *word, uint32_t bits, int count)
{
    syscall(SYS_futex, treering_low_half(word), FUTEX_WAKE_BITSET, count, NULL, NULL, bits);
}

static void treering_futex_wait(uint64_t *word, uint64_t seen, double seconds)
{
    treering_futex_wait_bits(word, seen, TREERING_FOLLOWERS, seconds);
}

static void treering_futex_wake(uint64_t *word)
{
    syscall(SYS_futex, treering_low_half(word), FUTEX_WAKE, 0x7FFFFFFF, NULL, NULL, 0);
}

static void treering_populate(void *start, size_t length)
{
    madvise(start, length, 23 /* MADV_POPULATE_WRITE, Linux 5.14; older kernels refuse it */);
}

#else

#define TREERING_HAS_MUTEX 0

static int treering_mutex_init(void *mutex, int is_private) { (void)mutex; (void)is_private; return ENOSYS; }
static int treering_mutex_try(void *mutex) { (void)mutex; return ENOSYS; }
static int treering_mutex_lock(void *mutex, double seconds) { (void)mutex; (void)seconds; return ENOSYS; }
static int treering_mutex_unlock(void *mutex) { (void)mutex; return ENOSYS; }
static int treering_mutex_is_mine(const void *mutex) { (void)mutex; return 0; }
static int treering_futex_wait_bits(uint64_t *word, uint64_t seen, uint32_t bits, double seconds)
{
    (void)word; (void)seen; (void)bits; (void)seconds;
    return ETIMEDOUT;
}
static void treering_futex_wake_bits(uint64_t *word, uint32_t bits, int count)
{
    (void)word; (void)bits; (void)count;
}
static void treering_futex_wait(uint64_t *word, uint64_t seen, double seconds)
{
    (void)word; (void)seen; (void)seconds;
}
static void treering_futex_wake(uint64_t *word) { (void)word; }
static void treering_populate(void *start, size_t length) { (void)start; (void)length; }

#endif

/* Lets others run; time for measuring. */
#if defined(_WIN32)
static void treering_yield(void) {}
static uint64_t treering_clock_ns(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#else
#include <sched.h>
static void treering_yield(void) { sched_yield(); }
static uint64_t treering_clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif

static uint64_t treering_now_ns(void)
{
    struct timespec now;
#if defined(_WIN32)
    timespec_get(&now, TIME_UTC);
#else
    clock_gettime(CLOCK_REALTIME, &now);
#endif
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
