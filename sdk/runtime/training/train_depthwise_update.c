/* A step of a depthwise convolution's weights: sixty-four channels at a time, tap by tap, over the outputs whose tap lies in the image. */
#include "learn.h"
#include "taps.h"

/* g[0..count) of tap (i, j) of channels from c */
static void gradient(const embarq_window *w, const float *x, const float *dy, int32_t i, int32_t j, int32_t count, float *g)
{
    const int32_t channels = w->in_c, item = channels * 4;
    const embarq_meeting down = embarq_outputs_of_tap(i, w->out_h, w->stride_h, w->dilation_h, w->pad_top, w->in_h);
    const embarq_meeting across = embarq_outputs_of_tap(j, w->out_w, w->stride_w, w->dilation_w, w->pad_left, w->in_w);
    for (int32_t c = 0; c < count; c++) {
        g[c] = 0.0f;
    }
    for (int32_t n = 0; across.count && n < w->batch; n++) {
        const embarq_taps_sum sum = {
            x + ((n * w->in_h + down.place) * w->in_w + across.place) * channels, dy + ((n * w->out_h + down.first) * w->out_w + across.first) * channels,
            down.count, across.count, across.place_step * item, item, down.place_step * w->in_w * item, w->out_w * item, g, g, 0, count,
        };
        embarq_sum_taps(&sum);
    }
}

void embarq_train_depthwise_update(const void *params, const embarq_memory *memory)
{
    const embarq_train_depthwise_update_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_learner learner = embarq_learner_of(memory, &p->learn);
    const float *x = embarq_at(memory, p->input), *dy = embarq_at(memory, p->dy);
    for (int32_t c = 0; c < w->in_c; c += EMBARQ_LANES_BLOCK) {
        const int32_t count = w->in_c - c < EMBARQ_LANES_BLOCK ? w->in_c - c : EMBARQ_LANES_BLOCK;
        for (int32_t tap = 0; tap < w->kernel_h * w->kernel_w; tap++) {
            float g[EMBARQ_LANES_BLOCK];
            gradient(w, x + c, dy + c, tap / w->kernel_w, tap % w->kernel_w, count, g);
            embarq_take_steps(&learner, tap * w->in_c + c, count, c, g);
        }
    }
}
