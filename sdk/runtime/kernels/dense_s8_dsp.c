/* int8 fully connected layer on cores with DSP instructions: one input vector times four channels at a time, no scratch. */
#include "bytes.h"
#include "limits_s8_dsp.h"
#include "matrix_s8_dsp.h"

#if defined(__ARM_FEATURE_DSP)

enum { GROUP = 4 };

static void row(const embarq_dense_s8_dsp_params *p, const int8_t *in, int8_t *out, embarq_mat1x4 *multiply)
{
    const int32_t quads = (p->depth + 3) / 4, groups = p->channels / GROUP;
    const int8_t *end = in + quads * 4;
    if (groups > 0) {
        multiply(p->stream, in, end, out);
    }
    if (p->channels % GROUP) {
        int8_t last[GROUP];
        multiply(p->stream + groups * (16 + 4 * quads), in, end, last);
        embarq_copy(out + groups * GROUP, last, (size_t)(p->channels % GROUP));
    }
    if (p->low > INT8_MIN || p->high < INT8_MAX) {
        embarq_limit_s8(out, p->channels, p->low, p->high);
    }
}

static void run(const embarq_dense_s8_dsp_params *p, const embarq_memory *memory, embarq_mat1x4 *multiply)
{
    const int8_t *in = embarq_at(memory, p->input); /* [rows][depth] */
    int8_t *out = embarq_at(memory, p->output);     /* [rows][channels] */
    int8_t *whole = embarq_at(memory, p->scratch);  /* [depth rounded up to 4] */

    for (int32_t i = 0; i < p->rows; i++, in += p->depth, out += p->channels) {
        if (p->depth % 4) { /* the block reads whole words: not beyond the input, whose end may be the memory's */
            embarq_copy(whole, in, (size_t)p->depth);
        }
        row(p, p->depth % 4 ? whole : in, out, multiply);
    }
}

void embarq_dense_s8_dsp(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat1x4_s8);
}

void embarq_dense_s8_dsp_relu(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat1x4_s8_relu);
}

void embarq_dense_s8_dsp_once(const void *params, const embarq_memory *memory)
{
    run(params, memory, embarq_mat1x4_s8_once);
}

#endif
