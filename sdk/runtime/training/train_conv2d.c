/* Convolution in float with an adapter: nine output pixels at a time, tap by tap, all channels. */
#include "tile.h"

typedef struct {
    const embarq_window *w;
    int32_t first, count; /* output pixels of this tile, raster order over the batch */
    float *columns;
    int32_t chunk;
    float *out;           /* [count][out_c] */
    const float *base;    /* what the next product is added to */
    int32_t base_step;
    int32_t high;         /* of the last product */
} work;

/* Where tap (i, j) of output pixel `index` lies in an image of `depth` channels; NULL outside. */
static const float *input_pixel(const embarq_window *w, const float *image, int32_t depth, int32_t index, int32_t i, int32_t j)
{
    const int32_t row = index / w->out_w, x = index - row * w->out_w, n = row / w->out_h, y = row - n * w->out_h;
    const int32_t top = y * w->stride_h - w->pad_top + i * w->dilation_h, left = x * w->stride_w - w->pad_left + j * w->dilation_w;
    if (top < 0 || top >= w->in_h || left < 0 || left >= w->in_w) {
        return 0;
    }
    return image + ((n * w->in_h + top) * w->in_w + left) * depth;
}

/* Add one image's part: all taps, all its channels. `last`: nothing follows, the activation applies. */
static void add_part(work *k, const float *image, int32_t depth, const embarq_view *view, int last)
{
    const embarq_window *w = k->w;
    const int32_t taps = w->kernel_h * w->kernel_w;
    for (int32_t tap = 0; tap < taps; tap++) {
        const float *pixels[EMBARQ_TILE] = {0};
        for (int32_t p = 0; p < k->count; p++) {
            pixels[p] = input_pixel(w, image, depth, k->first + p, tap / w->kernel_w, tap % w->kernel_w);
        }
        for (int32_t c = 0; c < depth; c += k->chunk) {
            const int32_t count = depth - c < k->chunk ? depth - c : k->chunk;
            const int end = last && tap == taps - 1 && c + count == depth;
            const embarq_product product = {
                k->columns, count, *view, tap * depth + c, 1, taps * depth, view->scales, k->base, k->out, k->base_step, w->out_c, w->out_c, k->count,
                end ? k->high : 0,
            };
            embarq_columns(pixels, count, 0, k->columns);
            embarq_multiply(&product);
            k->base = k->out;
            k->base_step = w->out_c;
            for (int32_t p = 0; p < k->count; p++) {
                pixels[p] = pixels[p] ? pixels[p] + count : 0;
            }
        }
    }
}

void embarq_train_conv2d(const void *params, const embarq_memory *memory)
{
    const embarq_train_conv2d_params *p = params;
    const embarq_window *w = &p->window;
    const embarq_view weights = embarq_view_of(memory, &p->weights), adapter = embarq_view_of(memory, &p->p);
    const float *image = embarq_at(memory, p->input); /* [batch][in_h][in_w][in_c] */
    const float *z = embarq_source_at(memory, &p->z); /* [batch][in_h][in_w][rank] */
    const int32_t pixels = w->batch * w->out_h * w->out_w;
    work k = {w, 0, 0, embarq_at(memory, p->scratch), p->chunk, embarq_at(memory, p->output), 0, 0, embarq_high_bits(p->low, p->high)};

    for (; k.first < pixels; k.first += EMBARQ_TILE, k.out += EMBARQ_TILE * w->out_c) {
        k.count = pixels - k.first < EMBARQ_TILE ? pixels - k.first : EMBARQ_TILE;
        k.base = embarq_source_at(memory, &p->bias);
        k.base_step = 0;
        add_part(&k, image, w->in_c, &weights, p->rank == 0);
        if (p->rank) {
            add_part(&k, z, p->rank, &adapter, 1);
        }
    }
}
