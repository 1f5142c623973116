/* Images of another size: four neighbours blended, in 1/1024 pixel for integers. Places and shares come from the host. */
#include "embarq_kernels.h"
#include "values.h"

void embarq_resize_bilinear_int(const void *params, const embarq_memory *memory)
{
    const embarq_resize_bilinear_int_params *p = params;
    const void *in = embarq_at(memory, p->input);
    void *out = embarq_at(memory, p->output);
    int32_t next = 0;
    for (int32_t n = 0; n < p->batch; n++) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const int32_t top = (n * p->in_h + p->top[y]) * p->in_w, bottom = (n * p->in_h + p->bottom[y]) * p->in_w;
            for (int32_t x = 0; x < p->out_w; x++) {
                const int32_t dy = p->down[y], dx = p->across[x];
                for (int32_t c = 0; c < p->channels; c++) {
                    int64_t total = (int64_t)embarq_load(in, (top + p->left[x]) * p->channels + c, p->item) * (1024 - dy) * (1024 - dx);
                    total += (int64_t)embarq_load(in, (bottom + p->left[x]) * p->channels + c, p->item) * dy * (1024 - dx);
                    total += (int64_t)embarq_load(in, (top + p->right[x]) * p->channels + c, p->item) * (1024 - dy) * dx;
                    total += (int64_t)embarq_load(in, (bottom + p->right[x]) * p->channels + c, p->item) * dy * dx;
                    const int64_t half = total > 0 ? 1 << 19 : -(1 << 19);
                    embarq_store(out, next++, p->item, (int32_t)((total + half) / (1 << 20)));
                }
            }
        }
    }
}

void embarq_resize_bilinear_f32(const void *params, const embarq_memory *memory)
{
    const embarq_resize_bilinear_f32_params *p = params;
    const float *in = embarq_at(memory, p->input);
    float *out = embarq_at(memory, p->output);
    for (int32_t n = 0; n < p->batch; n++) {
        for (int32_t y = 0; y < p->out_h; y++) {
            const float *top = in + (n * p->in_h + p->top[y]) * p->in_w * p->channels;
            const float *bottom = in + (n * p->in_h + p->bottom[y]) * p->in_w * p->channels;
            for (int32_t x = 0; x < p->out_w; x++) {
                const float dy = p->down[y], dx = p->across[x];
                const int32_t left = p->left[x] * p->channels, right = p->right[x] * p->channels;
                for (int32_t c = 0; c < p->channels; c++) {
                    float total = top[left + c] * (1.0f - dy) * (1.0f - dx);
                    total = total + bottom[left + c] * dy * (1.0f - dx);
                    total = total + top[right + c] * (1.0f - dy) * dx;
                    *out++ = total + bottom[right + c] * dy * dx;
                }
            }
        }
    }
}
