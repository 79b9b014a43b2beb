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

/* The rows that others does not have, in their order, each once.
 * rows, others: sorted; a row may be there twice. left: room for n_rows rows. n_left: 1 place.
 * -EINVAL: row_size is 0, or a buffer is not sorted; -EOVERFLOW: a buffer's length does not fit size_t. */
int ce_subtract_rows(const uint8_t *rows, size_t n_rows, const uint8_t *others, size_t n_others, size_t row_size,
                     uint8_t *left, size_t *n_left);

/* Keep each row of a sorted buffer once, in place. n_left: 1 place.
 * -EINVAL: row_size is 0, or the buffer is not sorted; -EOVERFLOW: its length does not fit size_t. */
int ce_unique_rows(uint8_t *rows, size_t n_rows, size_t row_size, size_t *n_left);

/* The longest prefix that covers an address, for each of n_addresses.
 * prefixes: n_prefixes rows of address_size + 1 bytes (network address, prefix length in bits),
 * sorted, host bits zero, none twice. addresses: n_addresses x address_size bytes.
 * rows: n_addresses places; row index of the match, or -1.
 * -EINVAL: address_size is not 4 or 16, or prefixes are not as said;
 * -EOVERFLOW: a buffer's length does not fit size_t, or n_prefixes does not fit int32_t. */
int ce_longest_prefix(const uint8_t *prefixes, size_t n_prefixes, const uint8_t *addresses,
                      size_t n_addresses, size_t address_size, int32_t *rows);

/* Members of a kernel set as the kernel's messages. Row form: core/calico_engine/fastpath/set_messages.py.
 * head: what begins each message, head_size bytes, a multiple of 4 and at least 20; its length is
 * filled in, its sequence number counts up. rows: n_rows x 21 bytes.
 * messages: room bytes; n_rows x 52, and head_size + 4 for each message, are always enough.
 * ends: n_ends places, one for each message; after how many rows it ends.
 * counts: 2 places, the bytes and the messages written.
 * -EINVAL: head_size or per_message is not as said, or a row is none;
 * -ENOSPC: room or n_ends is too small; -EOVERFLOW: n_rows x 52 does not fit size_t, or n_rows not
 * uint32_t. */
int ce_encode_set_members(const uint8_t *head, size_t head_size, const uint8_t *rows, size_t n_rows,
                          size_t per_message, uint8_t *messages, size_t room, uint32_t *ends,
                          size_t n_ends, size_t *counts);

/* Members of a kernel set, as text, to rows. Spelling: core/calico_engine/fastpath/set_text.py.
 * text: length bytes, a newline between members, not trusted. rows: room for n_rows_max rows; one a newline and
 * one more are always enough. counts: 2 places, the rows written and where the last line begins.
 * -EINVAL: that line is no member; -ENOSPC: n_rows_max is too small; -EOVERFLOW: n_rows_max x 21 does
 * not fit size_t. */
int ce_pack_set_members(const uint8_t *text, size_t length, uint8_t *rows, size_t n_rows_max,
                        size_t *counts);

/* The members in a dump of one set, as rows, in the dump's order.
 * dump: length bytes, the kernel's messages back to back, not trusted. rows: room for n_rows_max
 * rows; length / 16 are always enough. n_rows: 1 place.
 * -EINVAL: a message or attribute is cut off, or a member is no row; -ENOSPC: n_rows_max is too
 * small; -EOVERFLOW: n_rows_max x 21 does not fit size_t. */
int ce_parse_set_dump(const uint8_t *dump, size_t length, uint8_t *rows, size_t n_rows_max,
                      size_t *n_rows);

/* Number the messages of an nftables batch in place, from first up.
 * messages: length bytes, each message at a multiple of 4. counts: 2 places, how many there are and where the last but
 * one begins.
 * -EINVAL: a message is cut off, or there are fewer than three. */
int ce_number_messages(uint8_t *messages, size_t length, uint32_t first, size_t *counts);

/* Elements of an nftables set as messages. Row form: core/calico_engine/fastpath/nft_messages.py.
 * head: what begins each message, head_size bytes, a multiple of 4 and at least 20; its length is filled in.
 * rows: n_rows x (packed_size + 4) bytes: a key, of which the kernel gets key_size bytes with the words of swaps
 * reversed, and the number of a tail. tails: back to back; tail_ends: n_tails places, ascending, where each ends.
 * messages: room bytes; 12 + key_size padded to 4 + the tail for each row, and head_size + 4 for each message, are
 * enough. written: 1 place, the bytes written.
 * -EINVAL: head_size, packed_size or key_size (1 to 64) is not as said, a row has the number of no tail, or a tail is
 * no multiple of 4 or too long; -ENOSPC: room is too small; -EOVERFLOW: the length of rows does not fit size_t. */
int ce_encode_set_elements(const uint8_t *head, size_t head_size, const uint8_t *rows, size_t n_rows,
                           size_t packed_size, size_t key_size, uint32_t swaps, const uint8_t *tails,
                           const uint32_t *tail_ends, size_t n_tails, uint8_t *messages, size_t room,
                           size_t *written);

/* Rules of one chain as messages.
 * head: as above. expressions, user_data: back to back; expression_ends, user_data_ends: n_rules places each, ascending.
 * messages: room bytes; for each rule head_size + 8 and both lengths padded to 4 are enough. written: 1 place.
 * -EINVAL: head_size is not as said, or a part is too long for an attribute; -ENOSPC: room is too small. */
int ce_assemble_rules(const uint8_t *head, size_t head_size, const uint8_t *expressions,
                      const uint32_t *expression_ends, const uint8_t *user_data,
                      const uint32_t *user_data_ends, size_t n_rules, uint8_t *messages, size_t room,
                      size_t *written);

/* The elements in a dump of one set, as rows of 2 x key_size + 20 bytes, in the dump's order.
 * dump: length bytes, the kernel's messages back to back, not trusted. swaps: words of keys to reverse.
 * rows: room for n_rows_max rows; length / 12 are always enough. n_rows: 1 place.
 * -EINVAL: key_size is not within 1..64, a message or attribute is cut off, or a key is missing or of another size;
 * -ENOSPC: n_rows_max is too small; -EOVERFLOW: length does not fit uint32_t, or the length of rows not size_t. */
int ce_parse_element_dump(const uint8_t *dump, size_t length, size_t key_size, uint32_t swaps, uint8_t *rows,
                          size_t n_rows_max, size_t *n_rows);

/* The rules in a dump, as rows of 32 bytes: handle, then offset and length of table, chain and user data.
 * dump: as above. rows: room for n_rows_max rows; length / 20 are always enough. n_rows: 1 place.
 * -EINVAL: a message or attribute is cut off, or a handle is none; -ENOSPC and -EOVERFLOW: as above. */
int ce_parse_rule_dump(const uint8_t *dump, size_t length, uint8_t *rows, size_t n_rows_max, size_t *n_rows);

/* cffi: end */

/* 0 when n x size fits size_t, else -EOVERFLOW. */
int ce_check_length(size_t n, size_t size);

#endif
