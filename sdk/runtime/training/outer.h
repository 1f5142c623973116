/* g[a][b] = sum over `count` pixels of dy[pixel][a] * x[pixel][b], a and b in 0..3: sixteen weights' gradients at a time, over
 * `lines` runs of `count` pixels. Steps in bytes. */
#ifndef EMBARQ_OUTER_H
#define EMBARQ_OUTER_H

#include <stdint.h>

enum { EMBARQ_BLOCK = 4 };

/* The order of the members is known to the assembly. */
typedef struct {
    int32_t x_step, dy_step; /* from pixel to pixel */
    int32_t x_line, dy_line; /* from behind the last pixel of a run to the first of the next */
    int32_t lines, count;    /* both at least 1 */
} embarq_runs;

void embarq_outer(const float *x, const float *dy, const embarq_runs *runs, float *g);

/* The same with fewer rows (of dy) and columns (of x) than four. */
void embarq_outer_part(const float *x, const float *dy, const embarq_runs *runs, int32_t rows, int32_t columns, float *g);

#endif
