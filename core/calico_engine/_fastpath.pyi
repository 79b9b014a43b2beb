"""The C extension as native.py and native_nft.py see it; contracts in native/include/ce_fastpath.h."""

from _cffi_backend import FFI

class _Lib:
    def ce_sort_rows(self, rows: object, scratch: object, n_rows: int, row_size: int) -> int: ...
    def ce_diff_rows(
        self,
        desired: object,
        n_desired: int,
        actual: object,
        n_actual: int,
        key_size: int,
        row_size: int,
        added: object,
        changed: object,
        removed: object,
        counts: object,
    ) -> int: ...
    def ce_longest_prefix(
        self,
        prefixes: object,
        n_prefixes: int,
        addresses: object,
        n_addresses: int,
        address_size: int,
        rows: object,
    ) -> int: ...
    def ce_encode_set_members(
        self,
        head: object,
        head_size: int,
        rows: object,
        n_rows: int,
        per_message: int,
        messages: object,
        room: int,
        ends: object,
        n_ends: int,
        counts: object,
    ) -> int: ...
    def ce_parse_set_dump(
        self, dump: object, length: int, rows: object, n_rows_max: int, n_rows: object
    ) -> int: ...
    def ce_subtract_rows(
        self,
        rows: object,
        n_rows: int,
        others: object,
        n_others: int,
        row_size: int,
        left: object,
        n_left: object,
    ) -> int: ...
    def ce_unique_rows(self, rows: object, n_rows: int, row_size: int, n_left: object) -> int: ...
    def ce_pack_set_members(
        self, text: object, length: int, rows: object, n_rows_max: int, counts: object
    ) -> int: ...
    def ce_number_messages(self, messages: object, length: int, first: int, counts: object) -> int: ...
    def ce_encode_set_elements(
        self,
        head: object,
        head_size: int,
        rows: object,
        n_rows: int,
        packed_size: int,
        key_size: int,
        swaps: int,
        tails: object,
        tail_ends: object,
        n_tails: int,
        messages: object,
        room: int,
        written: object,
    ) -> int: ...
    def ce_assemble_rules(
        self,
        head: object,
        head_size: int,
        expressions: object,
        expression_ends: object,
        user_data: object,
        user_data_ends: object,
        n_rules: int,
        messages: object,
        room: int,
        written: object,
    ) -> int: ...
    def ce_parse_element_dump(
        self,
        dump: object,
        length: int,
        key_size: int,
        swaps: int,
        rows: object,
        n_rows_max: int,
        n_rows: object,
    ) -> int: ...
    def ce_parse_rule_dump(
        self, dump: object, length: int, rows: object, n_rows_max: int, n_rows: object
    ) -> int: ...

ffi: FFI
lib: _Lib
