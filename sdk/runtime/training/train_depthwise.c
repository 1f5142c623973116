/* Depthwise convolution in float: channel by channel, on a copy with its padding. */
#include "plane.h"

void embarq_train_depthwise(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_view view = embarq_view_of(memory, &p->weights);
    const float *image = embarq_at(memory, p->input), *bias = embarq_source_at(memory, &p->bias);
    float *out = embarq_at(memory, p->output), *plane = embarq_at(memory, p->scratch);
    const int32_t channels = w->in_c;

    embarq_plane_clear(plane, p->plane_h * p->plane_w);
    for (int32_t n = 0; n < w->batch; n++, image += w->in_h * w->in_w * channels, out += w->out_h * w->out_w * channels) {
        for (int32_t c = 0; c < channels; c++) {
            const embarq_correlation correlation = {
                plane, p->plane_w, w->out_h, w->out_w, w->kernel_h, w->kernel_w, w->stride_h, w->stride_w, w->dilation_h, w->dilation_w, channels,
                out + c, 0, channels, bias[c], p->low, p->high,
            };
            embarq_plane_put(plane, p->plane_w, w->pad_top, w->pad_left, image + c, w->in_h, w->in_w, channels);
            embarq_correlate(&correlation, &view, c, view.scales ? view.scales[c] : 1.0f);
        }
    }
}
