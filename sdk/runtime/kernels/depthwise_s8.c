/* int8 depthwise convolution in portable C: any kernel, stride, dilation and channel multiplier. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

static void pixel(const embarq_depthwise_s8_params *p, const int8_t *image, int32_t y, int32_t x, int8_t *out)
{
    const embarq_window *w = &p->window;
    const embarq_requant *q = &p->requant;
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);

    for (int32_t c = 0; c < w->out_c; c++) {
        int32_t total = p->bias[c];
        for (int32_t i = rows.first; i < rows.end; i++) {
            for (int32_t j = columns.first; j < columns.end; j++) {
                const int32_t at = (top + i * w->dilation_h) * w->in_w + left + j * w->dilation_w;
                const int32_t value = image[at * w->in_c + c / p->multiplier] - p->input_zero_point;
                total += value * p->weights[(i * w->kernel_w + j) * w->out_c + c];
            }
        }
        out[c] = (int8_t)embarq_clamp(embarq_rescale(total, q->mult[c], q->shift[c]) + q->zero_point, q->low, q->high);
    }
}

void embarq_depthwise_s8(const void *params, const embarq_memory *memory)
{
    const embarq_depthwise_s8_params *p = params;
    const embarq_window *w = &p->window;
    const int8_t *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    int8_t *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++, out += w->out_c) {
                pixel(p, image, y, x, out);
            }
        }
    }
}
