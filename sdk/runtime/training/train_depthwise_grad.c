/* Gradient of a depthwise convolution's input: sixty-four channels at a time, pixel by pixel, only taps through which the pixel went somewhere. */
#include "taps.h"

void embarq_train_depthwise_grad(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_grad_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_view view = embarq_view_of(memory, &p->weights);
    const int32_t channels = w->in_c, item = channels * 4;
    const float *add = p->has_add ? embarq_at(memory, p->add) : 0;

    if (add) {
        embarq_start_with(embarq_at(memory, p->output), add, w->batch * w->in_h * w->in_w * channels);
    }
    for (int32_t c = 0; c < channels; c += EMBARQ_LANES_BLOCK) {
        const int32_t count = channels - c < EMBARQ_LANES_BLOCK ? channels - c : EMBARQ_LANES_BLOCK;
        const embarq_lanes taps = embarq_lanes_of(&view, w, c, count, embarq_at(memory, p->scratch));
        const float *dy = (const float *)embarq_at(memory, p->input) + c;
        float *out = (float *)embarq_at(memory, p->output) + c;
        for (int32_t row = 0; row < w->batch * w->in_h; row++) {
            const int32_t n = row / w->in_h;
            const embarq_meeting down = embarq_taps_of_input(row - n * w->in_h, w->kernel_h, w->stride_h, w->dilation_h, w->pad_top, w->out_h);
            const float *line = dy + (n * w->out_h + down.place) * w->out_w * channels;
            for (int32_t x = 0; x < w->in_w; x++, out += channels) {
                const embarq_meeting across = embarq_taps_of_input(x, w->kernel_w, w->stride_w, w->dilation_w, w->pad_left, w->out_w);
                const embarq_taps_sum sum = {
                    line + across.place * channels, taps.w + down.first * taps.row + across.first * taps.step, down.count, across.count,
                    across.place_step * item, across.tap_step * taps.step * 4, down.place_step * w->out_w * item, down.tap_step * taps.row * 4,
                    add ? out : 0, out, 0, count,
                };
                embarq_sum_taps(&sum);
            }
        }
    }
}
