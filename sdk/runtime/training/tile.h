/* Products of nine pixels with weights: what convolutions, their gradients and the fused head share. */
#ifndef EMBARQ_TILE_H
#define EMBARQ_TILE_H

#include "embarq_kernels.h"
#include "sums.h"

/* Weights at hand: one of s8 and f32 is not NULL. scales: of the channels of the result or of the depth, as the user of them knows; NULL: all 1. */
typedef struct {
    const int8_t *s8;
    const float *f32;
    const float *scales;
} embarq_view;

static inline embarq_view embarq_view_of(const embarq_memory *memory, const embarq_weights *weights)
{
    const void *values = embarq_source_at(memory, &weights->values);
    const embarq_view view = {weights->scales ? values : 0, weights->scales ? 0 : values, weights->scales};
    return view;
}

static inline float embarq_view_at(const embarq_view *view, int32_t index)
{
    return view->s8 ? (float)view->s8[index] : view->f32[index];
}

/* columns[k][p] = pixels[p][k] for k in [0, depth), 0 where pixels[p] is NULL; times scales[k] where that is not NULL */
void embarq_columns(const float *const pixels[EMBARQ_TILE], int32_t depth, const float *scales, float *columns);

/* out[p][n] = base[p][n] + scale[n] * sum over k of columns[k][p] * weight[first + k * step_k + n * step_n], p < pixels, n < channels */
typedef struct {
    const float *columns; /* [depth][9] */
    int32_t depth;
    embarq_view view;
    int32_t first, step_k, step_n;
    const float *scales; /* [channels], NULL: 1 */
    const float *base;   /* a pixel's channels side by side, base_step from pixel to pixel */
    float *out;
    int32_t base_step, out_step;
    int32_t channels, pixels;
    int32_t high; /* as in embarq_pair */
} embarq_product;

void embarq_multiply(const embarq_product *product);

/* out = add, or zeros where that is NULL. From the front: add may lie where out lies, or anywhere behind its start. */
static inline void embarq_start_with(float *out, const float *add, int32_t count)
{
    for (int32_t i = 0; out != add && i < count; i++) {
        out[i] = add ? add[i] : 0.0f;
    }
}

/* The bits of the upper end of an activation: 0 without one (low is not 0), else those of `high`. */
static inline int32_t embarq_high_bits(float low, float high)
{
    union {
        float value;
        int32_t bits;
    } end = {high};
    return low < 0.0f ? 0 : end.bits;
}

#endif
