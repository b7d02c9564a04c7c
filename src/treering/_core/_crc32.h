/* CRC-32 (IEEE 802.3, reflected polynomial 0xEDB88320): the same number as zlib.crc32(data, value).
 *
 *     treering_crc32_init();                       once, at module import
 *     crc = treering_crc32(0, data, length);       or treering_crc32(crc, more, length) to go on
 *     treering_crc32_kind()                        "vpclmulqdq", "pclmulqdq", "armv8-crc" or "table"
 *
 * No compiler flag is needed: each path carries its own target attribute and init asks the processor.
 * The x86-64 paths fold after Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ
 * Instruction", Intel white paper 2009:
 *   - Read the message as a polynomial M over GF(2), first bit = highest power. Its CRC is M * x^32 mod P,
 *     with the initial value added to the first 32 bits. A piece H that stands n bits before the end counts
 *     as H * x^n, so H * (x^n mod P) may take its place: one carry-less multiplication by a constant brings
 *     it to the end, where pieces are simply added (xor).
 *   - "Reflected" means that bit 0 of a register is the highest power. The product of two reflected numbers
 *     comes out one bit short, that is, times x; hence the "- 1" in the exponents below.
 *   - Zero bytes in front of a message change nothing, so an odd length is padded in FRONT to whole 16-byte
 *     blocks. Every block then stands a multiple of 128 bits before the end: one small table of constants
 *     serves every length and no block waits for another, which is what short inputs need.
 */
#ifndef TREERING_CRC32_H
#define TREERING_CRC32_H

#include <stdint.h>
#include <string.h>

/* What the processor can do, best last. UNKNOWN is the state before init. */
enum { TREERING_CRC32_UNKNOWN, TREERING_CRC32_TABLE, TREERING_CRC32_ARM,
       TREERING_CRC32_PCLMUL, TREERING_CRC32_VPCLMUL };

#ifndef TREERING_CRC32_LEVEL_MAX /* a test sets it lower to force a path */
#define TREERING_CRC32_LEVEL_MAX TREERING_CRC32_VPCLMUL
#endif

/* MSVC takes the table, so does clang-cl (it cannot link __builtin_cpu_supports), so do old compilers. */
#if defined(__GNUC__) && !defined(_MSC_VER)
#define TREERING_CRC32_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define TREERING_CRC32_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 7 : __GNUC__ >= 8)
#define TREERING_CRC32_X86
#elif defined(__AARCH64EL__) && (defined(__linux__) || defined(__ARM_FEATURE_CRC32))
#define TREERING_CRC32_AARCH64
#endif
#else
#define TREERING_CRC32_LOAD(p) (*(volatile int *)(p))
#define TREERING_CRC32_STORE(p, v) (*(volatile int *)(p) = (v))
#endif

static int treering_crc32_level;              /* init writes it last: who sees it sees the table too */
static uint32_t treering_crc32_table[8][256]; /* [k][b]: byte b followed by k zero bytes */

/* ---- x86-64: carry-less multiplication ---- */
#ifdef TREERING_CRC32_X86
#include <immintrin.h>

#define TREERING_CRC32_128 __attribute__((target("pclmul,sse4.1"))) static inline
#define TREERING_CRC32_512 __attribute__((target("avx512f,avx512vl,avx512bw,vpclmulqdq,pclmul"))) static inline

/* From here on the 512-bit path is taken. In a row of calls it wins from 256 bytes on (26 of 37 ns at 1 KiB),
 * but one call alone after scalar work loses some 15 ns below 2 KiB: the wide lanes have to wake up. */
#define TREERING_CRC32_WIDE_MIN 1024

/* Constants to finish with: row d brings the two halves of a block that stands d blocks before the end
 * to within 96 bits of it, the x^32 of the definition included. 32-bit remainders, reflected:
 *     x^(128*d + 64 + 32 - 1) mod P for the first half, x^(128*d + 32 - 1) mod P for the second.
 * Highest d first, as blocks lie in memory: 64 bytes of table fit 64 bytes of data. */
