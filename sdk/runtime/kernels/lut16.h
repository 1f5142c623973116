/* A function of an int16 value by a table of 513 values and straight lines between them. */
#ifndef EMBARQ_LUT16_H
#define EMBARQ_LUT16_H

#include <stdint.h>

static inline int32_t embarq_lut16(const int16_t *table, int32_t x)
{
    const int32_t index = 256 + (x >> 7);
    const int16_t slope = (int16_t)(table[index + 1] - table[index]); /* wraps, as LiteRT's does */
    return table[index] + ((slope * (x & 0x7f) + 64) >> 7);
}

#endif
