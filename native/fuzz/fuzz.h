/* What a fuzz target gives its driver: libFuzzer's entry point, and input to start from. */
#ifndef CE_FUZZ_H
#define CE_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Run the target on size bytes. Aborts when a promise of the header is broken; returns 0. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Write good input, of a kind that number chooses, to at most room bytes; return its size. */
size_t make_good_input(uint32_t number, uint8_t *bytes, size_t room);

#endif
