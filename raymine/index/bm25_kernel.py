"""The compiled loops of BM25: splitting text into words, counting them, scoring queries.

Imported only when BM25 runs: numba takes a second to import.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymine.compiled import compiled

HASH_START = np.uint64(0xCBF29CE484222325)  # FNV-1a, by code point
HASH_FACTOR = np.uint64(0x100000001B3)
HASH_SHIFT = np.uint64(32)
FIRST_SLOTS = 1 << 14  # of the table of words, which is at most half full
BYTES_PER_WORD = 6  # of English; decides only how much room is made at first


@compiled
def grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array with room for `size` elements, and for twice as many as before."""
    larger = np.empty(max(size, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def decode(data: NDArray[np.uint8], position: int, end: int) -> tuple[int, int]:
    """The code point that begins at a byte above 127 of UTF-8 text, and where the next one begins."""
    lead = np.int64(data[position])
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    stop = min(position + size, end)
    point = lead & (0x7F >> size)
    for i in range(position + 1, stop):
        point = (point << 6) | (np.int64(data[i]) & 0x3F)
    return min(point, 0x10FFFF), stop


@compiled
def encode(target: NDArray[np.uint8], position: int, point: int) -> int:
    """Writes a code point as UTF-8; returns where the next one goes."""
    if point < 0x80:
        target[position] = point
        return position + 1
    if point < 0x800:
        target[position] = 0xC0 | (point >> 6)
        target[position + 1] = 0x80 | (point & 0x3F)
        return position + 2
    if point < 0x10000:
        target[position] = 0xE0 | (point >> 12)
        target[position + 1] = 0x80 | ((point >> 6) & 0x3F)
        target[position + 2] = 0x80 | (point & 0x3F)
        return position + 3
    target[position] = 0xF0 | (point >> 18)
    target[position + 1] = 0x80 | ((point >> 12) & 0x3F)
    target[position + 2] = 0x80 | ((point >> 6) & 0x3F)
    target[position + 3] = 0x80 | (point & 0x3F)
    return position + 4


@compiled
def find_slot(
    slots: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    spelled: NDArray[np.uint8],
    starts: NDArray[np.int64],
    begin: int,
    end: int,
    wanted: np.uint64,
) -> int:
    """The slot of the word spelled at begin..end: where it is already, or the free one where it belongs."""
    mask = np.uint64(len(slots) - 1)
    slot = (wanted ^ (wanted >> HASH_SHIFT)) & mask
    while True:
        word = slots[slot]
        if word < 0:
            return int(slot)
        start = starts[word]
        if hashes[word] == wanted and starts[word + 1] - start == end - begin:
            i = 0
            while begin + i < end and spelled[start + i] == spelled[begin + i]:
                i += 1
            if begin + i == end:
                return int(slot)
        slot = (slot + np.uint64(1)) & mask


@compiled
def more_slots(hashes: NDArray[np.uint64], num_words: int, num_slots: int) -> NDArray[np.int32]:
    """A table of the words with another number of slots (a power of two)."""
    slots = np.full(num_slots, -1, np.int32)
    mask = np.uint64(num_slots - 1)
    for word in range(num_words):
        slot = (hashes[word] ^ (hashes[word] >> HASH_SHIFT)) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = word
    return slots


@compiled
def split_text(
    text: NDArray[np.uint8],
    folded: NDArray[np.int32],
    slots: NDArray[np.int32],
    hashes: NDArray[np.uint64],
    starts: NDArray[np.int64],
    spelled: NDArray[np.uint8],
    words: NDArray[np.int32],
    num_words: int,
) -> tuple[int, int]:
    """Splits one text for `split_words`, whose arrays have room for it.

    A function of its own because arrays that a loop may replace are reached more slowly: with the growing inside this
    loop it took twice as long.

    Returns:
        how many occurrences were written to `words`; the new number of distinct words.
    """
    position, end, count = 0, len(text), 0
    begin = starts[num_words]
    tail, length, value = begin, 0, HASH_START
    while position <= end:
        point = -1
        if position == end:
            position += 1
        elif text[position] < 0x80:
            point = np.int64(folded[text[position]])
            position += 1
        else:
            raw, position = decode(text, position, end)
            point = np.int64(folded[raw])
        if point >= 0:
            tail = encode(spelled, tail, point)
            value = (value ^ np.uint64(point)) * HASH_FACTOR
            length += 1
            continue
        if length >= 2:
            slot = find_slot(slots, hashes, spelled, starts, begin, tail, value)
            if slots[slot] < 0:
                slots[slot] = num_words
                hashes[num_words] = value
                num_words += 1
                starts[num_words] = begin = tail
            words[count] = slots[slot]
            count += 1
        tail, length, value = begin, 0, HASH_START
    return count, num_words


@compiled
def split_words(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], folded: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    r"""Lowercases texts, finds every `\b\w\w+\b` and numbers the distinct words by first occurrence.

    A word is a longest run of at least two word characters. It is spelled, lowercased, at the end of the buffer of all
    distinct words, looked up there, and stays only if it is new: no string is ever made of it.

    Args:
        data: uint8, the texts as UTF-8, one after the other.
        offsets: int64 [n + 1], where each text begins in `data`.
        folded: int32 [0x110000], the lowercase of each code point if that is a word character, else -1.

    Returns:
        word of each occurrence int32 [t]; first occurrence of each text int64 [n + 1]; spelling of all words uint8;
        where each word's begins int64 [words + 1].
    """
    num_texts = len(offsets) - 1
    words = np.empty((offsets[num_texts] - offsets[0]) // BYTES_PER_WORD + 16, np.int32)
    text_starts = np.zeros(num_texts + 1, np.int64)
    slots = np.full(FIRST_SLOTS, -1, np.int32)
    hashes = np.empty(FIRST_SLOTS // 2, np.uint64)
    starts = np.zeros(FIRST_SLOTS // 2 + 1, np.int64)
    spelled = np.empty(1 << 16, np.uint8)
    num_words, count = 0, 0
    for number in range(num_texts):
        text = data[offsets[number] : offsets[number + 1]]
        # A text of n bytes has at most (n + 1) / 3 words, and its lowercase at most 2 n bytes.
        most = (len(text) + 1) // 3
        if count + most > len(words):
            words = grown(words, count + most)
        if starts[num_words] + 2 * len(text) + 4 > len(spelled):
            spelled = grown(spelled, starts[num_words] + 2 * len(text) + 4)
        if num_words + most > len(slots) // 2:
            num_slots = len(slots)
            while num_words + most > num_slots // 2:
                num_slots *= 2
            slots = more_slots(hashes, num_words, num_slots)
            hashes = grown(hashes, num_slots // 2)
            starts = grown(starts, num_slots // 2 + 1)
        found, num_words = split_text(text, folded, slots, hashes, starts, spelled, words[count:], num_words)
        count += found
        text_starts[number + 1] = count
    return words[:count], text_starts, spelled[: starts[num_words]], starts[: num_words + 1]


@compiled
def count_documents(
    words: NDArray[np.int32], text_starts: NDArray[np.int64], term_of_word: NDArray[np.int32], num_terms: int
) -> NDArray[np.int32]:
    """In how many texts each term occurs.

    Args:
        words: int32 [t], word of each occurrence.
        text_starts: int64 [n + 1], first occurrence of each text.
        term_of_word: int32, the term of a word, or negative for none.
        num_terms: number of terms.

    Returns:
        int32 [num_terms].
    """
    frequencies = np.zeros(num_terms, np.int32)
    seen_in = np.full(num_terms, -1, np.int32)
    for text in range(len(text_starts) - 1):
        for i in range(text_starts[text], text_starts[text + 1]):
            term = term_of_word[words[i]]
            if term >= 0 and seen_in[term] != text:
                seen_in[term] = text
                frequencies[term] += 1
    return frequencies


@compiled
def make_postings(
    words: NDArray[np.int32],
    text_starts: NDArray[np.int64],
    term_of_word: NDArray[np.int32],
    frequencies: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Which texts each term occurs in, and how often: a counting sort, so it is linear.

    Args:
        words, text_starts, term_of_word: as for `count_documents`.
        frequencies: what `count_documents` returned.

    Returns:
        text and count of each posting, int32, ordered by term, then text.
    """
    num_terms = len(frequencies)
    place = np.zeros(num_terms + 1, np.int64)
    for term in range(num_terms):
        place[term + 1] = place[term] + frequencies[term]
    texts = np.empty(place[num_terms], np.int32)
    counts = np.empty(place[num_terms], np.int32)
    seen_in = np.full(num_terms, -1, np.int32)
    for text in range(len(text_starts) - 1):
        for i in range(text_starts[text], text_starts[text + 1]):
            term = term_of_word[words[i]]
            if term < 0:
                continue
            if seen_in[term] == text:
                counts[place[term] - 1] += 1
            else:
                seen_in[term] = text
                texts[place[term]] = text
                counts[place[term]] = 1
                place[term] += 1
    return texts, counts
