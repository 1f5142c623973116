/* Depthwise convolution in float: sixty-four channels at a time, pixel by pixel, only taps that lie in the image. */
#include "taps.h"

void embarq_train_depthwise(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_view view = embarq_view_of(memory, &p->weights);
    const float *bias = embarq_source_at(memory, &p->bias);
    const int32_t channels = w->in_c, item = channels * 4;

    for (int32_t c = 0; c < channels; c += EMBARQ_LANES_BLOCK) {
        const int32_t count = channels - c < EMBARQ_LANES_BLOCK ? channels - c : EMBARQ_LANES_BLOCK;
        const embarq_lanes taps = embarq_lanes_of(&view, w, c, count, embarq_at(memory, p->scratch));
        const float *image = (const float *)embarq_at(memory, p->input) + c;
        float *out = (float *)embarq_at(memory, p->output) + c;
        for (int32_t row = 0; row < w->batch * w->out_h; row++) {
            const int32_t n = row / w->out_h;
            const embarq_meeting down = embarq_taps_of_output(row - n * w->out_h, w->kernel_h, w->stride_h, w->dilation_h, w->pad_top, w->in_h);
            const float *line = image + (n * w->in_h + down.place) * w->in_w * channels;
            for (int32_t x = 0; x < w->out_w; x++, out += channels) {
                const embarq_meeting across = embarq_taps_of_output(x, w->kernel_w, w->stride_w, w->dilation_w, w->pad_left, w->in_w);
                const embarq_taps_sum sum = {
                    line + across.place * channels, taps.w + down.first * taps.row + across.first * taps.step, down.count, across.count,
                    across.place_step * item, taps.step * 4, down.place_step * w->in_w * item, taps.row * 4, bias + c, out,
                    embarq_high_bits(p->low, p->high), count,
                };
                embarq_sum_taps(&sum);
            }
        }
    }
}
