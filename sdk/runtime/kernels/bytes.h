/* Copy and fill without the C library: what firmware needs is small, and rows are short. */
#ifndef EMBARQ_BYTES_H
#define EMBARQ_BYTES_H

#include <stddef.h>
#include <stdint.h>

/* The empty asm keeps compilers from turning the loops into calls of memcpy and memset. */
static inline void embarq_copy(void *to, const void *from, size_t count)
{
    uint8_t *out = to;
    const uint8_t *in = from;
#if defined(__ARM_FEATURE_UNALIGNED) || defined(__x86_64__) || defined(__aarch64__)
    for (; count >= 16; count -= 16, out += 16, in += 16) {
        uint32_t words[4];
        __builtin_memcpy(words, in, 16);
        __builtin_memcpy(out, words, 16);
        __asm__ volatile("" ::: "memory");
    }
#endif
#if defined(__ARM_FEATURE_UNALIGNED) || defined(__x86_64__) || defined(__aarch64__)
    for (; count >= 4; count -= 4, out += 4, in += 4) {
        uint32_t word;
        __builtin_memcpy(&word, in, 4);
        __builtin_memcpy(out, &word, 4);
        __asm__ volatile("" ::: "memory");
    }
#endif
    for (; count > 0; count--) {
        *out++ = *in++;
        __asm__ volatile("" ::: "memory");
    }
}

static inline void embarq_fill(void *to, uint8_t value, size_t count)
{
    uint8_t *out = to;
    for (; count > 0 && ((uintptr_t)out & 3u); count--) {
        *out++ = value;
    }
    for (; count >= 4; count -= 4, out += 4) {
        *(uint32_t *)(void *)out = value * UINT32_C(0x01010101);
        __asm__ volatile("" ::: "memory");
    }
    for (; count > 0; count--) {
        *out++ = value;
        __asm__ volatile("" ::: "memory");
    }
}

#endif
