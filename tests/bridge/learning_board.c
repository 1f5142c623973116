/* The bridge with the learner, compiled for this computer, and two slots of flash in an array: cells only lose ones until they are
 * erased, what is not erased cannot be programmed, and the power can go in the middle of any operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embarq_bridge.h"
#include "learner.h"

#define SLOT_MOST 4096u
#define OUT_SIZE (1u << 20)

static uint8_t arena[LEARNER_ARENA] __attribute__((aligned(16)));
static uint8_t lent[4096], out[OUT_SIZE], cells[2][SLOT_MOST];
static uint8_t *buffer = lent;
static size_t out_size;
static uint32_t now, operations, noise;
static int left = -1, off;
static embarq_bridge bridge;
static embarq_model step, inference;
static embarq_training training;
static const embarq_training *const learns = &training;
static const embarq_memory memory = {{arena, NULL, NULL, NULL}};
static embarq_training_state state;
static embarq_flash flash;

static uint8_t random_byte(void)
{
    noise = noise * 1664525u + 1013904223u;
    return (uint8_t)(noise >> 24);
}

/* 1: done, 0: cut in the middle, -1: nothing, the power is off. */
static int fate(void)
{
    if (off) {
        return -1;
    }
    if (left == 0) {
        off = 1;
        return 0;
    }
    left -= left > 0;
    operations++;
    return 1;
}

static uint8_t *cell(const uint8_t *at)
{
    return cells[0] + (at - cells[0]);
}

static int flash_read(const uint8_t *at, uint8_t *to, uint32_t size)
{
    memcpy(to, at, size);
    return off;
}

static int flash_erase(const uint8_t *at, uint32_t size)
{
    int done = fate();
    for (uint32_t i = 0; i < size && done >= 0; i++) {
        cell(at)[i] |= done ? 0xff : random_byte();
    }
    return done != 1;
}

static int flash_program(const uint8_t *at, const uint8_t *from, uint32_t size)
{
    uint32_t unit = flash.unit;
    if (size % unit != 0 || (size_t)(at - cells[0]) % unit != 0) {
        return 3;
    }
    for (uint32_t u = 0; u < size; u += unit) {
        int done = fate();
        for (uint32_t i = u; i < u + unit && done >= 0; i++) {
            if (at[i] != 0xff && done) {
                return 3;
            }
            cell(at)[i] &= done ? from[i] : (uint8_t)(from[i] | random_byte());
        }
        if (done != 1) {
            return 3;
        }
    }
    return 0;
}

static void take(void *context, const uint8_t *bytes, size_t count)
{
    (void)context;
    if (count <= OUT_SIZE - out_size && !off) {
        memcpy(out + out_size, bytes, count);
        out_size += count;
    }
}

static uint32_t ticks(void *context)
{
    (void)context;
    return ++now;
}

static void reset(void *context)
{
    (void)context;
}

static const embarq_learning learning = {embarq_training_begin, embarq_training_group, &learns, &state, &flash};

/* slot_bytes 0: no flash. */
void board_start(uint32_t buffer_size, uint32_t unit, uint32_t slot_bytes, uint32_t abi)
{
    embarq_bridge_config config = {.model = &inference, .memory = &memory, .buffer = buffer, .buffer_size = buffer_size, .write = take,
                                   .ticks = ticks, .ticks_hz = 1000000, .reset = reset, .learning = &learning};
    training = learner_training;
    step = *learner_training.step;
    inference = learner_inference;
    step.abi = inference.abi = abi;
    training.step = &step;
    training.inference = &inference;
    for (uint32_t k = 0; k < 2; k++) {
        flash.begin[k] = cells[k];
        flash.end[k] = cells[k] + slot_bytes;
    }
    flash.unit = unit;
    flash.read = flash_read;
    flash.erase = flash_erase;
    flash.program = flash_program;
    left = -1;
    off = 0;
    out_size = 0;
    memset(arena, 0xee, sizeof arena);
    memset(&state, 0xee, sizeof state);
    operations = 0;
    embarq_bridge_init(&bridge, &config);
}

void flash_clear(void)
{
    memset(cells, 0xff, sizeof cells);
}

void board_cut(int after, uint32_t seed)
{
    left = after;
    noise = seed;
}

int board_is_off(void)
{
    return off;
}

uint32_t flash_operations(void)
{
    return operations;
}

uint8_t *flash_bytes(uint32_t slot)
{
    return cells[slot];
}

void board_feed(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count && !off; i++) {
        embarq_bridge_byte(&bridge, bytes[i]);
    }
}

size_t board_take(uint8_t *to, size_t count)
{
    size_t given = count < out_size ? count : out_size;
    memcpy(to, out, given);
    memmove(out, out + given, out_size - given);
    out_size -= given;
    return given;
}

/* board <buffer> <unit> <slot bytes>: frames from stdin, answers to stdout; the buffer has that size exactly, for sanitizers to see. */
int main(int argc, char **argv)
{
    uint32_t sizes[3] = {EMBARQ_BRIDGE_BUFFER_MIN, 4, 1024};
    int c;
    for (int i = 1; i < argc && i <= 3; i++) {
        sizes[i - 1] = (uint32_t)atoi(argv[i]);
    }
    buffer = malloc(sizes[0]);
    if (buffer == NULL) {
        return 2;
    }
    flash_clear();
    board_start(sizes[0], sizes[1], sizes[2], EMBARQ_ABI);
    while ((c = getchar()) != EOF) {
        embarq_bridge_byte(&bridge, (uint8_t)c);
        fwrite(out, 1, out_size, stdout);
        out_size = 0;
    }
    free(buffer);
    return 0;
}
