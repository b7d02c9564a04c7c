/* Little-endian fields at any address. Included by _codec_c.pyx.

   memcpy of 2, 4 or 8 bytes is one load or store. Put together byte by byte, a field may pass
   through memory in pieces, and reading it back as a whole then stalls (10 % of an append). */

#ifndef TREERING_BYTES_H
#define TREERING_BYTES_H

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define TREERING_LITTLE_16(v) __builtin_bswap16(v)
#define TREERING_LITTLE_32(v) __builtin_bswap32(v)
#define TREERING_LITTLE_64(v) __builtin_bswap64(v)
#else
#define TREERING_LITTLE_16(v) (v)
#define TREERING_LITTLE_32(v) (v)
#define TREERING_LITTLE_64(v) (v)
#endif

#define TREERING_FIELD(bits) \
    static inline uint##bits##_t treering_get_##bits(const void *p) \
    { \
        uint##bits##_t v; \
        memcpy(&v, p, sizeof v); \
        return TREERING_LITTLE_##bits(v); \
    } \
    static inline void treering_put_##bits(void *p, uint##bits##_t v) \
    { \
        v = TREERING_LITTLE_##bits(v); \
        memcpy(p, &v, sizeof v); \
    }

TREERING_FIELD(16)
TREERING_FIELD(32)
TREERING_FIELD(64)

/* Fetch the cache lines that the next frame of an ordinary size will be stored to: a hint, harmless
   at any address. */
static inline void treering_prefetch(const void *p)
{
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch((const char *)p + 256, 1);
    __builtin_prefetch((const char *)p + 320, 1);
    __builtin_prefetch((const char *)p + 384, 1);
#else
    (void)p;
#endif
}

#endif
