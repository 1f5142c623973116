/* The loopback model as a firmware's model: what the generated bind.c is for a compiled one. */
#include "embarq_bridge.h"
#include "model.h"

static uint8_t arena_0[LOOPBACK_SIZE] __attribute__((aligned(16))), arena_1[LOOPBACK_SIDE] __attribute__((aligned(16)));

extern const embarq_model *const embarq_the_model;
extern const embarq_memory embarq_the_memory;
const embarq_model *const embarq_the_model = &loopback_model;
const embarq_memory embarq_the_memory = {{arena_0, arena_1, NULL, NULL}};
extern const embarq_training *const embarq_the_training;
const embarq_training *const embarq_the_training = NULL;
extern const embarq_learning *const embarq_the_learning;
const embarq_learning *const embarq_the_learning = NULL;

void loopback_spend(uint32_t ticks)
{
    (void)ticks;
}
