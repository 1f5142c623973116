/* The bridge with a small model, compiled for this computer: a board to test against without a board.
 *
 * As a shared library it is driven byte by byte; as a program it serves stdin and stdout, for fuzzing under sanitizers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "embarq_bridge.h"
#include "model.h"

#define OUT_SIZE (1u << 20)

static uint8_t arena[2][1024] __attribute__((aligned(16)));
static uint8_t lent[65536], out[OUT_SIZE];
static uint8_t *buffer = lent;
static size_t out_size;
static uint32_t now, resets, texts, fault[8], stack_used_bytes = 321;
static embarq_bridge bridge;

static embarq_model model;
static const embarq_memory memory = {{arena[0], arena[1], NULL, NULL}};

void loopback_spend(uint32_t spent)
{
    now += spent;
}

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

/* `abi`: what the model says it was generated for. `small` != 0: only the 8 bytes of the last step are an output. */
void board_start(uint32_t buffer_size, uint32_t abi, int small)
{
    embarq_bridge_config config = {.model = &model, .memory = &memory, .buffer = buffer, .buffer_size = buffer_size,
                                   .write = take, .ticks = ticks, .ticks_hz = 1000000, .reset = reset, .fault = fault,
                                   .stack_used = stack_used, .stack_size = 4096, .text = text};
    model = loopback_model;
    model.abi = abi;
    model.outputs += small ? 1 : 0;
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
    for (size_t i = LOOPBACK_SIZE; i < sizeof arena[0]; i++) {
        if (arena[0][i] != 0xee) {
            return 1;
        }
    }
    for (size_t i = LOOPBACK_SIDE; i < sizeof arena[1]; i++) {
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
