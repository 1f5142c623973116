/* The inner loops of the int8 depthwise convolution on cores with DSP instructions.
 *
 * Four channels of one output row at a time. The input rows are unpacked once into columns, two rows in one word:
 *     V0..V3 = (upper row, lower row) of channels 0..3     for each pair of kernel rows
 *     Z0, Z1 = channels (0, 2) and (1, 3)                  for the last row of an odd kernel
 * so that every multiplication is a SMLAD of two taps, and a column serves all the windows it lies in. Columns in the
 * padding hold the zero point. Weights are doubled: the sums end at 2 A, what SMMLAR wants (see matrix_s8_dsp.h). */
#ifndef EMBARQ_DEPTHWISE_ROWS_S8_DSP_H
#define EMBARQ_DEPTHWISE_ROWS_S8_DSP_H

#include "embarq_kernels.h"

#if defined(__ARM_FEATURE_DSP)

/* Unpack `count` columns of three rows, `step` bytes apart, as V0 V1 V2 V3 Z0 Z1 each. */
void embarq_columns3_s8(const int8_t *upper, const int8_t *middle, const int8_t *lower, uint32_t *columns, int32_t count, int32_t step);

/* Unpack a pair of rows with steps of their own (0 repeats one word) into V0..V3 every `next` bytes. */
void embarq_columns2_s8(const int8_t *upper, const int8_t *lower, int32_t upper_step, uint32_t *columns, int32_t count, int32_t lower_step,
                        int32_t next);

/* Unpack a single row into Z0 Z1 every `next` bytes. */
void embarq_columns1_s8(const int8_t *row, int32_t step, uint32_t *columns, int32_t count, int32_t next);

/* One output row of a 3x3 kernel: columns V0 V1 V2 V3 Z0 Z1; pixels start every `step` bytes until `end`.
 * stream: 4 starts, per kernel column 4 V and 2 Z words, then mult, c, e of each channel. */
typedef void embarq_row3x3(const uint32_t *columns, const int32_t *stream, int8_t *out, int32_t out_step, int32_t step, const uint32_t *end);
embarq_row3x3 embarq_row3x3_s8;      /* any activation */
embarq_row3x3 embarq_row3x3_s8_relu; /* output low limit >= zero point */

/* One output row of any kernel. stream: 4 starts, all V words, all Z words, mult, c, e of each channel. */
typedef struct {
    const int32_t *stream;
    int8_t *out;
    int32_t out_step;
    const uint32_t *pairs; /* V words of the first window */
    int32_t pair_bytes;    /* V words of a window; 0 for a kernel of one row */
    int32_t pair_step;
    const uint32_t *single; /* Z words of the first window */
    int32_t single_bytes;   /* 0 for a kernel with an even number of rows */
    int32_t single_step;
    int32_t count; /* output pixels */
} embarq_row;
void embarq_row_s8(embarq_row *row);
void embarq_row_s8_relu(embarq_row *row);

#endif
#endif
