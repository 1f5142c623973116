/* Masks: bit i is bit i % 8 of byte i / 8. */
#ifndef EMBARQ_BITS_H
#define EMBARQ_BITS_H

#include <stdint.h>

/* `count` <= 24 bits from number `first` on, the first lowest. Bytes that hold none of them are not read. */
static inline uint32_t embarq_bits(const uint8_t *mask, int32_t first, int32_t count)
{
    const int32_t shift = first & 7, end = shift + count;
    const uint8_t *at = mask + (first >> 3);
    uint32_t value = at[0];
    if (end > 8) {
        value |= (uint32_t)at[1] << 8;
    }
    if (end > 16) {
        value |= (uint32_t)at[2] << 16;
    }
    if (end > 24) {
        value |= (uint32_t)at[3] << 24;
    }
    return value >> shift & ((1u << count) - 1u);
}

/* Set those of `count` <= 24 bits from number `first` on that are 1 in `bits`. */
static inline void embarq_set_bits(uint8_t *mask, int32_t first, int32_t count, uint32_t bits)
{
    const int32_t shift = first & 7;
    uint8_t *at = mask + (first >> 3);
    bits <<= shift;
    for (int32_t left = shift + count; left > 0; left -= 8, bits >>= 8) {
        *at++ |= (uint8_t)bits;
    }
}

static inline int32_t embarq_ones(uint32_t bits)
{
    int32_t total = 0;
    for (; bits; bits &= bits - 1u) {
        total++;
    }
    return total;
}

/* 0 < value < high, for the bits of floats, high above 0: floats that are not negative are in the order of their bits, and 0 - 1 is above them all. */
static inline uint32_t embarq_is_open(uint32_t value, uint32_t high)
{
    return value - 1u < high - 1u;
}

#endif
