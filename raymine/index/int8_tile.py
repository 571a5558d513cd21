"""Multiplies tiles of int8 vectors and compares the products with thresholds while they are in registers.

A matrix product writes its products to memory, and the comparing reads them again: a third of the time of the product
itself. Here a product that reaches no threshold is never written. Needs avx512_vnni, whose instruction vpdpbusd adds
64 products of 8-bit numbers to 16 sums of 32 bits (Intel 64 and IA-32 Architectures Software Developer's Manual, 2C);
sums are exact. Numba has no such instruction, so a tile is written in LLVM's language.

    tile       QUERIES x DOCS products, their sums in QUERIES x GROUPS registers of 16 documents each
    numbers    -127 to 127; vpdpbusd wants one side unsigned, so 128 is added to those of documents, and a query's sums
               begin at -128 times the sum of its numbers
    panel      DOCS documents, four dimensions of 16 of them side by side: what one register takes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic
from numpy.typing import NDArray

from raymine.index.first_pass import Rounded

if TYPE_CHECKING:
    import torch

LANES, BYTES = 16, 64  # of a register: sums of 32 bits
QUERIES, GROUPS = 8, 3  # 24 registers of sums, and 8 for what is multiplied
DOCS = GROUPS * LANES
QUAD = 4  # dimensions that one instruction sums

WORD, LONG = ir.IntType(32), ir.IntType(64)
SUMS, VALUES = ir.VectorType(WORD, LANES), ir.VectorType(ir.FloatType(), LANES)
ADD_PRODUCTS = "llvm.x86.avx512.vpdpbusd.512"
BITS = ir.IntType(LANES)  # a mask


def is_supported() -> bool:
    """Whether numba compiles for a CPU with avx512_vnni."""
    is_host = config.CPU_NAME is None and config.CPU_FEATURES is None
    return is_host and "+avx512vnni" in get_host_cpu_features().split(",")


@dataclass(frozen=True)
class Panels:
    """Documents as tiles take them. Every list begins with a panel.

    Args:
        numbers: uint8 [panels, dim / QUAD, GROUPS, LANES, QUAD], rounded up; of what fills a panel, anything.
        scales: float32 [panels * DOCS].
        residuals: float32 [panels * DOCS]; not a number where there is no document, which reaches no threshold.
        docs: int32 [panels * DOCS], index of the document; -1 where there is none.
        lists: int32 [panels], number of the list that the documents of a panel are of.
    """

    numbers: NDArray[np.uint8]
    scales: NDArray[np.float32]
    residuals: NDArray[np.float32]
    docs: NDArray[np.int32]
    lists: NDArray[np.int32]


def panels_of(docs: Rounded, list_starts: NDArray[np.int64]) -> Panels:
    """Documents in int8 as panels.

    Args:
        docs: n of them, list after list.
        list_starts: int64 [lists + 1], the first document of each list, and n.
    """
    import torch

    num_docs, dim = docs.tensor.shape
    sizes = np.diff(list_starts)
    lists = np.repeat(np.arange(len(sizes), dtype=np.int32), -(-sizes // DOCS))
    num_panels, quads = len(lists), -(-dim // QUAD)
    shifts = np.searchsorted(lists, np.arange(len(sizes))) * DOCS - list_starts[:-1]
    slots = np.arange(num_docs) + np.repeat(shifts, sizes)
    padded = torch.zeros((num_panels * DOCS, quads * QUAD), dtype=torch.uint8)
    padded[torch.from_numpy(slots), :dim] = torch.bitwise_xor(docs.tensor.view(torch.uint8), 0x80)
    numbers = (
        padded.view(torch.int32)
        .view(num_panels, GROUPS, LANES, quads)
        .permute(0, 3, 1, 2)
        .clone(memory_format=torch.contiguous_format)
    )
    scales, residuals = (np.full(num_panels * DOCS, np.nan, np.float32) for _ in range(2))
    scales[slots], residuals[slots] = docs.scales, docs.residuals
    doc_index = np.full(num_panels * DOCS, -1, np.int32)
    doc_index[slots] = np.arange(num_docs)
    as_bytes = numbers.view(torch.uint8).numpy().reshape(num_panels, quads, GROUPS, LANES, QUAD)
    return Panels(as_bytes, scales, residuals, doc_index, lists)


def vectors_of(numbers: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The documents of panels [panels, dim / QUAD, GROUPS, LANES, QUAD], int8 [panels * DOCS, dim rounded up]."""
    rows = numbers.transpose(0, 2, 3, 1, 4).reshape(len(numbers) * DOCS, -1)
    found: NDArray[np.int8] = np.bitwise_xor(rows, 0x80).view(np.int8)
    return found


