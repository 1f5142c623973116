/* Flash of the STM32F4 and STM32F7: one controller, large sectors, words (RM0090 3.6, 3.9; RM0385 3.3.5 to 3.3.8, 3.7). */
#include "common/flash.h"

#define FLASH_ACR REG(0x40023C00)
#define FLASH_KEYR REG(0x40023C04)
#define FLASH_SR REG(0x40023C0C)
#define FLASH_CR REG(0x40023C10)
#define SR_ERRORS (0xF0u | 2u) /* OPERR; WRPERR, PGAERR, PGPERR, PGSERR (F7: ERSERR) */
#define SR_WRPERR (1u << 4)
#define SR_BSY (1u << 16)
#define CR_PG 1u
#define CR_SER 2u
#define CR_WORDS (2u << 8) /* 32 bits at a time: the boards run at 3.3 V */
#define CR_STRT (1u << 16)
#define CR_LOCK (1u << 31)

static int unlock(void)
{
    if (FLASH_CR & CR_LOCK) {
        FLASH_KEYR = 0x45670123u;
        FLASH_KEYR = 0xCDEF89ABu;
    }
    FLASH_SR = SR_ERRORS | 1u; /* what an earlier program left: written bits are cleared */
    return (FLASH_CR & CR_LOCK) == 0;
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

static void lock(const uint8_t *at, uint32_t size_bytes)
{
    FLASH_CR = CR_LOCK;
#if defined(EMBARQ_FLASH_M7)
    flash_forget_cached(at, size_bytes);
#else
    (void)at;
    (void)size_bytes;
    flash_forget_accelerated(&FLASH_ACR);
#endif
}

static int erase_one(const uint8_t *at, uint32_t number)
{
    (void)at;
    FLASH_CR = CR_SER | CR_WORDS | (number << 3);
    FLASH_CR |= CR_STRT;
    return finished();
}

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    flash_copy(at, to, size_bytes);
    return BOARD_FLASH_OK;
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    int error = unlock() ? flash_erase_each(at, size_bytes, erase_one) : BOARD_FLASH_LOCKED;
    lock(at, size_bytes);
    return error;
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    int error = unlock() ? BOARD_FLASH_OK : BOARD_FLASH_LOCKED;
    for (uint32_t i = 0; i < size_bytes && error == BOARD_FLASH_OK; i += 4) {
        FLASH_CR = CR_PG | CR_WORDS;
        board_barrier();
        *(volatile uint32_t *)(uintptr_t)(at + i) = flash_word(from + i);
        error = finished();
    }
    lock(at, size_bytes);
    return error;
}
