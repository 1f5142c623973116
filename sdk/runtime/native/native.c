/* A model as a shared library: what a program that loads it may call. Everything else in the library is hidden. */
#include "embarq.h"
#include "model.h"

#define EMBARQ_EXPORT __attribute__((visibility("default")))

EMBARQ_EXPORT const embarq_model *embarq_native_model(void);
EMBARQ_EXPORT void embarq_native_run(uint8_t *arena, uint32_t first, uint32_t end);

/* Sizes, inputs, outputs and steps; constant, and there as long as the library is loaded. */
const embarq_model *embarq_native_model(void)
{
    return &model_model;
}

/* Steps first to end - 1 in the lent arena: arena_bytes[0] bytes, aligned to 16. All of them are one inference. */
void embarq_native_run(uint8_t *arena, uint32_t first, uint32_t end)
{
    const embarq_memory memory = {{arena, 0, 0, 0}};

    for (uint32_t i = first; i < end; i++) {
        model_model.steps[i].run(model_model.steps[i].params, &memory);
    }
}