def packed_queries(tensor: torch.Tensor) -> tuple[NDArray[np.int8], NDArray[np.int32]]:
    """Queries as they are multiplied, and where their sums begin.

    Args:
        tensor: int8 [q, dim].

    Returns:
        int8 [q + 1, ceil(dim / QUAD) * QUAD] and int32 [q + 1]; the last row, zeros, fills up a tile.
    """
    num_queries, dim = tensor.shape
    queries = np.zeros((num_queries + 1, -(-dim // QUAD) * QUAD), np.int8)
    queries[:num_queries, :dim] = tensor.numpy()
    return queries, -128 * queries.sum(axis=1, dtype=np.int32)


@intrinsic
def offer_tile(  # type: ignore[no-untyped-def]
    typing_context,
    rows,  # address of int64 [QUERIES], which of the queries these are
    queries,  # address of int8 [all, stride]
    stride,  # dimensions of a query, a multiple of QUAD
    starts,  # address of int32 [all]
    docs,  # address of a panel
    scales,  # address of float32 [DOCS]
    residuals,  # address of float32 [DOCS]
    slopes,  # address of float32 [all]
    thresholds,  # address of float32 [all]
    values,  # address of float32 [all, capacity]
    in_race,  # address of int32 [all, capacity]
    capacity,
    sizes,  # address of int64 [all]
    first_doc,
):
    """Appends to each query's `values` and `in_race` the documents of a panel that reach its threshold.

    Up to DOCS places behind a query's size are written to. A query may occur twice if nothing reaches its threshold.
    """
    return types.void(*[types.uintp] * 14), _offer_tile


def _offer_tile(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
    (
        rows,
        queries,
        stride,
        starts,
        docs,
        scales,
        residuals,
        slopes,
        thresholds,
        values,
        in_race,
        capacity,
        sizes,
        first_doc,
    ) = arguments
    code = Code(builder)
    chosen = [code.load(rows, 8 * row, LONG) for row in range(QUERIES)]
    words = [builder.mul(row, code.number(4)) for row in chosen]
    addresses = [builder.add(queries, builder.mul(row, stride)) for row in chosen]
    sums = _multiply(code, addresses, stride, docs, [code.spread(starts, word, WORD) for word in words])
    doc_scales = [code.load(scales, BYTES * group, VALUES) for group in range(GROUPS)]
    doc_residuals = [code.load(residuals, BYTES * group, VALUES) for group in range(GROUPS)]
    lanes = ir.Constant(SUMS, list(range(LANES)))
    for row in range(QUERIES):
        slope = code.spread(slopes, words[row], ir.FloatType())
        threshold = code.spread(thresholds, words[row], ir.FloatType())
        uppers = [
            code.call("llvm.fma.v16f32", VALUES, builder.sitofp(total, VALUES), scale, builder.fmul(slope, residual))
            for total, scale, residual in zip(sums[row], doc_scales, doc_residuals, strict=True)
        ]
        reached = [builder.fcmp_ordered(">=", upper, threshold) for upper in uppers]
        bits = [builder.bitcast(mask, BITS) for mask in reached]
        any_bits = bits[0]
        for each in bits[1:]:
            any_bits = builder.or_(any_bits, each)
        with builder.if_then(builder.icmp_unsigned("!=", any_bits, ir.Constant(BITS, 0)), likely=False):
            size_at = builder.mul(chosen[row], code.number(8))
            size = code.load(sizes, size_at, LONG)
            begin = builder.mul(capacity, chosen[row])
            for group in range(GROUPS):
                place = builder.mul(builder.add(begin, size), code.number(4))
                doc = builder.trunc(builder.add(first_doc, code.number(group * LANES)), WORD)
                numbers = builder.add(code.spread_value(doc), lanes)
                code.store(values, place, code.compress(uppers[group], reached[group]))
                code.store(in_race, place, code.compress(numbers, reached[group]))
                size = builder.add(size, builder.zext(code.call("llvm.ctpop.i16", BITS, bits[group]), LONG))
            code.store(sizes, size_at, size)
    return context.get_dummy_value()


def _multiply(code: Code, queries: list[Any], stride: Any, docs: Any, starts: list[Any]) -> list[list[Any]]:
    """The sums [QUERIES][GROUPS] of a tile, beginning at `starts`; `queries` are their addresses."""
    builder, before = code.builder, code.builder.block
    loop, after = builder.append_basic_block("multiply"), builder.append_basic_block("compare")
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(LONG)  # a multiple of QUAD
    sums = [[builder.phi(SUMS) for _ in range(GROUPS)] for _ in range(QUERIES)]
    panel = builder.add(docs, builder.mul(column, code.number(DOCS)))
    groups = [code.load(panel, BYTES * group, SUMS) for group in range(GROUPS)]
    added = []
    for row in range(QUERIES):
        quad = code.spread(queries[row], column, WORD)
        added.append([code.call(ADD_PRODUCTS, SUMS, sums[row][g], groups[g], quad) for g in range(GROUPS)])
    following = builder.add(column, code.number(QUAD))
    column.add_incoming(code.number(0), before)
    column.add_incoming(following, loop)
    for row in range(QUERIES):
        for group in range(GROUPS):
            sums[row][group].add_incoming(starts[row], before)
            sums[row][group].add_incoming(added[row][group], loop)
    builder.cbranch(builder.icmp_unsigned("<", following, stride), loop, after)
    builder.position_at_end(after)
    return added


class Code:
    """What a tile's code is made of. Places are offsets in bytes from an address, known now or then."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def number(self, value: int) -> Any:
        return ir.Constant(LONG, value)

    def call(self, name: str, returned: Any, *arguments: Any) -> Any:
        """Calls a function of LLVM's."""
        module = self.builder.module
        kind = ir.FunctionType(returned, [each.type for each in arguments])
        return self.builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)

    def load(self, address: Any, place: Any, kind: Any) -> Any:
        loaded = self.builder.load(self._at(address, place, kind))
        loaded.align = 4
        return loaded

    def store(self, address: Any, place: Any, value: Any) -> None:
        self.builder.store(value, self._at(address, place, value.type)).align = 4

    def _at(self, address: Any, place: Any, kind: Any) -> Any:
        place = self.number(place) if isinstance(place, int) else place
        return self.builder.inttoptr(self.builder.add(address, place), kind.as_pointer())

    def spread(self, address: Any, place: Any, kind: Any) -> Any:
        """A number in every lane of a register."""
        return self.spread_value(self.load(address, place, kind))

    def spread_value(self, value: Any) -> Any:
        vector = ir.VectorType(value.type, LANES)
        nothing = ir.Constant(vector, ir.Undefined)
        one = self.builder.insert_element(nothing, value, ir.Constant(WORD, 0))
        return self.builder.shuffle_vector(one, nothing, ir.Constant(SUMS, [0] * LANES))

    def compress(self, vector: Any, mask: Any) -> Any:
        """The lanes of a mask, side by side."""
        kind = "f32" if vector.type == VALUES else "i32"
        zeros = ir.Constant(vector.type, None)
        return self.call(f"llvm.x86.avx512.mask.compress.v16{kind}", vector.type, vector, zeros, mask)
