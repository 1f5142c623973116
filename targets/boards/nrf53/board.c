/* nRF5340, application core at 128 MHz in secure state; UARTE0 through DMA buffers of ours (product specification 7.6, 7.9, 7.38). */
#include "board.h"
#include "common/cortex_m.h"

#define CLOCK_HFCLKSTART REG(0x50005000)
#define CLOCK_HFCLKSTARTED REG(0x50005100)
#define CLOCK_HFCLKCTRL REG(0x50005558)
#define CACHE_ENABLE REG(0x50001500)
#define GPIO(port) (0x50842500u + 0x300u * (port))
#define UARTE_STARTRX REG(EMBARQ_UART_BASE + 0x000)
#define UARTE_STARTTX REG(EMBARQ_UART_BASE + 0x008)
#define UARTE_ENDRX REG(EMBARQ_UART_BASE + 0x110)
#define UARTE_ENDTX REG(EMBARQ_UART_BASE + 0x120)
#define UARTE_ENABLE REG(EMBARQ_UART_BASE + 0x500)
#define UARTE_PSELTXD REG(EMBARQ_UART_BASE + 0x50C)
#define UARTE_PSELRXD REG(EMBARQ_UART_BASE + 0x514)
#define UARTE_BAUDRATE REG(EMBARQ_UART_BASE + 0x524)
#define UARTE_RXPTR REG(EMBARQ_UART_BASE + 0x534)
#define UARTE_RXMAX REG(EMBARQ_UART_BASE + 0x538)
#define UARTE_TXPTR REG(EMBARQ_UART_BASE + 0x544)
#define UARTE_TXMAX REG(EMBARQ_UART_BASE + 0x548)

/* DMA cannot read flash, where constants stand: what is sent goes through this buffer. */
static uint8_t transmit[64];
static volatile uint8_t received;

static void pins_on(void)
{
    uint32_t tx = EMBARQ_PIN_TX, rx = EMBARQ_PIN_RX; /* 32 * port + pin */
    REG(GPIO(tx / 32u) + 0x008u) = 1u << (tx % 32u); /* OUTSET: the line idles high */
    REG(GPIO(tx / 32u) + 0x018u) = 1u << (tx % 32u); /* DIRSET */
    REG(GPIO(rx / 32u) + 0x200u + 4u * (rx % 32u)) = 3u << 2; /* PIN_CNF: input with pull-up */
    UARTE_PSELTXD = tx;
    UARTE_PSELRXD = rx;
}

/* One byte at a time: the peripheral's own queue keeps what arrives between two buffers. */
static void receive_on(void)
{
    UARTE_RXPTR = (uint32_t)(uintptr_t)&received;
    UARTE_RXMAX = 1;
    UARTE_ENDRX = 0;
    UARTE_STARTRX = 1;
}

void board_init(void)
{
    CLOCK_HFCLKCTRL = 0; /* undivided */
    board_core_clock_hz = 128000000u;
    CLOCK_HFCLKSTARTED = 0;
    CLOCK_HFCLKSTART = 1; /* the crystal */
    (void)board_reached(&CLOCK_HFCLKSTARTED, 1u, 1u);
    CACHE_ENABLE = 1;
    pins_on();
    UARTE_BAUDRATE = (uint32_t)(((((uint64_t)EMBARQ_UART_BAUD << 32) / 16000000u) + 0x800u) & 0xFFFFF000u);
    UARTE_ENABLE = 8;
    receive_on();
    board_ticks_init();
}

int board_uart_read(void)
{
    int byte;
    if (UARTE_ENDRX == 0) {
        return -1;
    }
    byte = received;
    receive_on();
    return byte;
}

void board_uart_write(const uint8_t *data, size_t size_bytes)
{
    for (size_t at = 0; at < size_bytes; at += sizeof transmit) {
        size_t size = size_bytes - at < sizeof transmit ? size_bytes - at : sizeof transmit;
        for (size_t i = 0; i < size; i++) {
            ((volatile uint8_t *)transmit)[i] = data[at + i];
        }
        UARTE_TXPTR = (uint32_t)(uintptr_t)transmit;
        UARTE_TXMAX = (uint32_t)size;
        UARTE_ENDTX = 0;
        UARTE_STARTTX = 1;
        while (UARTE_ENDTX == 0) {
        }
    }
}
