/* Arm's PL011 UART, as the RP2040 and RP2350 have it (RP2040 datasheet 4.2). */
#ifndef EMBARQ_PL011_H
#define EMBARQ_PL011_H

#include <stdint.h>

/* 8N1 with both queues on, at EMBARQ_UART_BAUD from a peripheral clock of clock_hz. */
void pl011_on(uint32_t clock_hz);

#endif
