/* The learner as a firmware's model: what the generated bind.c is for a compiled one that learns. */
#include "embarq_bridge.h"
#include "learner.h"

static uint8_t arena_0[LEARNER_ARENA] __attribute__((section(".arena_0"), aligned(16)));

extern const embarq_model *const embarq_the_model;
extern const embarq_memory embarq_the_memory;
extern const embarq_training *const embarq_the_training;
extern const embarq_learning *const embarq_the_learning;
extern const embarq_learning embarq_learning_here;
const embarq_model *const embarq_the_model = &learner_inference;
const embarq_memory embarq_the_memory = {{arena_0, NULL, NULL, NULL}};
const embarq_training *const embarq_the_training = &learner_training;
const embarq_learning *const embarq_the_learning = &embarq_learning_here;
