/* int8 average pooling on cores with DSP instructions: four channels at a time in two words of two 16-bit sums. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

#if defined(__ARM_FEATURE_DSP)

/* to the nearest, halves away from zero */
static int32_t divide(int32_t total, int32_t count)
{
    return (total >= 0 ? total + count / 2 : total - count / 2) / count;
}

/* Sums of `count` pixels, `step` bytes apart: channels 0 and 2 in even, 1 and 3 in odd. */
static void add_row(const int8_t *in, int32_t count, int32_t step, uint32_t *even, uint32_t *odd)
{
    uint32_t a = *even, b = *odd;
    for (int32_t i = 0; i < count; i++, in += step) {
        uint32_t word;
        __builtin_memcpy(&word, in, 4);
        __asm__("sxtab16 %0, %0, %2\n\tsxtab16 %1, %1, %2, ror #8" : "+r"(a), "+r"(b) : "r"(word));
    }
    *even = a;
    *odd = b;
}

static void pixel(const embarq_pool_int_params *p, const int8_t *corner, embarq_taps rows, embarq_taps columns, int8_t *out)
{
    const embarq_window *w = &p->window;
    const int32_t width = columns.end - columns.first, count = (rows.end - rows.first) * width, line = w->in_w * w->in_c;
    for (int32_t c = 0; c < w->in_c; c += 4) {
        const int8_t *in = corner + rows.first * line + columns.first * w->in_c + c;
        uint32_t even = 0, odd = 0;
        for (int32_t i = rows.first; i < rows.end; i++, in += line) {
            add_row(in, width, w->in_c, &even, &odd);
        }
        const int32_t sums[4] = {(int16_t)even, (int16_t)odd, (int16_t)(even >> 16), (int16_t)(odd >> 16)};
        for (int32_t i = 0; i < 4; i++) {
            out[c + i] = (int8_t)embarq_clamp(divide(sums[i], count), p->low, p->high);
        }
    }
}

void embarq_avg_pool_s8_dsp(const void *params, const embarq_memory *memory)
{
    const embarq_pool_int_params *p = params;
    const embarq_window *w = &p->window;
    const int8_t *image = embarq_at(memory, p->input);
    int8_t *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->in_c) {
                const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
                const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, 1, w->in_h);
                const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, 1, w->in_w);
                pixel(p, image + (top * w->in_w + left) * w->in_c, rows, columns, out);
            }
        }
    }
}

#endif
