/* What the C tests share. */
#ifndef CE_CHECK_H
#define CE_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Exactly length bytes: malloc(0) may be NULL, and NULL is what an empty buffer may be. */
static inline uint8_t *new_bytes(size_t length)
{
    uint8_t *bytes = malloc(length);

    CHECK(bytes != NULL || length == 0);
    return bytes;
}

#endif
