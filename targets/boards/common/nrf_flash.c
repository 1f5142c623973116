/* Flash of the nRF52840 and nRF5340: the NVMC, pages of 4 KiB, words. The core stands still while it works
 * (nRF52840 product specification 4.3; nRF5340 product specification 7.23). */
#include "common/flash.h"

#define NVMC_READY REG(EMBARQ_NVMC_BASE + 0x400)
#define NVMC_CONFIG REG(EMBARQ_NVMC_BASE + 0x504)
#define NVMC_ERASEPAGE REG(EMBARQ_NVMC_BASE + 0x508) /* not on the nRF5340 */
#define CONFIG_READ 0u
#define CONFIG_WRITE 1u
#define CONFIG_ERASE 2u

/* The nRF5340's cache holds data as well; that of the nRF52840 stands before instructions alone. */
static void forget_cached(void)
{
#if defined(EMBARQ_CACHE_INVALIDATE)
    REG(EMBARQ_CACHE_INVALIDATE) = 1;
    board_barrier();
#endif
}

static int finished(void)
{
    return flash_reached(&NVMC_READY, 1u, 1u) ? BOARD_FLASH_OK : BOARD_FLASH_FAILED;
}

static int configure(uint32_t mode)
{
    NVMC_CONFIG = mode;
    board_barrier();
    return finished();
}

static int erase_one(const uint8_t *at, uint32_t number)
{
    (void)number;
#if defined(EMBARQ_NVMC_ERASE_BY_WRITE) /* all ones into a page's first word while erasing is enabled */
    *(volatile uint32_t *)(uintptr_t)at = 0xFFFFFFFFu;
#else
    NVMC_ERASEPAGE = (uint32_t)(uintptr_t)at;
#endif
    board_barrier();
    return finished();
}

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    flash_copy(at, to, size_bytes);
    return BOARD_FLASH_OK;
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    int error = configure(CONFIG_ERASE);
    error = error == BOARD_FLASH_OK ? flash_erase_each(at, size_bytes, erase_one) : error;
    (void)configure(CONFIG_READ);
    forget_cached();
    return error;
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    int error = configure(CONFIG_WRITE);
    for (uint32_t i = 0; i < size_bytes && error == BOARD_FLASH_OK; i += 4) {
        *(volatile uint32_t *)(uintptr_t)(at + i) = flash_word(from + i);
        board_barrier();
        error = finished();
    }
    (void)configure(CONFIG_READ);
    forget_cached();
    return error;
}
