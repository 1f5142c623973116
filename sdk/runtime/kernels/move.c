/* Kernels that move values and compute nothing: any element of 1, 2, 4 or 8 bytes. */
#include "bytes.h"
#include "embarq_kernels.h"

static void copy_item(uint8_t *to, const uint8_t *from, int32_t item)
{
    for (int32_t i = 0; i < item; i++) {
        to[i] = from[i];
    }
}

/* A strided copy; strides and offsets in bytes. */
static void copy(const embarq_strided *s, const uint8_t *in, uint8_t *out)
{
    const int32_t last = EMBARQ_MOVE_DIMS - 1;
    int32_t index[EMBARQ_MOVE_DIMS] = {0};
    const uint8_t *from = in + s->in_offset;
    uint8_t *to = out + s->out_offset;
    const int whole = s->in_stride[last] == s->item && s->out_stride[last] == s->item;

    for (;;) {
        if (whole) {
            embarq_copy(to, from, (size_t)(s->shape[last] * s->item));
        } else {
            for (int32_t i = 0; i < s->shape[last]; i++) {
                copy_item(to + i * s->out_stride[last], from + i * s->in_stride[last], s->item);
            }
        }
        int32_t d = last - 1;
        for (; d >= 0; d--) { /* the next index, like an odometer */
            from += s->in_stride[d];
            to += s->out_stride[d];
            if (++index[d] < s->shape[d]) {
                break;
            }
            from -= s->shape[d] * s->in_stride[d];
            to -= s->shape[d] * s->out_stride[d];
            index[d] = 0;
        }
        if (d < 0) {
            return;
        }
    }
}

/* transpose, slice, tile */
void embarq_copy_strided(const void *params, const embarq_memory *memory)
{
    const embarq_copy_params *p = params;
    copy(&p->strided, embarq_source_at(memory, &p->input), embarq_at(memory, p->output));
}

void embarq_pad(const void *params, const embarq_memory *memory)
{
    const embarq_pad_params *p = params;
    uint8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->count; i++) {
        copy_item(out + i * p->strided.item, p->value, p->strided.item);
    }
    copy(&p->strided, embarq_source_at(memory, &p->input), out);
}

void embarq_concat(const void *params, const embarq_memory *memory)
{
    const embarq_concat_params *p = params;
    uint8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->outer; i++) {
        for (int32_t n = 0; n < p->count; n++) {
            const uint8_t *in = embarq_source_at(memory, &p->parts[n].input);
            const size_t bytes = (size_t)p->parts[n].bytes;
            embarq_copy(out, in + (size_t)i * bytes, bytes);
            out += bytes;
        }
    }
}

void embarq_gather(const void *params, const embarq_memory *memory)
{
    const embarq_gather_params *p = params;
    const uint8_t *in = embarq_source_at(memory, &p->input);
    const int32_t *indices = embarq_source_at(memory, &p->indices);
    uint8_t *out = embarq_at(memory, p->output);
    for (int32_t i = 0; i < p->outer; i++, in += p->axis * p->inner_bytes) {
        for (int32_t n = 0; n < p->count; n++, out += p->inner_bytes) {
            int32_t index = indices[n * p->index_words];
            index = index < 0 ? 0 : index >= p->axis ? p->axis - 1 : index; /* a bad index stays inside the tensor */
            embarq_copy(out, in + index * p->inner_bytes, (size_t)p->inner_bytes);
        }
    }
}

/* rows[out_h] and columns[out_w]: which input row and column each output one is */
void embarq_resize_nearest(const void *params, const embarq_memory *memory)
{
    const embarq_resize_nearest_params *p = params;
    const uint8_t *image = embarq_at(memory, p->input);
    uint8_t *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < p->batch; n++, image += p->in_h * p->in_w * p->pixel_bytes) {
        for (int32_t y = 0; y < p->out_h; y++) {
            for (int32_t x = 0; x < p->out_w; x++, out += p->pixel_bytes) {
                embarq_copy(out, image + (p->rows[y] * p->in_w + p->columns[x]) * p->pixel_bytes, (size_t)p->pixel_bytes);
            }
        }
    }
}