static const uint64_t treering_crc32_finish[17][2] = {
    {0xb918a347, 0xce3371cb}, {0xe95c1271, 0x0077f00d}, /* d = 16, 15 */
    {0x1f0c2cdd, 0x4a28bd43}, {0xfe807bbd, 0x682bdd4f}, {0x3c656ced, 0x596c8d81}, /* d = 14, 13, 12 */
    {0xf5e48c85, 0x5a1bb05d}, {0xd1df2327, 0xe3543be0}, {0x9026d5b1, 0x26b70c3d}, /* d = 11, 10, 9 */
    {0x3f41287a, 0x33fff533}, {0x910eeec1, 0x31f8303f}, {0x0cbec0ed, 0xdf068dc2}, /* d = 8, 7, 6 */
    {0x57c54819, 0x1c279815}, {0xae0b5394, 0x8f352d95}, {0x1d9513d7, 0x3db1ecdc}, /* d = 5, 4, 3 */
    {0xaf449247, 0xf1da05aa}, {0x81256527, 0xae689191}, {0xccaa009e, 0x00000001}, /* d = 2, 1, 0 */
};

/* Constants to fold with: they move a block on and keep 128 bits of it. 64 bits wide, reflected. */
static const uint64_t treering_crc32_fold_512[2] = {
    UINT64_C(0x653d982200000000), UINT64_C(0xcad38e8f00000000)}; /* x^(4*128+64-1), x^(4*128-1) mod P */
static const uint64_t treering_crc32_fold_2048[2] = {
    UINT64_C(0x7cc8e1e700000000), UINT64_C(0x03f9f86300000000)}; /* x^(4*512+64-1), x^(4*512-1) mod P */
static const uint64_t treering_crc32_barrett[2] = {
    UINT64_C(0xb4e5b025f7011641), UINT64_C(0x00000001db710641)}; /* 1/P modulo 2^64; P, 33 bits */

/* 16 bytes from [h] are the shuffle that shifts a block up by 16 - h bytes; from [16 + h], down by h. */
static const unsigned char treering_crc32_shift[48] = {
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
    0,    1,    2,    3,    4,    5,    6,    7,    8,    9,    10,   11,   12,   13,   14,   15,
    0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
};

TREERING_CRC32_128 __m128i treering_crc32_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }

/* The first half of x by the first constant, the second by the second, both added to `more`. */
TREERING_CRC32_128 __m128i treering_crc32_move(__m128i x, const uint64_t constants[2], __m128i more)
{
    const __m128i k = treering_crc32_load(constants);
    return _mm_xor_si128(more, _mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00),
                                             _mm_clmulepi64_si128(x, k, 0x11)));
}

/* 96 bits to the CRC, after Barrett. Reflected, the quotient by P is the product with 1/P modulo 2^64,
 * which is just the low half of one: three multiplications from the last block to the result. */
TREERING_CRC32_128 uint32_t treering_crc32_reduce(__m128i t)
{
    const __m128i k = treering_crc32_load(treering_crc32_barrett);
    const __m128i quotient = _mm_clmulepi64_si128(t, k, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(t, _mm_clmulepi64_si128(quotient, k, 0x10)), 2);
}

/* Fewer than 16 bytes: two overlapping reads, shifted so that the zeros stand in front. */
TREERING_CRC32_128 uint32_t treering_crc32_tiny(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t low = 0, high;

    if (n >= 8) {
        memcpy(&low, p, 8);
        memcpy(&high, p + n - 8, 8);
        low = (low ^ crc) << 8 * (15 - n) << 8; /* two steps, for a shift by 64 is undefined */
        high ^= (uint64_t)crc >> 8 * (n - 8);   /* the value's bytes that `low` has no room for */
        return treering_crc32_reduce(treering_crc32_move(_mm_set_epi64x((int64_t)high, (int64_t)low),
            treering_crc32_finish[16], _mm_setzero_si128()));
    }
    for (size_t i = 0; i < n; i++)
        low |= (uint64_t)p[i] << 8 * i;
    /* under 4 bytes the value is longer than the data: what is left of it stays as it is */
    low = (low ^ crc) << 8 * (7 - n) << 8;
    return treering_crc32_reduce(_mm_cvtsi64_si128((int64_t)low)) ^ (uint32_t)((uint64_t)crc >> 8 * n);
}

