/* Where a window lies in the image: shared by convolutions and pools. */
#ifndef EMBARQ_WINDOW_H
#define EMBARQ_WINDOW_H

#include "embarq_kernels.h"

/* Taps [first, end) of a window of `kernel` taps whose tap 0 lies at `origin` that fall inside [0, size). */
typedef struct {
    int32_t first, end;
} embarq_taps;

static inline embarq_taps embarq_taps_inside(int32_t origin, int32_t kernel, int32_t dilation, int32_t size)
{
    embarq_taps taps = {0, kernel};
    while (taps.first < kernel && origin + taps.first * dilation < 0) {
        taps.first++;
    }
    while (taps.end > taps.first && origin + (taps.end - 1) * dilation >= size) {
        taps.end--;
    }
    return taps;
}

static inline int32_t embarq_origin(int32_t out, int16_t stride, int16_t pad)
{
    return out * stride - pad;
}

#endif
