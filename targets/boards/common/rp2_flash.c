/* The flash chip beside an RP2040 or RP2350, written through the boot ROM (RP2040 datasheet 2.8.3; RP2350 datasheet 5.4).
 *
 * While the chip is erased or programmed nothing can be read from it, the program included: what runs meanwhile stands in RAM
 * and calls the ROM alone. No interrupt is ever enabled.
 */
#include "common/flash.h"

#define IN_RAM __attribute__((section(".ramcode"), noinline))
#define CODE(a, b) ((uint32_t)(a) | (uint32_t)(b) << 8)
#define BLOCK_BYTES 65536u
#define BLOCK_ERASE 0xD8u

typedef struct {
    void (*connect)(void), (*leave)(void), (*flush)(void), (*enter)(void);
    void (*erase)(uint32_t offset, size_t count, uint32_t block_size, uint8_t block_command);
    void (*program)(uint32_t offset, const uint8_t *data, size_t count);
} rom_functions;

/* A halfword of the ROM, which stands at address 0: the compiler must not know that, it takes it for a null pointer. */
static uint16_t rom_half(uintptr_t address)
{
    __asm volatile("" : "+r"(address));
    return *(const volatile uint16_t *)address;
}

#if defined(EMBARQ_RP2350)
#define SETUP_WORDS 64u
#define SETUP_SAVED 0x400E0000u /* boot RAM: what the ROM ran to set the flash interface up (datasheet 5.4.8.5) */

static uint32_t setup[SETUP_WORDS];

static uintptr_t lookup(uint32_t code)
{
    uintptr_t (*find)(uint32_t, uint32_t) = (uintptr_t (*)(uint32_t, uint32_t))(uintptr_t)rom_half(0x16);
    return find(code, 4u); /* Arm, secure */
}

static void keep_setup(void)
{
    for (uint32_t i = 0; i < SETUP_WORDS; i++) {
        setup[i] = REG(SETUP_SAVED + 4u * i);
    }
}

IN_RAM static void read_fast(void)
{
    ((void (*)(void))((uintptr_t)setup | 1u))();
}
#else
#define SSI_ENR REG(0x18000008)
#define SSI_BAUDR REG(0x18000014)

static uintptr_t lookup(uint32_t code)
{
    uintptr_t (*find)(const uint16_t *, uint32_t) = (uintptr_t (*)(const uint16_t *, uint32_t))(uintptr_t)rom_half(0x18);
    return find((const uint16_t *)(uintptr_t)rom_half(0x14), code);
}

static void keep_setup(void)
{
}

/* The ROM leaves the plain serial read on, at its own pace: this is boot2's. */
IN_RAM static void read_fast(void)
{
    SSI_ENR = 0;
    SSI_BAUDR = 4;
    SSI_ENR = 1;
}
#endif

static int find_functions(rom_functions *rom)
{
    rom->connect = (void (*)(void))lookup(CODE('I', 'F'));
    rom->leave = (void (*)(void))lookup(CODE('E', 'X'));
    rom->flush = (void (*)(void))lookup(CODE('F', 'C'));
    rom->enter = (void (*)(void))lookup(CODE('C', 'X'));
    rom->erase = (void (*)(uint32_t, size_t, uint32_t, uint8_t))lookup(CODE('R', 'E'));
    rom->program = (void (*)(uint32_t, const uint8_t *, size_t))lookup(CODE('R', 'P'));
    keep_setup();
    return rom->connect && rom->leave && rom->flush && rom->enter && rom->erase && rom->program;
}

/* `from` NULL: erase. */
IN_RAM static void work(const rom_functions *rom, uint32_t offset, const uint8_t *from, uint32_t size_bytes)
{
    rom->connect();
    rom->leave();
    if (from == NULL) {
        rom->erase(offset, size_bytes, BLOCK_BYTES, BLOCK_ERASE);
    } else {
        rom->program(offset, from, size_bytes);
    }
    rom->flush();
    rom->enter();
    read_fast();
}

static int in_ram(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    void (*volatile run)(const rom_functions *, uint32_t, const uint8_t *, uint32_t) = work; /* too far for a plain call */
    rom_functions rom;
    if (!find_functions(&rom)) {
        return BOARD_FLASH_FAILED;
    }
    run(&rom, (uint32_t)(uintptr_t)at - EMBARQ_FLASH_BASE, from, size_bytes);
    return BOARD_FLASH_OK;
}

int board_flash_read(const uint8_t *at, uint8_t *to, uint32_t size_bytes)
{
    flash_copy(at, to, size_bytes);
    return BOARD_FLASH_OK;
}

int board_flash_erase(const uint8_t *at, uint32_t size_bytes)
{
    uint32_t number, size = flash_sector(at, &number);
    return size == 0 || size_bytes % size != 0 ? BOARD_FLASH_FAILED : in_ram(at, NULL, size_bytes);
}

int board_flash_program(const uint8_t *at, const uint8_t *from, uint32_t size_bytes)
{
    return in_ram(at, from, size_bytes);
}
