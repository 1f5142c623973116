/* The loopback model and the one thing it asks of whoever hosts it. */
#ifndef LOOPBACK_MODEL_H
#define LOOPBACK_MODEL_H

#include "embarq.h"

#define LOOPBACK_SIZE 700 /* bytes of region 0: input 0 and output 0 */
#define LOOPBACK_SIDE 24  /* bytes of region 1: output 1, then input 1 at 16 */
#define LOOPBACK_STEPS 20

extern const embarq_model loopback_model;

/* A kernel says how long it took; a real board measures that itself and ignores it. */
void loopback_spend(uint32_t ticks);

#endif
