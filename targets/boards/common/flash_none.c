/* A board whose program stands in RAM, or whose flash nobody wrote a driver for. */
#include "board.h"

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    (void)at;
    (void)to;
    (void)size_bytes;
    return BOARD_FLASH_NONE;
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    (void)at;
    (void)size_bytes;
    return BOARD_FLASH_NONE;
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    (void)at;
    (void)from;
    (void)size_bytes;
    return BOARD_FLASH_NONE;
}
