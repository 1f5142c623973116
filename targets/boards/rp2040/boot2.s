@ Second-stage bootloader of the RP2040 (datasheet 2.8.1.3): 252 bytes and their CRC, which the boot ROM copies to RAM and runs.
@ It sets the flash interface up for the plain serial read (03h) that every flash chip knows, then starts the program.
@ boot2.c holds these bytes; a test assembles this file and compares.
    .syntax unified
    .cpu cortex-m0plus
    .thumb
boot2:
    ldr   r3, ssi
    movs  r1, #0
    str   r1, [r3, #0x08]       @ SSIENR: off while it is set up
    movs  r1, #4
    str   r1, [r3, #0x14]       @ BAUDR: a quarter of the system clock
    ldr   r1, ctrlr0
    str   r1, [r3, #0x00]       @ CTRLR0: one data line, 32-bit frames, read after command
    ldr   r1, spi_ctrlr0
    movs  r0, #0xF4
    str   r1, [r3, r0]          @ SPI_CTRLR0: command 03h, 24 address bits
    movs  r1, #0
    str   r1, [r3, #0x04]       @ CTRLR1: one frame a read
    movs  r1, #1
    str   r1, [r3, #0x08]       @ SSIENR: on
    ldr   r0, vectors
    ldr   r1, vtor
    str   r0, [r1]
    ldmia r0!, {r1, r2}
    msr   msp, r1
    bx    r2
    .balign 4
ssi:        .word 0x18000000
ctrlr0:     .word 0x001F0300
spi_ctrlr0: .word 0x03000218
vectors:    .word 0x10000100
vtor:       .word 0xE000ED08
