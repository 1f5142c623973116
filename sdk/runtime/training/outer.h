/* g[a][b] += sum over `count` pixels of dy[pixel][a] * x[pixel][b], a and b in 0..3: sixteen weights' gradients at a time. Steps in bytes. */
#ifndef EMBARQ_OUTER_H
#define EMBARQ_OUTER_H

#include <stdint.h>

enum { EMBARQ_BLOCK = 4 };

void embarq_outer(const float *x, const float *dy, int32_t x_step, int32_t dy_step, int32_t count, float *g);

#endif
