/* What the firmware asks of a board. One implementation per family stands in targets/boards/<family>/board.c.
 *
 * The UART carries a protocol: nothing else may write on it. No function uses interrupts or allocates.
 */
#ifndef EMBARQ_BOARD_H
#define EMBARQ_BOARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Clock, pins and UART, in this order; called once, first. A clock that does not start in time leaves the reset clock. */
void board_init(void);

/* The next received byte (0..255), or -1 when none waits. */
int board_uart_read(void);

/* Sends size_bytes bytes; returns when the last one has been handed to the UART. */
void board_uart_write(const uint8_t *data, size_t size_bytes);

/* A counter that runs at board_ticks_hz() and wraps at 2^32: differences of two readings are what counts. */
uint32_t board_ticks(void);
uint32_t board_ticks_hz(void);

/* Called in a loop while there is nothing to do; may return at once. */
void board_wait(void);

/* Restarts the board as its reset line would. */
void board_reset(void);

/* The flash the program stands in, for values that outlive a reset. Each returns 0 when it worked, else why not.
 * Erasing clears whole units (Device.flash.sectors) to 0xff; `at` and sizes are theirs, or multiples of EMBARQ_FLASH_UNIT
 * (Device.flash.write_bytes, at least 4) where bytes are programmed, which must have been erased before. The program stands still meanwhile.
 * Reading says when a cut of the power left bytes there that the flash itself finds damaged. */
typedef enum {
    BOARD_FLASH_OK = 0,
    BOARD_FLASH_NONE = 1,      /* no driver for this board */
    BOARD_FLASH_LOCKED = 2,    /* the controller stays locked, or the place is write-protected */
    BOARD_FLASH_FAILED = 3,    /* the controller reports an error, or does not come to an end */
    BOARD_FLASH_DAMAGED = 4    /* bits that the flash's own check cannot mend */
} board_flash_error;

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes);
int board_flash_erase(const uint8_t *at, uint32_t size_bytes);
int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes);

/* What the last crash was; lies in RAM that start-up leaves alone, so it survives board_reset(). */
#define EMBARQ_FAULT_MAGIC 0x544c4146u /* "FALT" */

typedef struct {
    uint32_t magic; /* EMBARQ_FAULT_MAGIC when a fault has been recorded */
    uint32_t pc;    /* the instruction that failed; 0 when the stack overflowed and could not keep it */
    uint32_t lr;    /* who called it */
    uint32_t psr;
    uint32_t sp;
    uint32_t exception; /* 3 hard fault, 4 memory, 5 bus, 6 usage */
    uint32_t cfsr;      /* why: Configurable Fault Status Register, 0 on Armv6-M */
    uint32_t address;   /* the address that was accessed, where cfsr says it is known; 0 otherwise */
} embarq_fault_record;

extern embarq_fault_record embarq_fault;

#ifdef __cplusplus
}
#endif
#endif
