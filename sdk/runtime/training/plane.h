/* One channel of an image with its padding around it: depthwise kernels work on it without looking at borders. */
#ifndef EMBARQ_PLANE_H
#define EMBARQ_PLANE_H

#include "embarq_kernels.h"
#include "tile.h"

enum { EMBARQ_TAPS = 9 };

/* Zeros everywhere. */
void embarq_plane_clear(float *plane, int32_t size);

/* Copy a channel [height][width], whose values lie `step` apart, to plane[top..][left..] of the given width. */
void embarq_plane_put(float *plane, int32_t plane_w, int32_t top, int32_t left, const float *image, int32_t height, int32_t width, int32_t step);

/* out[y][x] (values `step` apart) = limit(start + sum over taps of w[i][j] * plane[y * stride_h + i * dilation_h][x * stride_w + j * dilation_w]);
 * base: where not NULL, a value of the same shape as out that is added in start's place */
typedef struct {
    const float *plane;
    int32_t plane_w;
    int32_t out_h, out_w, kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w;
    int32_t w_step;    /* from tap to tap; negative: the kernel is turned around */
    float *out;
    const float *base;
    int32_t step;
    float start, low, high;
} embarq_correlation;

/* Taps w[i * kernel_w + j] are real(view, first + (i * kernel_w + j) * w_step) * scale. */
void embarq_correlate(const embarq_correlation *c, const embarq_view *view, int32_t first, float scale);

#endif
