/* embarq: what a compiled model looks like to C code.
 *
 * Nothing here allocates. A model says how many bytes it wants in each memory region (arena_bytes); the caller lends
 * them through embarq_memory and keeps them for as long as the model is used. Everything else is constant data.
 */
#ifndef EMBARQ_H
#define EMBARQ_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EMBARQ_ABI 1u     /* raised when a struct below changes */
#define EMBARQ_REGIONS 4u /* memory regions one model can spread over */
#define EMBARQ_RANK 6u    /* most dimensions a model's input or output may have */

/* A place in the lent memory: region in the top 4 bits, byte offset in the low 28. */
typedef uint32_t embarq_ref;

#define EMBARQ_REF(region, offset) (((embarq_ref)(region) << 28) | (embarq_ref)(offset))

typedef struct {
    uint8_t *base[EMBARQ_REGIONS]; /* base[r]: at least arena_bytes[r] bytes, aligned to 16; NULL where that is 0 */
} embarq_memory;

static inline void *embarq_at(const embarq_memory *memory, embarq_ref ref)
{
    return memory->base[ref >> 28] + (ref & 0x0fffffffu);
}

/* One kernel call. `params` is the kernel's own parameter struct (embarq_kernels.h), constant and complete. */
typedef void (*embarq_kernel)(const void *params, const embarq_memory *memory);

typedef struct {
    embarq_kernel run;
    const void *params;
    embarq_ref output;     /* what the step writes */
    uint32_t output_bytes;
} embarq_step;

typedef enum {
    EMBARQ_FLOAT32 = 0,
    EMBARQ_INT8 = 1,
    EMBARQ_UINT8 = 2,
    EMBARQ_INT16 = 3,
    EMBARQ_INT32 = 4,
    EMBARQ_INT64 = 5,
    EMBARQ_BOOL = 6
} embarq_dtype;

/* real = scale * (q - zero_point); scale is 0 where the tensor is not quantised. */
typedef struct {
    const char *name;
    embarq_ref ref;
    uint32_t size_bytes;
    uint8_t dtype; /* embarq_dtype */
    uint8_t rank;
    int32_t shape[EMBARQ_RANK];
    float scale;
    int32_t zero_point;
} embarq_tensor;

typedef struct {
    uint32_t abi; /* EMBARQ_ABI of the code that was generated */
    const char *name;
    const uint8_t *id; /* 32 bytes: SHA-256 of the plan this code was generated from */
    uint32_t arena_bytes[EMBARQ_REGIONS];
    const embarq_tensor *inputs;
    const embarq_tensor *outputs;
    const embarq_step *steps;
    uint16_t input_count;
    uint16_t output_count;
    uint16_t step_count;
} embarq_model;

/* Run every step in order. Inputs must have been written to their refs; outputs stand at theirs afterwards. */
static inline void embarq_run(const embarq_model *model, const embarq_memory *memory)
{
    for (uint16_t i = 0; i < model->step_count; i++) {
        model->steps[i].run(model->steps[i].params, memory);
    }
}

#ifdef __cplusplus
}
#endif
#endif
