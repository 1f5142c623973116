/* The bridge with a small model, compiled for this computer: a board to test against without a board.
 *
 * As a shared library it is driven byte by byte; as a program it serves stdin and stdout, for fuzzing under sanitizers.
 * The model destroys its first input while it runs, as planned models do: a test that relies on inputs staying fails.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embarq_bridge.h"

#define SIZE 700
#define STEPS 20
#define OUT_SIZE (1u << 20)

typedef struct {
    embarq_ref to;
    int32_t multiply, add;
} affine;

typedef struct {
    embarq_ref a, b, to;
} sum;

static uint8_t arena[2][1024] __attribute__((aligned(16)));
static uint8_t lent[65536], out[OUT_SIZE];
static uint8_t *buffer = lent;
static size_t out_size;
static uint32_t now, resets, texts, fault[8], stack_used_bytes = 321;
static embarq_bridge bridge;

static const affine params[STEPS - 1] = {
    {EMBARQ_REF(0, 0), 3, 1},  {EMBARQ_REF(0, 0), 5, 2},   {EMBARQ_REF(0, 0), 7, 3},   {EMBARQ_REF(0, 0), 9, 4},   {EMBARQ_REF(0, 0), 11, 5},
    {EMBARQ_REF(0, 0), 13, 6}, {EMBARQ_REF(0, 0), 15, 7},  {EMBARQ_REF(0, 0), 17, 8},  {EMBARQ_REF(0, 0), 19, 9},  {EMBARQ_REF(0, 0), 21, 10},
    {EMBARQ_REF(0, 0), 23, 1}, {EMBARQ_REF(0, 0), 25, 12}, {EMBARQ_REF(0, 0), 27, 13}, {EMBARQ_REF(0, 0), 29, 14}, {EMBARQ_REF(0, 0), 31, 15},
    {EMBARQ_REF(0, 0), 33, 1}, {EMBARQ_REF(0, 0), 35, 17}, {EMBARQ_REF(0, 0), 37, 18}, {EMBARQ_REF(0, 0), 39, 19},
};
static const sum last = {EMBARQ_REF(0, 0), EMBARQ_REF(1, 16), EMBARQ_REF(1, 0)};

static void run_affine(const void *p, const embarq_memory *memory)
{
    const affine *step = p;
    uint8_t *x = embarq_at(memory, step->to);
    for (int i = 0; i < SIZE; i++) {
        x[i] = (uint8_t)(x[i] * step->multiply + step->add + (i & 3));
    }
    now += (uint32_t)step->multiply * 100u;
}

static void run_sum(const void *p, const embarq_memory *memory)
{
    const sum *step = p;
    const uint8_t *a = embarq_at(memory, step->a), *b = embarq_at(memory, step->b);
    uint8_t *y = embarq_at(memory, step->to);
    for (int i = 0; i < 8; i++) {
        y[i] = (uint8_t)(a[i] + b[i]);
    }
    now += 0xfffffff0u; /* nearly a whole turn of the counter: totals need more than 32 bits */
}

static const embarq_tensor inputs[] = {
    {"image", EMBARQ_REF(0, 0), SIZE, EMBARQ_INT8, 4, {1, 10, 10, 7}, 0.5f, -128},
    {"bias", EMBARQ_REF(1, 16), 8, EMBARQ_UINT8, 2, {1, 8}, 0.0f, 0},
};
static const embarq_tensor outputs[] = {
    {"map", EMBARQ_REF(0, 0), SIZE, EMBARQ_INT8, 2, {1, SIZE}, 0.25f, 3},
    {"scores", EMBARQ_REF(1, 0), 8, EMBARQ_UINT8, 2, {1, 8}, 0.00390625f, 0},
};
static const uint8_t id[32] = {1, 2, 3};
static embarq_step steps[STEPS];
static embarq_model model = {EMBARQ_ABI, "loopback", id, {SIZE, 24, 0, 0}, inputs, outputs, steps, 2, 2, STEPS};
static const embarq_memory memory = {{arena[0], arena[1], NULL, NULL}};

static void take(void *context, const uint8_t *bytes, size_t count)
{
    (void)context;
    if (count <= OUT_SIZE - out_size) {
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
    resets++;
}

static uint32_t stack_used(void *context)
{
    (void)context;
    return stack_used_bytes;
}

static void text(void *context, uint8_t byte)
{
    (void)context;
    (void)byte;
    texts++;
}

/* `abi`: what the model says it was generated for. `small` != 0: the model ends after its last step's 8 bytes only. */
void board_start(uint32_t buffer_size, uint32_t abi, int small)
{
    embarq_bridge_config config = {.model = &model, .memory = &memory, .buffer = buffer, .buffer_size = buffer_size,
                                   .write = take, .ticks = ticks, .ticks_hz = 1000000, .reset = reset, .fault = fault,
                                   .stack_used = stack_used, .stack_size = 4096, .text = text};
    for (int i = 0; i < STEPS - 1; i++) {
        steps[i] = (embarq_step){run_affine, &params[i], EMBARQ_REF(0, 0), SIZE};
    }
    steps[STEPS - 1] = (embarq_step){run_sum, &last, EMBARQ_REF(1, 0), 8};
    model.abi = abi;
    model.outputs = outputs + (small ? 1 : 0);
    model.output_count = small ? 1 : 2;
    memset(arena, 0xee, sizeof arena);
    memset(fault, 0, sizeof fault);
    out_size = 0;
    resets = texts = now = 0;
    embarq_bridge_init(&bridge, &config);
}

void board_feed(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
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

uint32_t board_resets(void)
{
    return resets;
}

uint32_t board_texts(void)
{
    return texts;
}

void board_crash(uint32_t pc)
{
    static const uint32_t words[8] = {EMBARQ_FAULT_WORD, 0, 0x08000201u, 0x01000000u, 0x20001f00u, 3, 0x00008200u, 0xdeadbee0u};
    uint32_t kept[8];
    memcpy(kept, words, sizeof kept);
    kept[1] = pc;
    board_start(bridge.config.buffer_size, model.abi, model.output_count == 1);
    memcpy(fault, kept, sizeof fault);
}

/* Bytes behind the arenas that nobody may touch. */
static int arena_overrun(void)
{
    for (size_t i = SIZE; i < sizeof arena[0]; i++) {
        if (arena[0][i] != 0xee) {
            return 1;
        }
    }
    for (size_t i = 24; i < sizeof arena[1]; i++) {
        if (arena[1][i] != 0xee) {
            return 1;
        }
    }
    return 0;
}

/* bridge [buffer_size]: the buffer is of exactly that size, so that a sanitizer sees one byte too many. */
int main(int argc, char **argv)
{
    uint32_t size = argc > 1 ? (uint32_t)atoi(argv[1]) : EMBARQ_BRIDGE_BUFFER_MIN;
    int c;
    buffer = malloc(size);
    if (buffer == NULL) {
        return 2;
    }
    board_start(size, EMBARQ_ABI, 0);
    while ((c = getchar()) != EOF) {
        embarq_bridge_byte(&bridge, (uint8_t)c);
        fwrite(out, 1, out_size, stdout);
        out_size = 0;
    }
    free(buffer);
    return arena_overrun() ? 3 : 0;
}
