/* ce_longest_prefix: for each address, a binary search per candidate prefix length. */
#include "ce_fastpath.h"

#include <errno.h>
#include <string.h>

#define ADDRESS_SIZE_MAX 16

/* Index of the prefix row equal to wanted, or -1. */
static int32_t find_row(const uint8_t *prefixes, size_t n_prefixes, const uint8_t *wanted,
                        size_t row_size)
{
    size_t low = 0, high = n_prefixes;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = memcmp(prefixes + middle * row_size, wanted, row_size);

        if (order == 0)
            return (int32_t)middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* Write address cut to length_bits, then the length itself, to wanted. */
static void cut_address(const uint8_t *address, size_t address_size, unsigned length_bits,
                        uint8_t *wanted)
{
    size_t whole = length_bits / 8;

    memset(wanted, 0, address_size);
    memcpy(wanted, address, whole);
    if (length_bits % 8 != 0)
        wanted[whole] = address[whole] & (uint8_t)(0xff << (8 - length_bits % 8));
    wanted[address_size] = (uint8_t)length_bits;
}

int ce_longest_prefix(const uint8_t *prefixes, size_t n_prefixes, const uint8_t *addresses,
                      size_t n_addresses, size_t address_size, int32_t *rows)
{
    uint8_t present[ADDRESS_SIZE_MAX * 8 + 1] = {0};
    uint8_t wanted[ADDRESS_SIZE_MAX + 1];
    size_t row_size = address_size + 1;

    if (address_size != 4 && address_size != 16)
        return -EINVAL;
    if (ce_check_length(n_prefixes, row_size) != 0 ||
        ce_check_length(n_addresses, address_size) != 0 || n_prefixes > INT32_MAX)
        return -EOVERFLOW;
    for (size_t i = 0; i < n_prefixes; i++) {
        const uint8_t *row = prefixes + i * row_size;
        uint8_t length_bits = row[address_size];

        if (length_bits > address_size * 8 || (i > 0 && memcmp(row - row_size, row, row_size) >= 0))
            return -EINVAL;
        cut_address(row, address_size, length_bits, wanted);
        if (memcmp(row, wanted, row_size) != 0)
            return -EINVAL;
        present[length_bits] = 1;
    }
    for (size_t i = 0; i < n_addresses; i++) {
        rows[i] = -1;
        for (size_t length_bits = address_size * 8 + 1; length_bits-- > 0 && rows[i] < 0;) {
            if (!present[length_bits])
                continue;
            cut_address(addresses + i * address_size, address_size, (unsigned)length_bits, wanted);
            rows[i] = find_row(prefixes, n_prefixes, wanted, row_size);
        }
    }
    return 0;
}
