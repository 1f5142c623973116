/* A model that learns, written by hand: one dense layer on int8 inputs, softmax and cross-entropy, plain gradient descent.
 *
 * Four steps: the input as real values, the scores, loss and gradient, the update. The first two alone are the inference.
 */
#ifndef LEARNER_MODEL_H
#define LEARNER_MODEL_H

#include "embarq_training.h"

#define LEARNER_INPUTS 40
#define LEARNER_CLASSES 3
#define LEARNER_ARENA 1024

extern const embarq_training learner_training;
extern const embarq_model learner_inference; /* that of learner_training */

#endif
