/* Quantised values of 8 or 16 bits, for kernels whose arithmetic is 32 bits wide either way. */
#ifndef EMBARQ_VALUES_H
#define EMBARQ_VALUES_H

#include <stdint.h>

static inline int32_t embarq_load(const void *values, int32_t index, int32_t item)
{
    return item == 1 ? ((const int8_t *)values)[index] : ((const int16_t *)values)[index];
}

static inline void embarq_store(void *values, int32_t index, int32_t item, int32_t value)
{
    if (item == 1) {
        ((int8_t *)values)[index] = (int8_t)value;
    } else {
        ((int16_t *)values)[index] = (int16_t)value;
    }
}

#endif
