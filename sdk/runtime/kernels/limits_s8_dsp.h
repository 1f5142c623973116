/* Clamping int8 values to a range, four at a time. */
#ifndef EMBARQ_LIMITS_S8_DSP_H
#define EMBARQ_LIMITS_S8_DSP_H

#include "fixed.h"

#if defined(__ARM_FEATURE_DSP)

/* The smaller (or larger) of each of four int8: SSUB8 sets a flag a byte, SEL picks by it. */
static inline uint32_t embarq_pick4(uint32_t compare, uint32_t with, uint32_t when, uint32_t otherwise)
{
    uint32_t result;
    __asm__ volatile("ssub8 %0, %1, %2\n\tsel %0, %3, %4" : "=&r"(result) : "r"(compare), "r"(with), "r"(when), "r"(otherwise) : "cc");
    return result;
}

static inline void embarq_limit_s8(int8_t *values, int32_t count, int32_t low, int32_t high)
{
    const uint32_t lows = (uint8_t)low * UINT32_C(0x01010101), highs = (uint8_t)high * UINT32_C(0x01010101);
    for (; count >= 4; count -= 4, values += 4) {
        uint32_t word;
        __builtin_memcpy(&word, values, 4);
        word = embarq_pick4(word, lows, word, lows);
        word = embarq_pick4(highs, word, word, highs);
        __builtin_memcpy(values, &word, 4);
    }
    for (; count > 0; count--, values++) {
        *values = (int8_t)embarq_clamp(*values, low, high);
    }
}

#endif
#endif