TREERING_CRC32_128 uint32_t treering_crc32_pclmul(uint32_t crc, const unsigned char *p, size_t n)
{
    if (n < 16)
        return treering_crc32_tiny(crc, p, n);

    /* The odd bytes, zeros in front, are the first block; the value may reach into the second. */
    const size_t odd = n & 15;
    const unsigned char *shift = treering_crc32_shift + odd;
    const __m128i value = _mm_cvtsi32_si128((int)crc);
    __m128i x0 = _mm_shuffle_epi8(_mm_xor_si128(treering_crc32_load(p), value), treering_crc32_load(shift));
    __m128i x1 = _mm_xor_si128(treering_crc32_load(p + odd),
                               _mm_shuffle_epi8(value, treering_crc32_load(shift + 16)));
    size_t blocks = (n >> 4) - 1; /* that follow x1 */
    const uint64_t(*k)[2] = treering_crc32_finish + 16; /* row d is k[-d] */
    __m128i t = _mm_setzero_si128();

    p += odd + 16;
    if (blocks >= 16) { /* more than the table reaches: fold by 4 x 128 first */
        __m128i x2 = treering_crc32_load(p), x3 = treering_crc32_load(p + 16);
        for (p += 32, blocks -= 2; blocks >= 4; p += 64, blocks -= 4) {
            x0 = treering_crc32_move(x0, treering_crc32_fold_512, treering_crc32_load(p));
            x1 = treering_crc32_move(x1, treering_crc32_fold_512, treering_crc32_load(p + 16));
            x2 = treering_crc32_move(x2, treering_crc32_fold_512, treering_crc32_load(p + 32));
            x3 = treering_crc32_move(x3, treering_crc32_fold_512, treering_crc32_load(p + 48));
        }
        t = treering_crc32_move(x0, *(k - blocks - 3), treering_crc32_move(x1, *(k - blocks - 2), t));
        x0 = x2;
        x1 = x3;
    }
    k -= blocks;
    t = treering_crc32_move(x0, k[-1], treering_crc32_move(x1, k[0], t));
    for (; blocks; blocks--, p += 16)
        t = treering_crc32_move(treering_crc32_load(p), *++k, t);
    return treering_crc32_reduce(t);
}

/* The same as treering_crc32_move on four blocks; 0x96 is the truth table of a three-way xor. */
TREERING_CRC32_512 __m512i treering_crc32_move_4(__m512i z, __m512i k, __m512i more)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(z, k, 0x00),
                                     _mm512_clmulepi64_epi128(z, k, 0x11), more, 0x96);
}

/* n >= 256: whole runs of 256 bytes here, then the rest as a message that goes on from their CRC. */
TREERING_CRC32_512 uint32_t treering_crc32_vpclmul(uint32_t crc, const unsigned char *p, size_t n)
{
    const __m512i fold = _mm512_broadcast_i32x4(treering_crc32_load(treering_crc32_fold_2048));
    const uint64_t(*k)[2] = treering_crc32_finish + 1; /* d = 15 ... 0: the last 16 blocks */
    __m512i z0 = _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_maskz_set1_epi32(1, (int)crc));
    __m512i z1 = _mm512_loadu_si512(p + 64);
    __m512i z2 = _mm512_loadu_si512(p + 128);
    __m512i z3 = _mm512_loadu_si512(p + 192);

    for (p += 256, n -= 256; n >= 256; p += 256, n -= 256) {
        z0 = treering_crc32_move_4(z0, fold, _mm512_loadu_si512(p));
        z1 = treering_crc32_move_4(z1, fold, _mm512_loadu_si512(p + 64));
        z2 = treering_crc32_move_4(z2, fold, _mm512_loadu_si512(p + 128));
        z3 = treering_crc32_move_4(z3, fold, _mm512_loadu_si512(p + 192));
    }
    z0 = treering_crc32_move_4(z0, _mm512_loadu_si512(k), _mm512_setzero_si512());
    z1 = treering_crc32_move_4(z1, _mm512_loadu_si512(k + 4), z0);
    z2 = treering_crc32_move_4(z2, _mm512_loadu_si512(k + 8), z1);
    z3 = treering_crc32_move_4(z3, _mm512_loadu_si512(k + 12), z2);
    const __m256i y = _mm256_xor_si256(_mm512_castsi512_si256(z3), _mm512_extracti64x4_epi64(z3, 1));
    crc = treering_crc32_reduce(_mm_xor_si128(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1)));
    return n ? treering_crc32_pclmul(crc, p, n) : crc;
}
#endif

