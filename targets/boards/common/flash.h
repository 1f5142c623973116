/* What the flash drivers share. EMBARQ_FLASH_BASE, EMBARQ_FLASH_SECTORS and EMBARQ_FLASH_UNIT come from the device file. */
#ifndef EMBARQ_FLASH_H
#define EMBARQ_FLASH_H

#include "board.h"
#include "common/cortex_m.h"

#define SCB_DCIMVAC REG(0xE000EF5C)

/* Waits for (register & mask) == value as long as the slowest erase takes, and some more; 0 when it never comes. */
static inline int flash_reached(volatile uint32_t *reg, uint32_t mask, uint32_t value)
{
    for (uint32_t tries = 0; tries < 0x20000000u; tries++) {
        if ((*reg & mask) == value) {
            return 1;
        }
    }
    return 0;
}

/* Size of the erase unit that begins at `at`, and its number counted from the start of the flash; 0 when none begins there. */
static inline uint32_t flash_sector(const uint8_t *at, uint32_t *number)
{
    static const uint32_t sectors[][2] = {EMBARQ_FLASH_SECTORS}; /* {bytes, count} */
    uint32_t start = EMBARQ_FLASH_BASE;
    *number = 0;
    for (uint32_t k = 0; k < sizeof sectors / sizeof sectors[0]; k++) {
        uint32_t offset = (uint32_t)(uintptr_t)at - start, size = sectors[k][0], count = sectors[k][1];
        if (offset < size * count) {
            *number += offset / size;
            return offset % size == 0 ? size : 0;
        }
        *number += count;
        start += size * count;
    }
    return 0;
}

/* Erases unit after unit with `one`, which gets the unit's address and number. */
static inline int flash_erase_each(const uint8_t *at, uint32_t size_bytes, int (*one)(const uint8_t *at, uint32_t number))
{
    while (size_bytes > 0) {
        uint32_t number, size = flash_sector(at, &number);
        if (size == 0 || size > size_bytes) {
            return BOARD_FLASH_FAILED;
        }
        int error = one(at, number);
        if (error != BOARD_FLASH_OK) {
            return error;
        }
        at += size;
        size_bytes -= size;
    }
    return BOARD_FLASH_OK;
}

static inline uint32_t flash_word(const uint8_t *from) /* of any alignment */
{
    return (uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 | (uint32_t)from[3] << 24;
}

static inline void flash_copy(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    for (uint32_t i = 0; i < size_bytes; i++) {
        to[i] = ((const volatile uint8_t *)at)[i];
    }
}

/* Drops what the Cortex-M7's data cache holds of flash that has changed. Flash is cached for reading only: nothing is lost. */
static inline void flash_forget_cached(const uint8_t *at, uint32_t size_bytes)
{
    uint32_t line = (uint32_t)(uintptr_t)at & ~31u, end = (uint32_t)(uintptr_t)at + size_bytes;
    board_barrier();
    for (; line < end; line += 32u) {
        SCB_DCIMVAC = line;
    }
    board_barrier();
}

/* The same for the small caches in front of the flash of the Cortex-M4 families: ACR has ICEN 9, DCEN 10, ICRST 11, DCRST 12. */
static inline void flash_forget_accelerated(volatile uint32_t *acr)
{
    uint32_t on = *acr;
    *acr = on & ~(3u << 9);
    *acr = (on & ~(3u << 9)) | (3u << 11);
    *acr = on & ~(3u << 9) & ~(3u << 11);
    *acr = on;
}

#endif
