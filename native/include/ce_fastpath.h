/* The fast path: loops over packed buffers. Specification: core/calico_engine/fastpath/pure.py.
 *
 * A row is row_size bytes: a sortable key, then a value digest. Every buffer belongs to the caller
 * and is borrowed for the call only. Each function returns 0 or -errno; no function allocates,
 * keeps state, or touches the Python API, so cffi may drop the GIL around it.
 */
#ifndef CE_FASTPATH_H
#define CE_FASTPATH_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* Sort n_rows rows in place, ascending by all their bytes.
 * rows, scratch: n_rows x row_size bytes each, not overlapping.
 * -EINVAL: row_size is 0; -EOVERFLOW: n_rows x row_size does not fit size_t. */
int ce_sort_rows(uint8_t *rows, uint8_t *scratch, size_t n_rows, size_t row_size);

/* What turns actual into desired, as row indexes, ascending.
 * desired, actual: rows sorted, no key twice.
 * added, changed: index into desired, room for n_desired; removed: index into actual, room for
 * n_actual. counts: 3 places, the number written to added, changed and removed.
 * -EINVAL: key_size is 0 or above row_size, or rows not strictly ascending by key;
 * -EOVERFLOW: a buffer's length does not fit size_t, or an index not uint32_t. */
int ce_diff_rows(const uint8_t *desired, size_t n_desired, const uint8_t *actual, size_t n_actual,
                 size_t key_size, size_t row_size, uint32_t *added, uint32_t *changed,
                 uint32_t *removed, size_t *counts);

/* The longest prefix that covers an address, for each of n_addresses.
 * prefixes: n_prefixes rows of address_size + 1 bytes (network address, prefix length in bits),
 * sorted, host bits zero, none twice. addresses: n_addresses x address_size bytes.
 * rows: n_addresses places; row index of the match, or -1.
 * -EINVAL: address_size is not 4 or 16, or prefixes are not as said;
 * -EOVERFLOW: a buffer's length does not fit size_t, or n_prefixes does not fit int32_t. */
int ce_longest_prefix(const uint8_t *prefixes, size_t n_prefixes, const uint8_t *addresses,
                      size_t n_addresses, size_t address_size, int32_t *rows);

/* cffi: end */

/* 0 when n x size fits size_t, else -EOVERFLOW. */
int ce_check_length(size_t n, size_t size);

#endif
