/* The loop in which training spends its time: nine pixels by two channels.
 *
 * out[p][n] = base[p][n] + scale[n] * sum over k of x[k][p] * w[k][n], p < pixels <= 9, n in 0..1. Forward k is an input channel and n an output
 * channel, backward the other way round: the same weights, the two steps exchanged. int8 weights are numbers as they stand. */
#ifndef EMBARQ_SUMS_H
#define EMBARQ_SUMS_H

#include <stdint.h>

enum { EMBARQ_TILE = 9, EMBARQ_PAIR = 2 };

/* The order of the members is known to the assembly. Steps are in bytes. */
typedef struct {
    const float *x, *end;     /* [depth][9] */
    const void *w;
    int32_t step_k, step_n;   /* from weight to weight */
    const float *base;
    float *out;
    int32_t base_step, out_step; /* from pixel to pixel */
    float scale[EMBARQ_PAIR];
    int32_t pixels;           /* 1..9 */
    int32_t high;             /* 0: no activation, else the bits of the float that out is kept in [0, high] by */
} embarq_pair;

void embarq_pair_s8(const embarq_pair *pair);
void embarq_pair_f32(const embarq_pair *pair);

#endif