/* ---- aarch64: CRC instructions ---- */
#ifdef TREERING_CRC32_AARCH64
#ifdef __linux__
#include <sys/auxv.h>
#endif
#ifdef __clang__ /* its <arm_acle.h> hides the intrinsics where -march lacks the feature */
#define TREERING_CRC32_CRC __attribute__((target("crc"))) static inline
#define TREERING_CRC32_ARM_OP(size) __builtin_arm_crc32##size
#else
#include <arm_acle.h>
#define TREERING_CRC32_CRC __attribute__((target("+crc"))) static inline
#define TREERING_CRC32_ARM_OP(size) __crc32##size
#endif

TREERING_CRC32_CRC uint32_t treering_crc32_arm(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        crc = TREERING_CRC32_ARM_OP(d)(crc, word);
    }
    for (; n; p++, n--)
        crc = TREERING_CRC32_ARM_OP(b)(crc, *p);
    return crc;
}
#endif

/* ---- any processor ---- */

/* May be repeated. Should two threads be first at once, both write the same values. */
static inline void treering_crc32_init(void)
{
    uint32_t(*t)[256] = treering_crc32_table;
    int best = TREERING_CRC32_TABLE;

    if (TREERING_CRC32_LOAD(&treering_crc32_level) != TREERING_CRC32_UNKNOWN)
        return;
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t c = b; /* no half-made value in the table: another thread may be reading it */
        for (int bit = 0; bit < 8; bit++)
            c = (c >> 1) ^ (c & 1 ? 0xEDB88320 : 0);
        t[0][b] = c;
    }
    for (int k = 1; k < 8; k++)
        for (int b = 0; b < 256; b++)
            t[k][b] = (t[k - 1][b] >> 8) ^ t[0][t[k - 1][b] & 0xFF];
#if defined(TREERING_CRC32_X86)
    __builtin_cpu_init(); /* `supports` also asks whether the operating system saves the registers */
    if (__builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1"))
        best = TREERING_CRC32_PCLMUL;
    if (best == TREERING_CRC32_PCLMUL && __builtin_cpu_supports("vpclmulqdq") &&
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw"))
        best = TREERING_CRC32_VPCLMUL;
#elif defined(TREERING_CRC32_AARCH64) && defined(__ARM_FEATURE_CRC32)
    best = TREERING_CRC32_ARM; /* the build's own target has it: every Mac */
#elif defined(TREERING_CRC32_AARCH64)
    best = getauxval(AT_HWCAP) & 1UL << 7 /* HWCAP_CRC32 */ ? TREERING_CRC32_ARM : TREERING_CRC32_TABLE;
#endif
    best = best < TREERING_CRC32_LEVEL_MAX ? best : TREERING_CRC32_LEVEL_MAX;
    TREERING_CRC32_STORE(&treering_crc32_level, best);
}

static inline uint32_t treering_crc32_by_table(uint32_t crc, const unsigned char *p, size_t n)
{
    uint32_t(*t)[256] = treering_crc32_table;

    treering_crc32_init(); /* a call before the first init lands here, whatever the processor */
    for (; n >= 8; p += 8, n -= 8) {
        crc ^= p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        crc = t[7][crc & 0xFF] ^ t[6][crc >> 8 & 0xFF] ^ t[5][crc >> 16 & 0xFF] ^ t[4][crc >> 24] ^
              t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
    }
    for (; n; p++, n--)
        crc = (crc >> 8) ^ t[0][(crc ^ *p) & 0xFF];
    return crc;
}

static inline const char *treering_crc32_kind(void)
{
    static const char *const names[] = {"", "table", "armv8-crc", "pclmulqdq", "vpclmulqdq"};
    treering_crc32_init();
    return names[TREERING_CRC32_LOAD(&treering_crc32_level)];
}

static inline uint32_t treering_crc32(uint32_t value, const unsigned char *data, size_t length)
{
    const int level = TREERING_CRC32_LOAD(&treering_crc32_level); /* a branch is cheaper than a pointer */
    (void)level;
#if defined(TREERING_CRC32_X86)
    if (level == TREERING_CRC32_VPCLMUL && length >= TREERING_CRC32_WIDE_MIN)
        return ~treering_crc32_vpclmul(~value, data, length);
    if (level >= TREERING_CRC32_PCLMUL)
        return ~treering_crc32_pclmul(~value, data, length);
#elif defined(TREERING_CRC32_AARCH64)
    if (level == TREERING_CRC32_ARM)
        return ~treering_crc32_arm(~value, data, length);
#endif
    return ~treering_crc32_by_table(~value, data, length);
}

#endif
