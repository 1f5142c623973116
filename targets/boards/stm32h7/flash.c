/* Flash of the STM32H743 and STM32H7A3: two banks with registers of their own, written in words of 32 or 16 bytes
 * (RM0433 4.3.8 to 4.3.10, 4.9; RM0455 4.3.8 to 4.3.10, 4.9).
 *
 * Every word carries a check. One that a cut of the power left half written reads as a bus error (4.7.6): reading happens
 * with such errors ignored, and the reader is told.
 */
#include "common/flash.h"

#define FLASH(bank) (0x52002000u + 0x100u * (bank))
#define FLASH_KEYR(bank) REG(FLASH(bank) + 0x04u)
#define FLASH_CR(bank) REG(FLASH(bank) + 0x0Cu)
#define FLASH_SR(bank) REG(FLASH(bank) + 0x10u)
#define FLASH_CCR(bank) REG(FLASH(bank) + 0x14u)
#define SR_BUSY 7u              /* BSY, WBNE, QW */
#define SR_ERRORS (0x77u << 17) /* WRPERR, PGSERR, STRBERR; OPERR, INCERR, RDPERR ... */
#define SR_WRPERR (1u << 17)
#define SR_DAMAGED (1u << 26)   /* DBECCERR */
#define CR_LOCK 1u
#define CR_PG 2u
#define CR_SER 4u
#if defined(EMBARQ_H7A3)
#define CR_START (1u << 5)
#define CR_SECTOR 6
#define CR_WIDTH 0u
#else
#define CR_START (1u << 7)
#define CR_SECTOR 8
#define CR_WIDTH (3u << 4) /* 64 bits inside the flash */
#endif
#define BANK_BYTES 0x100000u
#define CCR_IGNORE (1u << 8) /* SCB_CCR.BFHFNMIGN */

static uint32_t bank_of(const uint8_t *at)
{
    return ((uint32_t)(uintptr_t)at - EMBARQ_FLASH_BASE) / BANK_BYTES;
}

static int damage_found(uint32_t bank)
{
    uint32_t found = FLASH_SR(bank) & SR_DAMAGED;
    FLASH_CCR(bank) = found;
    return found != 0;
}

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    uint32_t before = SCB_CCR;
    int damaged = 0;
    __asm volatile("cpsid f" ::: "memory");
    SCB_CCR = before | CCR_IGNORE;
    board_barrier();
    flash_copy(at, to, size_bytes);
    board_barrier();
    SCB_CCR = before;
    __asm volatile("cpsie f" ::: "memory");
    for (uint32_t bank = 0; bank < 2; bank++) {
        damaged |= damage_found(bank);
    }
    return damaged ? BOARD_FLASH_DAMAGED : BOARD_FLASH_OK;
}

static int unlock(uint32_t bank)
{
    if (FLASH_CR(bank) & CR_LOCK) {
        FLASH_KEYR(bank) = 0x45670123u;
        FLASH_KEYR(bank) = 0xCDEF89ABu;
    }
    FLASH_CCR(bank) = SR_ERRORS | SR_DAMAGED | (1u << 16);
    return (FLASH_CR(bank) & CR_LOCK) == 0;
}

static int finished(uint32_t bank)
{
    board_barrier();
    if (!flash_reached(&FLASH_SR(bank), SR_BUSY, 0)) {
        return BOARD_FLASH_FAILED;
    }
    uint32_t errors = FLASH_SR(bank) & SR_ERRORS;
    FLASH_CCR(bank) = errors | (1u << 16);
    return errors == 0 ? BOARD_FLASH_OK : (errors & SR_WRPERR) ? BOARD_FLASH_LOCKED : BOARD_FLASH_FAILED;
}

static int erase_one(const uint8_t *at, uint32_t number)
{
    uint32_t bank = bank_of(at), size = flash_sector(at, &number);
    if (!unlock(bank)) {
        return BOARD_FLASH_LOCKED;
    }
    number %= BANK_BYTES / size;
    FLASH_CR(bank) = CR_SER | CR_WIDTH | (number << CR_SECTOR);
    FLASH_CR(bank) |= CR_START;
    return finished(bank);
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    int error = flash_erase_each(at, size_bytes, erase_one);
    FLASH_CR(0) = CR_LOCK;
    FLASH_CR(1) = CR_LOCK;
    flash_forget_cached(at, size_bytes);
    return error;
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    uint32_t bank = bank_of(at); /* a slot lies in one bank or is written word by word: a word never crosses */
    int error = unlock(bank) ? BOARD_FLASH_OK : BOARD_FLASH_LOCKED;
    for (uint32_t i = 0; i < size_bytes && error == BOARD_FLASH_OK; i += EMBARQ_FLASH_UNIT) {
        if (bank_of(at + i) != bank) {
            FLASH_CR(bank) = CR_LOCK;
            bank = bank_of(at + i);
            if (!unlock(bank)) {
                return BOARD_FLASH_LOCKED;
            }
        }
        FLASH_CR(bank) = CR_PG | CR_WIDTH;
        board_barrier();
        for (uint32_t k = 0; k < EMBARQ_FLASH_UNIT; k += 4) {
            *(volatile uint32_t *)(uintptr_t)(at + i + k) = flash_word(from + i + k);
        }
        error = finished(bank);
    }
    FLASH_CR(bank) = CR_LOCK;
    flash_forget_cached(at, size_bytes);
    return error;
}
