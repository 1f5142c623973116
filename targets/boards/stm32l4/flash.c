/* Flash of the STM32L4R5 with two banks of 4 KiB pages, 8 bytes at a time (RM0432 3.3.1, 3.3.5 to 3.3.7, 3.7).
 *
 * Every 8 bytes carry a check. Those that a cut of the power left half written read as an NMI (3.3.2): it is taken here, noted,
 * and the reader told.
 */
#include "common/flash.h"

#define FLASH_ACR REG(0x40022000)
#define FLASH_KEYR REG(0x40022008)
#define FLASH_SR REG(0x40022010)
#define FLASH_CR REG(0x40022014)
#define FLASH_ECCR REG(0x40022018)
#define FLASH_OPTR REG(0x40022020)
#define SR_ERRORS 0xC3FAu /* OPERR, PROGERR, WRPERR, PGAERR, SIZERR, PGSERR, MISERR, FASTERR, RDERR, OPTVERR */
#define SR_WRPERR (1u << 4)
#define SR_BSY (1u << 16)
#define CR_PG 1u
#define CR_PER 2u
#define CR_BKER (1u << 11)
#define CR_STRT (1u << 16)
#define CR_LOCK (1u << 31)
#define ECCR_DAMAGED ((1u << 31) | (1u << 29)) /* ECCD, ECCD2 */
#define OPTR_DBANK (1u << 22)                  /* two banks: else a page has 8 KiB */
#define PAGES_A_BANK 256u

void NMI_Handler(void);

static volatile uint32_t damaged;

void NMI_Handler(void)
{
    while ((FLASH_ECCR & ECCR_DAMAGED) == 0) { /* nothing else raises one: stay, for a debugger to see */
    }
    damaged = 1;
    FLASH_ECCR |= ECCR_DAMAGED; /* written bits are cleared */
}

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    damaged = 0;
    flash_copy(at, to, size_bytes);
    board_barrier();
    if (FLASH_ECCR & ECCR_DAMAGED) {
        FLASH_ECCR |= ECCR_DAMAGED;
        damaged = 1;
    }
    return damaged ? BOARD_FLASH_DAMAGED : BOARD_FLASH_OK;
}

static int unlock(void)
{
    if (FLASH_CR & CR_LOCK) {
        FLASH_KEYR = 0x45670123u;
        FLASH_KEYR = 0xCDEF89ABu;
    }
    FLASH_SR = SR_ERRORS | 1u;
    return (FLASH_CR & CR_LOCK) == 0 && (FLASH_OPTR & OPTR_DBANK) != 0;
}

static int finished(void)
{
    board_barrier();
    if (!flash_reached(&FLASH_SR, SR_BSY, 0)) {
        return BOARD_FLASH_FAILED;
    }
    uint32_t errors = FLASH_SR & SR_ERRORS;
    FLASH_SR = errors | 1u;
    return errors == 0 ? BOARD_FLASH_OK : (errors & SR_WRPERR) ? BOARD_FLASH_LOCKED : BOARD_FLASH_FAILED;
}

static int erase_one(const uint8_t *at, uint32_t number)
{
    (void)at;
    FLASH_CR = CR_PER | ((number % PAGES_A_BANK) << 3) | (number >= PAGES_A_BANK ? CR_BKER : 0u);
    FLASH_CR |= CR_STRT;
    return finished();
}

static void lock(void)
{
    FLASH_CR = CR_LOCK;
    flash_forget_accelerated(&FLASH_ACR);
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    int error = unlock() ? flash_erase_each(at, size_bytes, erase_one) : BOARD_FLASH_LOCKED;
    lock();
    return error;
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    int error = unlock() ? BOARD_FLASH_OK : BOARD_FLASH_LOCKED;
    FLASH_CR = error == BOARD_FLASH_OK ? CR_PG : CR_LOCK;
    for (uint32_t i = 0; i < size_bytes && error == BOARD_FLASH_OK; i += 8) {
        *(volatile uint32_t *)(uintptr_t)(at + i) = flash_word(from + i);
        board_barrier(); /* the two halves in this order */
        *(volatile uint32_t *)(uintptr_t)(at + i + 4) = flash_word(from + i + 4);
        error = finished();
    }
    lock();
    return error;
}
