/* Gradient of a convolution's input: nine input pixels at a time, tap by tap; the depth of the sums is the output channels. */
#include "tile.h"

/* The output pixel that tap (i, j) of input pixel `index` went to; NULL where there is none. */
static const float *output_pixel(const embarq_window *w, const float *dy, int32_t index, int32_t i, int32_t j)
{
    const int32_t row = index / w->in_w, x = index - row * w->in_w, n = row / w->in_h, y = row - n * w->in_h;
    const int32_t down = y + w->pad_top - i * w->dilation_h, right = x + w->pad_left - j * w->dilation_w;
    if (down < 0 || right < 0 || down % w->stride_h || right % w->stride_w || down / w->stride_h >= w->out_h || right / w->stride_w >= w->out_w) {
        return 0;
    }
    return dy + ((n * w->out_h + down / w->stride_h) * w->out_w + right / w->stride_w) * w->out_c;
}

typedef struct {
    const embarq_train_conv2d_grad_params *p;
    embarq_view view;
    const float *dy;
    float *columns;
    int32_t first, count; /* input pixels of this tile */
    float *out;           /* [count][in_c] */
} work;

/* Add what came through one tap. */
static void add_tap(const work *k, int32_t tap)
{
    const embarq_window *w = &k->p->window;
    const int32_t step = w->kernel_h * w->kernel_w * w->in_c;
    const float *pixels[EMBARQ_TILE] = {0};
    int any = 0;
    for (int32_t p = 0; p < k->count; p++) {
        pixels[p] = output_pixel(w, k->dy, k->first + p, tap / w->kernel_w, tap % w->kernel_w);
        any |= pixels[p] != 0;
    }
    for (int32_t c = 0; any && c < w->out_c; c += k->p->chunk) {
        const int32_t count = w->out_c - c < k->p->chunk ? w->out_c - c : k->p->chunk;
        const embarq_product product = {
            k->columns, count, k->view, c * step + tap * w->in_c, step, 1, 0, k->out, k->out, w->in_c, w->in_c, w->in_c, k->count, 0,
        };
        embarq_columns(pixels, count, k->view.scales ? k->view.scales + c : 0, k->columns);
        embarq_multiply(&product);
        for (int32_t p = 0; p < k->count; p++) {
            pixels[p] = pixels[p] ? pixels[p] + count : 0;
        }
    }
}

void embarq_train_conv2d_grad(const void *params, const embarq_memory *memory)
{
    const embarq_train_conv2d_grad_params *p = params;
    const embarq_window *w = &p->window;
    const int32_t pixels = w->batch * w->in_h * w->in_w, taps = w->kernel_h * w->kernel_w;
    const float *add = p->has_add ? embarq_at(memory, p->add) : 0;
    work k = {p, embarq_view_of(memory, &p->weights), embarq_at(memory, p->input), embarq_at(memory, p->scratch), 0, 0, embarq_at(memory, p->output)};

    embarq_start_with(k.out, add, pixels * w->in_c);
    for (; k.first < pixels; k.first += EMBARQ_TILE, k.out += EMBARQ_TILE * w->in_c) {
        k.count = pixels - k.first < EMBARQ_TILE ? pixels - k.first : EMBARQ_TILE;
        for (int32_t tap = 0; tap < taps; tap++) {
            add_tap(&k, tap);
        }
    }
}
