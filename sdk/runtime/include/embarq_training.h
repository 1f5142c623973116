/* embarq: what a model that learns on the device looks like to C code.
 *
 * A training step is a model like any other: its inputs are a sample and its label, its outputs the loss and the logits. What it learns are
 * variables: bytes of the arena that outlive a step. Whoever runs it sets them to their initial values first and keeps them where it likes.
 */
#ifndef EMBARQ_TRAINING_H
#define EMBARQ_TRAINING_H

#include "embarq.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name;
    embarq_ref ref;
    uint32_t size_bytes;
    const void *initial; /* size_bytes in flash; NULL: zeros */
} embarq_variable;

typedef struct {
    const embarq_model *step;      /* the whole training step: inputs x, label; outputs loss, logits */
    const embarq_model *inference; /* its first steps, down to the logits, in the same arena */
    const embarq_variable *variables;
    uint16_t variable_count;
    embarq_ref hyper; /* float[4]: learning rate, momentum, 0, 0 */
} embarq_training;

#ifdef __cplusplus
}
#endif
#endif
