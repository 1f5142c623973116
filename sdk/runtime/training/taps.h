/* Depthwise sums, eight channels side by side: what a depthwise convolution, its input's gradient and its weights' gradient come down to.
 *
 * out[c] = base[c] + sum over rows and columns of x[c] * w[c], c in 0..channels-1: x and w start at the first row and column and move by their steps.
 * Forward x are pixels under the window and w its taps; for a weight's gradient both are images. */
#ifndef EMBARQ_TAPS_H
#define EMBARQ_TAPS_H

#include "tile.h"

enum { EMBARQ_LANES = 8, EMBARQ_LANES_BLOCK = 64 }; /* channels summed at once; channels whose int8 taps are turned into floats at once */

/* The order of the members is known to the assembly. Steps are in bytes. */
typedef struct {
    const float *x, *w;
    int32_t rows, columns;
    int32_t x_step, w_step, x_row, w_row;
    const float *base; /* NULL: zeros */
    float *out;
    int32_t high; /* 0: no activation, else the bits of the float that out is kept in [0, high] by */
    int32_t channels;
} embarq_taps_sum;

void embarq_sum_taps(const embarq_taps_sum *sum);

/* Along one axis: which places meet, when window number `out` has its tap `tap` at out * stride - pad + tap * dilation. */
typedef struct {
    int32_t first, count; /* taps (of an output, of an input) or outputs (of a tap) */
    int32_t tap_step;     /* from one to the next, in taps */
    int32_t place, place_step; /* the other image's row or column */
} embarq_meeting;

/* Taps of output `out` that lie inside [0, size); place: in the input. */
embarq_meeting embarq_taps_of_output(int32_t out, int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t size);

/* Taps through which input `in` went to outputs inside [0, size); place: the output. */
embarq_meeting embarq_taps_of_input(int32_t in, int32_t kernel, int32_t stride, int32_t dilation, int32_t pad, int32_t size);

/* Outputs of [0, outs) whose tap `tap` lies inside [0, size); place: the input of the first. */
embarq_meeting embarq_outputs_of_tap(int32_t tap, int32_t outs, int32_t stride, int32_t dilation, int32_t pad, int32_t size);

/* Depthwise weights of some channels as floats: tap (i, j) at w + i * row + j * step. */
typedef struct {
    const float *w;
    int32_t step, row;
} embarq_lanes;

/* Of channels from c, at most EMBARQ_LANES_BLOCK: float weights where they lie, int8 ones in scratch float[kernel_h * kernel_w * count]. */
embarq_lanes embarq_lanes_of(const embarq_view *view, const embarq_window *window, int32_t c, int32_t count, float *scratch);

#endif
