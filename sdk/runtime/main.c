/* The firmware: one compiled model behind embarq's bridge on the board's UART.
 *
 * The generated bind.c brings the model and its arenas, targets/boards/<family>/ the board. This file joins them.
 */
#include "board.h"
#include "embarq_bridge.h"

#ifndef EMBARQ_BRIDGE_BUFFER
#define EMBARQ_BRIDGE_BUFFER 512 /* bytes of one message; more makes long inputs faster to send */
#endif

extern const embarq_model *const embarq_the_model;
extern const embarq_memory embarq_the_memory;
extern const embarq_training *const embarq_the_training; /* NULL: the model does not learn ... */
extern const embarq_learning *const embarq_the_learning; /* ... and then this is, too; else &embarq_learning_here, below */
extern const uint8_t __store_0_start[], __store_0_end[], __store_1_start[], __store_1_end[]; /* from the linker script */
extern uint32_t __stack_limit[], __stack_top[]; /* from the linker script; the stack grows down from the top */

#define PAINT 0xa5a5a5a5u
#define PAINT_MARGIN 128u /* bytes below our own frame left alone: a call made while painting needs some */

static void paint_stack(void)
{
    volatile uint32_t here = 0;
    uintptr_t end = (uintptr_t)&here - PAINT_MARGIN;
    for (volatile uint32_t *word = __stack_limit; (uintptr_t)word < end; word++) {
        *word = PAINT;
    }
}

/* Bytes of stack ever used: what lies above the lowest word that is no longer paint. */
static uint32_t stack_used(void *context)
{
    const volatile uint32_t *word = __stack_limit;
    (void)context;
    while ((uintptr_t)word < (uintptr_t)__stack_top && *word == PAINT) {
        word++;
    }
    return (uint32_t)((uintptr_t)__stack_top - (uintptr_t)word);
}

static void write_bytes(void *context, const uint8_t *bytes, size_t count)
{
    (void)context;
    board_uart_write(bytes, count);
}

static uint32_t ticks(void *context)
{
    (void)context;
    return board_ticks();
}

static void reset(void *context)
{
    (void)context;
    board_reset();
}

/* What learning takes. Only bind.c points here, and only when the model learns: otherwise none of it is linked. */
static embarq_training_state training_state;
static const embarq_flash flash = {
    .begin = {__store_0_start, __store_1_start},
    .end = {__store_0_end, __store_1_end},
    .unit = EMBARQ_FLASH_UNIT,
    .read = board_flash_read,
    .erase = board_flash_erase,
    .program = board_flash_program,
};
extern const embarq_learning embarq_learning_here;
const embarq_learning embarq_learning_here = {embarq_training_begin, embarq_training_group, &embarq_the_training, &training_state, &flash};

int main(void)
{
    static uint8_t buffer[EMBARQ_BRIDGE_BUFFER];
    static embarq_bridge bridge;
    paint_stack();
    board_init();
    const embarq_bridge_config config = {
        .model = embarq_the_model,
        .memory = &embarq_the_memory,
        .buffer = buffer,
        .buffer_size = sizeof buffer,
        .write = write_bytes,
        .ticks = ticks,
        .ticks_hz = board_ticks_hz(),
        .reset = reset,
        .fault = (uint32_t *)&embarq_fault,
        .stack_used = stack_used,
        .stack_size = (uint32_t)((uintptr_t)__stack_top - (uintptr_t)__stack_limit),
        .learning = embarq_the_learning,
    };
    embarq_bridge_init(&bridge, &config);
    for (;;) {
        int byte = board_uart_read();
        if (byte < 0) {
            board_wait();
        } else {
            embarq_bridge_byte(&bridge, (uint8_t)byte);
        }
    }
}
