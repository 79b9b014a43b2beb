/* What the nftables functions share: walking messages and attributes that are not trusted, and writing them. */
#ifndef CE_NFT_WIRE_H
#define CE_NFT_WIRE_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MESSAGE_HEADER 16
#define BODY_OFFSET 20
#define KEY_MAX 64
#define ATTRIBUTE_MAX 65528

/* include/uapi/linux/netlink.h */
enum { NESTED = 0x8000, TYPE_MASK = 0x3fff };

/* Part of a buffer, by offset. */
struct part {
    size_t begin, end;
};

static inline size_t padded(size_t size)
{
    return (size + 3) & ~(size_t)3;
}

/* Take the next message off rest (not empty): its type, or -EINVAL when it is cut off. message: all of it. */
static inline int take_message(const uint8_t *bytes, struct part *rest, struct part *message)
{
    uint32_t length;
    uint16_t type;

    if (rest->end - rest->begin < MESSAGE_HEADER)
        return -EINVAL;
    memcpy(&length, bytes + rest->begin, sizeof length);
    memcpy(&type, bytes + rest->begin + sizeof length, sizeof type);
    if (length < MESSAGE_HEADER || length > rest->end - rest->begin)
        return -EINVAL;
    message->begin = rest->begin;
    message->end = rest->begin + length;
    rest->begin = rest->end - rest->begin < padded(length) ? rest->end : rest->begin + padded(length);
    return type;
}

/* Take the next attribute off rest (not empty): its type, or -EINVAL when it is cut off. value: what it holds. */
static inline int take_attribute(const uint8_t *bytes, struct part *rest, struct part *value)
{
    uint16_t header[2];

    if (rest->end - rest->begin < sizeof header)
        return -EINVAL;
    memcpy(header, bytes + rest->begin, sizeof header);
    if (header[0] < sizeof header || header[0] > rest->end - rest->begin)
        return -EINVAL;
    value->begin = rest->begin + sizeof header;
    value->end = rest->begin + header[0];
    rest->begin = rest->end - rest->begin < padded(header[0]) ? rest->end : rest->begin + padded(header[0]);
    return header[1] & TYPE_MASK;
}

/* Write an attribute's header; return where its value goes. */
static inline uint8_t *put_header(uint8_t *at, size_t length, unsigned type)
{
    const uint16_t header[2] = {(uint16_t)length, (uint16_t)type};

    memcpy(at, header, sizeof header);
    return at + sizeof header;
}

/* Write a value and its padding; return where the next attribute goes. */
static inline uint8_t *put_value(uint8_t *at, const uint8_t *value, size_t size)
{
    if (size > 0)
        memcpy(at, value, size);
    memset(at + size, 0, padded(size) - size);
    return at + padded(size);
}

/* Write a message's head with its length. */
static inline void put_head(uint8_t *at, const uint8_t *head, size_t head_size, size_t length)
{
    const uint32_t filled_in = (uint32_t)length;

    memcpy(at, head, head_size);
    memcpy(at, &filled_in, sizeof filled_in);
}

/* Reverse those 4-byte words of a key that have a bit set; a big-endian machine has no need to. */
static inline void swap_words(uint8_t *key, size_t size, uint32_t swaps)
{
    const uint16_t one = 1;
    uint8_t low;

    memcpy(&low, &one, sizeof low);
    if (low == 0)
        return;
    for (size_t i = 0; swaps != 0 && i + 4 <= size; i += 4, swaps >>= 1) {
        uint8_t word[4];

        if ((swaps & 1) == 0)
            continue;
        memcpy(word, key + i, sizeof word);
        key[i] = word[3];
        key[i + 1] = word[2];
        key[i + 2] = word[1];
        key[i + 3] = word[0];
    }
}

#endif
