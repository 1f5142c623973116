/* int8 convolution in portable C: any kernel, stride, dilation and number of groups. Exact to LiteRT's reference. */
#include "embarq_kernels.h"
#include "fixed.h"
#include "window.h"

/* Sum of one output value over the taps that lie inside the image; padding stands for the zero point and adds nothing. */
static int32_t sum(const embarq_conv2d_s8_params *p, const int8_t *image, int32_t y, int32_t x, int32_t channel)
{
    const embarq_window *w = &p->window;
    const int32_t depth = w->in_c / p->groups;
    const int32_t group = channel / (w->out_c / p->groups);
    const int32_t top = embarq_origin(y, w->stride_h, w->pad_top), left = embarq_origin(x, w->stride_w, w->pad_left);
    const embarq_taps rows = embarq_taps_inside(top, w->kernel_h, w->dilation_h, w->in_h);
    const embarq_taps columns = embarq_taps_inside(left, w->kernel_w, w->dilation_w, w->in_w);
    const int8_t *filter = p->weights + channel * w->kernel_h * w->kernel_w * depth;
    int32_t total = p->bias[channel];

    for (int32_t i = rows.first; i < rows.end; i++) {
        for (int32_t j = columns.first; j < columns.end; j++) {
            const int32_t pixel = (top + i * w->dilation_h) * w->in_w + left + j * w->dilation_w;
            const int8_t *in = image + pixel * w->in_c + group * depth;
            const int8_t *tap = filter + (i * w->kernel_w + j) * depth;
            for (int32_t c = 0; c < depth; c++) {
                total += (in[c] - p->input_zero_point) * tap[c];
            }
        }
    }
    return total;
}

void embarq_conv2d_s8(const void *params, const embarq_memory *memory)
{
    const embarq_conv2d_s8_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_requant *q = &p->requant;
    const int8_t *image = embarq_at(memory, p->input); /* [in_h][in_w][in_c] */
    int8_t *out = embarq_at(memory, p->output);        /* [out_h][out_w][out_c] */

    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * w->in_c) {
        for (int32_t y = 0; y < w->out_h; y++) {
            for (int32_t x = 0; x < w->out_w; x++) {
                for (int32_t c = 0; c < w->out_c; c++) {
                    const int32_t scaled = embarq_rescale(sum(p, image, y, x, c), q->mult[c], q->shift[c]);
                    *out++ = (int8_t)embarq_clamp(scaled + q->zero_point, q->low, q->high);
                }
            }
        }
    }
}
